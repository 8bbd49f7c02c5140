"""The one decoder: every command opens its images here.

A file is read once, recognised by its bytes, measured by its header, checked, decoded (first
frame), turned as its EXIF says and brought to 8-bit RGB: 16-bit greys are scaled, transparency
lies on white. Whatever cannot be read so is a ``RejectedImage`` with one of a closed list of
reasons. ``fit`` is the one resize.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import threading
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
    features,
)

from inceptcli.config import MEAN, Resize
from inceptcli.files import NotRegularFile, open_regular, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_MEGAPIXELS = 150.0
MAX_SIDE = 65_535  # JPEG's own limit; a resize needs memory by the side, not by the area
MAX_FILE_BYTES = 512 << 20  # 150 megapixels of 24-bit BMP fit; a file is held in memory whole

# Named here, so that Pillow never goes through all its plugins (EPS starts Ghostscript).
_READERS = {
    "JPEG": JpegImagePlugin,
    "PNG": PngImagePlugin,
    "GIF": GifImagePlugin,
    "BMP": BmpImagePlugin,
    "TIFF": TiffImagePlugin,
    "WEBP": WebPImagePlugin,
    "PPM": PpmImagePlugin,
    "AVIF": AvifImagePlugin,
}
FORMATS = frozenset(name for name in _READERS if name != "AVIF" or features.check("avif"))

# What a file's first bytes say it is; the lower ones only to give a better reason.
_MAGIC = tuple(
    (name, re.compile(pattern, re.DOTALL))
    for name, pattern in (
        ("JPEG", rb"\xff\xd8\xff"),
        ("PNG", rb"\x89PNG\r\n\x1a\n"),
        ("GIF", rb"GIF8[79]a"),
        ("BMP", rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"),
        ("TIFF", rb"II[*+]\0|MM\0[*+]"),
        ("WEBP", rb"RIFF.{4}WEBP"),
        ("PPM", rb"P[1-6]\s"),
        ("AVIF", rb".{4}ftyp.{0,40}avi[fs]"),
        ("HEIC or video", rb".{4}ftyp"),
        ("JPEG 2000", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
        ("JPEG XL", rb"\0\0\0\x0cJXL |\xff\x0a"),
        ("PSD", rb"8BPS"),
        ("PDF", rb"%PDF"),
        ("EPS", rb"%!PS|\xc5\xd0\xd3\xc6"),
        ("FITS", rb"SIMPLE  ="),
        ("ICNS", rb"icns"),
        ("ICO", rb"\0\0\x01\0"),
    )
)
_MAGIC_BYTES = 64

EXTENSIONS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
    ".gif": "GIF",
    ".webp": "WEBP",
    ".avif": "AVIF",
}

_TURNS = {  # EXIF 2.32, tag 0x0112: how to turn the stored picture to see it upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset(_TURNS[value] for value in (5, 6, 7, 8))
_ORIENTATION = 0x0112
_WHITE = (255, 255, 255)
_MEAN_COLOUR = tuple(round(255 * part) for part in MEAN)
_TO_8_BIT = ((np.arange(65536, dtype=np.uint32) * 255 + 32767) // 65535).astype(np.uint8)

Pixels = npt.NDArray[np.uint8]


class Reason(StrEnum):
    """Why an image was rejected: the whole list."""

    EMPTY = "empty"
    MISSING = "missing"
    DANGLING_LINK = "dangling-link"
    UNREADABLE = "unreadable"
    NOT_A_REGULAR_FILE = "not-a-regular-file"
    NOT_AN_IMAGE = "not-an-image"
    UNSUPPORTED_FORMAT = "unsupported-format"
    TOO_LARGE = "too-large"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    FLOAT_PIXELS = "float-pixels"
    DECODER_CRASH = "decoder-crash"
    DECODER_TIMEOUT = "decoder-timeout"
    CHANGED = "changed"  # replaced after it was looked at


class RejectedImage(Exception):  # noqa: N818 - a finding about a file, not a fault of the program
    """An image that cannot be used. ``str()`` is "reason: detail", safe to print."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Decoded:
    """One decoded image and what its file said about itself.

    Attributes:
        image: RGB, upright, without metadata; smaller than the file's when ``at_least`` allowed.
        content_sha256: SHA-256 of the file's bytes, 32 bytes.
        format: One of ``FORMATS``, by content.
        mode: Pillow's name of the stored pixels, such as "RGB", "P" or "I;16".
        width: Of the upright picture at full size, in pixels.
        height: Likewise.
        flags: Of exif-rotated, transparent, palette, 16-bit, cmyk, animated, wrong-extension.
    """

    image: Image.Image
    content_sha256: bytes
    format: str
    mode: str
    width: int
    height: int
    flags: tuple[str, ...]


def open_image(
    path: Path, *, at_least: int | None = None, max_megapixels: float = MAX_MEGAPIXELS
) -> Image.Image:
    """Return the picture in a file as 8-bit RGB, upright; see ``decode``."""
    return decode(path, at_least=at_least, max_megapixels=max_megapixels).image


def decode(
    path: Path, *, at_least: int | None = None, max_megapixels: float = MAX_MEGAPIXELS
) -> Decoded:
    """Read and decode one image file.

    Threads take turns, because Pillow's limits and Python's warning filters belong to the whole
    process: decode in several processes to go faster. Colour profiles are not applied.

    Args:
        path: The file; links are followed.
        at_least: Pixels of the short side that are needed. A large JPEG is then decoded at
            1/2, 1/4 or 1/8 of its size, never below twice this.
        max_megapixels: More (width x height / 10^6, from the header) is rejected undecoded.

    Raises:
        RejectedImage: The file cannot be read as an image; nothing else is raised for a file.
    """
    data, kind = _read(path)
    max_pixels = int(max_megapixels * 1e6)
    try:
        with _pillow(max_pixels):
            decoded = _decode(data, kind, at_least=at_least, max_pixels=max_pixels)
    except RejectedImage:
        raise
    except Exception as error:  # decoders fail on hostile bytes in every way there is
        raise _rejection(error, data, kind) from error
    if EXTENSIONS.get(Path(path).suffix.lower(), kind) == kind:
        return decoded
    return replace(decoded, flags=(*decoded.flags, "wrong-extension"))


def fit(image: Image.Image, *, size: int, resize: Resize) -> Pixels:
    """Resize an RGB image to a square, bilinear and antialiased.

    Args:
        image: RGB, any shape.
        size: Side of the square in pixels.
        resize: "stretch" changes the aspect ratio (torchvision's ``Resize((size, size))``, to
            the bit); "crop" takes the largest centred square; "pad" keeps all and fills up with
            ImageNet's mean colour, the picture centred.

    Returns:
        uint8 (size, size, 3), writable.
    """
    width, height = image.size
    if resize == "stretch":
        return np.array(image.resize((size, size), Image.Resampling.BILINEAR))
    if resize == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
        return np.array(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
    scale = size / max(width, height)
    new_size = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = Image.new("RGB", (size, size), _MEAN_COLOUR)
    corner = (size - new_size[0]) // 2, (size - new_size[1]) // 2
    canvas.paste(image.resize(new_size, Image.Resampling.BILINEAR), corner)
    return np.array(canvas)


def _read(path: Path) -> tuple[bytes, str]:
    """Return a file's bytes and its format; a file of no known format is not read to its end."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise RejectedImage(Reason.EMPTY, "0 bytes")
            kind = _recognise(file.read(_MAGIC_BYTES))
            if size > MAX_FILE_BYTES:
                raise RejectedImage(Reason.TOO_LARGE, f"a file of {size >> 20} MB, more than 512")
            file.seek(0)
            return file.read(size), kind
    except OSError as error:
        raise RejectedImage(_reason_not_read(error, path), _text(error)) from error


def _reason_not_read(error: OSError, path: Path) -> Reason:
    if isinstance(error, NotRegularFile) or error.errno == errno.ENXIO:  # ENXIO: a socket
        return Reason.NOT_A_REGULAR_FILE
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return Reason.DANGLING_LINK if Path(path).is_symlink() else Reason.MISSING
    if error.errno == errno.ELOOP:
        return Reason.DANGLING_LINK
    return Reason.UNREADABLE


def _recognise(head: bytes) -> str:
    kind = next((name for name, pattern in _MAGIC if pattern.match(head)), None)
    if kind is None:
        raise RejectedImage(Reason.NOT_AN_IMAGE, "the content is of no known image format")
    if kind not in FORMATS:
        raise RejectedImage(Reason.UNSUPPORTED_FORMAT, f"{kind}; convert it to JPEG or PNG")
    return kind


_LOCK = threading.Lock()


@contextmanager
def _pillow(max_pixels: int) -> Iterator[None]:
    """Hold Pillow to our rules and quiet, and give the process its own settings back."""
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged EXIF beside good pixels is no news
        before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = max_pixels, False
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def _decode(data: bytes, kind: str, *, at_least: int | None, max_pixels: int) -> Decoded:
    stored = _open(data, kind)
    mode, (width, height) = stored.mode, stored.size
    _check_size(width, height, max_pixels)
    if kind == "PNG":  # only PNG has checksums, and only verify() looks at all of them
        _open(data, kind).verify()
    raw_mode = _raw_mode(stored)
    stored_turn = _turn(stored)
    if at_least is not None:
        stored.draft(None, (2 * at_least, 2 * at_least))  # no other format has drafts
    stored.load()
    if not _is_complete(data, kind):
        raise OSError("image file is truncated (its end mark is missing)")
    turn = _turn(stored)  # a TIFF has been turned by load(), a PNG's EXIF may follow its pixels
    image, transparent = _to_rgb(stored, raw_mode)
    if turn is not None:
        image = image.transpose(turn)
        if turn in _SIDEWAYS:
            width, height = height, width
    image.info.clear()
    signs = {
        "exif-rotated": turn is not None or stored_turn is not None,
        "transparent": transparent,
        "palette": mode in ("P", "PA"),
        "16-bit": "16" in raw_mode or mode.startswith("I"),
        "cmyk": mode == "CMYK",
        "animated": _has_more_frames(stored),
    }
    flags = tuple(name for name, there in signs.items() if there)
    return Decoded(image, hashlib.sha256(data).digest(), kind, mode, width, height, flags)


def _open(data: bytes, kind: str) -> ImageFile.ImageFile:
    return Image.open(io.BytesIO(data), formats=(kind,))


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        limit = f"{max_pixels / 1e6:g} megapixels or {MAX_SIDE} a side"
        raise RejectedImage(Reason.TOO_LARGE, f"{width} x {height} pixels, more than {limit}")


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """How the file stores its pixels, such as "L;4" or "RGB;16B"; "" when Pillow hides it."""
    for tile in image.tile:
        args: Any = tile.args
        return str(args if isinstance(args, str) else args[0] if args else "")
    return ""


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif()[_ORIENTATION])
    except Exception:  # whatever its EXIF holds, the pixels are good
        return None


def _is_complete(data: bytes, kind: str) -> bool:
    """Whether a JPEG or PNG holds its end mark; both decoders may stop before it.

    What follows the mark (cameras and archives add things there) does not matter. The few
    cameras that leave out a JPEG's mark are refused: nothing tells their files from cut ones.
    """
    if kind == "PNG":
        return b"\0\0\0\0IEND\xaeB`\x82" in data
    return kind != "JPEG" or _has_jpeg_end(data)


def _has_jpeg_end(data: bytes) -> bool:
    """Walk the segments (a thumbnail in one has an end mark too) to the first scan."""
    at = data.find(b"\xff", 2)
    while 0 <= at < len(data) - 3:
        marker = data[at + 1]
        if marker == 0xDA:  # in a scan 0xFF is followed by 0 or a restart, so this one is true
            return data.find(b"\xff\xd9", at) >= 0
        alone = marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9
        step = 1 if alone else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        at = data.find(b"\xff", at + step)
    return False


def _to_rgb(image: Image.Image, raw_mode: str) -> tuple[Image.Image, bool]:
    """Return the picture as RGB on white, and whether any of it was transparent."""
    if image.mode == "F":
        raise RejectedImage(Reason.FLOAT_PIXELS, "save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        return _from_integers(image)
    if image.has_transparency_data:
        _correct_key(image, raw_mode)
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        if alpha.getextrema() != (255, 255):
            canvas = Image.new("RGB", image.size, _WHITE)
            canvas.paste(image, mask=alpha)
            return canvas, True
    return (image if image.mode == "RGB" else image.convert("RGB")), False


def _from_integers(image: Image.Image) -> tuple[Image.Image, bool]:
    """Scale 16-bit greys: 65535 is white. Pillow's own conversion clips at 255."""
    values = np.asarray(image)
    if image.mode == "I" and not 0 <= values.min() <= values.max() <= 65535:
        raise RejectedImage(Reason.UNSUPPORTED_FORMAT, "pixels beyond 16 bits")
    grey = _TO_8_BIT[values]
    hidden = values == image.info.get("transparency", -1)
    grey[hidden] = 255
    return Image.fromarray(grey).convert("RGB"), bool(hidden.any())


def _correct_key(image: Image.Image, raw_mode: str) -> None:
    """Bring a PNG's transparent colour to the 8 bits to which Pillow brings its pixels."""
    key = image.info.get("transparency")
    if raw_mode in ("L;2", "L;4") and isinstance(key, int):
        image.info["transparency"] = key * (85 if raw_mode == "L;2" else 17)
    elif raw_mode == "RGB;16B" and isinstance(key, tuple):
        image.info["transparency"] = tuple(part >> 8 for part in key)


def _has_more_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the first frame is good, and no other is looked at
        return True


def _rejection(error: Exception, data: bytes, kind: str) -> RejectedImage:
    """Sort a decoder's failure into the list of reasons."""
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return RejectedImage(Reason.TOO_LARGE, _text(error))
    detail = f"{kind}: {_text(error)}"
    if isinstance(error, UnidentifiedImageError):  # its text is an address in memory
        detail = f"{kind}: the header cannot be read"
    if "truncated" in str(error).lower() or not _is_complete(data, kind):
        return RejectedImage(Reason.TRUNCATED, detail)
    return RejectedImage(Reason.CORRUPT, detail)


def _text(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(said or type(error).__name__)[:200]
