"""How files are written and read, and how names from outside are shown.

Writing: a temporary file beside the target, made durable, then moved over it; whoever looks, at
any moment, sees the old file or the new one. Reading: regular files only, so that a pipe or a
device named ``x.jpg`` never blocks. A leaf: it knows nothing of this package but ``errors``.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from numbers import Number
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

from inceptcli.errors import DataError, OutputError

# Every system call by which a file is written goes through here: a test makes the k-th one fail.
system = SimpleNamespace(
    open=os.open,
    write=os.write,
    fsync=os.fsync,
    close=os.close,
    replace=os.replace,
    unlink=os.unlink,
)

# What an operating system lacks does nothing there; ``sync_folder``, ``is_alive`` and
# ``runfolder`` hold the rest of what differs.
NOFOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
NONBLOCK: int = getattr(os, "O_NONBLOCK", 0)
_BINARY: int = getattr(os, "O_BINARY", 0)

MAX_CSV_BYTES = 1 << 28  # a million predictions are about half of it
_ROWS_AT_ONCE = 1000  # of a CSV file that is being written
_TEMPORARY = re.compile(r"\..*\.(\d{1,10})\.[0-9a-f]{8}\.tmp", re.DOTALL)


class NotRegularFile(OSError):  # noqa: N818 - it says what the path is not
    """The name belongs to a folder, a pipe, a socket or a device."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EINVAL, "not a regular file", str(path))


# ---- writing


def write_bytes(path: Path, *chunks: bytes | memoryview) -> None:
    """Write a file so that it is there, whole and durable, or as it was before.

    A symbolic link at ``path`` is replaced, not followed.

    Raises:
        OutputError: It could not be written; ``__cause__`` is the OSError. Only when the very
            last step fails (making the folder's entry durable) is the new file in place.
    """
    _write(path, chunks, needed=sum(memoryview(chunk).nbytes for chunk in chunks))


def write_text(path: Path, text: str) -> None:
    r"""Write ``text`` as ``write_bytes`` does, in UTF-8; a lone surrogate becomes ``\udcXX``."""
    write_bytes(path, _utf8(text))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as ``write_bytes`` does, as ``json_text`` puts it."""
    write_bytes(path, _utf8(json_text(value) + "\n"))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as ``write_bytes`` does, holding few of its rows in memory at once.

    Texts go through ``cell``, so a row is always one line; numbers stay as they are; None and
    NaN are left empty. An error that ``rows`` raises leaves the old file as it was.
    """

    def chunks() -> Iterator[bytes]:
        yield _csv_lines([header])
        remaining = iter(rows)
        while some := list(islice(remaining, _ROWS_AT_ONCE)):
            yield _csv_lines(some)

    _write(path, chunks(), needed=None)


def json_text(value: Any) -> str:
    """``value`` as JSON that every parser takes: a float that is not finite becomes null."""
    return json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False)


def cannot_write(path: Path, error: OSError, *, needed: int | None = None) -> OutputError:
    """The error that says why ``path`` could not be written and what to do about it.

    Args:
        path: The file or folder that was wanted.
        error: What the system said.
        needed: Bytes that were to be written, where known.
    """
    reason = error.strerror or str(error)
    if error.errno == errno.ENOSPC:
        with suppress(OSError):  # the folder may be gone
            free = _size(shutil.disk_usage(path.parent).free)
            reason += f" ({f'needs {_size(needed)}, ' if needed is not None else ''}{free} free)"
    advice = _ADVICE.get(error.errno or 0, "check the disk or write elsewhere")
    return OutputError(printable(f"cannot write {path}: {reason}; {advice}"))


_ADVICE = {
    errno.ENOSPC: "free some space or write elsewhere",
    errno.EDQUOT: "free some of your quota or write elsewhere",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f) or write elsewhere",
    errno.ENOENT: "make its folder first",
    errno.ENOTDIR: "choose a folder, not a file, to write in",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EINVAL: "choose another name",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a place you may write to"),
}


def _write(path: Path, chunks: Iterable[bytes | memoryview], *, needed: int | None) -> None:
    try:
        _refuse_device(path)
        temporary = _temporary_beside(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW | _BINARY
        descriptor = system.open(temporary, flags, 0o666)  # the umask takes its part
        try:
            _fill(descriptor, chunks)
            system.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                system.unlink(temporary)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error, needed=needed) from error


def _refuse_device(path: Path) -> None:
    """Moving a file over /dev/null or a pipe would destroy it (a folder refuses by itself)."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # nothing there, or it shows when the file is made
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise NotRegularFile(path)


def _temporary_beside(path: Path) -> Path:
    # 50 characters are at most 200 bytes, so that a name of 255 bytes has its temporary file too
    return path.parent / f".{path.name[:50]}.{os.getpid()}.{secrets.token_hex(4)}.tmp"


def _fill(descriptor: int, chunks: Iterable[bytes | memoryview]) -> None:
    """Write all, make it durable, close. Python itself repeats what a signal interrupts."""
    try:
        for chunk in chunks:
            rest = memoryview(chunk).cast("B")
            while rest:  # a full disk or a limit shows as a short write first
                rest = rest[system.write(descriptor, rest) :]
        system.fsync(descriptor)
    except BaseException:
        with suppress(OSError):
            system.close(descriptor)
        raise
    system.close(descriptor)  # never twice: the number may be another file's by then


def sync_folder(folder: Path) -> None:
    """Make new names in a folder durable, where the system and the file system know how."""
    if os.name == "nt":
        return
    descriptor = system.open(folder, os.O_RDONLY)
    try:
        system.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        system.close(descriptor)


def sweep(folder: Path, *, unused_seconds: float = 0) -> None:
    """Remove the temporary files that dead processes left in ``folder``.

    Call it before this process writes there: a file with this process's own number is taken for
    one of a dead namesake (in a container every run may have the same number).

    Args:
        folder: Where they lie.
        unused_seconds: Leave what was written to since; where other machines write too, whose
            processes cannot be asked.
    """
    oldest = time.time() - unused_seconds
    for path in folder.iterdir():
        match = _TEMPORARY.fullmatch(path.name)
        if match and (int(match[1]) == os.getpid() or not is_alive(int(match[1]))):
            with suppress(OSError):  # of another user, or Windows still holds it open
                if path.stat().st_mtime <= oldest:
                    system.unlink(path)


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one that ``write_bytes`` was making."""
    return _TEMPORARY.fullmatch(name) is not None


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs on this machine; False where it cannot be asked."""
    if os.name == "nt" or pid <= 0:  # on Windows this call would end the process
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:  # another user's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _size(count: int) -> str:
    """5 bytes, 12 kB, 3 MB, 28 MB."""
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {unit}"
    return f"{count} bytes"


def _utf8(text: str) -> bytes:
    # in JSON such an escape reads back as the very surrogate, so names survive there
    return text.encode("utf-8", "backslashreplace")


def finite(value: Any) -> Any:
    """``value`` with None for each float in it that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _csv_lines(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([_csv_cell(v) for v in row] for row in rows)
    return text.getvalue().encode("utf-8")


def _csv_cell(value: object) -> str:
    if isinstance(value, str):
        return cell(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value) if isinstance(value, Number) else cell(str(value))


# ---- reading


class Rows(list[dict[str, str]]):
    """The rows of a CSV file, each a mapping from column to text.

    Attributes:
        damage: What was left out at the end and why ("line 7 is cut off"), or "".
    """

    damage: str = ""


def read_csv(path: Path) -> Rows:
    """Read what ``write_csv`` wrote; a spreadsheet's BOM and CRLF are no harm.

    A damaged end (a last line without its line end or with another number of cells, NUL bytes
    and all after them) is left out and told in ``damage``.

    Raises:
        DataError: It cannot be read, is too large, has no header, or is damaged before its end.
    """
    try:
        data = read_regular(path, max_bytes=MAX_CSV_BYTES)
    except OSError as error:
        raise DataError(printable(f"cannot read {path}: {error.strerror or error}")) from error
    rows = Rows()
    sound, rows.damage = _whole_lines(data)
    try:
        text = sound.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = sound.count(b"\n", 0, error.start) + 1
        raise DataError(printable(f"{path} line {where} is not UTF-8; save it as UTF-8")) from error
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    header = _cells(lines[0][1]) if lines else []
    if not header or len(set(header)) < len(header):
        raise DataError(printable(f"{path} has no header line of distinct columns; write it anew"))
    for number, line in lines[1:]:
        cells = _cells(line)
        if len(cells) == len(header):
            rows.append(dict(zip(header, cells, strict=True)))
        elif number == lines[-1][0]:
            rows.damage = f"line {number} is damaged"
        else:
            raise DataError(printable(f"{path} line {number} does not fit its header; mend it"))
    return rows


def _whole_lines(data: bytes) -> tuple[bytes, str]:
    """The lines before the first that is cut off or holds NUL bytes, and what is left out."""
    nul = data.find(b"\0")
    end = data.rfind(b"\n", 0, nul if nul >= 0 else len(data)) + 1
    if end == len(data):
        return data, ""
    number = data.count(b"\n", 0, end) + 1
    return data[:end], f"line {number} {'holds NUL bytes' if nul >= 0 else 'is cut off'}"


def _cells(line: str) -> list[str]:
    """The cells of one line, or none when it is not CSV."""
    try:
        return [uncell(text) for text in next(csv.reader([line.rstrip("\r")], strict=True))]
    except csv.Error:
        return []


def read_regular(path: Path, *, max_bytes: int) -> bytes:
    """Read a whole file of at most ``max_bytes``.

    Raises:
        NotRegularFile: It is something else than a file.
        OSError: It cannot be read; EFBIG when it is larger.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            too_large = f"{_size(size)} where at most {_size(max_bytes)} are expected"
            raise OSError(errno.EFBIG, too_large, str(path))
        return file.read(size)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading without ever waiting for a pipe or a device.

    Raises:
        NotRegularFile: It is something else than a file.
        OSError: It cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | NONBLOCK | _BINARY)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise NotRegularFile(path) from error
        raise
    except ValueError as error:  # a NUL, or a surrogate that stands for no byte
        raise OSError(errno.EINVAL, "no name that a file can have", str(path)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotRegularFile(path)
    return os.fdopen(descriptor, "rb")


# ---- names


def counted(number: int, noun: str) -> str:
    """A number with its noun, as in "1 file" and "1,200 files"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def printable(text: str) -> str:
    r"""``text`` safe to show on a terminal, as one line.

    Controls, escape sequences, line ends, marks that change the writing direction, surrogates
    and unusual spaces are shown as escapes (``\x1b``, ``\u202e``).
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


_NOT_IN_CELLS = re.compile(r"[\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ESCAPED = re.compile(r"\\(?:\\|x([0-9a-f]{2})|u([0-9a-f]{4}))")
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20'")  # the last but ' are their full-width kin


def cell(text: str) -> str:
    r"""``text`` as a CSV cell that no spreadsheet runs and every reader takes for one line.

    Backslashes, controls and surrogates (names that are not UTF-8) become escapes (``\\``,
    ``\x1b``, ``\udce9``); what could start a formula gets a leading ``'``, and so does ``'``.
    """
    escaped = _NOT_IN_CELLS.sub(lambda match: _escape(match[0]), text)
    return f"'{escaped}" if text.startswith(_FORMULA) else escaped


def uncell(text: str) -> str:
    """The text that ``cell`` was given; an escape that it does not write is left as it is."""
    text = text.removeprefix("'")
    return _ESCAPED.sub(_unescape, text) if "\\" in text else text


def _escape(character: str) -> str:
    if character == "\\":
        return "\\\\"
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _unescape(match: re.Match[str]) -> str:
    code = match[1] or match[2]
    return chr(int(code, 16)) if code else "\\"


def is_inside(path: Path, folder: Path) -> bool:
    """Whether ``path``, which need not exist, is ``folder`` or lies below it, links resolved."""
    real, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    return any(_same_folder(candidate, root) for candidate in (real, *real.parents))


def _same_folder(one: Path, other: Path) -> bool:
    if one == other:
        return True
    try:
        return one.samefile(other)  # names that differ in case, folders mounted twice
    except OSError:
        return False
