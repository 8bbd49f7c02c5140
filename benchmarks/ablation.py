"""What each part of the default recipe is worth: it is left out, and the rest stays.

For each seed the photographs are divided once (by group), and every variant is trained on that
division. Differences are paired over seeds. Results are written after each training; those found
there are kept, so that more seeds can follow later.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from scipy import stats

from inceptcli import __version__
from inceptcli.config import DataConfig, resolve
from inceptcli.console import print_table, say
from inceptcli.data.prepare import prepare, write_manifest
from inceptcli.engine.run import run
from inceptcli.files import write_json

WHOLE = "whole recipe"
LEFT_OUT: dict[str, dict[str, Any]] = {
    WHOLE: {},
    "norm in the stem": {"arch": "inception_v1"},
    "AdamW (Adam instead)": {"optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0},
    "weight decay": {"weight_decay": 0.0},
    "warm-up": {"warmup_epochs": 0.0},
    "cosine (constant instead)": {"schedule": "constant"},
    "small batches (32 instead)": {"batch_size": 32},
    "label smoothing": {"label_smoothing": 0.0},
    "flips": {"flips": "none"},
    "crops": {"crop_area": 1.0},
    "colours": {"color_jitter": 0.0},
    "growing pictures": {"train_sizes": (1.0, 1.0)},
    "averaged weights": {"ema_epochs": 0.0},
    "erasing put in": {"random_erase": 0.25},
}


def main() -> None:
    """Train what is missing and print the differences."""
    options = _options()
    torch.set_num_threads(options.threads)
    trainings = _stored(options)
    for seed in options.seeds:
        for name in options.variants or LEFT_OUT:
            if not any((one["variant"], one["seed"]) == (name, seed) for one in trainings):
                trainings.append(_train(name, seed, options))
                write_json(options.json, {"setting": _setting(options), "trainings": trainings})
    _print(trainings)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("photos", type=Path, help="class folders")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--img-size", type=int, default=96)
    parser.add_argument("--ratio", default="0.5,0.25,0.25", help="half to test gives finer figures")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=tuple(LEFT_OUT))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, default=Path("ablation.json"))
    return parser.parse_args()


def _setting(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "photos": options.photos.name,
        "epochs": options.epochs,
        "image_size": options.img_size,
        "ratio": options.ratio,
        "threads": options.threads,
        "machine": platform.platform(),
        "torch": str(torch.__version__),
        "inceptcli": __version__,
    }


def _stored(options: argparse.Namespace) -> list[dict[str, Any]]:
    if not options.json.exists():
        return []
    stored = json.loads(options.json.read_text(encoding="utf-8"))
    if stored["setting"] != _setting(options):
        raise SystemExit(f"{options.json} is of other settings; give another --json")
    trainings: list[dict[str, Any]] = stored["trainings"]
    return trainings


def _train(variant: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One training; its accuracy over val and test after the last epoch and the best."""
    say(f"seed {seed}, {variant}")
    data = {
        "root": options.photos.absolute(),
        "image_size": options.img_size,
        "seed": seed,
        "ratio": tuple(float(part) for part in options.ratio.split(",")),
    }
    with tempfile.TemporaryDirectory() as name:
        photos = prepare(DataConfig(**data))
        write_manifest(Path(name) / "split.csv", photos)
        photos.store.close()
        places = {"split": Path(name) / "split.csv", "output": Path(name) / "run"}
        typed = data | places | {"epochs": options.epochs}
        done = run(resolve("default", typed | LEFT_OUT[variant])[0])
    assert done.test is not None
    val, test = done.val.figures, done.test.figures
    images = val.images + test.images
    return {
        "variant": variant,
        "seed": seed,
        "accuracy": (val.accuracy * val.images + test.accuracy * test.images) / images,
        "loss": (val.loss * val.images + test.loss * test.images) / images,
        "images": images,
        "seconds": done.seconds,
    }


def _print(trainings: list[dict[str, Any]]) -> None:
    by = {(one["variant"], one["seed"]): one for one in trainings}
    rows = []
    for name in LEFT_OUT:
        seeds = [seed for variant, seed in by if variant == name and (WHOLE, seed) in by]
        if not seeds:
            continue
        figures = [by[name, seed] for seed in seeds]
        change = [by[name, seed]["accuracy"] - by[WHOLE, seed]["accuracy"] for seed in seeds]
        slower = mean(by[name, seed]["seconds"] / by[WHOLE, seed]["seconds"] for seed in seeds)
        rows.append(
            (
                name,
                len(seeds),
                mean(one["accuracy"] for one in figures),
                mean(one["loss"] for one in figures),
                "-" if name == WHOLE else _interval(change),
                f"{slower:.2f}",
            )
        )
    heads = ("left out", "seeds", "accuracy", "loss", "change in points", "time")
    print_table(heads, rows, markdown=True)


def _interval(change: list[float]) -> str:
    """Mean of paired differences in percentage points with its 95 % interval (Student's t)."""
    points = [100 * one for one in change]
    if len(points) < 2:
        return f"{points[0]:+.1f}"
    half = float(stats.t.ppf(0.975, len(points) - 1)) * stdev(points) / math.sqrt(len(points))
    return f"{mean(points):+.1f} ({mean(points) - half:+.1f} to {mean(points) + half:+.1f})"


if __name__ == "__main__":
    main()
