"""The tutorial's situation made again: photographs, and augmented copies of each beside them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from PIL.Image import Resampling, Transpose

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

Random = np.random.Generator


def photograph(seed: int, *, side: int = 96) -> Image.Image:
    """A drawn picture with what photographs have: soft areas, outlines and texture of its own."""
    random = np.random.default_rng([7, seed])
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    spectrum = np.fft.fft2(random.normal(size=(3, side, side))) / (frequency + 1 / side) ** 1.2
    pixels = np.fft.ifft2(spectrum).real
    pixels = 128 + 45 * (0.7 * pixels / pixels.std() + 0.5 * pixels[0] / pixels[0].std())
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0).copy())
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        left, top = random.integers(0, side, 2).tolist()
        width, height = random.integers(side // 12, side // 3, 2).tolist()
        colour = tuple(random.integers(20, 236, 3).tolist())
        draw.ellipse((left, top, left + width, top + height), fill=colour)
    return image


def flip(image: Image.Image, random: Random) -> Image.Image:
    """Mirrored left to right, or upside down."""
    return ImageOps.mirror(image) if random.random() < 0.5 else ImageOps.flip(image)


def turn(image: Image.Image, random: Random) -> Image.Image:
    """A quarter turn, either way."""
    return image.transpose(Transpose.ROTATE_90 if random.random() < 0.5 else Transpose.ROTATE_270)


def rotation(image: Image.Image, random: Random) -> Image.Image:
    """Turned by up to 15 degrees, with black corners."""
    return image.rotate(random.uniform(-15, 15), Resampling.BICUBIC)


def crop(image: Image.Image, random: Random) -> Image.Image:
    """A part of 80 to 95 % of each side, anywhere, at its own size."""
    share = random.uniform(0.8, 0.95)
    width, height = (max(1, round(side * share)) for side in image.size)
    left = int(random.integers(0, image.width - width + 1))
    top = int(random.integers(0, image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def brightness(image: Image.Image, random: Random) -> Image.Image:
    """Brighter or darker by up to 40 %."""
    return ImageEnhance.Brightness(image).enhance(random.uniform(0.6, 1.4))


def noise(image: Image.Image, random: Random) -> Image.Image:
    """Gaussian noise of 5 to 15 grey levels on every pixel and channel."""
    pixels = np.asarray(image, dtype=np.float64)
    pixels = pixels + random.normal(0, random.uniform(5, 15), pixels.shape)
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def encoding(image: Image.Image, random: Random) -> Image.Image:
    """Through a JPEG of quality 20 to 60."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(random.integers(20, 61)))
    return Image.open(file).convert("RGB")


# The fourteen copies of one photograph: each change alone, and those that scripts combine.
RECIPES: tuple[tuple[Callable[[Image.Image, Random], Image.Image], ...], ...] = (
    (flip,),
    (turn,),
    (rotation,),
    (crop,),
    (brightness,),
    (noise,),
    (encoding,),
    (flip, crop),
    (flip, rotation),
    (turn, brightness),
    (rotation, brightness),
    (crop, noise),
    (turn, crop, encoding),
    (flip, brightness, noise),
)


def copies_of(image: Image.Image, random: Random) -> list[Image.Image]:
    """The photograph itself and its fourteen augmented copies."""
    copies = [image]
    for recipe in RECIPES:
        copy = image
        for change in recipe:
            copy = change(copy, random)
        copies.append(copy)
    return copies


def write_copies(
    root: Path,
    originals: Mapping[str, Sequence[Image.Image]],
    *,
    seed: int = 0,
    random_names: bool = False,
) -> dict[str, str]:
    """Write a data folder of photographs and their augmented copies, as JPEG files.

    Args:
        root: The data folder to make; ``root/CLASS/NAME.jpg``.
        originals: Class -> its photographs (RGB).
        seed: Of everything that is drawn.
        random_names: Names that tell nothing, in place of the tutorial's ``M01_07_00.jpg``.

    Returns:
        Name below root -> its original's name, "CLASS/NUMBER", in the order of the files' names.
    """
    random = np.random.default_rng(seed)
    family: dict[str, str] = {}
    for class_, images in originals.items():
        (root / class_).mkdir(parents=True)
        for number, image in enumerate(images, start=1):
            for copy, picture in enumerate(copies_of(image.convert("RGB"), random)):
                name = f"{class_[0].upper()}01_{number:02d}_{copy:02d}"
                if random_names:
                    name = random.bytes(8).hex()
                picture.save(root / class_ / f"{name}.jpg", quality=90)
                family[f"{class_}/{name}.jpg"] = f"{class_}/{number}"
    return dict(sorted(family.items()))
