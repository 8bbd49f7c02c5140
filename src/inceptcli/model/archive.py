"""The container of weights and state files: an archive of ``torch.save``, described and sealed.

``torch.save`` writes a zip archive with everything below one folder, its root. Two records are
added there, which torch ignores: ``inceptcli.json``, a description, and ``inceptcli.fingerprints``.
The archive's comment is ``sha256:`` and the hex digest of every byte before that digest, so that
one flipped bit anywhere is found. Nothing here knows what is in a description.

A file from a stranger is bounded and audited before torch sees it: see ``unpack``.
"""

from __future__ import annotations

import hashlib
import io
import pickletools
import struct
import sys
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from inceptcli.files import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SEAL = b"sha256:"
DIGEST_LENGTH = 64  # hex digits
COMMENT_LENGTH = len(SEAL) + DIGEST_LENGTH
PICKLE = "data.pkl"
DESCRIPTION = "inceptcli.json"
FINGERPRINTS = "inceptcli.fingerprints"

MAX_BYTES = 2**30  # of a whole file; a resume state with Adam's slots is about 120 MB
MAX_ENTRIES = 10_000
MAX_DIRECTORY_BYTES = 2**21
MAX_ENTRY_BYTES = {
    PICKLE: 2**24,  # names, shapes and plain values: a state with 100,000 epochs of history
    DESCRIPTION: 2**23,
    FINGERPRINTS: 2**26,
}


class BadArchiveError(ValueError):
    """A file cannot be used; the text continues "cannot use FILE: "."""


@dataclass(frozen=True)
class Contents:
    """What an archive holds.

    Attributes:
        value: What ``torch.save`` was given; tensors are on the CPU.
        description: The JSON record, or None in an archive that another program wrote.
        fingerprints: The binary record, if there is one.
        digest: SHA-256 of the file up to the digest itself, in hex, or None without a seal.
    """

    value: Any
    description: bytes | None
    fingerprints: bytes | None
    digest: str | None


# Writing


def pack(value: Any, *, description: bytes, fingerprints: bytes | None = None) -> memoryview:
    """The bytes of an archive; equal input gives equal bytes.

    Args:
        value: Tensors, None, bool, int, float and str, in dicts, lists and tuples.
        description: JSON, at most 8 MiB.
        fingerprints: At most 64 MiB.

    Raises:
        TypeError: ``value`` holds something else, which could not be read back.
        ValueError: It is larger than what ``unpack`` takes.
    """
    buffer = io.BytesIO()  # in memory: torch.save hides why a disk refused it
    torch.save(_plain(value), buffer)
    with zipfile.ZipFile(buffer, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(_stored(f"{root}/{DESCRIPTION}"), description)
        if fingerprints is not None:
            archive.writestr(_stored(f"{root}/{FINGERPRINTS}"), fingerprints)
        archive.comment = SEAL + b"0" * DIGEST_LENGTH
        _check_entries(archive.infolist(), MAX_BYTES)
    sealed = buffer.getbuffer()
    sealed[-DIGEST_LENGTH:] = _digest(sealed)
    return sealed


def _stored(name: str) -> zipfile.ZipInfo:
    """A zip entry that says nothing of when and where it was written."""
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.create_system = 3
    return entry


def _plain(value: Any) -> Any:
    """A deep copy: tensors compact, contiguous and on the CPU, equal strings one object.

    The pickler notes which objects are the same one, so without this equal values could give
    different bytes.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        copy: dict[Any, Any] = OrderedDict() if isinstance(value, OrderedDict) else {}
        copy.update((_plain(key), _plain(item)) for key, item in value.items())
        return copy
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, str):
        return sys.intern(str(value))
    if isinstance(value, float):
        return float(value)
    if value is None or type(value) in (bool, int):
        return value
    raise TypeError(f"a state file cannot hold a {type(value).__name__}")


# Reading


def unpack(data: bytes, *, pickle_bytes: int = MAX_ENTRY_BYTES[PICKLE]) -> Contents:
    """Check and read an archive, written by ``pack`` or by a plain ``torch.save``.

    In this order: the digest, the sizes that the zip directory claims, the pickle's opcodes, and
    only then ``torch.load(weights_only=True)``. An archive with neither seal nor description is
    another program's: for the digest it has the checksums of its zip entries.

    Args:
        data: The whole file.
        pickle_bytes: The most that the pickle may have. It bounds the time, too: keys with equal
            hashes cost the square of their number.

    Raises:
        BadArchiveError: The file is something else, damaged, or claims or does what weights
            never do.
    """
    if not data.startswith(b"PK\x03\x04"):
        raise BadArchiveError(f"it is {_kind(data)}")
    digest = _check_seal(data)
    _check_directory(data, comment_length=COMMENT_LENGTH if digest else 0)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = _check_entries(archive.infolist(), len(data))
            if (DESCRIPTION in entries) != (digest is not None):
                raise BadArchiveError("it is damaged: it has only one of description and digest")
            if digest is None and archive.testzip() is not None:
                raise BadArchiveError("it is damaged: a checksum is wrong")
            if entries[PICKLE].file_size > pickle_bytes:
                raise BadArchiveError(f"its {PICKLE} is longer than {pickle_bytes} bytes")
            _audit(archive.read(entries[PICKLE]), entries)
            records = {
                name: archive.read(entries[name]) if name in entries else None
                for name in (DESCRIPTION, FINGERPRINTS)
            }
    except BadArchiveError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError) as error:
        raise BadArchiveError(f"it is damaged: {printable(str(error))[:200]}") from error
    value = _load(data)
    return Contents(value, records[DESCRIPTION], records[FINGERPRINTS], digest)


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in a tree of dicts, lists and tuples, however deep."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, dict):
            waiting.extend(dict.values(item))  # a stranger's OrderedDict can shadow .values
        elif isinstance(item, list | tuple):
            waiting.extend(item)


def _load(data: bytes) -> Any:
    try:
        value = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # whatever a hostile file provokes in there
        first_line = str(error).partition("\n")[0]
        raise BadArchiveError(f"torch cannot read it: {printable(first_line)[:200]}") from error
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors(value)) > len(data):
        raise BadArchiveError("its tensors claim to be larger than the file")
    return value


def _digest(data: bytes | memoryview) -> bytes:
    """Hex digest of all bytes but the last 64, where it belongs."""
    return hashlib.sha256(memoryview(data)[:-DIGEST_LENGTH]).hexdigest().encode()


def _check_seal(data: bytes) -> str | None:
    """The digest, if the file ends in one and it is right."""
    comment = data[-COMMENT_LENGTH:]
    if not comment.startswith(SEAL):
        return None
    if comment != SEAL + _digest(data):
        raise BadArchiveError("it is damaged: its bytes do not match its digest; use another copy")
    return comment.removeprefix(SEAL).decode()


def _check_directory(data: bytes, *, comment_length: int) -> None:
    """Bound the zip directory before anything parses it, and let it lie in one place only.

    Readers of zip files differ in where they look for the directory. Here all of them must find
    the same: entries, directory, (zip64 end, locator,) end, comment, with nothing between.
    """
    end = len(data) - comment_length - 22
    if end < 0 or data[end : end + 4] != b"PK\x05\x06":
        raise BadArchiveError("it is damaged or cut short; use another copy")
    claim = struct.unpack_from("<4x2H2H2LH", data, end)
    *_, entries, size, offset, comment = claim
    directory_end = end
    if data[end - 20 : end - 16] == b"PK\x06\x07":
        directory_end = end - 76
        claim64 = struct.unpack_from("<24x4Q4xLQL", data, directory_end) if end >= 76 else ()
        if claim64 != (entries, entries, size, offset, 0, directory_end, 1):
            raise BadArchiveError("it is damaged: its zip directory contradicts itself")
    if claim[:3] != (0, 0, entries) or comment != comment_length or offset + size != directory_end:
        raise BadArchiveError("it is damaged: its zip directory contradicts itself")
    if entries > MAX_ENTRIES or size > MAX_DIRECTORY_BYTES:
        raise BadArchiveError(f"it has more than {MAX_ENTRIES} entries")


def _check_entries(infos: list[zipfile.ZipInfo], most_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by name below the root, once each is of a kind and size that torch writes."""
    root = infos[0].filename.partition("/")[0] + "/" if infos else "/"
    entries = {info.filename.removeprefix(root): info for info in infos}
    if PICKLE not in entries or any(not info.filename.startswith(root) for info in infos):
        raise BadArchiveError("it is a zip archive, but not one of torch.save")
    if "constants.pkl" in entries:
        raise BadArchiveError("it is a TorchScript program; save model.state_dict() instead")
    # torch finds entries without regard to case
    if len({info.filename.lower() for info in infos}) < len(infos):
        raise BadArchiveError("it is damaged: two entries have one name")
    if not all(map(_is_simple, infos)) or sum(info.file_size for info in infos) > most_bytes:
        raise BadArchiveError("it is packed as torch.save never does it")
    for name, most in MAX_ENTRY_BYTES.items():
        if name in entries and entries[name].file_size > most:
            raise BadArchiveError(f"its {name} is longer than {most} bytes")
    return entries


def _is_simple(info: zipfile.ZipInfo) -> bool:
    """Stored as it is, not compressed or encrypted, under a name that all readers read alike."""
    stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
    return (
        stored and not info.flag_bits & 1 and not info.extra and info.filename == info.orig_filename
    )


# What a pickle of tensors and plain values is made of (protocol 2, as torch.save writes it).
_OPCODE_NAMES = """
    PROTO GLOBAL REDUCE BUILD BINPERSID BINPUT LONG_BINPUT BINGET LONG_BINGET MARK STOP
    NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS
    EMPTY_DICT SETITEM SETITEMS
"""
_OPCODES = frozenset(_OPCODE_NAMES.split())
_FUNCTIONS = frozenset({"collections OrderedDict", "torch._utils _rebuild_tensor_v2"})
_ITEM_BYTES = {
    "torch DoubleStorage": 8,
    "torch FloatStorage": 4,
    "torch HalfStorage": 2,
    "torch BFloat16Storage": 2,
    "torch LongStorage": 8,
    "torch IntStorage": 4,
    "torch ShortStorage": 2,
    "torch CharStorage": 1,
    "torch ByteStorage": 1,
    "torch BoolStorage": 1,
}


class _Name(str):
    """A function or type that a pickle names, as "module name"."""

    __slots__ = ()


def _audit(stream: bytes, entries: Mapping[str, zipfile.ZipInfo]) -> None:
    """Refuse a pickle that is more than tensors and plain values, without running it.

    ``torch.load(weights_only=True)`` has the same aim. Reading the opcodes first also stops what
    it lets through: byte arrays of any length, containers that hold each other (a few bytes whose
    hash takes years), and, before torch 2.10, storages longer than their entry (CVE-2026-24747).
    """
    memo: dict[int, str] = {}
    pushed: list[Any] = []  # by the opcodes since the last MARK; None for what is not a literal
    for name, argument in _opcodes(stream):
        match name:
            case "BINPUT" | "LONG_BINPUT":
                top = pushed[-1] if pushed else None
                memo[argument] = top if isinstance(top, str) else ""
            case "BINGET" | "LONG_BINGET":
                if not memo.get(argument):
                    raise BadArchiveError("it holds one object in two places, as weights never do")
                pushed.append(memo[argument])
            case "MARK":
                pushed = []
            case "TUPLE":
                pushed = [tuple(pushed)]
            case "GLOBAL":
                pushed.append(_check_name(argument))
            case "BINPERSID":
                _check_storage(pushed[-1:], entries)
                pushed.append(None)
            case _:
                pushed.append(argument)


def _opcodes(stream: bytes) -> Iterator[tuple[str, Any]]:
    """Name and argument of each opcode, as long as all are of the kinds above."""
    try:
        for code, argument, _ in pickletools.genops(stream):
            if code.name not in _OPCODES:
                raise BadArchiveError(f"it holds more than tensors (pickle opcode {code.name})")
            yield code.name, argument
    except BadArchiveError:
        raise
    except ValueError as error:
        raise BadArchiveError("it is damaged: its data.pkl is no pickle") from error


def _check_name(name: str) -> _Name:
    if name not in _FUNCTIONS and name not in _ITEM_BYTES:
        shown = printable(name.replace(" ", "."))[:80]
        raise BadArchiveError(f"it asks for {shown}, not only tensors; save model.state_dict()")
    return _Name(name)


def _check_storage(top: list[Any], entries: Mapping[str, zipfile.ZipInfo]) -> None:
    """A storage is ("storage", type, key, device, items); its entry must be just as long."""
    match top:
        case [("storage", _Name() as kind, str(key), str(), int(items))] if kind in _ITEM_BYTES:
            entry = entries.get(f"data/{key}")
            if entry is not None and entry.file_size == items * _ITEM_BYTES[kind]:
                return
    raise BadArchiveError("it is damaged: a tensor and its data differ in length")


# Saying what a file is when it is not ours

_KINDS = (
    # the number that torch.save began its files with
    (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "of torch before 1.6; torch.save it again"),
    (b"\x80", "a pickle, which can run code; torch.save the state_dict instead"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"RIFF", "a WebP image or another RIFF file"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"%PDF-", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"PK", "a damaged or empty zip archive"),
    (b"{", "JSON text"),
    (b"[", "JSON text"),
    (b"<", "HTML or XML text"),
)


def _kind(data: bytes) -> str:
    """What a file is by its first bytes, to continue "it is "."""
    for magic, kind in _KINDS:
        if data.startswith(magic):
            return kind
    if data[8:10] == b'{"':
        return "a safetensors file"
    if not data:
        return "empty"
    text = data[:1024].isascii() and b"\0" not in data[:1024]
    return "text" if text else "of an unknown kind"
