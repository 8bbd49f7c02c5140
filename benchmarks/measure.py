"""What the benchmarks of speed share: photographs, turns, ratios, the machine's own rates, JSON."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from inceptcli import __version__
from inceptcli.console import print_table, say
from inceptcli.data.folder import list_images
from inceptcli.files import write_json

Case = Callable[[], float]  # does its work once and gives a rate: more is better
PLAIN = "plain loop"
CLASSES = 4


@dataclass(frozen=True, slots=True)
class Line:
    """One comparison: median rates of turns taken in one run, and the ratios turn by turn."""

    work: str
    unit: str
    plain: float
    rate: float
    ratio: float
    lowest: float
    highest: float
    at_least: float | None = None
    note: str = ""


def take_turns(cases: Mapping[str, Case], *, rounds: int) -> dict[str, list[float]]:
    """Run the cases one after the other, ``rounds`` times, each round beginning with another.

    One unmeasured round comes first: libraries choose their kernels in it.
    """
    names = list(cases)
    for name in names:
        say(f"  {name}")
        cases[name]()
    rates: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            rates[name].append(cases[name]())
    return rates


def apart(make: Callable[..., Case], *arguments: Any) -> Case:
    """The case ``make(*arguments)`` in a process of its own, which ends with this one.

    So nothing that the program sets for its own process, as how memory is kept, helps or hinders
    the plain loop.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=_serve, args=(theirs, make, arguments), daemon=True).start()
    theirs.close()  # so that the end of the process is noticed

    def run() -> float:
        ours.send(None)
        return float(ours.recv())

    return run


def _serve(turns: Connection, make: Callable[..., Case], arguments: Sequence[Any]) -> None:
    case = make(*arguments)
    with suppress(EOFError):  # nobody asks any more
        while True:
            turns.recv()
            turns.send(case())


def lines_of(
    rates: Mapping[str, Sequence[float]],
    unit: str,
    *,
    against: str = PLAIN,
    at_least: Mapping[str, float] | None = None,
    notes: Mapping[str, str] | None = None,
) -> list[Line]:
    """A line for each case but the one that all are compared with."""
    found = []
    for name, each in rates.items():
        if name == against:
            continue
        ratios = [rate / base for rate, base in zip(each, rates[against], strict=True)]
        found.append(
            Line(
                work=name,
                unit=unit,
                plain=median(rates[against]),
                rate=median(each),
                ratio=median(ratios),
                lowest=min(ratios),
                highest=max(ratios),
                at_least=(at_least or {}).get(name),
                note=(notes or {}).get(name, ""),
            )
        )
    return found


def save(name: str, lines: Sequence[Line], path: Path, **more: Any) -> None:
    """Write the lines, with the machine, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        path,
        {"benchmark": name, "machine": machine(), "lines": [asdict(line) for line in lines]} | more,
    )


def report(name: str, lines: Sequence[Line], path: Path, **more: Any) -> None:
    """Print the lines as a table and write them."""
    save(name, lines, path, **more)
    print_lines(lines)
    for key, value in more.items():
        say(f"{key}: {value}")


def print_lines(lines: Sequence[Line]) -> None:
    """Print the lines as a Markdown table."""
    heads = ("work", "unit", PLAIN, "here", "ratio", "lowest to highest", "wanted", "")
    print_table(heads, [cells(line) for line in lines], left=2, markdown=True)


def cells(line: Line) -> tuple[str, ...]:
    """A line as the cells of a table."""
    return (
        line.work,
        line.unit,
        f"{line.plain:.3g}",
        f"{line.rate:.3g}",
        f"{line.ratio:.2f}",
        f"{line.lowest:.2f} to {line.highest:.2f}",
        "" if line.at_least is None else f"{line.at_least:g}",
        line.note,
    )


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "inceptcli": __version__,
        "date": date.today().isoformat(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def matrix_rate(dtype: torch.dtype, *, device: str = "cpu", side: int = 2048) -> float:
    """The device's highest rate of multiplying matrices in this type, FLOP/s."""
    left = torch.randn(side, side, device=device).to(dtype)
    right = torch.randn(side, side, device=device).to(dtype)
    taken = []
    for _ in range(12):
        started = seconds_now(device)
        left @ right
        taken.append(seconds_now(device) - started)
    return 2 * side**3 / min(taken)


def seconds_now(device: str = "cpu") -> float:
    """The clock, after all work of a GPU is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def write_photographs(folder: Path, source: Path | None, *, count: int, side: int) -> Path:
    """Class folders with ``count`` JPEG files of ``side`` pixels, cut out of real photographs.

    Args:
        folder: Where to.
        source: Class folders to take them from; without, pieces of the two photographs that
            scikit-learn ships.
        count: Files in all.
        side: Of the shorter side; the longer one is a third longer above 1,000 pixels, as cameras
            have it. Smaller pictures are enlarged.
    """
    originals = list_images(source, recursive=True) if source else []
    originals = originals[:: max(1, len(originals) // count)]
    pieces = [Image.fromarray(image) for image in load_sample_images().images]
    draw = np.random.default_rng(0)
    shape = (side * 4 // 3, side) if side > 1000 else (side, side)
    for number in range(count):
        if originals:
            with Image.open(originals[number % len(originals)]) as image:
                piece = image.convert("RGB")
        else:
            whole = pieces[number % len(pieces)]
            left, top = (int(draw.integers(0, each - 200)) for each in whole.size)
            piece = whole.crop((left, top, left + 200, top + 200))
        place = folder / f"class{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        piece.resize(shape, Image.Resampling.BICUBIC).save(place / f"{number:05d}.jpg", quality=90)
    return folder


def measure(
    name: str,
    works: Mapping[str, Callable[..., list[Line]]],
    options: argparse.Namespace,
    *arguments: Any,
) -> None:
    """Do each work that was asked for, and keep the lines so far, since the next may take long."""
    lines: list[Line] = []
    for work in options.only:
        say(work)
        lines += works[work](*arguments, options)
        save(name, lines, options.json)
    print_lines(lines)


def options_of(name: str, about: str | None, works: Iterable[str]) -> argparse.ArgumentParser:
    """The options that every benchmark of speed has."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("photos", type=Path, nargs="?", help="class folders of JPEG files")
    parser.add_argument("--only", nargs="+", choices=tuple(works), default=list(works))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--images", type=int, default=128, help="in each epoch")
    parser.add_argument("--json", type=Path, default=Path(f"benchmarks/results/{name}.json"))
    return parser
