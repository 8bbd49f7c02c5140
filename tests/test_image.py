"""The one decoder: what it reads, how, and the reasons for which it refuses."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from inceptcli.data import image as image_module
from inceptcli.data.image import FORMATS, Reason, RejectedImage, decode, fit, open_image

SAVED = sorted(FORMATS)  # each of them Pillow can write, too
LOSSLESS = ("BMP", "GIF", "PNG", "PPM", "TIFF", "WEBP")


def picture(width: int = 40, height: int = 30, *, seed: int = 0) -> Image.Image:
    """A drawn picture with flat parts, edges and a gradient; no symmetry."""
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    pen = ImageDraw.Draw(image)
    unit = max(1, min(width, height) // 10)
    for number in range(12):
        x, y = (seed + 7 * number) % 10 * width // 10, (3 * number) % 10 * height // 10
        colour = tuple((83 * (number + seed) * part) % 256 for part in (1, 2, 3))
        pen.ellipse((x, y, x + 2 * unit, y + unit), fill=colour)
    return image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def lossless(image: Image.Image, kind: str) -> bytes:
    return encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))


class File:
    """One file, rewritten by each call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, data: bytes) -> Path:
        self.path.write_bytes(data)
        return self.path

    def pixels(self, data: bytes, **options: Any) -> np.ndarray:
        return np.asarray(open_image(self(data), **options))

    def reason(self, data: bytes, **options: Any) -> Reason:
        with pytest.raises(RejectedImage) as caught:
            decode(self(data), **options)
        return caught.value.reason


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "file")


def png(width: int, height: int, *, depth: int = 8, colour: int = 0, rows: bytes = b"") -> bytes:
    """A PNG from its parts: good checksums, whatever the header claims."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


# ---- what is read


@pytest.mark.parametrize("kind", SAVED)
def test_formats_are_told_by_content(file: File, kind: str) -> None:
    """All formats of the list, under no name at all; the facts are the file's."""
    data = encoded(picture(), kind)
    found = decode(file(data))
    assert (found.format, found.width, found.height) == (kind, 40, 30)
    assert found.flags == (("palette",) if kind == "GIF" else ())
    assert (found.image.mode, found.image.size) == ("RGB", (40, 30))
    assert found.content_sha256 == hashlib.sha256(data).digest()


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_keep_every_pixel(file: File, kind: str) -> None:
    image = picture().quantize(64, dither=Image.Dither.NONE).convert("RGB")
    assert np.array_equal(file.pixels(lossless(image, kind)), np.asarray(image))


def test_grey_bits_and_palettes(file: File) -> None:
    """I9: 1, L and P become the colours that they stand for."""
    for mode in ("1", "L", "P"):
        image = picture().convert(mode)
        found = decode(file(encoded(image, "PNG")))
        assert np.array_equal(np.asarray(found.image), np.asarray(image.convert("RGB")))
        assert found.mode == mode
        assert found.flags == (("palette",) if mode == "P" else ())


def test_cmyk_is_converted(file: File) -> None:
    found = decode(file(encoded(picture().convert("CMYK"), "JPEG", quality=95)))
    assert (found.mode, found.flags) == ("CMYK", ("cmyk",))
    difference = np.asarray(found.image).astype(int) - np.asarray(picture())
    assert np.abs(difference).mean() < 5


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_the_first_frame_is_taken(file: File, kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    found = decode(
        file(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    )
    assert "animated" in found.flags
    assert (np.asarray(found.image) == (255, 0, 0)).all()


def test_a_jpeg_of_several_pictures_is_its_first(file: File) -> None:
    """MPO, as stereo cameras and some telephones write it, at full and at reduced size."""
    frames = [Image.new("RGB", (640, 480), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    for options, width in (({}, 640), ({"at_least": 100}, 320)):
        found = decode(file(data), **options)
        assert (found.format, found.flags, found.image.width) == ("JPEG", ("animated",), width)
        assert (np.asarray(found.image) == (254, 0, 0)).all()


def test_damage_behind_the_first_frame_does_not_matter(file: File) -> None:
    """Cut anywhere, an animation is its first frame or is refused."""
    frames = [picture(12, 9, seed=seed) for seed in range(2)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    first = file.pixels(data)
    read = 0
    for cut in range(len(data)):
        try:
            pixels = file.pixels(data[:cut])
        except RejectedImage:
            continue
        read += 1
        assert np.array_equal(pixels, first)
    assert read > 20


def test_sixteen_bit_greys_are_scaled_never_clipped(file: File) -> None:
    """I7: all 65,536 values of PNG, TIFF in both byte orders, and 32-bit holding 16."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(values / 257).astype(np.uint8)[..., None].repeat(3, axis=2)
    little = Image.fromarray(values)
    big = Image.frombytes("I;16B", (256, 256), values.astype(">u2").tobytes())
    wide = Image.fromarray(values.astype(np.int32))
    for image, kind in ((little, "PNG"), (little, "TIFF"), (big, "TIFF"), (wide, "TIFF")):
        found = decode(file(encoded(image, kind)))
        assert found.flags == ("16-bit",)
        assert np.array_equal(np.asarray(found.image), expected)


def test_pixels_without_a_scale_are_refused(file: File) -> None:
    """I7: floats, and integers beyond 16 bits, have no known white."""
    grid = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert file.reason(encoded(Image.fromarray(grid), "TIFF")) == Reason.FLOAT_PIXELS
    for value in (-1, 65536):
        image = Image.fromarray(np.full((8, 8), value, np.int32))
        assert file.reason(encoded(image, "TIFF")) == Reason.UNSUPPORTED_FORMAT


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_lies_on_white_and_hides_its_colour(file: File, kind: str) -> None:
    """I9: red under full transparency is gone, half transparent red is pink, the rest stays."""
    image = Image.new("RGBA", (6, 2), (255, 0, 0, 0))
    image.paste((255, 0, 0, 128), (2, 0, 4, 2))
    image.paste((1, 2, 3, 255), (4, 0, 6, 2))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = decode(file(encoded(image, kind, **options)))
    assert found.flags == ("transparent",)
    assert np.asarray(found.image)[0, ::2].tolist() == [
        [255, 255, 255],
        [255, 127, 127],
        [1, 2, 3],
    ]


def test_other_kinds_of_transparency(file: File) -> None:
    """I9: grey with alpha, palette entries, a key colour (8 and 16 bits), palette with alpha."""
    grey = np.zeros((4, 4), np.uint16)
    grey[0] = 40000
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 9, 9, 255, 0, 0])
    for data in (
        encoded(Image.new("LA", (4, 4), (0, 0)), "PNG"),
        encoded(Image.new("PA", (4, 4), (0, 0)), "TIFF"),
        encoded(palette, "PNG", transparency=1),
        encoded(palette, "GIF", transparency=1),
        encoded(Image.new("RGB", (4, 4), (9, 8, 7)), "PNG", transparency=(9, 8, 7)),
        encoded(Image.fromarray(grey[1:]), "PNG", transparency=0),
    ):
        found = decode(file(data))
        assert "transparent" in found.flags
        assert (np.asarray(found.image) == 255).all()
    found = decode(file(encoded(Image.fromarray(grey), "PNG", transparency=40000)))
    assert np.asarray(found.image)[:, 0, 0].tolist() == [255, 0, 0, 0]


def test_opaque_alpha_changes_nothing(file: File) -> None:
    image = picture().convert("RGBA")
    found = decode(file(encoded(image, "PNG")))
    assert found.flags == ()
    assert np.array_equal(np.asarray(found.image), np.asarray(picture()))


ORIENT = {  # EXIF 2.32, table 6: what rows and columns of the stored picture are
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_undone(file: File, kind: str, orientation: int) -> None:
    """I10: stored in any of eight ways, the upright picture comes back to the bit."""
    upright = np.asarray(picture())
    stored = Image.fromarray(np.ascontiguousarray(ORIENT[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    found = decode(file(encoded(stored, kind, exif=exif, **options)))
    assert np.array_equal(np.asarray(found.image), upright)
    assert (found.width, found.height) == (40, 30)
    assert found.flags == (("exif-rotated",) if orientation > 1 else ())


def exif_blocks() -> list[bytes]:
    """Damaged and absurd EXIF: wrong values and types, cut, offsets beyond the end, noise."""
    chance = random.Random(0)
    blocks = []
    for value in (0, 9, 65535):
        directory = ImageFileDirectory_v2()
        directory[0x0112] = value
        whole = b"Exif\0\0" + directory.tobytes()
        blocks += [whole, *(whole[:cut] for cut in range(6, len(whole), 5))]
    entry = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01"
    blocks += [entry + struct.pack("<HII", kind, 2**31, 2**31) for kind in range(14)]
    blocks += [b"Exif\0\0II*\0\x08\0\0\0" + chance.randbytes(200) for _ in range(50)]
    blocks += [b"Exif\0\0" + chance.randbytes(60) for _ in range(20)]
    return blocks


def test_damaged_exif_does_not_cost_the_picture(file: File) -> None:
    """I11: the pixels are used as they are, and (warnings are errors here) nothing is said."""
    expected = file.pixels(encoded(picture(), "JPEG"))
    for block in exif_blocks():
        assert np.array_equal(file.pixels(encoded(picture(), "JPEG", exif=block)), expected)


def test_no_metadata_goes_on(file: File) -> None:
    """I13: what a file says about itself cannot leave through a picture made from it."""
    exif = Image.Exif()
    exif[0x010E] = "<script>"
    data = encoded(picture(), "JPEG", exif=exif, comment=b"<script>", icc_profile=b"<script>")
    image = open_image(file(data))
    assert image.info == {}
    for kind in ("PNG", "JPEG"):
        assert b"<script>" not in encoded(image, kind)


def test_what_follows_a_picture_does_not_matter(file: File) -> None:
    """I13: a JPEG or PNG with an archive or a script behind it is that picture."""
    for kind in ("JPEG", "PNG"):
        data = encoded(picture(), kind)
        for tail in (b"PK\x03\x04" + bytes(range(256)), b"<script>alert(1)</script>", b"\xff\xda"):
            assert np.array_equal(file.pixels(data + tail), file.pixels(data))


# ---- what is refused


def test_what_is_no_image(file: File) -> None:
    """I1: empty, an error page, text, a drawing in text."""
    assert file.reason(b"") == Reason.EMPTY
    for data in (b"<!DOCTYPE html><html>", b"hello\n", b"<svg xmlns=''/>", b"\0" * 999, b"BMW"):
        assert file.reason(data) == Reason.NOT_AN_IMAGE


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_cut_files_are_truncated(file: File, kind: str) -> None:
    """I2: half, two bytes less, and every other cut that leaves the format to be seen."""
    data = encoded(picture(13, 10), kind)  # a row of BMP ends in one byte of padding
    cuts = range(64, len(data) - (kind == "BMP"))
    assert len(data) // 2 in cuts
    assert {file.reason(data[:cut]) for cut in cuts} == {Reason.TRUNCATED}


def test_two_bytes_less_of_a_small_jpeg(file: File) -> None:
    """I2: the decoder has all its rows before it misses the end, on pictures of many sizes."""
    for side in range(1, 40):
        data = encoded(picture(side, side), "JPEG")
        assert file.reason(data[:-2]) == Reason.TRUNCATED
        thumbnail = b"Exif\0\0II*\0" + data  # an end mark in a segment is not the picture's
        with_one = encoded(picture(side, side), "JPEG", exif=thumbnail)
        assert file.reason(with_one[:-2]) == Reason.TRUNCATED


@pytest.mark.parametrize("kind", SAVED)
def test_a_cut_file_is_refused_or_complete(file: File, kind: str) -> None:
    """I2: whatever is cut off, no picture with a part made up is ever returned."""
    data = encoded(picture(13, 10), kind)
    whole = file.pixels(data)
    for cut in range(len(data)):
        try:
            pixels = file.pixels(data[:cut])
        except RejectedImage:
            continue
        assert np.array_equal(pixels, whole), cut


def test_the_programs_of_others_cannot_make_it_lenient(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I2: a script that has set LOAD_TRUNCATED_IMAGES keeps its setting and changes nothing."""
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded(picture(), "JPEG")
    assert file.reason(data[: len(data) // 2]) == Reason.TRUNCATED
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_sizes_are_judged_by_the_header(file: File) -> None:
    """I4: hand-made PNG headers of 196 to 4,290 megapixels, a JPEG's, and one long row."""
    for side in (14_000, 20_000, 65_500):
        assert file.reason(png(side, side)) == Reason.TOO_LARGE
    data = bytearray(encoded(picture(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    assert file.reason(bytes(data)) == Reason.TOO_LARGE
    assert file.reason(png(70_000, 1, rows=bytes(70_001))) == Reason.TOO_LARGE
    assert file.pixels(png(60_000, 1, rows=bytes(60_001))).shape == (1, 60_000, 3)


def test_the_limit_is_the_users(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    """I4: exactly as many pixels as allowed, whatever Pillow's own limit is, which stays."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    data = encoded(picture(100, 100), "PNG")
    assert file.pixels(data, max_megapixels=0.01).shape == (100, 100, 3)
    assert file.reason(data, max_megapixels=0.0099) == Reason.TOO_LARGE
    assert file.reason(data, max_megapixels=0.001) == Reason.TOO_LARGE
    assert Image.MAX_IMAGE_PIXELS == 10


def test_bombs_take_no_memory(tmp_path: Path) -> None:
    """I4: the peak of a process that looks at them grows by less than 300 MB."""
    for side in (14_000, 20_000, 65_500):
        (tmp_path / f"{side}.png").write_bytes(png(side, side))
    with open(tmp_path / "long.jpg", "wb") as long:
        long.write(b"\xff\xd8\xff")
        long.truncate(600 << 20)
    program = """
import resource, sys
from pathlib import Path
from inceptcli.data.image import RejectedImage, decode
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
for name in sys.argv[1:]:
    try:
        decode(Path(name))
    except RejectedImage as error:
        print(error.reason)
print(peak() - before)
"""
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-c", program, *sorted(map(str, tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(image_module.__file__).parents[2])},
    )
    *reasons, growth = done.stdout.split()
    assert reasons == ["too-large"] * 4
    assert int(growth) < 300 * (1024 if sys.platform != "darwin" else 1024**2)


def test_other_formats_are_named_and_start_no_program(
    file: File, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I6: EPS, PDF, PSD, FITS, ICNS, JPEG 2000, Spider under a good name; gs is never run."""
    marker, gs = tmp_path / "marker", tmp_path / "bin" / "gs"
    gs.parent.mkdir()
    gs.write_text(f"#!/bin/sh\ntouch {marker}\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{gs.parent}{os.pathsep}{os.environ['PATH']}")
    image = picture(32, 32)
    for data in (
        encoded(image, "EPS"),
        encoded(image, "PDF"),
        encoded(image, "JPEG2000"),
        encoded(image.convert("RGBA"), "ICNS"),
        b"8BPS\0\1" + bytes(20),
        b"SIMPLE  =                    T",
        b"\0\0\0\x18ftypheic\0\0\0\0",
    ):
        assert file.reason(data) == Reason.UNSUPPORTED_FORMAT
    assert file.reason(encoded(image.convert("F"), "SPIDER")) == Reason.NOT_AN_IMAGE
    assert not marker.exists()


def test_a_reason_travels_and_prints_safely(file: File) -> None:
    """O3: what a file smuggles into a message is escaped; processes pass the error on."""
    data = png(8, 8, rows=bytes(72)).replace(b"IDAT", b"I\x1b[\x07")
    with pytest.raises(RejectedImage) as caught:
        decode(file(data))
    assert str(caught.value).isprintable()
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.reason, str(again)) == (Reason.CORRUPT, str(caught.value))


def test_missing_and_folders(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "gone", Reason.MISSING),
        (tmp_path, Reason.NOT_A_REGULAR_FILE),
    ):
        with pytest.raises(RejectedImage) as caught:
            decode(path)
        assert caught.value.reason == reason
        assert str(tmp_path) not in str(caught.value)


# ---- side effects


def test_the_process_keeps_its_settings_with_threads(tmp_path: Path) -> None:
    """Many threads decode good and bad files; filters and limits are what they were."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(range(200))  # makes Pillow warn
    good.write_bytes(encoded(picture(), "JPEG", exif=exif))
    bad.write_bytes(b"\xff\xd8\xff\0")
    before = warnings.filters[:], Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES

    def work(path: Path) -> str:
        try:
            return decode(path).format
        except RejectedImage as error:
            return error.reason

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, [good, bad] * 200)) == ["JPEG", "truncated"] * 200
    assert (warnings.filters[:], Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == before


# ---- smaller pictures from large JPEGs


@pytest.mark.parametrize("size", [(640, 480), (1000, 3000), (97, 61)])
def test_a_reduced_jpeg_is_never_below_twice_the_need(file: File, size: tuple[int, int]) -> None:
    data = encoded(picture(*size), "JPEG")
    for need in (1, 7, 32, 60, 61, 119, 120, 121, 224, 240, 500):
        found = decode(file(data), at_least=need)
        assert (found.width, found.height) == size
        short, full = min(found.image.size), min(size)
        assert short >= min(2 * need, full)
        assert short == full or short <= max(4 * need, full // 8) + 1  # the smallest allowed


def reduced_difference(file: File, image: Image.Image, resize: Any) -> float:
    """Mean grey levels between the full and the reduced way to a 224 pixel square."""
    path = file(encoded(image, "JPEG", quality=92))
    full, reduced = decode(path), decode(path, at_least=224)
    assert reduced.image.width < full.image.width
    first, second = (fit(each.image, size=224, resize=resize) for each in (full, reduced))
    return float(np.abs(first.astype(int) - second).mean())


@pytest.mark.parametrize("resize", ["stretch", "crop"])
def test_reduced_drawings_look_the_same(file: File, resize: str) -> None:
    """Mean difference below one grey level on edges, and on noise, which is the worst case."""
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8)
    assert reduced_difference(file, picture(4000, 3000), resize) < 1
    assert reduced_difference(file, Image.fromarray(noise), resize) < 1


def test_reduced_photographs_look_the_same(file: File, shared_dir: Path) -> None:
    """Real flowers enlarged to 12 megapixels."""
    for path in sorted(shared_dir.glob("data/flowers/*/*.jpg"))[::400]:
        image = open_image(path).resize((4000, 3000), Image.Resampling.BICUBIC)
        assert reduced_difference(file, image, "stretch") < 1


# ---- fit


@pytest.mark.parametrize("size", [(40, 30), (500, 333), (224, 224), (1, 1), (300, 2), (3, 1000)])
def test_stretch_is_torchvisions_resize_to_the_bit(size: tuple[int, int]) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    image = picture(*size)
    for side in (32, 224):
        expected = np.asarray(transforms.Resize((side, side), antialias=True)(image))
        assert np.array_equal(fit(image, size=side, resize="stretch"), expected)


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1), (3, 2), (224, 224), (31, 77)])
def test_any_shape_becomes_a_square(resize: Any, size: tuple[int, int]) -> None:
    """I13."""
    pixels = fit(Image.new("RGB", size, (200, 10, 10)), size=64, resize=resize)
    assert (pixels.shape, pixels.dtype, pixels.flags.writeable) == ((64, 64, 3), np.uint8, True)
    assert (pixels == (200, 10, 10)).all(axis=2).any()


@pytest.mark.parametrize("size", [(128, 64), (64, 192), (320, 160)])
def test_crop_is_the_centre_of_the_whole_picture_resized(size: tuple[int, int]) -> None:
    """To the bit torchvision's Resize(64) and CenterCrop(64), where both fall on whole pixels."""
    transforms = pytest.importorskip("torchvision.transforms")
    image = picture(*size)
    whole = transforms.Resize(64, antialias=True)(image)
    expected = np.asarray(transforms.CenterCrop(64)(whole))
    assert np.array_equal(fit(image, size=64, resize="crop"), expected)


def test_pad_keeps_all() -> None:
    image = Image.new("RGB", (300, 100), "red")
    image.paste("lime", (100, 0, 200, 100))
    padded = fit(image, size=90, resize="pad")
    assert (padded[[0, 29, 60, 89]] == (124, 116, 104)).all()  # ImageNet's mean
    assert (padded[30:60, :29] == (255, 0, 0)).all()
    assert (padded[30:60, 31:59] == (0, 255, 0)).all()


def test_a_crop_of_the_right_size_is_the_picture_itself() -> None:
    image = picture(65, 64)
    assert np.array_equal(fit(image, size=64, resize="crop"), np.asarray(image)[:, :64])


# ---- mutations


def seeds() -> list[bytes]:
    return [encoded(picture(24, 17), kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP")] + [
        encoded(picture(24, 17), "TIFF", compression="tiff_lzw")
    ]


def mutated(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Flip bits, cut, or splice with another file."""
    kind, at = chance.randrange(3), chance.randrange(1, len(data))
    if kind == 0:
        changed = bytearray(data)
        for _ in range(chance.randint(1, 8)):
            changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(changed)
    if kind == 1:
        return data[:at]
    other = chance.choice(others)
    return data[:at] + other[chance.randrange(len(other)) :]


def survives(file: File, count: int) -> None:
    chance, files = random.Random(16), seeds()
    found = set()
    for number in range(count):
        try:
            found.add(decode(file(mutated(files[number % 6], files, chance))).image.mode)
        except RejectedImage as error:
            found.add(error.reason)
    assert found <= {"RGB", *Reason}
    assert "RGB" in found
    assert {Reason.TRUNCATED, Reason.CORRUPT} <= found


def test_mutations_end_in_a_picture_or_a_reason(file: File) -> None:
    """I16, short."""
    survives(file, 200)


@pytest.mark.slow
def test_two_thousand_mutations(file: File) -> None:
    """I16."""
    survives(file, 2000)
