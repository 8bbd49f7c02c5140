"""Files placed in a folder a class: ``split --layout`` and ``predict --sort``."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from inceptcli.data.prepare import Photos
from inceptcli.errors import OutputError
from inceptcli.files import cannot_write, printable

Link = Literal["symlink", "hardlink", "copy"]

_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_MAX_BYTES = 120


def lay_out(folder: Path, photos: Photos, *, link: Link) -> int:
    """Place photographs in ``folder/ROLE/CLASS/``, as ImageFolder and this program read it.

    A file that cannot be used, or that a given split leaves out, is not placed.

    Returns:
        The number of files placed.

    Raises:
        OutputError: The folder holds something already, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{printable(str(folder))} is not an empty folder; name a new one")
    chosen = photos.indices("all")
    for i in chosen:
        target = folder / str(photos.roles[i]) / folder_name(photos.classes[photos.labels[i]])
        place(photos.paths[i], target, link=link)
    return len(chosen)


def place_by_class(folder: Path, path: Path, class_name: str, *, link: Link) -> Path:
    """Put a file into the folder of a class; where it is now."""
    return place(path, folder / folder_name(class_name), link=link)


def place(source: Path, folder: Path, *, link: Link) -> Path:
    """Put one file into a folder under its own name, or a numbered one where that is taken.

    Never overwrites: the name is taken by the system call that makes it.

    Returns:
        Where it is now.

    Raises:
        OutputError: It could not be placed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for target in _free_names(folder, source.name):
            try:
                _make(source, target, link)
            except FileExistsError:
                continue
            return target
    except OSError as error:
        raise cannot_write(folder / source.name, error) from error
    raise AssertionError("the numbers have ended")


def folder_name(class_name: str) -> str:
    """A class name as the name of one folder on any system.

    What no folder may be called is changed and marked with a digest, so that no name leads out of
    the place it is put in, and two classes share a folder only where names differ in nothing but
    case and the file system does not tell them apart.
    """
    name = _UNSAFE.sub("_", class_name).strip(". ")
    encoded = name.encode("utf-8", "surrogateescape")[:_MAX_BYTES]
    name = encoded.decode("utf-8", "ignore")
    if name and name == class_name and not _RESERVED.fullmatch(name):
        return name
    digest = hashlib.sha256(class_name.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{name or 'class'}-{digest[:8]}"


def _free_names(folder: Path, name: str) -> Iterator[Path]:
    yield folder / name
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - Path.stem takes ".a.png" otherwise
    for number in range(2, 10_000_000):
        yield folder / f"{stem} ({number}){suffix}"


def _make(source: Path, target: Path, link: Link) -> None:
    if link == "symlink":
        target.symlink_to(source.resolve())
    elif link == "hardlink":
        os.link(source.resolve(), target)
    else:
        with source.open("rb") as reading, target.open("xb") as writing:
            try:
                shutil.copyfileobj(reading, writing)
            except BaseException:
                target.unlink()  # a piece of a picture would look like one
                raise
        shutil.copystat(source, target)
