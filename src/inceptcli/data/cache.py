"""The one pass over the photographs: what they are, which are bad, and their pixels kept.

Pixels are kept at their final size, byte-equal to decoding again: in the cache folder, where the
next run and other processes find them and the system holds them in memory while there is room;
or in this process's memory. Anything lost there is decoded again.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inceptcli.config import CACHES
from inceptcli.data.cache_folder import CacheFolder, Known, default_cache_folder, picture_bytes
from inceptcli.data.image import Reason
from inceptcli.data.machine import default_workers
from inceptcli.data.reader import Facts, Looked, PixelSpec, Reader, never
from inceptcli.data.shelf import MAX_CACHE_BYTES, Shelf, choose_shelf
from inceptcli.errors import OutputError, ResourceError
from inceptcli.events import Emit, Progress, Warned, silent
from inceptcli.files import is_inside, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    import numpy.typing as npt

    from inceptcli.data.folder import Sample
    from inceptcli.data.image import Pixels

    Indices = npt.NDArray[np.int64]

_PROGRESS_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Lost:
    """A sample without pixels: its index among the samples, and why."""

    index: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How files are read and what is kept of them.

    Attributes:
        workers: Decoding processes; 0 decodes in this one.
        timeout: Seconds that one file may take.
        stopping: Asked several times a second; true ends reading with ``StoppingError``.
        cache: "auto", "ram", "disk", "none" (keep nothing at all), or a folder.
        keep_pixels: False when only the facts are wanted.
        emit: Told of progress, and of a cache that cannot be used.
    """

    workers: int
    timeout: float = 60
    stopping: Callable[[], bool] = never
    cache: str = "auto"
    keep_pixels: bool = True
    emit: Emit = silent


@dataclass(frozen=True, slots=True)
class Survey:
    """What one pass over the samples found; everything is indexed as the samples were given.

    Attributes:
        facts: None for a file that was rejected.
        rejected: Files that cannot be used, in order.
        store: The pixels. Close it when done.
    """

    facts: list[Facts | None]
    rejected: list[Lost]
    store: PixelStore


def survey(samples: Sequence[Sample], spec: PixelSpec, reading: Reading) -> Survey:
    """Look at every sample once, or find that it was looked at before and has not changed.

    Raises:
        OutputError: The cache folder lies inside the data folder.
        ResourceError: The pixels do not fit in memory though ``cache`` is "ram"; or the workers
            cannot live.
        StoppingError: ``reading.stopping()`` became true; what was read is in the cache.
    """
    paths = [sample.path for sample in samples]
    folder = _open_folder(samples, spec, reading)
    known = folder.find(paths) if folder else [Known(None, None, None)] * len(paths)
    shelf = choose_shelf(
        known,
        spec,
        folder,
        cache=reading.cache if reading.keep_pixels else "none",
        emit=reading.emit,
    )
    store = PixelStore(paths, spec, reading, known=known, folder=folder, shelf=shelf)
    try:
        rejected = store.look()
    finally:
        store.close()
    if folder:
        limit = MAX_CACHE_BYTES if reading.cache in ("auto", "disk") else None
        folder.evict(keep=shelf.segments(), limit=limit)
    return Survey(store.facts, rejected, store)


def _open_folder(
    samples: Sequence[Sample], spec: PixelSpec, reading: Reading
) -> CacheFolder | None:
    if reading.cache == "none":
        return None
    folder = Path(reading.cache)
    if reading.cache in CACHES:
        try:
            folder = default_cache_folder()
        except OutputError as error:
            reading.emit(Warned(str(error)))
            return None
    for sample in samples[:1]:
        root = sample.path.parents[sample.name.count("/")]
        if is_inside(folder, root):
            raise OutputError(
                f"the cache folder {printable(str(folder))} lies inside the photographs' folder; "
                "choose another with --cache DIR or INCEPTCLI_CACHE, or use --cache none"
            )
    return CacheFolder(folder, spec, emit=reading.emit)


class PixelStore:
    """Pixels of all samples by index, from wherever they are; safe to use from several threads.

    Attributes:
        facts: By index; None for what was not looked at yet, or rejected.
        lost: By index: samples that :meth:`take` had to leave out, with the latest reason.
        leaving: Ends reading with ``StoppingError`` once it is set.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        spec: PixelSpec,
        reading: Reading,
        *,
        known: Sequence[Known],
        folder: CacheFolder | None,
        shelf: Shelf,
    ) -> None:
        self.facts: list[Facts | None] = [one.facts for one in known]
        self.lost: dict[int, Lost] = {}
        self._stamps = [one.stamp for one in known]
        self._paths = paths
        self._spec = spec
        self._reading = reading
        self._folder = folder
        self._shelf = shelf
        self.leaving = threading.Event()
        self._lock = threading.Lock()
        self._reader = Reader(
            spec,
            workers=reading.workers,
            timeout=reading.timeout,
            stopping=lambda: self.leaving.is_set() or reading.stopping(),
        )

    def __enter__(self) -> PixelStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def take(self, indices: npt.ArrayLike) -> tuple[Pixels, Indices]:
        """Return the pixels of these samples, and which samples they are.

        A file that can no longer be read as it was is tried once more, then left out: noted in
        ``lost``, never replaced by another.

        Returns:
            uint8 (M, S, S, 3) and int64 (M,): the indices given, less those lost.

        Raises:
            ResourceError: A file was not read within the time given, or the workers cannot live.
            StoppingError: ``stopping()`` became true, or ``leaving`` is set.
        """
        wanted = np.asarray(indices, np.int64)
        size = self._spec.image_size
        pixels = np.empty((len(wanted), size, size, 3), np.uint8)
        missing = [
            place
            for place, index in enumerate(wanted.tolist())
            if not self._shelf.get(index, pixels[place])
        ]
        if not missing:
            return pixels, wanted
        there = np.ones(len(wanted), bool)
        with self._lock:
            there[self._decode(wanted, missing, pixels)] = False
        return (pixels, wanted) if there.all() else (pixels[there], wanted[there])

    def remedy(self) -> str:
        """What would bring pixels sooner, in words with numbers."""
        text = self._shelf.remedy(len(self._paths) * picture_bytes(self._spec) / 1e9)
        if not self._shelf.keeps and self._reading.workers < default_workers():
            text += f", or decode in more processes with --workers {default_workers()}"
        return text

    def close(self) -> None:
        """End the decoding processes and finish the cache; ``take`` would start them again."""
        with self._lock:
            self._reader.close()
            if self._folder:
                self._folder.flush()

    def look(self) -> list[Lost]:
        """Read what is not known or not kept, and return what cannot be used."""
        new = [
            index
            for index, facts in enumerate(self.facts)
            if facts is None or not self._shelf.has(index)
        ]
        rejected = []
        shown = 0.0
        for done, (index, looked) in enumerate(self._read(new), start=1):
            if looked.pixels is not None:
                self._keep(index, looked, looked.pixels)
            else:
                self.facts[index] = None
                rejected.append(_lost(index, looked))
            if done == len(new) or time.monotonic() - shown > _PROGRESS_SECONDS:
                shown = time.monotonic()
                self._reading.emit(Progress("reading photographs", done, len(new)))
        return rejected

    def _decode(self, wanted: Indices, missing: list[int], pixels: Pixels) -> list[int]:
        """Fill ``pixels`` at the places ``missing``; return those where a second try failed."""
        for last in (False, True):
            failed = []
            for place, (index, looked) in zip(
                missing, self._read(wanted[missing].tolist()), strict=True
            ):
                if looked.pixels is not None:
                    pixels[place] = looked.pixels
                    self._keep(index, looked, looked.pixels)
                    continue
                failed.append(place)
                if looked.reason == Reason.DECODER_TIMEOUT:
                    name = printable(str(self._paths[index]))
                    raise ResourceError(f"{name}: {looked.detail}; check its disk, then --resume")
                if last:
                    self.lost[index] = _lost(index, looked)
            missing = failed
        return missing

    def _read(self, indices: Sequence[int]) -> Iterator[tuple[int, Looked]]:
        """Read these samples; one that is no longer what it was counts as changed."""
        want_facts = any(self.facts[index] is None for index in indices)
        paths = (self._paths[index] for index in indices)
        for looked in self._reader.read(paths, want_facts=want_facts):
            index = indices[looked.index]
            facts = self.facts[index]
            if looked.reason is None and facts and facts.content_sha256 != looked.content_sha256:
                looked = replace(
                    looked, pixels=None, reason=Reason.CHANGED, detail="not the file it was before"
                )
            yield index, looked

    def _keep(self, index: int, looked: Looked, pixels: Pixels) -> None:
        new = self.facts[index] is None
        facts = self.facts[index] = self.facts[index] or looked.facts
        place, stamp = None, self._stamps[index]
        if self._folder and facts and stamp and (new or self._shelf.on_disk):
            shelved = pixels if self._shelf.on_disk else None
            place = self._folder.add(self._paths[index], stamp, facts, shelved)
        self._shelf.put(index, pixels, place)
        self.lost.pop(index, None)


def _lost(index: int, looked: Looked) -> Lost:
    return Lost(index, str(looked.reason), looked.detail)
