"""Speed of everything before the network: decoding, the cache, crops and colours.

Compared is what each has in its place: Pillow's whole decoding as torchvision's transforms ask
for it, decoding again, and torchvision's own augmentation of one image at a time.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from benchmarks import plain
from benchmarks.measure import (
    PLAIN,
    Case,
    Line,
    lines_of,
    measure,
    options_of,
    seconds_now,
    take_turns,
    write_photographs,
)
from PIL import Image
from torchvision.transforms import v2

from inceptcli.config import resolve
from inceptcli.data.augment import Crop, change, flip, flip_draws
from inceptcli.data.loader import normalise
from inceptcli.data.machine import default_workers
from inceptcli.data.prepare import prepare
from inceptcli.data.reader import PixelSpec, read


def main() -> None:
    """Measure what was asked for."""
    options = options_of("data", __doc__, WORKS).parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folders = {
            "256 px": write_photographs(
                place / "small", options.photos, count=options.images * 4, side=256
            ),
            "12 megapixels": write_photographs(
                place / "large", options.photos, count=max(8, options.images // 4), side=3000
            ),
        }
        measure("data", WORKS, options, place, folders)


def _decode(place: Path, folders: dict[str, Path], options: argparse.Namespace) -> list[Line]:
    found: list[Line] = []
    for name, folder in folders.items():
        every = plain.photographs(folder, options.img_size)
        paths = [Path(path) for path, _ in every.samples]
        cases: dict[str, Case] = {PLAIN: _counted(len(paths), lambda e=every: list(e))}  # type: ignore[misc]
        for workers in (0, 1, default_workers()):
            spec = PixelSpec(options.img_size, "stretch", 150.0)
            cases[f"decoding {name}, {workers} processes"] = _counted(
                len(paths),
                lambda p=paths, w=workers, s=spec: list(read(p, s, workers=w)),  # type: ignore[misc]
            )
        found += lines_of(take_turns(cases, rounds=min(3, options.rounds)), "files/s")
    return found


def _cache(place: Path, folders: dict[str, Path], options: argparse.Namespace) -> list[Line]:
    folder = folders["256 px"]
    every = plain.photographs(folder, options.img_size)
    typed = {"root": folder, "image_size": options.img_size}
    cases: dict[str, Case] = {PLAIN: _counted(len(every), lambda: list(every))}
    with (
        prepare(resolve("default", typed | {"cache": str(place / "cache")})[0]).store as disk,
        prepare(resolve("default", typed | {"cache": "ram"})[0]).store as memory,
    ):
        for name, store in {"on disk": disk, "in memory": memory}.items():
            cases[f"a cached epoch, {name}"] = _counted(
                len(every),
                lambda s=store: [s.take(p) for p in _parts(len(every))],  # type: ignore[misc]
            )
        rates = take_turns(cases, rounds=options.rounds)
    return lines_of(rates, "files/s")


def _parts(count: int) -> list[np.ndarray]:
    return np.array_split(np.random.default_rng(0).permutation(count), max(1, count // 32))


def _augment(place: Path, folders: dict[str, Path], options: argparse.Namespace) -> list[Line]:
    size = options.img_size
    pixels = torch.randint(0, 256, (64, size, size, 3), dtype=torch.uint8)
    pictures = [Image.fromarray(image.numpy()) for image in pixels]
    config = resolve("default", {"root": Path(), "image_size": size})[0]
    one_by_one = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(config.crop_area, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(*[config.color_jitter] * 3),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    which = np.arange(64)

    def batch() -> torch.Tensor:
        images = Crop(size, config.crop_area, 0, 1)(pixels, which)
        images = flip(images, *flip_draws(which, seed=0, epoch=1, flips="h"))
        images = normalise(images, device=torch.device("cpu"))
        return change(images, which, config, seed=0, epoch=1)

    name = "augmentation of the default recipe"
    cases: dict[str, Case] = {
        PLAIN: _counted(64, lambda: [one_by_one(picture) for picture in pictures]),
        name: _counted(64, batch),
    }
    note = {name: "against torchvision's transforms of Pillow images"}
    return lines_of(take_turns(cases, rounds=options.rounds), "images/s", notes=note)


def _counted(count: int, work: object) -> Case:
    def run() -> float:
        started = seconds_now()
        work()  # type: ignore[operator]
        return count / (seconds_now() - started)

    return run


WORKS = {"decode": _decode, "cache": _cache, "augment": _augment}

if __name__ == "__main__":
    main()
