"""What each part of the default recipe is worth: it is left out, and the rest stays.

For each seed the photographs are divided once (by group), and every variant is trained on that
division. Differences are paired over seeds. Results are written after each training; those found
there are kept, so that more seeds can follow later.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from functools import partial
from statistics import mean
from typing import Any
from unittest.mock import patch

import torch
from benchmarks.mixing import cutmix, mixed, mixup, policy
from benchmarks.trainings import Kept, options_of, points, train_divided

from inceptcli.console import print_table, say
from inceptcli.model import inception

WHOLE = "whole recipe"


def _as_it_is(part: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    del part
    return images


LEFT_OUT: dict[str, dict[str, Any]] = {
    WHOLE: {},
    "network (inception_v1 instead)": {"arch": "inception_v1"},
    "initialisation (torch's instead)": {},
    "dropout": {},
    "AdamW (SGD instead)": {"optimizer": "sgd"},
    "AdamW (SGD at 0.005 instead)": {"optimizer": "sgd", "lr": 5e-3},
    "AdamW (SGD at 0.05 instead)": {"optimizer": "sgd", "lr": 5e-2},
    "rule of the learning rate (0.001)": {"lr": 1e-3},
    "rule of the learning rate (0.004)": {"lr": 4e-3},
    "weight decay, which makes AdamW Adam": {"weight_decay": 0.0},
    "warm-up": {"warmup_epochs": 0.0},
    "cosine (constant instead)": {"schedule": "constant"},
    "rule of the batch size (8)": {"batch_size": 8},
    "rule of the batch size (16)": {"batch_size": 16},
    "rule of the batch size (32)": {"batch_size": 32},
    "label smoothing": {"label_smoothing": 0.0},
    "flips": {"flips": "none"},
    "crops": {"crop_area": 1.0},
    "crops (0.5)": {"crop_area": 0.5},
    "flips and crops (0.5)": {"flips": "none", "crop_area": 0.5},
    "colours": {"color_jitter": 0.0},
    "growing pictures": {"train_sizes": (1.0, 1.0)},
    "averaged weights": {"ema_epochs": 0.0},
    "class weights": {"class_weights": "none"},
    "erasing put in": {"random_erase": 0.25},
    "mixup put in": {},
    "CutMix put in": {},
    "colours (TrivialAugment instead)": {"color_jitter": 0.0},
    "precision (bf16)": {"precision": "bf16"},
    "precision (fp32)": {"precision": "fp32"},
}
PUT_IN = {  # what the program has no setting for
    "initialisation (torch's instead)": partial(patch, f"{inception.__name__}.initialise"),
    "dropout": partial(patch.object, torch.nn.Dropout, "forward", _as_it_is),
    "mixup put in": partial(mixed, mixup),
    "CutMix put in": partial(mixed, cutmix),
    "colours (TrivialAugment instead)": policy,
}


def main() -> None:
    """Train what is missing and print the differences."""
    options = _options()
    torch.set_num_threads(options.threads)
    kept = Kept(options)
    for seed in options.seeds:
        for name in options.variants or LEFT_OUT:
            if not kept.has(variant=name, seed=seed):
                kept.add(_train(name, seed, options))
    _print(kept.trainings)


def _options() -> argparse.Namespace:
    parser = options_of("ablation", __doc__, epochs=12, size=96)
    parser.add_argument("--ratio", default="0.5,0.25,0.25", help="half to test gives finer figures")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument(
        "--imbalance", type=float, default=1.0, help="training photographs of first class over last"
    )
    parser.add_argument("--variants", nargs="+", choices=tuple(LEFT_OUT))
    return parser.parse_args()


def _train(variant: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One training; its accuracy over val and test with the best epoch's weights."""
    say(f"seed {seed}, {variant}")
    data = {
        "root": options.photos.absolute(),
        "image_size": options.img_size,
        "seed": seed,
        "ratio": tuple(float(part) for part in options.ratio.split(",")),
    }
    settings = {"epochs": options.epochs, "precision": options.precision} | LEFT_OUT[variant]
    with PUT_IN.get(variant, nullcontext)():
        done = train_divided(data, "default", settings, imbalance=options.imbalance)
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
                "-" if name == WHOLE else points(change),
                f"{slower:.2f}",
            )
        )
    heads = ("left out", "seeds", "accuracy", "loss", "change in points", "time")
    print_table(heads, rows, markdown=True)


if __name__ == "__main__":
    main()
