"""Speed and memory of training against the plain loop, in turns, on the same photographs.

step: one step of the tutorial's recipe, batch 32, with what single levers give alone.
epoch: files of 256 pixels, an epoch with validation, the first one over files left out.
large: files of 12 megapixels, the first epoch and a later one.
memory: the highest resident memory of a whole process that trains one epoch.
processes: two processes of one thread against one of two.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from benchmarks import plain
from benchmarks.measure import (
    CLASSES,
    PLAIN,
    Case,
    Line,
    apart,
    lines_of,
    matrix_rate,
    measure,
    options_of,
    seconds_now,
    take_turns,
    write_photographs,
)
from torch.utils.data import DataLoader, Subset
from torch.utils.flop_counter import FlopCounterMode

from inceptcli.config import resolve
from inceptcli.console import say
from inceptcli.data.loader import Loader
from inceptcli.data.prepare import prepare
from inceptcli.engine.device import choose_device
from inceptcli.engine.run import set_up
from inceptcli.engine.signals import StopRequest
from inceptcli.engine.train import batches_of, crop_ahead, train_one_epoch, train_step, validate
from inceptcli.engine.training import Training
from inceptcli.events import silent
from inceptcli.files import read_csv

STEPS = 2  # in each turn
BATCH = plain.BATCH_SIZE


def main() -> None:
    """Measure what was asked for."""
    options = options_of("train", __doc__, WORKS).parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        small = write_photographs(
            place / "small", options.photos, count=options.images * 5 // 4, side=256
        )
        measure("train", WORKS, options, place, small)


@contextmanager
def engine(
    root: Path,
    place: Path,
    *,
    image_size: int,
    precision: str,
    cache: str = "",
    batch_size: int = BATCH,
    device: str = "cpu",
) -> Iterator[Training]:
    """The program's own training of the tutorial's recipe, before its first step."""
    typed = {
        "root": root,
        "image_size": image_size,
        "precision": precision,
        "batch_size": batch_size,
        "cache": cache or str(place / "cache"),
        "ratio": (0.8, 0.2),
        "save_minutes": 60.0,
    }
    config = resolve("tutorial", typed)[0]
    on = choose_device(device, precision)
    photos = prepare(config)
    with photos.store:
        yield set_up(config, photos, on, place / "run", StopRequest(), silent)


def epoch_of(training: Training, *, validated: bool = True) -> float:
    """One more epoch; images a second."""
    started = seconds_now(training.device.torch_device.type)
    train_one_epoch(training)
    if validated:
        validate(training)
    training.progress.begin(training.progress.epoch + 1)
    images = len(training.photos.indices("all" if validated else "train"))
    return images / (seconds_now(training.device.torch_device.type) - started)


def _step(place: Path, small: Path, options: argparse.Namespace) -> list[Line]:
    size = options.img_size
    levers = (PLAIN, "channels last alone", "bf16 autocast alone", "kept memory alone")
    cases = {lever: apart(plain_step, size, lever) for lever in levers}
    with (
        engine(small, place, image_size=size, precision="fp32") as exact,
        engine(small, place, image_size=size, precision="bf16") as rounded,
    ):
        cases["inceptcli, fp32"] = engine_step(exact, STEPS)
        cases["inceptcli, bf16"] = engine_step(rounded, STEPS)
        rates = take_turns(cases, rounds=options.rounds)
    chosen = choose_device("cpu", "auto")
    say(f"--precision auto takes {chosen.precision} here: {chosen.reason}")
    work = flop_of_an_image(size)
    ceilings = {name: matrix_rate(dtype) for name, dtype in _DTYPES.items()}
    notes = {}
    for name, each in rates.items():
        ceiling = ceilings["bf16" if "bf16" in name else "fp32"]
        notes[name] = f"{max(each) * work / ceiling:.0%} of {ceiling / 1e9:.0f} GFLOP/s"
    plain_share = f"; the plain loop {notes[PLAIN]}"
    notes = {name: note + plain_share * (name == "inceptcli, fp32") for name, note in notes.items()}
    wanted = {f"inceptcli, {chosen.precision}": 3.0}
    found = lines_of(rates, "images/s", at_least=wanted, notes=notes)
    return [replace(line, work="step: " + line.work) for line in found]


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def plain_step(size: int, lever: str = PLAIN) -> Case:
    """The script's own step, as it is or with one lever of the program."""
    rows = torch.channels_last if lever == "channels last alone" else torch.contiguous_format
    model = plain.network(CLASSES, size).to(memory_format=rows)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    images, labels = torch.randn(BATCH, 3, size, size), torch.arange(BATCH) % CLASSES
    batches = [(images.to(memory_format=rows), labels)] * STEPS
    if lever == "kept memory alone":
        choose_device("cpu", "fp32")

    def run() -> float:
        started = seconds_now()
        with torch.autocast("cpu", torch.bfloat16, enabled=lever == "bf16 autocast alone"):
            plain.train_epoch(batches, model, optimizer)  # type: ignore[arg-type]
        return len(images) * STEPS / (seconds_now() - started)

    return run


def engine_step(training: Training, steps: int) -> Case:
    """The program's own step, so many of them a turn."""
    device = training.device.torch_device.type
    order = batches_of(training, 1)
    batch = next(iter(Loader(training.photos.store, order, crop=crop_ahead(training))))
    training.parallel.train()

    def run() -> float:
        started = seconds_now(device)
        for _ in range(steps):
            train_step(training, batch, total=len(batch.indices))
        return len(batch.indices) * steps / (seconds_now(device) - started)

    return run


def flop_of_an_image(size: int) -> float:
    """Forward and backward, counted by torch; a multiplication and an addition are two."""
    model = plain.network(CLASSES, size)
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(2, 3, size, size)).sum().backward()
    return counter.get_total_flops() / 2


def _epoch(place: Path, small: Path, options: argparse.Namespace) -> list[Line]:
    size = options.img_size
    with engine(small, place, image_size=size, precision="auto") as training:
        cases: dict[str, Case] = {
            PLAIN: apart(plain_epoch, small, names_of(training), size),
            "epoch with validation, files of 256 px": lambda: epoch_of(training),
        }
        rates = take_turns(cases, rounds=min(3, options.rounds))
    return lines_of(rates, "images/s", at_least=dict.fromkeys(cases, 3.0))


def names_of(training: Training) -> dict[str, list[str]]:
    """The photographs of train and val, below the root."""
    photos = training.photos
    return {role: [photos.names[i] for i in photos.indices(role)] for role in ("train", "val")}


def plain_epoch(
    folder: Path, names: dict[str, list[str]], size: int, validated: bool = True
) -> Case:
    """The script's epoch over the same photographs."""
    every = plain.photographs(folder, size)
    place = {
        Path(path).relative_to(folder).as_posix(): i for i, (path, _) in enumerate(every.samples)
    }
    parts = {role: Subset(every, [place[name] for name in each]) for role, each in names.items()}
    model = plain.network(CLASSES, size)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def run() -> float:
        started = seconds_now()
        plain.train_epoch(DataLoader(parts["train"], BATCH, shuffle=True), model, optimizer)
        if validated:
            plain.evaluate(DataLoader(parts["val"], BATCH), model)
        images = len(parts["train"]) + validated * len(parts["val"])
        return images / (seconds_now() - started)

    return run


def _large(place: Path, small: Path, options: argparse.Namespace) -> list[Line]:
    size = options.img_size
    photos = write_photographs(place / "large", options.photos, count=40, side=3000)
    with engine(photos, place, image_size=size, precision="auto") as later:
        script = apart(plain_epoch, photos, names_of(later), size, False)

        def first() -> float:
            started = seconds_now()
            with tempfile.TemporaryDirectory(dir=place) as cache:
                kept = {"image_size": size, "precision": "auto", "cache": cache}
                with engine(photos, place, **kept) as training:  # type: ignore[arg-type]
                    epoch_of(training, validated=False)
                    return len(training.photos.indices("train")) / (seconds_now() - started)

        cases: dict[str, Case] = {
            PLAIN: script,
            "first epoch, files of 12 megapixels": first,
            "later epoch, files of 12 megapixels": lambda: epoch_of(later, validated=False),
        }
        rates = take_turns(cases, rounds=min(3, options.rounds))
    wanted = dict(zip(list(cases)[1:], (1.3, 6.0), strict=True))
    return lines_of(rates, "images/s", at_least=wanted)


def _memory(place: Path, small: Path, options: argparse.Namespace) -> list[Line]:
    size = str(options.img_size)
    script = ["benchmarks.plain", str(small), "--epochs", "1", "--img-size", size]
    ours = ["inceptcli", "train", str(small), "--recipe", "tutorial", "--precision", "auto"]
    ours += ["--epochs", "1", "--img-size", size, "--overwrite", "-o", str(place / "memory")]
    cases: dict[str, Case] = {
        PLAIN: lambda: 1 / _peak(script, place),
        "one over the peak memory of a training": lambda: 1 / _peak(ours, place),
    }
    rates = take_turns(cases, rounds=2)
    return lines_of(rates, "1/GiB", at_least=dict.fromkeys(cases, 1.0))


# A process begins with the highest memory of the one that starts it, so a small one does.
_MEASURED = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", *sys.argv[1:]], capture_output=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


def _peak(module: list[str], place: Path) -> float:
    """Highest resident memory of ``python -m module``, GiB."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *module],
        check=True,
        capture_output=True,
        env=os.environ | {"INCEPTCLI_CACHE": str(place / "cache")},
    )
    return int(done.stdout) / 2**20


def _processes(place: Path, small: Path, options: argparse.Namespace) -> list[Line]:
    one = ["inceptcli"]
    two = ["torch.distributed.run", "--nproc-per-node", "2", "-m", "inceptcli"]
    cases: dict[str, Case] = {
        "one process of two threads": lambda: _trained(one, place, small, options),
        "two processes of one thread": lambda: _trained(two, place, small, options),
    }
    rates = take_turns(cases, rounds=2)
    at_least = {"two processes of one thread": 0.9}
    note = {"two processes of one thread": "against one process of two threads"}
    return lines_of(
        rates, "images/s", against="one process of two threads", at_least=at_least, notes=note
    )


def _trained(launcher: list[str], place: Path, small: Path, options: argparse.Namespace) -> float:
    """Images a second of the second epoch, as the run's own history has it."""
    command = ["train", str(small), "--recipe", "tutorial", "--precision", "auto", "--epochs", "2"]
    command += ["--img-size", str(options.img_size), "--device", "cpu"]
    command += ["--overwrite", "-o", str(place / "trained")]
    subprocess.run(
        [sys.executable, "-m", *launcher, *command],
        check=True,
        capture_output=True,
        env=os.environ | {"INCEPTCLI_CACHE": str(place / "cache")},
    )
    history = read_csv(place / "trained" / "history.csv")
    return options.images / float(history[-1]["seconds"])


WORKS = {
    "step": _step,
    "epoch": _epoch,
    "large": _large,
    "memory": _memory,
    "processes": _processes,
}

if __name__ == "__main__":
    main()
