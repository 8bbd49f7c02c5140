"""Exported files beside the program itself: answers, sizes, accuracy, images a second.

    python -m benchmarks.export runs/first/best_model.pth --json export.json

Each precision is exported as ``inceptcli export`` does it, which compares the answers and measures
both speeds in turns. benchmarks/startup.py has the cold starts.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from benchmarks.measure import machine

from inceptcli.console import print_table, say
from inceptcli.engine.export import PRECISIONS, Exported, Order, export
from inceptcli.engine.infer import load_network
from inceptcli.files import write_json

PACKAGES = ("onnx", "onnxruntime", "onnxscript", "numpy", "pillow")


def main() -> None:
    """Export, print, keep."""
    options = _options()
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for ONNX Runtime
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
    _print(done)
    if options.json is not None:
        write_json(options.json, _record(options, done))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("weights", type=Path, help="best_model.pth in its run folder")
    parser.add_argument("--check", type=Path, help="class folders; without it the run's val")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _print(done: list[Exported]) -> None:
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


def _record(options: argparse.Namespace, done: list[Exported]) -> dict[str, Any]:
    given = {name: value for name, value in vars(options).items() if name != "json"}
    setting = {
        name: value.name if isinstance(value, Path) else value for name, value in given.items()
    }
    return {
        "setting": setting,
        "machine": machine() | {name: version(name) for name in PACKAGES},
        "files": [asdict(one) | {"path": one.path.name} for one in done],
    }


if __name__ == "__main__":
    main()
