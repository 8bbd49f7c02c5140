"""Which files belong together: copies of one photograph, which must never be split over roles.

A group is found from what is equal (content or pixels), from what looks like a copy
(``data.looks``), and from names that say so (``M01_07_00.jpg ... M01_07_13.jpg``); or it is what
the user says.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from inceptcli.data.looks import (
    LOOK_BYTES,
    Floats,
    Ints,
    features_of,
    likeness,
    near_copies,
)
from inceptcli.errors import DataError, UsageError
from inceptcli.files import counted, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

# A group by sight holds at most a twentieth of its class, or an original and fifteen copies.
SIGHT_SHARE, SIGHT_LEAST = 0.05, 16
# A rule of names makes at least three families, none with more than a fifth of the folder or 32
# files, four in five files in families of half to twice the usual size, whose members are more
# alike than strangers are seventeen times in twenty.
LEAST_FAMILIES = 3
FAMILY_SHARE, FAMILY_LEAST = 0.2, 32
SIMILAR_SHARE = 0.8
MORE_ALIKE = 0.85

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which files belong together, and why.

    Attributes:
        ids: (N,) int64, each file's group, from 0 in the order of first appearance.
        rules: Lines to print: what was found, by which rule.
        exact_pairs: (first, copy): files with equal bytes or equal pixels.
        near_pairs: Files that look like copies of one picture; of files with exact copies only
            the first is compared.
        conflicts: Those of both that lie in two classes.
    """

    ids: Ints
    rules: tuple[str, ...]
    exact_pairs: tuple[Pair, ...]
    near_pairs: tuple[Pair, ...]
    conflicts: tuple[Pair, ...]

    def among(self, kept: Ints, labels: Ints) -> Grouping:
        """The same of some of the files only; ``kept`` are their places, ascending.

        Of equal files the first that is kept stands for a first one that is not.

        Args:
            kept: (n,) int64.
            labels: (n,) their classes.
        """
        place = {int(old): new for new, old in enumerate(kept)}
        first_of = {copy: first for first, copy in self.exact_pairs}
        head: dict[int, int] = {}  # the first of equal files -> the new place that stands for it
        for old, new in place.items():
            head.setdefault(first_of.get(old, old), new)
        exact = [
            (head[first_of[old]], new)
            for old, new in place.items()
            if old in first_of and head[first_of[old]] != new
        ]
        near = [
            (min(head[i], head[j]), max(head[i], head[j]))
            for i, j in self.near_pairs
            if i in head and j in head
        ]
        conflicts = _conflicts([*exact, *near], labels)
        return Grouping(self.ids[kept], self.rules, tuple(exact), tuple(near), conflicts)


def group(
    names: Sequence[str],
    labels: Sequence[int] | Ints,
    *,
    content: Sequence[bytes] = (),
    pixels: Sequence[bytes] = (),
    looks: Sequence[bytes] = (),
    how: str | Mapping[str, str] = "auto",
) -> Grouping:
    """Find which of N files belong together.

    Args:
        names: Paths relative to the data folder, with "/", sorted.
        labels: N classes.
        content: N digests of the files' bytes, or none at all; b"" is unknown, here and below.
        pixels: N digests of the decoded pixels, or none.
        looks: N descriptions (``looks.describe``), or none.
        how: "auto"; "none", where each file stands alone; name -> group; or a regular expression
            whose first capture group, searched for in the name, names the group: a file in which
            it is not found stands alone. Copies are looked for in any case, so that they can be
            told.

    Raises:
        UsageError: The regular expression is none, captures nothing, or is found in no name.
        DataError: The mapping lacks a file.
    """
    labels = np.asarray(labels, np.int64)
    looks = [look or bytes(LOOK_BYTES) for look in looks]  # unknown: blank, like no other
    exact = _exact_pairs(content, pixels)
    copies = {copy for _, copy in exact}
    firsts = np.array([i for i in range(len(names)) if i not in copies], np.int64)
    likely, margin = _near_pairs(firsts, labels, looks)
    near = [pair for pair, value in zip(likely, margin, strict=True) if value >= 0]
    conflicts = _conflicts([*exact, *near], labels)
    keys: Iterable[Hashable] = range(len(names))
    rules: list[str] = []
    if how == "auto":
        families, rules = _by_name(names, looks)
        first = _joined(len(names), [*exact, *_by_sight(likely, margin, labels), *families])
        apart = sum(first[i] != first[j] for i, j in near)
        keys, rules = first, [*_copies_found(exact, near, apart), *rules]
    elif how != "none":
        keys, rules = _by_hand(names, how)
    return Grouping(_numbered(keys), tuple(rules), tuple(exact), tuple(near), conflicts)


def grouping_line(ids: Ints, *, dividing: bool = True) -> str:
    """One line that says how many groups there are: printed before every split.

    Args:
        ids: (N,) the group of each image.
        dividing: Whether roles are made by them.

    >>> grouping_line(np.arange(2142) // 14)
    '2,142 images -> 153 groups (x14): splitting by group; --group none splits by file'
    """
    sizes = np.bincount(ids)
    if len(sizes) == len(ids):
        text = f"{counted(len(ids), 'image')}, each a group of its own"
        return text + ": splitting by file" * dividing
    uniform = sizes.min() == sizes.max()
    each = f"x{sizes[0]}" if uniform else f"{sizes.min()} to {sizes.max()} images each"
    text = f"{counted(len(ids), 'image')} -> {counted(len(sizes), 'group')} ({each})"
    return text + ": splitting by group; --group none splits by file" * dividing


def _exact_pairs(*digests: Sequence[bytes]) -> list[Pair]:
    """(first, copy) for every file but the first that has an equal digest."""
    count = max(len(column) for column in digests)
    root = _joined(count, [pair for column in digests for pair in _repeated(column)])
    return [(first, copy) for copy, first in enumerate(root) if first != copy]


def _conflicts(pairs: Iterable[Pair], labels: Ints) -> tuple[Pair, ...]:
    return tuple((i, j) for i, j in pairs if labels[i] != labels[j])


def _repeated(digests: Sequence[bytes]) -> Iterable[Pair]:
    first: dict[bytes, int] = {}
    for index, digest in enumerate(digests):
        if digest and (seen := first.setdefault(digest, index)) != index:
            yield seen, index


def _near_pairs(
    firsts: Ints, labels: Ints, looks: Sequence[bytes]
) -> tuple[list[Pair], list[float]]:
    """What ``near_copies`` finds among files that are no exact copies of an earlier one."""
    if not looks:
        return [], []
    pairs, margin = near_copies([looks[i] for i in firsts], labels[firsts])
    return [(i, j) for i, j in firsts[pairs].tolist()], margin.tolist()


def _by_sight(pairs: Sequence[Pair], margin: Sequence[float], labels: Ints) -> Iterable[list[int]]:
    """Sets of files of which every two are likely copies (complete linkage), surest pairs first.

    Two sets become one by a sure pair (a margin of 0 or more) when all their other pairs are
    likely and they do not grow too large together.
    """
    limit = np.maximum(SIGHT_LEAST, (np.bincount(labels) * SIGHT_SHARE).astype(np.int64))
    beside: dict[int, set[int]] = defaultdict(set)
    for i, j in pairs:
        beside[i].add(j)
        beside[j].add(i)
    members = {i: [i] for i in beside}  # the one list of a set, under each of its members
    sure = sorted((-value, pair) for value, pair in zip(margin, pairs, strict=True) if value >= 0)
    for _, (i, j) in sure:
        one, other = members[i], members[j]
        if one is other or any(m not in beside[k] for k in one for m in other):
            continue
        if len(one) + len(other) <= min(limit[labels[k]] for k in one + other):
            one.extend(other)
            members.update(dict.fromkeys(other, one))
    return {id(found): found for found in members.values()}.values()


def _copies_found(exact: Sequence[Pair], near: Sequence[Pair], apart: int) -> list[str]:
    lines = []
    if exact:
        lines.append(f"exact copies: {counted(len(exact), 'file')} equal to another")
    if near:
        files = len({i for pair in near for i in pair})
        lines.append(f"near copies: {files} files look like another ({counted(len(near), 'pair')})")
    if apart:
        lines.append(
            f"near copies: {counted(apart, 'pair')} left apart, because their groups would chain"
            " or hold more than 5 % of a class; --check names those in two roles"
        )
    return lines


# --- names ---

_MARK = (
    r"copy|copie|kopie|copia|dup(?:licate)?|aug(?:mented|mentation)?|edit(?:ed)?|small|thumb(?:nail)?"
    r"|resized?|scaled?|zoom(?:ed)?|[hv]?-?flip(?:ped)?|mirror(?:ed)?|rot(?:ated?|ation)?|turn(?:ed)?"
    r"|crop(?:ped)?|bright(?:er|ness)?|dark(?:er)?|contrast|gamma|noisy?|noise|blur(?:red|ry)?"
    r"|sharp(?:en(?:ed)?)?|jitter|hue|sat(?:uration)?|shear(?:ed)?|shift(?:ed)?|translat(?:ed?|ion)"
    r"|gr[ae]y(?:scale)?"
)
_MARKS_BEFORE = re.compile(rf"^(?:(?:copy of|{_MARK})[\s_.-]+)+(?=.)", re.IGNORECASE)
_MARKS_AFTER = re.compile(
    rf"(?<=.)(?:\s*\((?:copy\s*)?\d*\)|[\s_.-]+(?:{_MARK})[\s_-]*[\d.]*[a-z]?)+$", re.IGNORECASE
)
_PART = re.compile(r"[\s_.()-]+")


def _stem(name: str) -> str:
    file = name.rpartition("/")[2]
    return file.rpartition(".")[0] or file


def _without_marks(stem: str) -> str:
    return _MARKS_AFTER.sub("", _MARKS_BEFORE.sub("", stem))


def _without_last(stem: str) -> str:
    return "_".join(_parts(stem)[:-1]) or stem


def _without_last_two(stem: str) -> str:
    return "_".join(_parts(stem)[:-2]) or stem


def _first_part(stem: str) -> str:
    return _parts(stem)[0]


def _parts(stem: str) -> list[str]:
    return [part for part in _PART.split(stem) if part] or [stem]


_MARKS_RULE = "the name without what marks a copy"
_PART_RULES: tuple[tuple[Callable[[str], str], str], ...] = (
    (_without_last, "the name without its last part"),
    (_without_last_two, "the name without its last two parts"),
    (_first_part, "the first part of the name"),
)


def _by_name(names: Sequence[str], looks: Sequence[bytes]) -> tuple[list[list[int]], list[str]]:
    """Families that names tell, folder by folder, and a line for each rule that was adopted."""
    folders: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        folders[name.rpartition("/")[0]].append(index)
    families: list[list[int]] = []
    adopted: dict[str, list[list[int]]] = defaultdict(list)  # rule -> its families
    for members in folders.values():
        features = features_of([looks[i] for i in members]) if looks else None
        stems = [_stem(names[i]) for i in members]
        found = _families(map(_without_marks, stems))
        if _explains(found, features, all_alike=False):
            stems = list(map(_without_marks, stems))
            adopted[_MARKS_RULE] += [
                [members[k] for k in family] for family in found if len(family) > 1
            ]
        for rule, text in _PART_RULES:
            found = _families(map(rule, stems))
            if found != _families(stems) and _explains(found, features, all_alike=True):
                adopted[text] += [[members[k] for k in family] for family in found]
                break
    for found in adopted.values():
        families += found
    return families, [_rule_line(names, text, found) for text, found in adopted.items()]


def _families(keys: Iterable[str]) -> list[list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        found[key].append(index)
    return list(found.values())


def _explains(families: list[list[int]], features: Floats | None, *, all_alike: bool) -> bool:
    """Whether these are families, and not how a camera numbers what it sees.

    Args:
        families: All files of a folder, some perhaps alone.
        features: The files' features, or None to go by names alone.
        all_alike: Whether nearly all files have to be in families of similar size.
    """
    sizes = [len(family) for family in families if len(family) > 1]
    count = sum(map(len, families))
    if not sizes or len(families) < LEAST_FAMILIES:
        return False
    if max(sizes) > max(FAMILY_LEAST, FAMILY_SHARE * count):
        return False
    usual = median(sizes)
    similar = sum(size for size in sizes if usual / 2 <= size <= usual * 2)
    if all_alike and similar < SIMILAR_SHARE * count:
        return False
    return features is None or _members_alike(families, features)


def _members_alike(families: list[list[int]], features: Floats) -> bool:
    """Whether members are more alike than strangers (the area under their ROC curve)."""
    several = [family for family in families if len(family) > 1]
    half = len(families) // 2
    inside = [pair for family in several for pair in itertools.pairwise(family)]
    across = [
        (family[k % len(family)], other[k % len(other)])
        for family, other in zip(families, families[half:] + families[:half], strict=True)
        for k in range(4)
    ]
    members = likeness(features, _sample(inside))
    strangers = np.sort(likeness(features, _sample(across)))
    return bool(np.searchsorted(strangers, members).mean() >= MORE_ALIKE * len(strangers))


def _sample(pairs: list[Pair], most: int = 500) -> Ints:
    """At most so many pairs, evenly spread."""
    table = np.array(pairs, np.int64)
    return table[np.unique(np.linspace(0, len(table) - 1, most).astype(np.int64))]


def _rule_line(names: Sequence[str], text: str, families: Sequence[Sequence[int]]) -> str:
    """A rule in plain words, with an example: names that one family holds."""
    example = max(families, key=len)
    one, other = (names[i].rpartition("/")[2] for i in (example[0], example[-1]))
    sizes = sorted(map(len, families))
    each = f"{sizes[0]}" if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
    return printable(
        f"names: {one} and {other} are one group ({text}: {counted(len(families), 'group')}"
        f" of {each} files)"
    )


def _by_hand(
    names: Sequence[str], how: str | Mapping[str, str]
) -> tuple[Sequence[Hashable], list[str]]:
    """The user's own groups: a key for each file, and a line."""
    if isinstance(how, str):
        found = _searched(names, how)
        alone = sum(key is None for key in found)
        # a tuple, so that no captured text is the key of a file that stands alone
        keys = [(name,) if key is None else key for name, key in zip(names, found, strict=True)]
        text = f"--group {how}: {counted(len(set(keys)), 'group')}"
        text += f", {counted(alone, 'file')} without it alone" if alone else ""
        return keys, [printable(text)]
    lacking = [name for name in names if name not in how]
    if lacking:
        text = f"no group for {counted(len(lacking), 'file')}, the first {lacking[0]}"
        raise DataError(printable(f"{text}; give each file a row in the group file"))
    return [how[name] for name in names], []


def _searched(names: Sequence[str], expression: str) -> list[str | None]:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        text = f"--group {expression!r} is no regular expression: {error}"
        raise UsageError(printable(f"{text}; use auto, none or a valid one")) from error
    if not pattern.groups:
        text = f"--group {expression!r} captures nothing"
        raise UsageError(printable(f"{text}; put the part that names the group in (...)"))
    found = [match[1] if (match := pattern.search(name)) else None for name in names]
    if names and all(key is None for key in found):
        text = f"--group {expression!r} is found in no name"
        raise UsageError(printable(f"{text}, for example not in {names[0]}"))
    return found


# --- sets ---


def _joined(count: int, sets: Iterable[Sequence[int]]) -> list[int]:
    """Union-find: for each of ``count`` files the first file that it is joined with."""
    root = list(range(count))

    def find(index: int) -> int:
        while root[index] != index:
            root[index] = root[root[index]]
            index = root[index]
        return index

    for first, *others in sets:
        for other in others:
            low, high = sorted((find(first), find(other)))
            root[high] = low
    return [find(index) for index in range(count)]


def _numbered(keys: Iterable[Hashable]) -> Ints:
    """Keys as numbers from 0, in the order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
