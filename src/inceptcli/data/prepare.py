"""From a folder to photographs with classes, groups and roles: one way for every command.

scan -> one pass over the files -> groups -> roles. Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inceptcli.config import ROLES, DataConfig
from inceptcli.data.cache import PixelStore, Reading, Survey, survey
from inceptcli.data.check import Check, check
from inceptcli.data.folder import Dataset, Rejected, reject, scan
from inceptcli.data.groups import Grouping, group, grouping_line
from inceptcli.data.labels import listed
from inceptcli.data.machine import default_workers
from inceptcli.data.reader import Facts, PixelSpec, never
from inceptcli.data.split import (
    assign_roles,
    group_names,
    match_split,
    read_groups,
    read_split,
    write_split,
)
from inceptcli.errors import DataError
from inceptcli.events import Emit, Notice, RolesReady, Warned, silent
from inceptcli.files import counted

Ints = npt.NDArray[np.int64]
NO_ROLE = ""


@dataclass(frozen=True)
class Photos:
    """The photographs of a folder, sorted by name. Every sequence has one entry a file.

    A file that cannot be used, or that a given split leaves out, has the role ``NO_ROLE``.

    Attributes:
        root: The folder.
        classes: Class names; ``labels`` are indices into them.
        names: Paths relative to ``root``, with "/".
        paths: Where to open them.
        labels: (N,) int64; -1 for a file that cannot be used.
        roles: (N,) "train", "val", "test" or ``NO_ROLE``.
        groups: (N,) int64, equal for files that show the same thing; -1 for one that cannot be
            used.
        facts: What the one pass found out about each; None when it cannot be read.
        rejected: The files that cannot be used, each with its reason.
        unlisted: How many usable files a given split does not list.
        grouping: How the groups of the usable files were found, in their order.
        store: Pixels by index.
    """

    root: Path
    classes: tuple[str, ...]
    names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: Ints
    roles: npt.NDArray[np.str_]
    groups: Ints
    facts: tuple[Facts | None, ...]
    rejected: tuple[Rejected, ...]
    unlisted: int
    grouping: Grouping
    store: PixelStore

    def indices(self, role: str) -> Ints:
        """The photographs of a role, or "all" that have one, in order."""
        has_it = self.roles != NO_ROLE if role == "all" else self.roles == role
        return np.flatnonzero(has_it)

    def rejected_of(self, role: str) -> int:
        """Files of a role that cannot be used; one without a role may be of any."""
        return sum(role == "all" or bad.role in (None, role) for bad in self.rejected)

    @property
    def group_count(self) -> int:
        """Groups among the photographs that have a role."""
        return len(np.unique(self.groups[self.roles != NO_ROLE]))

    def counts(self) -> dict[str, dict[str, int]]:
        """Class -> role -> number of photographs; only roles that occur."""
        roles = [role for role in ROLES if (self.roles == role).any()]
        return {
            name: {role: int(((self.labels == i) & (self.roles == role)).sum()) for role in roles}
            for i, name in enumerate(self.classes)
        }


def prepare(
    config: DataConfig,
    *,
    keep_pixels: bool = True,
    to_learn: bool = True,
    divide: bool = True,
    all_there: bool = True,
    emit: Emit = silent,
    stopping: Callable[[], bool] = never,
) -> Photos:
    """Everything about the photographs that a command needs before its first step.

    Args:
        config: Which photographs, and how they are divided.
        keep_pixels: Whether the one pass over the files keeps their pixels too.
        to_learn: Whether a network is to learn from them, as ``folder.scan`` says.
        divide: Whether roles are made where neither a split nor the folder gives them; if not,
            all photographs are "test".
        all_there: Whether every file that a split lists has to be there.
        emit: Told of progress, groups, roles and rejected files.
        stopping: Asked several times a second; true ends the pass with ``StoppingError``.

    Raises:
        DataError: The folder, its classes or its files cannot be used; the message says why.
    """
    labels, columns = _label_table(config.labels)
    dataset = scan(
        config.root,
        labels=labels,
        label_columns=columns,
        follow_links=config.follow_links,
        allow_empty=config.allow_empty,
        to_learn=to_learn,
    )
    for note in dataset.notes:
        emit(Notice(note))
    reading = Reading(
        workers=default_workers() if config.workers is None else config.workers,
        stopping=stopping,
        cache=config.cache,
        keep_pixels=keep_pixels,
        emit=emit,
    )
    spec = PixelSpec(config.image_size, config.resize, config.max_megapixels)
    found = survey(dataset.samples, spec, reading)
    bad = [
        Rejected(sample.name, lost.reason, lost.detail, sample.label, sample.role)
        for lost in found.rejected
        for sample in (dataset.samples[lost.index],)
    ]
    usable = reject(dataset, bad, allow_empty=config.allow_empty, to_learn=to_learn)
    _check_rejected(usable, len(dataset.samples) + len(dataset.rejected), config, emit)
    photos = _photos(dataset, usable, found, config, divide=divide, all_there=all_there)
    groups = grouping_line(photos.grouping.ids, dividing=divide and config.split is None)
    for line in (*photos.grouping.rules, groups):
        emit(Notice(line))
    if photos.unlisted:
        unlisted = counted(photos.unlisted, "photograph")
        emit(Notice(f"left out: {unlisted} that the split does not list"))
    emit(RolesReady(photos.counts(), len(photos.indices("all")), photos.group_count))
    for fault in check_photos(photos).faults():
        emit(Warned(fault))
    return photos


def _label_table(labels: str | None) -> tuple[Path | None, tuple[str, str] | None]:
    """``FILE`` or ``FILE:PATH,CLASS`` -> the file and its two columns."""
    if labels is None:
        return None, None
    name, colon, columns = labels.rpartition(":")
    if colon and columns.count(",") == 1:
        path_column, class_column = columns.split(",")
        return Path(name), (path_column, class_column)
    return Path(labels), None


def _check_rejected(usable: Dataset, files: int, config: DataConfig, emit: Emit) -> None:
    """Say how many files cannot be used and why; too many end the command.

    Raises:
        DataError: More than ``max_bad`` of them.
    """
    bad = usable.rejected
    if not bad:
        return
    reasons = Counter(each.reason for each in bad).most_common()
    text = (
        f"{len(bad)} of {files} files cannot be used "
        f"({', '.join(f'{count} {reason}' for reason, count in reasons)}), "
        f"as {listed([f'{each.name}: {each.reason}' for each in bad])}"
    )
    if len(bad) > config.max_bad * files:
        raise DataError(
            f"{text}; --max-bad {config.max_bad:g} allows {int(config.max_bad * files)}: repair or "
            "remove them, or allow more"
        )
    emit(Warned(text))


def _photos(
    dataset: Dataset,
    usable: Dataset,
    found: Survey,
    config: DataConfig,
    *,
    divide: bool,
    all_there: bool,
) -> Photos:
    samples, place = dataset.samples, {each.name: i for i, each in enumerate(dataset.samples)}
    kept = np.array([place[each.name] for each in usable.samples], np.int64)
    labels, groups = np.full((2, len(samples)), -1, np.int64)
    labels[kept] = [each.label for each in usable.samples]
    grouping = _grouping(usable, [found.facts[i] for i in kept], config)
    groups[kept] = grouping.ids
    roles = np.full(len(samples), NO_ROLE, dtype="<U5")
    roles[kept] = _roles(usable, grouping, config, divide=divide, all_there=all_there)
    return Photos(
        root=dataset.root,
        classes=usable.classes,
        names=tuple(sample.name for sample in samples),
        paths=tuple(sample.path for sample in samples),
        labels=labels,
        roles=roles,
        groups=groups,
        facts=tuple(found.facts),
        rejected=_with_roles(usable.rejected, config.split),
        unlisted=int((roles[kept] == NO_ROLE).sum()),
        grouping=grouping,
        store=found.store,
    )


def _grouping(usable: Dataset, facts: Sequence[Facts | None], config: DataConfig) -> Grouping:
    names = [each.name for each in usable.samples]
    known = [fact for fact in facts if fact is not None]
    how: str | dict[str, str] = config.group
    if config.group_file is not None:
        how = read_groups(config.group_file)
    return group(
        names,
        [each.label for each in usable.samples],
        content=[fact.content_sha256 for fact in known],
        pixels=[fact.pixel_sha256 for fact in known],
        looks=[fact.look for fact in known],
        how=how,
    )


def _with_roles(rejected: tuple[Rejected, ...], split: Path | None) -> tuple[Rejected, ...]:
    """The files that cannot be used, with the roles that a split gives them."""
    if split is None or not rejected:
        return rejected
    role_of = {row.name: row.role for row in read_split(split)}
    return tuple(replace(bad, role=role_of.get(bad.name)) for bad in rejected)


def _roles(
    usable: Dataset, grouping: Grouping, config: DataConfig, *, divide: bool, all_there: bool
) -> list[str]:
    """The role of each usable photograph: from a split, from the folders, or made here."""
    samples = usable.samples
    labels = np.array([each.label for each in samples], np.int64)
    if config.split is not None:
        bad = {each.name for each in usable.rejected}  # the split may list them, it is no fault
        rows = [row for row in read_split(config.split) if row.name not in bad]
        class_names = [usable.classes[label] for label in labels]
        names = [each.name for each in samples]
        found = match_split(rows, names, class_names, all_there=all_there)
        return [NO_ROLE if row is None else row.role for row in found]
    given = [each.role or NO_ROLE for each in samples]
    if not divide:
        return [role or "test" for role in given]
    if "val" in given:
        return given
    # What has no role yet, or a train folder that lacks a val beside it, is divided.
    open_roles = np.array([role in (NO_ROLE, "train") for role in given])
    ratio = config.ratio
    if "test" in given:
        ratio = (ratio[0] / (ratio[0] + ratio[1]), ratio[1] / (ratio[0] + ratio[1]))
    made = iter(
        assign_roles(
            labels[open_roles],
            grouping.ids[open_roles],
            ratio=ratio,
            seed=config.seed,
            stratify=config.stratify,
            classes=usable.classes,
        )
    )
    return [
        next(made) if is_open else role for is_open, role in zip(open_roles, given, strict=True)
    ]


def write_manifest(path: Path, photos: Photos) -> None:
    """Write ``split.csv``: path, class, role and group of every photograph that has a role.

    Raises:
        OutputError: It could not be written.
    """
    chosen = photos.indices("all")
    names = [photos.names[i] for i in chosen]
    write_split(
        path,
        names=names,
        classes=[photos.classes[photos.labels[i]] for i in chosen],
        roles=photos.roles[chosen].tolist(),
        groups=group_names(names, photos.groups[chosen]),
    )


def check_photos(photos: Photos) -> Check:
    """Put together what is odd about the photographs: copies, leaks, conflicts, shapes."""
    chosen = photos.indices("all")
    listed_ones = np.flatnonzero(photos.roles[photos.labels >= 0] != NO_ROLE)
    return check(
        [photos.names[i] for i in chosen],
        [photos.classes[photos.labels[i]] for i in chosen],
        photos.grouping.among(listed_ones, photos.labels[listed_ones]),
        facts=[photos.facts[i] for i in chosen],
        rejected=photos.rejected,
        roles=photos.roles[chosen].tolist(),
    )
