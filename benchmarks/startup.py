"""Seconds from a cold start to an answer, in turns: help, split and the prediction of one file."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from benchmarks.measure import (
    Case,
    lines_of,
    options_of,
    report,
    seconds_now,
    take_turns,
    write_photographs,
)
from benchmarks.predict import load_random

TORCH = "import torch alone"


def main() -> None:
    """Start each command as a process of its own, several times."""
    options = options_of("startup", __doc__, ("commands",)).parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        small = write_photographs(place / "small", options.photos, count=40, side=256)
        load_random(place, options.img_size)
        one = str(next(small.rglob("*.jpg")))
        run = [sys.executable, "-m", "inceptcli"]
        split = [*run, "split", str(small), "-o", str(place / "split.csv"), "--cache", "none"]
        cases: dict[str, Case] = {
            TORCH: _start([sys.executable, "-c", "import torch"]),
            "--help": _start([*run, "--help"]),
            "split of 40 files": _start(split),
            "predict of one file": _start(
                [*run, "predict", one, "-m", str(place / "model.pth"), "--device", "cpu"]
            ),
        }
        if find_spec("onnxruntime"):
            exported = str(place / "model.onnx")
            weights = ["-m", str(place / "model.pth"), "--check", str(small)]
            _start([*run, "export", *weights, "-o", exported])()
            cases["predict of one file, exported"] = _start([*run, "predict", one, "-m", exported])
        rates = take_turns(cases, rounds=options.rounds)
    found = lines_of(rates, "starts/s", against=TORCH)
    seconds = {case: sorted(1 / rate for rate in each) for case, each in rates.items()}
    middle = {case: each[len(each) // 2] for case, each in seconds.items()}
    allowed = 1.3 * middle[TORCH] + 0.3
    report(
        "startup",
        found,
        options.json,
        seconds={case: round(each, 3) for case, each in middle.items()},
        allowed={"--help": 0.4, "predict of one file": round(allowed, 3)},
    )


def _start(command: list[str]) -> Case:
    def run() -> float:
        started = seconds_now()
        subprocess.run(command, check=True, capture_output=True)
        return 1 / (seconds_now() - started)

    return run


if __name__ == "__main__":
    main()
