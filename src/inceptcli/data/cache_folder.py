"""What lies in the cache folder: a list of files looked at, and their pixels.

``v1/index.sqlite`` has one row for each (pixel spec, path): the facts, and where the pixels are.
``v1/<size>-<resize>-<random>.pixels`` are segments of up to 64 MiB, written once and whole.
Processes share the folder without locks: each adds segments of its own, then their rows. Every
row carries a digest of itself and every picture one of its pixels, so that whatever happens to
these files can cost time, never a wrong pixel.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sqlite3
import sys
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import PIL

from inceptcli.data.reader import Facts, PixelSpec
from inceptcli.errors import OutputError
from inceptcli.events import Emit, Warned
from inceptcli.files import printable, sweep, write_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from inceptcli.data.image import Pixels

T = TypeVar("T")

VERSION = "v1"  # goes up when decoding, fitting or describing gives other results
SEGMENT_BYTES = 64 << 20
_MAX_PENDING = 5_000  # rows held back when there are no pixels
_DAY = 24 * 60 * 60  # seconds
_WAIT_SECONDS = 30  # for another process that writes its rows
_SEGMENTS = "[1-9]*-*-*.pixels"
_OWN = ("index.sqlite*", _SEGMENTS, ".*.pixels.*.tmp")
_DAMAGED = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_TABLE = """CREATE TABLE IF NOT EXISTS looked (
    spec BLOB, path BLOB, stamp BLOB, facts BLOB, segment BLOB, position INTEGER, pixels BLOB,
    seal BLOB, PRIMARY KEY (spec, path)) WITHOUT ROWID"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the pixels of a file are: segment, position in it, and their sha256."""

    segment: str
    position: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Known:
    """A file as it is now: its stamp (None: it cannot be asked), its facts and its pixels."""

    stamp: str | None
    facts: Facts | None
    place: Place | None


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """What ``inceptcli cache list`` shows: pixels of one size and way of fitting."""

    image_size: int
    resize: str
    pictures: int
    bytes: int
    last_used: float  # seconds since 1970


def default_cache_folder() -> Path:
    """``$INCEPTCLI_CACHE``, or the place that the operating system has for such files.

    Raises:
        OutputError: This user has no home folder.
    """
    if chosen := os.environ.get("INCEPTCLI_CACHE"):
        return Path(chosen)
    try:
        home = Path.home()
    except RuntimeError as error:
        raise OutputError(
            "this user has no home folder to keep a cache in; name one with INCEPTCLI_CACHE"
        ) from error
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or home / ".cache"
    return Path(base) / "inceptcli"


def stamp_of(path: Path) -> str | None:
    """What changes when a file changes: size, mtime and ctime; None when it cannot be asked.

    A copy that keeps the time (``cp -p``) over a file of the same size still moves its ctime.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


class CacheFolder:
    """The cache for one pixel spec. What cannot be used is said through ``emit`` and left out.

    Args:
        folder: Made when missing.
        spec: Which pixels.
        emit: Told once when the folder cannot be used, or was damaged.
    """

    def __init__(self, folder: Path, spec: PixelSpec, *, emit: Emit) -> None:
        self.usable = True
        self._folder = folder / VERSION
        self._spec = spec
        self._key = (
            f"{spec.image_size} {spec.resize} {float(spec.max_megapixels)} Pillow {PIL.__version__}"
        ).encode()
        self._emit = emit
        self._rows: list[tuple[Any, ...]] = []
        self._begin_segment()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # photographs are private
            sweep(self._folder, unused_seconds=_DAY)  # homes are shared by machines
        except OSError as error:
            self._give_up(error.strerror or str(error))

    def find(self, paths: Sequence[Path]) -> list[Known]:
        """What is known of each file as it is now."""
        stamps = [stamp_of(path) for path in paths]
        segments = {segment.name for segment in self._folder.glob(_SEGMENTS)}

        def look_up(index: sqlite3.Connection) -> list[Known]:
            return [
                self._find_one(index, _key_of(path), stamp, segments)
                for path, stamp in zip(paths, stamps, strict=True)
            ]

        return self._with_index(look_up) or [Known(stamp, None, None) for stamp in stamps]

    def _find_one(
        self, index: sqlite3.Connection, path: bytes, stamp: str | None, segments: Collection[str]
    ) -> Known:
        row = index.execute(
            "SELECT stamp, facts, segment, position, pixels, seal FROM looked "
            "WHERE spec = ? AND path = ?",
            (self._key, path),
        ).fetchone()
        if stamp is None or row is None or row[0] != stamp.encode():
            return Known(stamp, None, None)
        if row[-1] != _seal((self._key, path, *row[:-1])):
            return Known(stamp, None, None)
        segment = sys.intern(row[2].decode())
        place = Place(segment, row[3], row[4]) if segment in segments else None
        return Known(stamp, _facts_from(row[1]), place)

    def add(self, path: Path, stamp: str, facts: Facts, pixels: Pixels | None) -> Place | None:
        """Note a file, with its pixels or without; on disk after the next :meth:`flush`."""
        if not self.usable:
            return None
        place = None
        if pixels is not None:
            place = Place(self._segment, len(self._pixels), hashlib.sha256(pixels.data).digest())
            self._pixels.append(pixels)
        where = (place.segment.encode(), place.position, place.sha256) if place else (b"", -1, b"")
        row = (self._key, _key_of(path), stamp.encode(), _facts_to(facts), *where)
        self._rows.append((*row, _seal(row)))
        full = (len(self._pixels) + 1) * picture_bytes(self._spec) > SEGMENT_BYTES
        if full or len(self._rows) >= _MAX_PENDING:
            self.flush()
        return place

    def flush(self) -> None:
        """Write what was added: the segment first, then the rows that tell of it."""
        rows, pixels, segment = self._rows, self._pixels, self._segment
        self._rows = []
        self._begin_segment()
        if not rows or not self.usable:
            return
        if pixels:
            try:
                write_bytes(self._folder / segment, *(p.data.cast("B") for p in pixels))
            except OutputError as error:
                self._give_up(str(error))
                return
        self._with_index(
            lambda index: index.executemany(
                "INSERT OR REPLACE INTO looked VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows
            )
        )

    def read(self, place: Place, out: Pixels, *, check: bool) -> bool:
        """Copy pixels into ``out`` (S, S, 3); false when they are not there, or not themselves."""
        flat = out.reshape(-1)
        try:
            with open(self._folder / place.segment, "rb", buffering=0) as file:
                file.seek(place.position * out.nbytes)
                if file.readinto(flat.data) != out.nbytes:
                    return False
        except OSError:
            return False
        return not check or hashlib.sha256(flat.data).digest() == place.sha256

    def free_bytes(self) -> int:
        """Bytes free on the folder's disk; 0 when the folder cannot be used."""
        try:
            return shutil.disk_usage(self._folder).free if self.usable else 0
        except OSError:
            return 0

    def evict(self, *, keep: Collection[str], limit: int | None) -> None:
        """Mark the segments in use, then drop those unused for longest above ``limit`` bytes."""
        for name in keep:
            with suppress(OSError):
                os.utime(self._folder / name)
        if limit is None:
            return
        segments = sorted(_files(self._folder, _SEGMENTS), key=lambda segment: segment[1].st_mtime)
        total = sum(status.st_size for _, status in segments)
        for path, status in segments:
            if total > limit and path.name not in keep:
                with suppress(OSError):
                    path.unlink()
                total -= status.st_size

    def _begin_segment(self) -> None:
        self._pixels: list[Pixels] = []
        self._segment = f"{self._spec.image_size}-{self._spec.resize}-{secrets.token_hex(8)}.pixels"

    def _with_index(self, action: Callable[[sqlite3.Connection], T]) -> T | None:
        """Run ``action`` in one transaction; a damaged index is made anew, once."""
        rebuilt = False
        while self.usable:
            try:
                path = self._folder / "index.sqlite"
                with closing(sqlite3.connect(path, timeout=_WAIT_SECONDS)) as index, index:
                    index.text_factory = bytes  # damage can make text of anything
                    index.execute(_TABLE)
                    return action(index)
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
                if rebuilt or code not in _DAMAGED:
                    self._give_up(str(error))
                else:
                    rebuilt = True
                    self._emit(Warned(f"{self._name()} is damaged ({error}); it is made anew"))
                    _clear(self._folder)
        return None

    def _give_up(self, why: str) -> None:
        if self.usable:
            self.usable = False
            self._emit(Warned(f"{self._name()} cannot be used ({why}); files are decoded anew"))

    def _name(self) -> str:
        return f"the cache at {printable(str(self._folder))}"


def cache_size() -> int:
    """Bytes that the cache takes on disk."""
    versions = _versions(default_cache_folder())
    return sum(status.st_size for version in versions for _, status in _files(version, *_OWN))


def cache_list() -> list[CacheEntry]:
    """What is cached, one entry for each size and way of fitting, the last used first."""
    entries: dict[tuple[int, str], CacheEntry] = {}
    for path, status in _files(default_cache_folder() / VERSION, _SEGMENTS):
        size, resize, _ = path.name.split("-", 2)
        key = int(size), resize
        old = entries.get(key, CacheEntry(*key, 0, 0, 0.0))
        entries[key] = CacheEntry(
            *key,
            pictures=old.pictures + status.st_size // (3 * key[0] ** 2),
            bytes=old.bytes + status.st_size,
            last_used=max(old.last_used, status.st_mtime),
        )
    return sorted(entries.values(), key=lambda entry: -entry.last_used)


def cache_clear() -> int:
    """Remove every file of ours in the cache folder, and nothing else; return the bytes freed.

    Raises:
        OutputError: A file could not be removed.
    """
    folder, before = default_cache_folder(), cache_size()
    for version in _versions(folder):
        _clear(version)
        with suppress(OSError):  # somebody else's file is in it
            version.rmdir()
    if after := cache_size():
        raise OutputError(
            f"{after} bytes of the cache at {printable(str(folder))} could not be removed; "
            "end the programs that use it and try again"
        )
    return before


def picture_bytes(spec: PixelSpec) -> int:
    """Bytes of one picture's pixels."""
    return 3 * spec.image_size**2


def _versions(folder: Path) -> list[Path]:
    return [path for path in folder.glob("v*") if path.name[1:].isdecimal()]


def _files(folder: Path, *patterns: str) -> Iterator[tuple[Path, os.stat_result]]:
    for pattern in patterns:
        for path in folder.glob(pattern):
            with suppress(OSError):  # another process has just dropped it
                yield path, path.stat()


def _clear(folder: Path) -> None:
    for path, _ in _files(folder, *_OWN):
        with suppress(OSError):
            path.unlink()


def _key_of(path: Path) -> bytes:
    return os.fsencode(os.path.abspath(path))  # noqa: PTH100 - a link keeps its own name


def _seal(row: tuple[Any, ...]) -> bytes:
    return hashlib.sha256(repr(row).encode()).digest()[:16]


def _facts_to(facts: Facts) -> bytes:
    digests = [facts.content_sha256.hex(), facts.pixel_sha256.hex(), facts.look.hex()]
    rest = [facts.width, facts.height, facts.format, facts.mode, facts.flags]
    return json.dumps([*digests, *rest]).encode()


def _facts_from(text: bytes) -> Facts:
    content, pixels, look, width, height, kind, mode, flags = json.loads(text)
    return Facts(
        content_sha256=bytes.fromhex(content),
        pixel_sha256=bytes.fromhex(pixels),
        look=bytes.fromhex(look),
        width=width,
        height=height,
        format=kind,
        mode=mode,
        flags=tuple(flags),
    )
