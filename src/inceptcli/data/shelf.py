"""Where pixels are kept: in the cache folder, in this process's memory, or nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from inceptcli.data.cache_folder import CacheFolder, Known, Place, picture_bytes
from inceptcli.data.machine import free_memory
from inceptcli.errors import ResourceError
from inceptcli.events import Emit, Notice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inceptcli.data.image import Pixels
    from inceptcli.data.reader import PixelSpec

MAX_CACHE_BYTES = 20 << 30  # in the default folder; what was unused for longest goes first
DISK_SHARE = 2  # new pixels may fill one part in so many of the free disk
MEMORY_SHARE = 4  # and all pixels of the free memory


def choose_shelf(
    known: Sequence[Known],
    spec: PixelSpec,
    folder: CacheFolder | None,
    *,
    cache: str,
    emit: Emit,
) -> Shelf:
    """Where the pixels go: into the cache folder if it may hold them all, memory, or nowhere.

    Args:
        known: What the cache folder has already.
        spec: Which pixels.
        folder: The cache folder, or None when there is to be none.
        cache: "auto", "ram", "none"; anything else is the folder and nothing but it.
        emit: Told when "auto" finds no room.

    Raises:
        ResourceError: "ram" was asked for and they do not fit.
    """
    total = len(known) * picture_bytes(spec)
    missing = sum(one.place is None for one in known) * picture_bytes(spec)
    if cache == "none":
        return Shelf()
    if cache == "ram":
        if total > (free := free_memory()):
            raise ResourceError(
                f"the pixels take {total >> 20} MB and {free >> 20} MB of memory are free; "
                "use --cache disk"
            )
        return _InMemory(len(known), spec)
    if cache != "auto":
        return _OnDisk(folder, known) if folder and folder.usable else Shelf()
    if folder and total <= MAX_CACHE_BYTES and missing <= folder.free_bytes() // DISK_SHARE:
        return _OnDisk(folder, known)
    if total <= free_memory() // MEMORY_SHARE:
        return _InMemory(len(known), spec)
    emit(
        Notice(
            f"the pixels of {len(known)} photographs take {total >> 20} MB: files are decoded "
            "each time they are needed; --cache disk or --cache DIR keeps them"
        )
    )
    return Shelf()


class Shelf:
    """Keeps nothing: every file is decoded each time."""

    keeps = on_disk = False

    def has(self, index: int) -> bool:
        """Whether looking at this file again could add nothing."""
        del index
        return True

    def get(self, index: int, out: Pixels) -> bool:
        """Copy the pixels into ``out``; false when they are not here."""
        del index, out
        return False

    def put(self, index: int, pixels: Pixels, place: Place | None) -> None:
        """Keep pixels that were decoded; ``place`` is where the cache folder has them."""

    def segments(self) -> set[str]:
        """The cache folder's segments in use."""
        return set()

    def remedy(self, gigabytes: float) -> str:
        """What would bring the pixels, of that size in all, sooner."""
        return f"keep them decoded with --cache DIR, of {gigabytes:.1f} GB"


class _InMemory(Shelf):
    """One array; pages that were never written take no memory."""

    keeps = True

    def __init__(self, count: int, spec: PixelSpec) -> None:
        self._pixels = np.empty((count, spec.image_size, spec.image_size, 3), np.uint8)
        self._held = np.zeros(count, bool)

    def has(self, index: int) -> bool:
        return bool(self._held[index])

    def get(self, index: int, out: Pixels) -> bool:
        if self._held[index]:
            out[:] = self._pixels[index]
        return bool(self._held[index])

    def remedy(self, gigabytes: float) -> str:
        del gigabytes
        return "they are in memory already, decoded: no cache can be faster"

    def put(self, index: int, pixels: Pixels, place: Place | None) -> None:
        del place
        self._pixels[index] = pixels
        self._held[index] = True


class _OnDisk(Shelf):
    """Segments of the cache folder; each picture is checked when it is first used."""

    keeps = on_disk = True

    def __init__(self, folder: CacheFolder, known: Sequence[Known]) -> None:
        self._folder = folder
        self._places = [one.place for one in known]
        self._checked = np.zeros(len(known), bool)

    def has(self, index: int) -> bool:
        return self._places[index] is not None

    def get(self, index: int, out: Pixels) -> bool:
        place = self._places[index]
        if place is None or not self._folder.read(place, out, check=not self._checked[index]):
            return False
        self._checked[index] = True
        return True

    def put(self, index: int, pixels: Pixels, place: Place | None) -> None:
        del pixels
        self._places[index], self._checked[index] = place, False

    def remedy(self, gigabytes: float) -> str:
        text = f"keep them, {gigabytes:.1f} GB, on a faster disk with --cache DIR"
        return text + (" or in memory with --cache ram" * (gigabytes < free_memory() / 1e9))

    def segments(self) -> set[str]:
        return {place.segment for place in self._places if place}
