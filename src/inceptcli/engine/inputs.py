"""What the user named on predict's command line, as a stream of files."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from inceptcli.data.folder import list_images
from inceptcli.engine.predict import Input
from inceptcli.errors import InceptcliError, UsageError


def expand(words: Iterable[str], *, recursive: bool, null: bool) -> Iterator[Input]:
    """Files for the words of a command line, in their order, each where it is named.

    A folder stands for the pictures in it, a pattern (``*``, ``?``, ``[``) for the files that
    match, ``-`` for the names on stdin. What leads to no file is one input with an error.

    Args:
        words: As they were typed.
        recursive: Whether folders inside a folder are entered.
        null: Whether the names on stdin end with NUL instead of a newline.
    """
    for word in words:
        if word == "-":
            if sys.stdin is None:
                raise UsageError("-: stdin is closed; give names on it, or name files")
            for name in _lines(sys.stdin.buffer, b"\0" if null else b"\n"):
                yield from _files(name, recursive=recursive)
        else:
            yield from _files(word, recursive=recursive)


def _files(word: str, *, recursive: bool) -> Iterator[Input]:
    if os.path.isdir(word):  # noqa: PTH112 - Path.is_dir raises for names too long or forbidden
        yield from _pictures(Path(word), recursive=recursive)
    elif glob.has_magic(word) and not os.path.lexists(word):  # a file may be called a[1].jpg
        matches = sorted(glob.glob(word, recursive=True))  # noqa: PTH207 - any pattern, from /
        if not matches:
            yield Input(word, "missing: no file matches this pattern")
        for match in matches:
            yield from _files(match, recursive=recursive)
    else:
        yield Input(word)


def _pictures(folder: Path, *, recursive: bool) -> Iterator[Input]:
    try:
        paths = list_images(folder, recursive=recursive)
    except InceptcliError as error:
        yield Input(str(folder), f"unreadable: {error}")
        return
    if not paths:
        deeper = "" if recursive else "; -r looks in the folders inside it"
        yield Input(str(folder), f"missing: no picture in this folder{deeper}")
    for path in paths:
        yield Input(str(path))


def _lines(stream: BinaryIO, end: bytes) -> Iterator[str]:
    """Names that end with ``end``, as they come; the last may lack it, empty ones are left out."""
    left = b""
    while block := stream.read1(65536):  # type: ignore[attr-defined]  # stdin.buffer has it
        *names, left = (left + block).split(end)
        yield from (os.fsdecode(name) for name in names if name)
    if left:
        yield os.fsdecode(left)
