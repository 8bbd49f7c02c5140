"""Exported files beside the program itself: answers, sizes, images a second, cold starts.

    python -m benchmarks.export runs/first/best_model.pth photo.jpg --json export.json

Each precision is exported as ``inceptcli export`` does it, which compares the answers and measures
both speeds in turns. Then ``inceptcli predict PHOTO`` is started in processes of their own, torch
weights and files in turns, on a machine with nothing else to do if the seconds shall mean anything.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from inceptcli import __version__
from inceptcli.console import print_table, say
from inceptcli.engine.export import PRECISIONS, Exported, Order, export
from inceptcli.engine.infer import load_network
from inceptcli.files import write_json

PACKAGES = ("torch", "onnx", "onnxruntime", "onnxscript", "numpy", "pillow")


def main() -> None:
    """Export, start, print, keep."""
    options = _options()
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for ONNX Runtime and for the processes
    network = load_network(options.weights)
    with tempfile.TemporaryDirectory() as name:
        done = []
        for precision in PRECISIONS:
            say(f"exporting {precision}")
            order = Order(
                output=Path(name) / f"{precision}.onnx",
                precision=precision,
                check=options.check,
                max_drop=1.0,
            )
            done.append(export(network, order))
        files = {"torch": options.weights} | {one.precision: one.path for one in done}
        seconds = _cold_starts(files, options.photo, options.rounds)
    _print(done, seconds)
    if options.json is not None:
        write_json(options.json, _record(options, done, seconds))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("weights", type=Path, help="best_model.pth in its run folder")
    parser.add_argument("photo", type=Path, help="what predict is started with")
    parser.add_argument("--check", type=Path, help="class folders; without it the run's val")
    parser.add_argument("--rounds", type=int, default=7, help="starts of each file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _cold_starts(files: dict[str, Path], photo: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each start, one file after the other; a first round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in files}
    for number in range(rounds + 1):
        for name, file in files.items():
            words = [sys.executable, "-m", "inceptcli", "predict", str(photo), "-m", str(file)]
            start = time.perf_counter()
            subprocess.run(words, check=True, capture_output=True)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _print(done: list[Exported], seconds: dict[str, list[float]]) -> None:
    rows = []
    for one in done:
        assert one.parity is not None
        cost = one.accuracy
        rows.append(
            (
                one.precision,
                f"{one.bytes / 1e6:.1f}",
                f"{one.parity.largest:.1e}",
                f"{one.parity.agreement:.2%}",
                "" if cost is None else f"{cost.before:.4f} -> {cost.after:.4f}",
                "" if cost is None else "{:+.4f} to {:+.4f}".format(*cost.interval),
                *(f"{rate:.1f}" for rate in one.images_per_second.values()),
            )
        )
    program = next(iter(done[0].images_per_second))
    head = ("file", "MB", "largest difference", "same class", "accuracy", "95 % of the change")
    print_table((*head, f"images/s: {program}", "ONNX Runtime"), rows, markdown=True)
    own = median(seconds["torch"])
    starts = [
        (name, *(f"{figure:.2f}" for figure in (mid, min(each), max(each), mid / own)))
        for name, each in seconds.items()
        for mid in (median(each),)
    ]
    heads = ("cold predict", "median seconds", "least", "most", "part of torch's")
    print_table(heads, starts, markdown=True)


def _record(
    options: argparse.Namespace, done: list[Exported], seconds: dict[str, list[float]]
) -> dict[str, Any]:
    given = {name: value for name, value in vars(options).items() if name != "json"}
    setting = {
        name: value.name if isinstance(value, Path) else value for name, value in given.items()
    }
    return {
        "setting": setting
        | {"machine": platform.platform(), "inceptcli": __version__}
        | {name: version(name) for name in PACKAGES},
        "files": [asdict(one) | {"path": one.path.name} for one in done],
        "cold_seconds": seconds,
    }


if __name__ == "__main__":
    main()
