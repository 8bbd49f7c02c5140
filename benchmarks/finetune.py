"""What fine-tuning gains over random weights with few photographs, for docs/how-to/fine-tune.md.

A network is trained on some classes of a folder. The other classes are then learned from a few
photographs each, once from its weights and once from random ones, and measured on all the rest;
photographs and their division are the same for both. Writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from inceptcli import __version__
from inceptcli.config import FINE_TUNING, DataConfig, resolve
from inceptcli.console import print_table, result, say
from inceptcli.data.prepare import NO_ROLE, Photos, prepare, write_manifest
from inceptcli.engine.conclude import TrainResult
from inceptcli.engine.run import run
from inceptcli.runfolder import BEST

WAYS = ("random", "fine-tuned", "fine-tuned for as long")


@dataclass(frozen=True)
class Row:
    """One training: photographs a class, seed, how it began, its accuracy on all the rest."""

    images: int
    seed: int
    way: str
    epochs: int
    accuracy: float
    test_images: int
    seconds: float


def main() -> None:
    """Train once on the first classes, then three times an amount and seed on the others."""
    options = _options()
    classes = sorted(path.name for path in options.data.iterdir() if path.is_dir())
    first, others = classes[: options.first], classes[options.first :]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        roots = [
            _linked(place / part, options.data, names)
            for part, names in (("first", first), ("others", others))
        ]
        say(f"first training: {', '.join(first)}")
        common = {"image_size": options.img_size, "arch": options.arch, "workers": 0}
        common |= {"follow_links": True, "cache": "ram"}
        epochs = {"epochs": options.first_epochs, "seed": 1}
        base = _train(roots[0], place / "base", common | epochs)
        rows = _rows(options, roots[1], place, common)
    report = {
        "command": " ".join(["python", "-m", "benchmarks.finetune", *sys.argv[1:]]),
        "classes": {"first": first, "others": others},
        "first_test_accuracy": base.test and base.test.figures.accuracy,
        "fine_tuning": FINE_TUNING,
        "versions": {
            "inceptcli": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "machine": {
            "system": platform.platform(),
            "processors": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "rows": [asdict(row) for row in rows],
        "gains": [_gain(rows, images, way) for images in options.images for way in WAYS[1:]],
    }
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    heads = ("photographs a class", "how", "accuracy", "seconds", "gain", "95 % interval")
    print_table(heads, _table(rows, report["gains"]), markdown=True)
    result(str(options.output))


def _rows(
    options: argparse.Namespace, root: Path, place: Path, common: dict[str, object]
) -> list[Row]:
    """Every training on a few photographs, the ways of one amount and seed one after another."""
    settings = DataConfig(root=root, follow_links=True, workers=0, image_size=options.img_size)
    photos = prepare(settings, divide=False)
    photos.store.close()
    long, weights = {"epochs": options.epochs}, {"weights": str(place / "base" / BEST)}
    ways = dict(zip(WAYS, (long, weights, weights | long), strict=True))
    rows = []
    for images, seed in product(options.images, range(1, options.seeds + 1)):
        split = place / f"{images}-{seed}.csv"
        write_manifest(split, _few(photos, images, seed))
        few = common | {"split": split, "seed": seed, "batch_size": 16}
        for way, more in ways.items():
            trained = _train(root, place / f"{images}-{seed}-{way}", few | more)
            rows.append(_row(images, seed, way, trained))
            say(f"{rows[-1]}")
    return rows


def _table(rows: list[Row], gains: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Means over the seeds, a line an amount and way."""
    lines = []
    for images, way in dict.fromkeys((row.images, row.way) for row in rows):
        chosen = [row for row in rows if (row.images, row.way) == (images, way)]
        accuracy, seconds = (mean(getattr(r, n) for r in chosen) for n in ("accuracy", "seconds"))
        shown = f"{way}, {chosen[0].epochs} epochs"
        gain = next((g for g in gains if (g["images"], g["way"]) == (images, way)), None)
        last = ("", "") if gain is None else (f"{gain['gain']:+.3f}", _interval(gain))
        lines.append((str(images), shown, f"{accuracy:.3f}", f"{seconds:.0f}", *last))
    return lines


def _interval(gain: dict[str, Any]) -> str:
    return "-" if gain["low"] is None else f"{gain['low']:+.3f} to {gain['high']:+.3f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of class folders")
    parser.add_argument("-o", "--output", type=Path, default=Path("finetune.json"))
    parser.add_argument("--first", type=int, default=3, help="classes of the first training")
    parser.add_argument("--first-epochs", type=int, default=15)
    parser.add_argument(
        "--epochs", type=int, default=40, help="from random weights, and the longest"
    )
    parser.add_argument("--images", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--img-size", type=int, default=96)
    parser.add_argument("--arch", default="inception_v1_bn")
    return parser.parse_args()


def _linked(root: Path, data: Path, names: list[str]) -> Path:
    root.mkdir()
    for name in names:
        (root / name).symlink_to((data / name).resolve(), target_is_directory=True)
    return root


def _few(photos: Photos, images: int, seed: int) -> Photos:
    """``images`` of each class to train on, half as many as val, all others as test.

    Groups are drawn whole; what a group has too much is left out.
    """
    random = np.random.default_rng(seed)
    roles = photos.roles.astype("<U5")  # "test" where there is one
    for label in range(len(photos.classes)):
        own = np.flatnonzero((photos.labels == label) & (roles == "test"))
        order = random.permutation(np.unique(photos.groups[own])).tolist()
        for role, wanted in (("train", images), ("val", max(5, images // 2))):
            while wanted > 0:
                group = own[photos.groups[own] == order.pop()]
                roles[group] = NO_ROLE
                roles[group[:wanted]] = role
                wanted -= len(group[:wanted])
    return replace(photos, roles=roles)


def _train(root: Path, output: Path, given: dict[str, object]) -> TrainResult:
    config, _ = resolve("default", given | {"root": root, "output": output})
    return run(config)


def _row(images: int, seed: int, way: str, trained: TrainResult) -> Row:
    assert trained.test is not None
    figures = trained.test.figures
    return Row(
        images, seed, way, len(trained.history), figures.accuracy, figures.images, trained.seconds
    )


def _gain(rows: list[Row], images: int, way: str) -> dict[str, Any]:
    """Mean difference to random weights over the seeds, with Student's interval of the pairs."""
    ours, random = (
        np.array([row.accuracy for row in rows if (row.images, row.way) == (images, each)])
        for each in (way, WAYS[0])
    )
    steps = ours - random
    gain, low, high = float(steps.mean()), None, None
    if len(steps) > 1:
        half = student.ppf(0.975, len(steps) - 1) * steps.std(ddof=1) / np.sqrt(len(steps))
        low, high = gain - float(half), gain + float(half)
    return {"images": images, "way": way, "gain": gain, "low": low, "high": high}


if __name__ == "__main__":
    main()
