"""Tables of labels: a user's CSV file that says which file shows which class."""

from __future__ import annotations

import csv
import io
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from inceptcli.data.image import EXTENSIONS
from inceptcli.errors import DataError
from inceptcli.files import MAX_CSV_BYTES, printable, read_regular, uncell

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

# What public tables call their columns, best first.
PATH_COLUMNS = (
    *("path", "file", "filename", "file_name", "filepath", "file_path", "image_path"),
    *("image_name", "image_id", "isic_id", "image", "img", "name", "id"),
)
CLASS_COLUMNS = ("class", "label", "dx", "diagnosis", "category", "class_name", "species", "target")


def match_labels(
    path: Path, names: Collection[str], *, root: Path, columns: tuple[str, str] | None = None
) -> tuple[dict[str, str], list[str]]:
    """Match the rows of a table with files: by the whole name, else by as much as one of them has.

    A row without an extension fits a file with one, a row without folders a file in a folder, and
    a row with more folders a file in the last of them, as long as only one file fits.

    Args:
        path: The CSV file; see ``read_labels``.
        names: Files there are, relative to ``root`` with "/".
        root: The folder that paths in the table may begin with.
        columns: As for ``read_labels``.

    Returns:
        name -> class, and notes about rows without a file or without a class.

    Raises:
        DataError: As ``read_labels``; no row fits a file; one file has two classes.
    """
    short = _short_names(names)
    table: dict[str, str] = {}
    lost, unlabelled, clashes = [], [], []
    for written, class_name in read_labels(path, columns=columns):
        name = _find(written.removeprefix(f"{root}/"), names, short)
        if not class_name:
            unlabelled.append(written)
        elif name is None:
            lost.append(written)
        elif table.setdefault(name, class_name) != class_name:
            clashes.append(f"{name} is {table[name]} and {class_name}")
    where = printable(str(path))
    if clashes:
        raise DataError(f"{where} gives files two classes, {listed(clashes)}; keep one row a file")
    if not table:
        there = listed(sorted(names))
        raise DataError(f"no row of {where} fits a file: rows {listed(lost)}; files {there}")
    notes = []
    if lost:
        notes.append(f"rows of {where} without a file of their own ({len(lost)}): {listed(lost)}")
    if unlabelled:
        notes.append(f"rows of {where} without a class ({len(unlabelled)}): {listed(unlabelled)}")
    return table, notes


def read_labels(path: Path, *, columns: tuple[str, str] | None = None) -> list[tuple[str, str]]:
    """Read a user's CSV file of files and classes.

    The columns are those asked for, by name or by position from 1; else the first that bears one
    of the usual names (``PATH_COLUMNS``, ``CLASS_COLUMNS``); else the two that there are; else
    the class is the name of the one column that holds 1 in a row of zeros (as ISIC has it). A
    file without a header is one whose first cell is an image's name.

    Returns:
        (file as written, class) a row, without surrounding spaces.

    Raises:
        DataError: It cannot be read as UTF-8 CSV, or its columns cannot be told.
    """
    rows = _csv_rows(path)
    has_header = Path(rows[0][0]).suffix.lower() not in EXTENSIONS
    header = rows[0] if has_header else [str(number + 1) for number, _ in enumerate(rows[0])]
    body = rows[1:] if has_header else rows
    file_column, class_column = columns or _usual_columns(header)
    file_index = _position(header, file_column, path)
    if class_column is None:
        return _one_hot(header, body, file_index, path)
    class_index = _position(header, class_column, path)
    return [(row[file_index], row[class_index]) for row in body]


def _csv_rows(path: Path) -> list[list[str]]:
    try:
        text = read_regular(path, max_bytes=MAX_CSV_BYTES).decode("utf-8-sig")
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        cells = [[cell.strip() for cell in row] for row in rows if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(printable(f"cannot read {path} as UTF-8 CSV: {why}")) from error
    width = max(map(len, cells), default=0)
    if width < 2:
        raise DataError(printable(f"{path} needs a file and a class in each row, with a comma"))
    return [row + [""] * (width - len(row)) for row in cells]  # a short row has no class


def _usual_columns(header: Sequence[str]) -> tuple[str, str | None]:
    lower = {name.lower(): name for name in reversed(header)}
    file_column = next((lower[name] for name in PATH_COLUMNS if name in lower), header[0])
    class_column = next((lower[name] for name in CLASS_COLUMNS if name in lower), None)
    if class_column is None and len(header) == 2:
        class_column = header[1] if header[0] == file_column else header[0]
    return file_column, class_column


def _position(header: Sequence[str], column: str, path: Path) -> int:
    if column in header:
        return header.index(column)
    if column.isdecimal() and 1 <= int(column) <= len(header):
        return int(column) - 1
    raise DataError(
        printable(f"{path} has no column {column}; it has {', '.join(header)}; name two of them")
    )


def _one_hot(
    header: Sequence[str], body: Sequence[Sequence[str]], file_index: int, path: Path
) -> list[tuple[str, str]]:
    rows = []
    for row in body:
        cells = dict(zip(header, row, strict=False))
        file = cells.pop(header[file_index], "")
        ones = [name for name, cell in cells.items() if cell in ("1", "1.0")]
        if len(ones) != 1 or any(cell not in ("0", "0.0", "1", "1.0") for cell in cells.values()):
            columns = ", ".join(header)
            raise DataError(
                printable(f"which column of {path} is the class? It has {columns}; name two")
            )
        rows.append((file, ones[0]))
    return rows


def _short_names(names: Iterable[str]) -> dict[str, str | None]:
    """What a table may call a file -> its name, or None where that fits several files.

    Every ending of its path that begins with a folder or the file, with and without extension.
    """
    short: dict[str, str | None] = {}
    for name in names:
        for ending in _endings(name):
            for key in {ending, _bare(ending)}:
                short[key] = None if key in short else name
    return short


def _endings(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _bare(path: str) -> str:
    """A path without its extension."""
    return str(PurePosixPath(path).with_suffix("")) if PurePosixPath(path).name else path


def _find(written: str, names: Collection[str], short: Mapping[str, str | None]) -> str | None:
    for spelling in (written, uncell(written), written.replace("\\", "/")):
        key = spelling.removeprefix("./")
        if key in names:
            return key
        if (found := short.get(key)) is not None:
            return found
        for ending in _endings(key)[1:]:  # the table names folders above the photographs'
            if ending in names:
                return ending
            found = short.get(ending)
            if found is not None and ending == _bare(found):
                return found
    return None


def listed(names: Sequence[str], *, shown: int = 3) -> str:
    """The first few names, safe to print, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(printable(name) for name in names[:shown]) + more
