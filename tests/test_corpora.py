"""The awkward files of others: every kind of PNG, every EXIF orientation."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from inceptcli.data.image import RejectedImage, decode, fit, open_image

if TYPE_CHECKING:
    from pathlib import Path

REFUSED = {  # the whole list; every other file of the suite is read
    "xc1n0g08.png": "corrupt",  # colour type 1
    "xc9n2c08.png": "corrupt",  # colour type 9
    "xcrn0g04.png": "not-an-image",  # signature changed by a transfer as text
    "xcsn0g01.png": "corrupt",  # checksum of the pixels
    "xd0n2c08.png": "corrupt",  # bit depth 0
    "xd3n2c08.png": "corrupt",  # bit depth 3
    "xd9n2c08.png": "corrupt",  # bit depth 99
    "xdtn0g01.png": "corrupt",  # no pixels
    "xhdn0g08.png": "corrupt",  # checksum of the header
    "xlfn0g04.png": "not-an-image",  # signature changed
    "xs1n0g01.png": "not-an-image",
    "xs2n0g01.png": "not-an-image",
    "xs4n0g01.png": "not-an-image",
    "xs7n0g01.png": "not-an-image",
}


@pytest.fixture(scope="module")
def suite(shared_dir: Path) -> list[Path]:
    files = sorted((shared_dir / "corpora" / "pngsuite").glob("*.png"))
    if not files:
        pytest.skip("no PNG suite among the shared material")
    return files


def test_good_files_are_read_and_broken_ones_refused(suite: list[Path]) -> None:
    """I3, I14: every file of the suite against the stored list."""
    refused, flags = {}, {}
    for path in suite:
        try:
            found = decode(path)
        except RejectedImage as error:
            refused[path.name] = str(error.reason)
        else:
            assert min(found.width, found.height) >= 1
            for flag in found.flags:
                flags[flag] = flags.get(flag, 0) + 1
    assert refused == REFUSED
    assert len(suite) == 175
    assert flags == {"16-bit": 33, "palette": 63, "transparent": 28}


def test_pixels_are_right(suite: list[Path]) -> None:
    """I7, I9: every depth, palette and transparency against a reader written from the standard.

    One grey level is allowed: Pillow cuts 16-bit colours to their upper byte, others round.
    """
    compared = 0
    for path in suite:
        if path.name in REFUSED or path.name[3] == "i":  # interlaced: below
            continue
        colour, alpha = read_png(path.read_bytes())
        expected = 255 * (colour * alpha + 1 - alpha)
        pixels = np.asarray(open_image(path))
        assert np.abs(pixels - expected).max() <= 1.01, path.name
        assert (pixels[alpha[..., 0] == 0] == 255).all()
        compared += 1
    assert compared > 100


def test_interlaced_files_show_the_same(suite: list[Path]) -> None:
    pairs = 0
    for path in suite:
        plain = path.with_name(f"{path.name[:3]}n{path.name[4:]}")
        if path.name[3] == "i" and plain in suite:
            assert np.array_equal(np.asarray(open_image(path)), np.asarray(open_image(plain)))
            pairs += 1
    assert pairs > 20


@pytest.mark.parametrize("name", ["Landscape", "Portrait"])
def test_all_orientations_look_alike(shared_dir: Path, name: str) -> None:
    """I10: eight ways to store one photograph; what the network gets differs by JPEG noise."""
    folder = shared_dir / "corpora" / "exif-orientation"
    views = [decode(folder / f"{name}_{number}.jpg", at_least=112) for number in range(1, 9)]
    assert len({(view.width, view.height) for view in views}) == 1
    for resize in ("stretch", "crop", "pad"):
        first, *others = [fit(view.image, size=112, resize=resize).astype(int) for view in views]
        for number, other in enumerate(others, 2):
            assert np.abs(first - other).mean() < 2, number


def read_png(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A PNG without interlace as colour (H, W, 3) and alpha (H, W, 1) in [0, 1].

    Written from the W3C's specification (third edition), sections 7, 9 and 11, for this test.
    """
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        chunks[name] = chunks.get(name, b"") + data[at + 8 : at + 8 + length]
        at += 12 + length
    width, height, depth, kind, *_ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    rows = unfilter(
        zlib.decompress(chunks[b"IDAT"]),
        height,
        -(-width * channels * depth // 8),
        max(1, channels * depth // 8),
    )
    if depth == 16:
        values = rows.reshape(height, -1, 2).astype(int) @ [256, 1]
    else:
        bits = np.unpackbits(rows, axis=1).reshape(height, -1, depth).astype(int)
        values = bits @ (1 << np.arange(depth)[::-1])
    values = values[:, : width * channels].reshape(height, width, channels)
    key = chunks.get(b"tRNS")
    alpha = np.ones((height, width, 1))
    if kind == 3:
        table = np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3) / 255
        opacity = np.ones(256)
        if key:
            opacity[: len(key)] = np.frombuffer(key, np.uint8) / 255
        return table[values[..., 0]], opacity[values]
    if kind in (4, 6):
        alpha = values[..., -1:] / (2**depth - 1)
        values = values[..., :-1]
    elif key:
        alpha = (values != np.frombuffer(key, ">u2")).any(axis=2, keepdims=True).astype(float)
    return np.broadcast_to(values / (2**depth - 1), (height, width, 3)), alpha


def unfilter(data: bytes, height: int, stride: int, step: int) -> np.ndarray:
    """Undo the five filters; ``step`` is the distance to the pixel at the left in bytes."""
    rows = np.zeros((height + 1, stride + step), int)
    for y in range(height):
        start = y * (stride + 1)
        raw = data[start + 1 : start + 1 + stride]
        for x, byte in enumerate(raw, step):
            left, up, corner = rows[y + 1, x - step], rows[y, x], rows[y, x - step]
            guess = left + up - corner
            nearest = min((left, up, corner), key=lambda each, guess=guess: abs(guess - each))
            rows[y + 1, x] = (byte + (0, left, up, (left + up) // 2, nearest)[data[start]]) % 256
    return rows[1:, step:].astype(np.uint8)
