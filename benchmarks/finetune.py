"""What fine-tuning gains over random weights with few photographs, for docs/how-to/fine-tune.md.

A network is trained on some classes of a folder. The other classes (the last ones, or with --every
each choice of so many) are then learned from a few photographs each, once from its weights and
once from random ones, and measured on all the rest; photographs and their division are the same
for both. Results are written after each training; those found there, and the first networks beside
them, are kept.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from benchmarks.trainings import Kept, options_of, points

from inceptcli.config import DataConfig, resolve
from inceptcli.console import print_table, say
from inceptcli.data.prepare import NO_ROLE, Photos, prepare, write_manifest
from inceptcli.engine.conclude import TrainResult
from inceptcli.engine.finetune import read_source, suggestions
from inceptcli.engine.run import run
from inceptcli.runfolder import BEST

RANDOM, TUNED, LONG = WAYS = ("random", "fine-tuned", "fine-tuned for as long")


def main() -> None:
    """For each choice of the other classes: train on the first, then on few of the others."""
    options = _options()
    torch.set_num_threads(options.threads)
    kept = Kept(options)
    classes = sorted(path.name for path in options.photos.iterdir() if path.is_dir())
    choices = [*combinations(classes, len(classes) - options.first)]
    for others in choices if options.every else choices[-1:]:
        with tempfile.TemporaryDirectory() as name:
            _learn(options, [each for each in classes if each not in others], others, name, kept)
    _print([one for one in kept.trainings if one["way"] in WAYS])


def _learn(
    options: argparse.Namespace, first: list[str], others: Sequence[str], name: str, kept: Kept
) -> None:
    """Train on the first classes, unless that was done, and compare on the others."""
    place, task = Path(name), "-".join(others)
    weights = options.json.absolute().with_suffix(f".{task}.pth")
    if not weights.exists():
        root = _linked(place / "first", options.photos, first)
        typed = {"epochs": options.first_epochs, "seed": options.seeds[0]}
        trained = _train(root, place / "base", options, typed)
        assert trained.test is not None
        accuracy = trained.test.figures.accuracy
        kept.add({"way": "first", "others": task, "accuracy": accuracy, "seconds": trained.seconds})
        shutil.copy(place / "base" / BEST, weights)
    _compare(options, _linked(place / "others", options.photos, others), weights, kept)


def _options() -> argparse.Namespace:
    parser = options_of("finetune", __doc__, epochs=40, size=96)
    parser.add_argument("--first", type=int, default=3, help="classes of the first training")
    parser.add_argument("--first-epochs", type=int, default=20)
    parser.add_argument(
        "--every", action="store_true", help="every choice of the others, not only the last classes"
    )
    parser.add_argument("--images", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--arch", default="inception_v1_bn")
    return parser.parse_args()


def _linked(root: Path, photos: Path, names: Sequence[str]) -> Path:
    root.mkdir()
    for name in names:
        (root / name).symlink_to((photos / name).resolve(), target_is_directory=True)
    return root


def _compare(options: argparse.Namespace, root: Path, weights: Path, kept: Kept) -> None:
    """Every training on a few photographs, the ways of one seed and amount one after another."""
    place = root.parent
    settings = DataConfig(root=root, follow_links=True, workers=0, image_size=options.img_size)
    photos = prepare(settings, divide=False)
    photos.store.close()
    long, begun = {"epochs": options.epochs}, {"weights": str(weights)}
    ways = dict(zip(WAYS, (long, begun, begun | long), strict=True))
    todo = [(s, n, way) for s in options.seeds for n in options.images for way in options.ways]
    for seed, images, way in todo:
        key = {"way": way, "others": "-".join(photos.classes), "images": images, "seed": seed}
        if kept.has(**key):
            continue
        name = f"{images}-{seed}-{way}"
        write_manifest(place / f"{name}.csv", _few(photos, images, seed))
        few = {"split": place / f"{name}.csv", "seed": seed}
        trained = _train(root, place / name, options, few | ways[way])
        assert trained.test is not None
        figures, epochs = trained.test.figures, len(trained.history)
        more = {"test_images": figures.images, "seconds": trained.seconds}
        kept.add(key | {"epochs": epochs, "accuracy": figures.accuracy} | more)
        say(f"{key}: {figures.accuracy:.3f}")


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


def _train(
    root: Path, output: Path, options: argparse.Namespace, typed: dict[str, Any]
) -> TrainResult:
    same = {"image_size": options.img_size, "arch": options.arch, "workers": 0, "cache": "ram"}
    places = {"root": root, "output": output, "follow_links": True}
    suggested = suggestions(read_source(typed["weights"])) if "weights" in typed else {}
    return run(resolve("default", same | places | typed, suggested)[0])


def _print(trainings: list[dict[str, Any]]) -> None:
    by = {(one["images"], one["way"], one["others"], one["seed"]): one for one in trainings}
    rows = []
    for images, way in dict.fromkeys((one["images"], one["way"]) for one in trainings):
        found = [(others, seed) for n, w, others, seed in by if (n, w) == (images, way)]
        pairs = [each for each in found if (images, RANDOM, *each) in by]
        if not pairs:
            continue  # nothing to compare with yet
        figures = [by[images, way, *each] for each in pairs]
        accuracy = [one["accuracy"] for one in figures]
        plain = [by[images, RANDOM, *each]["accuracy"] for each in pairs]
        gains = [tuned - before for tuned, before in zip(accuracy, plain, strict=True)]
        rows.append(
            (
                images,
                f"{way}, {figures[0]['epochs']} epochs",
                len(pairs),
                f"{mean(accuracy):.3f} ± {stdev(accuracy) if len(pairs) > 1 else 0:.3f}",
                "-" if way == RANDOM else points(gains),
                f"{mean(one['seconds'] for one in figures):.0f}",
            )
        )
    heads = ("images a class", "how", "trainings", "accuracy ± deviation", "gain in points")
    print_table((*heads, "seconds"), sorted(rows, key=lambda row: row[0]), markdown=True)


if __name__ == "__main__":
    main()
