"""Small pictures for the report, made anew from pixels: nothing of a file is passed on."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping

import numpy as np
from PIL import Image

from inceptcli.data.prepare import Photos
from inceptcli.report.explain import Pixels

SMALL, LARGE = 96, 160  # longest sides in pixels; a smaller picture is not enlarged
_QUALITY = 80  # of JPEG; a thumbnail of 96 pixels takes about 3 kB
_AT_ONCE = 64  # pictures held at their full size


def data_uri(pixels: Pixels, side: int) -> str:
    """Pixels (S, S, 3) uint8 as a JPEG of at most ``side`` pixels, ready for an ``src``."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def thumbnails(photos: Photos, indices: Iterable[int]) -> Mapping[int, str]:
    """Photographs as the network sees them, by index; those that have vanished are left out."""
    wanted = np.array(sorted(set(indices)), np.int64)
    found = {}
    for start in range(0, len(wanted), _AT_ONCE):
        pixels, which = photos.store.take(wanted[start : start + _AT_ONCE])
        for index, picture in zip(which.tolist(), pixels, strict=True):
            found[index] = data_uri(picture, SMALL)
    return found
