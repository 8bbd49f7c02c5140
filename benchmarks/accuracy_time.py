"""Accuracy against seconds of the tutorial recipe and the default recipe, on the same photographs.

For each seed the photographs are divided once (by group, see --ratio) and both recipes are
trained on that division in the same precision, one after the other on an idle machine if the
seconds shall mean anything. Results are written after each training; those found there are kept.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from benchmarks.trainings import Kept, options_of, train_divided
from matplotlib.figure import Figure

from inceptcli.console import print_table, result, say
from inceptcli.files import write_bytes

RECIPES = ("tutorial", "default")
LAST = 5  # epochs whose mean is a recipe's final accuracy


def main() -> None:
    """Train what is missing, print the comparison, draw the plot."""
    options = _options()
    torch.set_num_threads(options.threads)
    kept = Kept(options)
    for seed in options.seeds:
        for recipe in options.recipes:
            if not kept.has(recipe=recipe, seed=seed):
                kept.add(_train(recipe, seed, options))
    trainings = kept.trainings
    _print(trainings)
    if options.plot is not None:
        curves = {
            recipe: [_curve(one) for one in trainings if one["recipe"] == recipe]
            for recipe in options.recipes
        }
        write_bytes(options.plot, _draw(curves))


def _options() -> argparse.Namespace:
    parser = options_of("accuracy_time", __doc__, epochs=40, size=224)
    parser.add_argument("--precision", default="fp32", help="of both recipes")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES)
    parser.add_argument("--ratio", default="0.8,0.1,0.1", help="parts of train, val and test")
    parser.add_argument("--plot", type=Path)
    return parser.parse_args()


def _train(recipe: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    say(f"seed {seed}, {recipe}")
    data = {
        "root": options.photos.absolute(),
        "image_size": options.img_size,
        "seed": seed,
        "ratio": tuple(float(part) for part in options.ratio.split(",")),
    }
    typed = {"epochs": options.epochs, "precision": options.precision}
    done = train_divided(data, recipe, typed)
    assert done.test is not None
    return {
        "recipe": recipe,
        "seed": seed,
        "best_epoch": done.best_epoch,
        "val_accuracy": done.val.figures.accuracy,
        "test_accuracy": done.test.figures.accuracy,
        "test_loss": done.test.figures.loss,
        "history": [asdict(row) for row in done.history],
    }


def _curve(training: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Seconds so far and val accuracy, after each epoch."""
    seconds, total = [], 0.0
    for row in training["history"]:
        total += row["seconds"]
        seconds.append(total)
    return seconds, [row["val_accuracy"] for row in training["history"]]


def _draw(curves: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]]) -> bytes:
    """Val accuracy against seconds of training: for each recipe one line a seed.

    Args:
        curves: Recipe -> for each seed the seconds so far and the accuracy after each epoch.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    styles = zip(("#666666", "#0072B2", "#D55E00"), ("--", "-", ":"), strict=True)
    for (name, lines), (colour, style) in zip(curves.items(), styles, strict=False):
        for number, (seconds, accuracy) in enumerate(lines):
            label = name if number == 0 else None
            marker = "o" if len(seconds) == 1 else ""
            axes.plot(seconds, accuracy, style, color=colour, label=label, marker=marker, alpha=0.8)
    axes.set(xlabel="seconds of training and validation", ylabel="val accuracy")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _print(trainings: list[dict[str, Any]]) -> None:
    finals = {
        one["seed"]: mean(row["val_accuracy"] for row in one["history"][-LAST:])
        for one in trainings
        if one["recipe"] == "tutorial"
    }
    rows = []
    for one in trainings:
        seconds, accuracy = _curve(one)
        wanted = finals.get(one["seed"], 2.0)
        there = [s for s, a in zip(seconds, accuracy, strict=True) if a >= wanted]
        both = (one["val_accuracy"] + one["test_accuracy"]) / 2
        shown = f"{there[0]:.0f}" if there else "never"
        last = mean(accuracy[-LAST:])
        rows.append((f"{one['recipe']} {one['seed']}", both, one["test_accuracy"], last))
        rows[-1] += (f"{seconds[-1]:.0f}", shown)
    heads = ("recipe, seed", "best epoch, val and test", "its test", f"val, last {LAST} epochs")
    print_table((*heads, "seconds", "seconds to the tutorial's last"), rows, markdown=True)
    for recipe in sorted({one["recipe"] for one in trainings}, reverse=True):
        tests = [one["test_accuracy"] for one in trainings if one["recipe"] == recipe]
        spread = f", standard deviation {stdev(tests):.4f}" if len(tests) > 1 else ""
        result(f"{recipe}: test accuracy {mean(tests):.4f} over {len(tests)} seeds{spread}")


if __name__ == "__main__":
    main()
