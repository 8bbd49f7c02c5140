"""What fine-tuning gains over random weights with few photographs, for docs/how-to/fine-tune.md.

A network is trained on some classes of a folder. The other classes are then learned from a few
photographs each, once from its weights and once from random ones, and measured on all the rest;
photographs and their division are the same for both. Results are written after each training;
those found there, and the first network beside them, are kept.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import replace
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
from inceptcli.engine.run import run
from inceptcli.runfolder import BEST

RANDOM, TUNED, LONG = WAYS = ("random", "fine-tuned", "fine-tuned for as long")


def main() -> None:
    """Train once on the first classes, then three times an amount and seed on the others."""
    options = _options()
    torch.set_num_threads(options.threads)
    kept = Kept(options)
    classes = sorted(path.name for path in options.photos.iterdir() if path.is_dir())
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        weights = options.json.absolute().with_suffix(".pth")
        if not weights.exists():
            first = _linked(place / "first", options.photos, classes[: options.first])
            typed = {"epochs": options.first_epochs, "seed": options.seeds[0]}
            trained = _train(first, place / "base", options, typed)
            assert trained.test is not None
            accuracy = trained.test.figures.accuracy
            kept.add({"way": "first", "accuracy": accuracy, "seconds": trained.seconds})
            shutil.copy(place / "base" / BEST, weights)
        others = _linked(place / "others", options.photos, classes[options.first :])
        _compare(options, others, place, weights, kept)
    _print([one for one in kept.trainings if one["way"] in WAYS])


def _options() -> argparse.Namespace:
    parser = options_of("finetune", __doc__, epochs=40, size=96)
    parser.add_argument("--first", type=int, default=3, help="classes of the first training")
    parser.add_argument("--first-epochs", type=int, default=20)
    parser.add_argument("--images", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--arch", default="inception_v1_bn")
    return parser.parse_args()


def _linked(root: Path, photos: Path, names: list[str]) -> Path:
    root.mkdir()
    for name in names:
        (root / name).symlink_to((photos / name).resolve(), target_is_directory=True)
    return root


def _compare(
    options: argparse.Namespace, root: Path, place: Path, weights: Path, kept: Kept
) -> None:
    """Every training on a few photographs, the ways of one seed and amount one after another."""
    settings = DataConfig(root=root, follow_links=True, workers=0, image_size=options.img_size)
    photos = prepare(settings, divide=False)
    photos.store.close()
    long, begun = {"epochs": options.epochs}, {"weights": str(weights)}
    ways = dict(zip(WAYS, (long, begun, begun | long), strict=True))
    todo = [(s, n, way) for s in options.seeds for n in options.images for way in options.ways]
    for seed, images, way in todo:
        key = {"way": way, "images": images, "seed": seed}
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
    return run(resolve("default", same | places | typed)[0])


def _print(trainings: list[dict[str, Any]]) -> None:
    by = {(one["images"], one["way"], one["seed"]): one for one in trainings}
    rows = []
    for images, way in dict.fromkeys((one["images"], one["way"]) for one in trainings):
        seeds = [s for n, w, s in by if (n, w) == (images, way) and (n, RANDOM, s) in by]
        if not seeds:
            continue  # nothing to compare with yet
        figures = [by[images, way, seed] for seed in seeds]
        accuracy = [one["accuracy"] for one in figures]
        gains = [by[images, way, s]["accuracy"] - by[images, RANDOM, s]["accuracy"] for s in seeds]
        rows.append(
            (
                images,
                f"{way}, {figures[0]['epochs']} epochs",
                len(seeds),
                f"{mean(accuracy):.3f} ± {stdev(accuracy) if len(seeds) > 1 else 0:.3f}",
                "-" if way == RANDOM else points(gains),
                f"{mean(one['seconds'] for one in figures):.0f}",
            )
        )
    heads = ("images a class", "how", "seeds", "accuracy ± deviation", "gain in points", "seconds")
    print_table(heads, sorted(rows, key=lambda row: row[0]), markdown=True)


if __name__ == "__main__":
    main()
