"""Which file plays which role: whole groups to train, val and test, or to folds; the tables.

What is random here is the order of SHA-256 digests of seed and group, so the same folder and seed
give the same split on every machine and with every version of every library.
"""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inceptcli.config import ROLES, check_ratio
from inceptcli.data.folder import ROLE_WORDS
from inceptcli.errors import DataError
from inceptcli.files import MAX_CSV_BYTES, counted, printable, read_regular, uncell, write_csv

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Ints = NDArray[np.int64]

COLUMNS = ("path", "class", "role", "group")


def assign_roles(
    labels: Sequence[int] | Ints,
    group_ids: Ints,
    *,
    ratio: Sequence[float],
    seed: int,
    stratify: bool = True,
    classes: Sequence[str] = (),
) -> list[str]:
    """Give each file a role, whole groups together.

    The smaller roles are filled first, each by the groups that bring it nearer to its share, in
    random order; each role gets at least one group of every class. With groups of one file the
    counts are exact: train has ``int(ratio * n)`` of them, as the tutorial's script.

    Args:
        labels: N classes.
        group_ids: N groups. One that lies in several classes counts for its most frequent.
        ratio: The shares of train, val and, unless there are only two, test.
        seed: Of the order.
        stratify: Whether each class is split by the ratio, or only all files together.
        classes: The classes' names, for messages.

    Raises:
        UsageError: The ratio is not two or three positive shares of 1.
        DataError: A class (or, unstratified, the folder) has fewer groups than there are roles.
    """
    shares = _checked(ratio)
    labels = np.asarray(labels, np.int64)
    groups = _Groups(labels if stratify else np.zeros_like(labels), group_ids, seed)
    _refuse_few(groups, len(shares), classes if stratify else ())
    role = np.zeros(len(groups.sizes), np.int64)
    done = 0
    for members in groups.by_class.values():
        here = int(groups.sizes[members].sum())
        # differences of totals, so that what classes leave over does not add up in one role
        wanted = _apportioned(done + here, shares) - _apportioned(done, shares)
        done += here
        role[members] = _filled(groups.sizes[members], wanted)
    return [ROLES[r] for r in role[groups.of_file]]


def assign_folds(
    labels: Sequence[int] | Ints,
    group_ids: Ints,
    *,
    folds: int,
    seed: int,
    classes: Sequence[str] = (),
) -> Ints:
    """Give each file the fold in which it is validated, whole groups together.

    Class by class, the largest groups first, each to the fold that has the fewest files of the
    class, and then of all. (scikit-learn's StratifiedGroupKFold does not serve where a class has
    fewer groups than folds.)

    Returns:
        (N,) int64 from 0 to ``folds`` - 1; each fold holds a group.

    Raises:
        DataError: There are fewer groups than folds, or a class has a single group, which could
            not be learnt in the fold that it is validated in.
    """
    groups = _Groups(np.asarray(labels, np.int64), group_ids, seed)
    if len(groups.sizes) < folds:
        found = f"{counted(len(groups.sizes), 'group')} of images, too few for {folds} folds"
        raise DataError(f"{found}; use --folds {len(groups.sizes)} or fewer, or add photographs")
    _refuse_few(groups, 2, classes, purpose="folds")
    fold = np.zeros(len(groups.sizes), np.int64)
    total = np.zeros(folds, np.int64)
    for members in groups.by_class.values():
        here = np.zeros(folds, np.int64)
        for group in sorted(members, key=lambda member: -groups.sizes[member]):
            fold[group] = min(range(folds), key=lambda f: (here[f], total[f]))
            here[fold[group]] += groups.sizes[group]
            total[fold[group]] += groups.sizes[group]
    return fold[groups.of_file]


def group_names(names: Sequence[str], group_ids: Ints) -> list[str]:
    """A stable name for each file's group: the name of the group's first file."""
    first: dict[int, str] = {}
    return [first.setdefault(group, name) for name, group in zip(names, group_ids, strict=True)]


@dataclass(frozen=True, slots=True)
class SplitRow:
    """One file in ``split.csv``; ``class_name`` and ``group`` are None without their column."""

    name: str
    class_name: str | None
    role: str
    group: str | None


def write_split(
    path: Path,
    *,
    names: Sequence[str],
    classes: Sequence[str],
    roles: Sequence[str],
    groups: Sequence[str],
) -> None:
    """Write ``split.csv``: of each file the path below the data folder, class, role and group."""
    write_csv(path, COLUMNS, zip(names, classes, roles, groups, strict=True))


def read_split(path: Path) -> list[SplitRow]:
    """Read a split: columns path and role, and perhaps class and group, in any order.

    A role may be spelled as people do ("valid", "Training"). The file may be a user's own.

    Raises:
        DataError: It is not CSV in UTF-8, lacks a column, names a role that is none, or a path
            twice; each with the line.
    """
    where = printable(str(path))
    rows: list[SplitRow] = []
    seen: dict[str, int] = {}
    for line, cells in _table(path, needed=("path", "role")):
        name, role = cells["path"].removeprefix("./"), cells["role"].strip().lower()
        role = ROLE_WORDS.get(role, role)
        if role not in ROLES:
            given = printable(cells["role"])
            raise DataError(f"{where} line {line}: role {given} is none; use {', '.join(ROLES)}")
        if name in seen:
            twice = f"{printable(name)} stands in line {seen[name]} already"
            raise DataError(f"{where} line {line}: {twice}; keep one of the two")
        seen[name] = line
        rows.append(SplitRow(name, cells.get("class"), role, cells.get("group")))
    if not rows:
        raise DataError(f"{where} lists no file; write it with `inceptcli split DATA -o {where}`")
    return rows


def read_groups(path: Path) -> dict[str, str]:
    """Read a user's groups, columns path and group: name -> group, as ``groups.group`` takes it.

    Raises:
        DataError: It is not CSV in UTF-8, lacks a column, or gives a path two groups.
    """
    found: dict[str, str] = {}
    for line, cells in _table(path, needed=("path", "group")):
        name, group = cells["path"].removeprefix("./"), cells["group"]
        if not group.strip():
            alone = f"{path} line {line}: {name} has no group; where none is known, give it one of"
            raise DataError(printable(f"{alone} its own"))
        if found.setdefault(name, group) != group:
            twice = f"{path} line {line}: {name} is in {found[name]} already; keep one of the two"
            raise DataError(printable(twice))
    return found


def match_split(
    rows: Sequence[SplitRow],
    names: Sequence[str],
    class_names: Sequence[str],
    *,
    all_there: bool = True,
) -> list[SplitRow | None]:
    """Find the row of each file of a data folder.

    Args:
        rows: As ``read_split`` gives them.
        names: The files there are.
        class_names: Their classes, by folder.
        all_there: Whether every listed file has to be among them.

    Returns:
        For each file its row, or None for one that the split does not list.

    Raises:
        DataError: A listed file is not there, or has another class there.
    """
    index = {name: place for place, name in enumerate(names)}
    found: list[SplitRow | None] = [None] * len(names)
    missing = []
    for row in rows:
        place = index.get(row.name, index.get(row.name.replace("\\", "/").removeprefix("./")))
        if place is None:
            missing.append(row.name)
            continue
        if row.class_name is not None and row.class_name != class_names[place]:
            text = f"{row.name} is {row.class_name} in the split and {class_names[place]} in the"
            raise DataError(printable(f"{text} data folder; write the split again"))
        if found[place] is not None:
            text = f"{row.name} stands in the split twice, spelled in two ways; keep one of them"
            raise DataError(printable(text))
        found[place] = row
    if missing and all_there:
        text = f"{len(missing)} of {len(rows)} files of the split are not there, the first"
        raise DataError(printable(f"{text} {missing[0]}; give its data folder, or split again"))
    return found


class _Groups:
    """Groups in random order, each under the class that most of its files have."""

    def __init__(self, labels: Ints, group_ids: Ints, seed: int) -> None:
        _, self.of_file = np.unique(group_ids, return_inverse=True)
        self.sizes = np.bincount(self.of_file)
        counts = np.zeros((len(self.sizes), int(labels.max(initial=0)) + 1), np.int64)
        np.add.at(counts, (self.of_file, labels), 1)
        self.by_class: dict[int, list[int]] = {label: [] for label in np.unique(labels).tolist()}
        own = counts.argmax(1).tolist()
        for group in sorted(range(len(own)), key=lambda group: _lot(seed, group)):
            self.by_class[own[group]].append(group)


def _lot(seed: int, group: int) -> bytes:
    return hashlib.sha256(f"{seed}:{group}".encode()).digest()


def _checked(ratio: Sequence[float]) -> NDArray[np.float64]:
    check_ratio(tuple(ratio))
    return np.array(ratio, np.float64)


def _refuse_few(
    groups: _Groups, least: int, classes: Sequence[str], *, purpose: str = "roles"
) -> None:
    """Refuse classes with fewer groups than roles, all named."""
    few = {label: found for label, found in groups.by_class.items() if len(found) < least}
    if not few:
        return
    listed = "; ".join(
        f"{printable(classes[label]) if classes else 'the folder'} has {len(found)}"
        f" ({counted(int(groups.sizes[found].sum()), 'image')})"
        for label, found in few.items()
    )
    remedy = "add photographs of other scenes, or split by file with --group none"
    if least == 3:
        remedy += ", or leave out the test role with --ratio 0.8,0.2"
    raise DataError(f"{purpose} need {least} groups of images a class: {listed}; {remedy}")


def _apportioned(count: int, shares: NDArray[np.float64]) -> Ints:
    """Files a role for so many files: rounded down, and what is left over to the last roles."""
    wanted = np.floor(shares * count + 1e-9).astype(np.int64)
    over = count - int(wanted.sum())
    if over:
        wanted[-over:] += 1
    return wanted


def _filled(sizes: Ints, wanted: Ints) -> Ints:
    """Give each of a class's groups, in their order, a role: (G,) int64.

    Args:
        sizes: (G,) files in each group.
        wanted: (R,) files wanted in each role.
    """
    role = np.zeros(len(sizes), np.int64)
    free = list(range(len(sizes)))
    smallest_first = sorted(range(1, len(wanted)), key=lambda r: (wanted[r], -r))
    for done, r in enumerate(smallest_first, start=1):
        keep = len(wanted) - done  # the other roles need a group each
        lacking = int(wanted[r])
        taken: list[int] = []
        for group in free:
            if len(free) - len(taken) > keep and sizes[group] < 2 * lacking:
                taken.append(group)
                lacking -= int(sizes[group])
        taken = taken or [min(free, key=lambda group: sizes[group])]
        role[taken] = r
        free = [group for group in free if not role[group]]
    return role


def _table(path: Path, *, needed: Sequence[str]) -> list[tuple[int, Mapping[str, str]]]:
    """(line, column -> text) for each row of a user's CSV file."""
    where = printable(str(path))
    try:
        text = read_regular(path, max_bytes=MAX_CSV_BYTES).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader]
        header = [(column or "").strip().lower() for column in reader.fieldnames or ()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"cannot read {where} as CSV in UTF-8: {why}") from error
    for column in needed:
        if header.count(column) != 1:
            has = printable(", ".join(header)) or "none"
            raise DataError(f"{where} needs one column {column!r} in its first line; it has {has}")
    table: list[tuple[int, Mapping[str, str]]] = []
    for line, row in rows:
        cells = list(row.values())
        if len(cells) != len(header) or not all(isinstance(cell, str) for cell in cells):
            raise DataError(f"{where} line {line} does not have {len(header)} cells; mend it")
        table.append((line, {name: uncell(cell) for name, cell in zip(header, cells, strict=True)}))
    return table
