"""One GPU against the plain script on it, in under five minutes: `python -m benchmarks.gpu`.

step: the script, in a process of its own, and the engine at batch 32 and 256, with the share of
the bf16 matrix rate.
decode: JPEG files to pixels on the CPU's processes and on the GPU.
crop: random resized crops in the loader's thread and on the GPU, transfer included.
cache: an epoch whose pixels are kept, images a second, and the share of time spent waiting.
run: 40 epochs of 2,142 photographs, the tutorial's number, by both recipes, in seconds.

Needs CUDA. `--device cpu` with small numbers tries the benchmark itself, nothing else.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
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
    options_of,
    report,
    save,
    seconds_now,
    take_turns,
    write_photographs,
)
from benchmarks.train import engine, engine_step, epoch_of, flop_of_an_image
from torchvision.io import decode_jpeg, read_file

from inceptcli.config import RECIPES, resolve
from inceptcli.console import say
from inceptcli.data.augment import crop_boxes, resized, resized_at_once
from inceptcli.data.machine import default_workers
from inceptcli.data.reader import PixelSpec, read
from inceptcli.engine.run import run
from inceptcli.engine.train import train_one_epoch

STEPS = 10


def main() -> None:
    """Measure what was asked for."""
    parser = options_of("gpu", __doc__, WORKS)
    parser.set_defaults(images=2142)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} finds no CUDA device here: nothing to measure")
    lines: list[Line] = []
    more: dict[str, Any] = _rates(options)
    options.matrix_rate = more["bf16_matrix_flops"]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        small = write_photographs(place / "small", options.photos, count=options.images, side=256)
        for work in options.only:
            say(work)
            found, facts = WORKS[work](place, small, options)
            lines += found
            more |= facts
            save("gpu", lines, options.json, **more)  # the next one may fail or take long
    report("gpu", lines, options.json, **more)


def _rates(options: argparse.Namespace) -> dict[str, Any]:
    device, side = options.device, 8192 if options.device == "cuda" else 512
    block = torch.empty(side, side, device=device)
    taken = []
    for _ in range(5):
        started = seconds_now(device)
        block.clone()
        taken.append(seconds_now(device) - started)
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "bf16_matrix_flops": matrix_rate(torch.bfloat16, device=device, side=side),
        "memory_bytes_a_second": 2 * block.nbytes / min(taken),
    }


def _step(
    place: Path, small: Path, options: argparse.Namespace
) -> tuple[list[Line], dict[str, Any]]:
    device, size = options.device, options.img_size
    lines, facts = [], {}
    work = flop_of_an_image(size)
    for batch in options.batches:
        with engine(
            small, place, image_size=size, precision="auto", batch_size=batch, device=device
        ) as training:
            name = f"step, batch {batch} ({training.device.precision})"
            cases: dict[str, Case] = {
                PLAIN: apart(_script, batch, size, device),
                name: engine_step(training, STEPS),
            }
            rates = take_turns(cases, rounds=options.rounds)
        lines += lines_of(rates, "images/s")
        flops = lines[-1].rate * work
        facts[f"flops_a_second, batch {batch}"] = flops
        facts[f"share of the bf16 matrix rate, batch {batch}"] = flops / options.matrix_rate
    return lines, facts


def _script(batch: int, size: int, device: str) -> Case:
    """The plain script's steps on images that lie ready in memory."""
    images = torch.randn(batch, 3, size, size)
    batches = [(images, torch.arange(batch) % CLASSES)] * STEPS
    model = plain.network(CLASSES, size, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def script() -> float:
        started = seconds_now(device)
        plain.train_epoch(batches, model, optimizer, device)
        return batch * STEPS / (seconds_now(device) - started)

    return script


def _decode(
    place: Path, small: Path, options: argparse.Namespace
) -> tuple[list[Line], dict[str, Any]]:
    paths, spec = sorted(small.rglob("*.jpg")), PixelSpec(options.img_size, "stretch", 150.0)

    def processes() -> float:
        started = seconds_now()
        found = sum(1 for _ in read(paths, spec, workers=default_workers()))
        return found / (seconds_now() - started)

    def on_device() -> float:
        started = seconds_now(options.device)
        for start in range(0, len(paths), 128):
            data = [read_file(str(path)) for path in paths[start : start + 128]]
            decode_jpeg(data, device=options.device)
        return len(paths) / (seconds_now(options.device) - started)

    name = f"decoding in {default_workers()} processes"
    cases: dict[str, Case] = {f"decoding on {options.device}": on_device, name: processes}
    rates = take_turns(cases, rounds=3)
    note = {name: f"resized too; against torchvision's decoder on {options.device}"}
    return lines_of(rates, "files/s", against=f"decoding on {options.device}", notes=note), {}


def _crop(
    place: Path, small: Path, options: argparse.Namespace
) -> tuple[list[Line], dict[str, Any]]:
    count, side = max(options.batches), options.img_size
    pixels = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8)
    boxes = crop_boxes(np.random.default_rng(0).random((count, 4)), side=side, area=0.25)
    where, size = torch.device(options.device), round(0.875 * side)
    pinned = pixels.pin_memory() if where.type == "cuda" else pixels

    def in_thread() -> float:
        started = seconds_now()
        resized(pixels, boxes, size=size)
        return count / (seconds_now() - started)

    def on_device() -> float:
        started = seconds_now(options.device)
        for _ in range(STEPS):
            resized_at_once(pinned.to(where, non_blocking=True), boxes, size=size)
        return count * STEPS / (seconds_now(options.device) - started)

    name, against = f"crops on {options.device}, at once", "crops in the loader's thread"
    rates = take_turns({against: in_thread, name: on_device}, rounds=options.rounds)
    return lines_of(rates, "images/s", against=against), {}


def _cache(
    place: Path, small: Path, options: argparse.Namespace
) -> tuple[list[Line], dict[str, Any]]:
    rates, waits = {}, {}
    for cache in ("ram", str(place / "disk")):
        with engine(
            small,
            place,
            image_size=options.img_size,
            precision="auto",
            cache=cache,
            device=options.device,
        ) as training:
            epoch_of(training)
            name = "in memory" if cache == "ram" else "on disk"
            started = seconds_now(options.device)
            train_one_epoch(training)
            seconds = seconds_now(options.device) - started
            rates[f"epoch with pixels {name}, images/s"] = training.progress.images / seconds
            waits[f"seconds waited for pixels {name}"] = training.progress.wait_seconds
    return [], rates | waits


def _run(
    place: Path, small: Path, options: argparse.Namespace
) -> tuple[list[Line], dict[str, Any]]:
    typed = {
        "root": small,
        "image_size": options.img_size,
        "epochs": options.epochs,
        "device": options.device,
        "precision": "auto",
        "cache": str(place / "cache"),
    }
    found = {}
    for recipe in RECIPES:
        done = run(resolve(recipe, typed | {"output": place / recipe})[0])
        what = f"{options.epochs} epochs of {options.images} photographs, {recipe} recipe, seconds"
        found[what] = done.seconds
    return [], found


WORKS = {"step": _step, "decode": _decode, "crop": _crop, "cache": _cache, "run": _run}

if __name__ == "__main__":
    main()
