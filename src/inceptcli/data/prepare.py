"""From a folder to photographs with classes, groups and roles: one way for every command.

scan -> one pass over the files -> groups -> roles. Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inceptcli.config import ROLES, DataConfig
from inceptcli.data.cache import PixelStore, Reading, Survey, survey
from inceptcli.data.folder import Dataset, Rejected, scan
from inceptcli.data.groups import Grouping, group
from inceptcli.data.labels import listed
from inceptcli.data.machine import default_workers
from inceptcli.data.reader import Facts, PixelSpec, never
from inceptcli.data.split import assign_roles
from inceptcli.errors import DataError
from inceptcli.events import Emit, Notice, RolesReady, Warned, silent
from inceptcli.files import printable

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
        labels: (N,) int64.
        roles: (N,) "train", "val", "test" or ``NO_ROLE``.
        groups: (N,) int64, equal for files that show the same thing; -1 without a role.
        facts: What the one pass found out about each; None when it cannot be read.
        rejected: The files that cannot be used, each with its reason.
        grouping: How the groups were found.
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
    grouping: Grouping
    store: PixelStore

    def indices(self, role: str) -> Ints:
        """The photographs of a role, or "all" that have one, in order."""
        has_it = self.roles != NO_ROLE if role == "all" else self.roles == role
        return np.flatnonzero(has_it)

    @property
    def group_count(self) -> int:
        """Groups among the photographs that have a role."""
        return len(np.unique(self.groups[self.roles != NO_ROLE]))

    def counts(self) -> dict[str, dict[str, int]]:
        """class -> role -> number of photographs; only roles that occur."""
        roles = [role for role in ROLES if (self.roles == role).any()]
        return {
            name: {role: int(((self.labels == i) & (self.roles == role)).sum()) for role in roles}
            for i, name in enumerate(self.classes)
        }


def prepare(
    config: DataConfig,
    *,
    keep_pixels: bool = True,
    emit: Emit = silent,
    stopping: Callable[[], bool] = never,
) -> Photos:
    """Everything about the photographs that a command needs before its first step.

    Args:
        config: Which photographs, and how they are divided.
        keep_pixels: Whether the one pass over the files keeps their pixels too.
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
    rejected = _check_rejected(dataset, found, config, emit)
    photos = _divide(dataset, found, rejected, config, emit)
    emit(RolesReady(photos.counts(), len(photos.indices("all")), photos.group_count))
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


def _check_rejected(
    dataset: Dataset, found: Survey, config: DataConfig, emit: Emit
) -> tuple[Rejected, ...]:
    """All rejected files; too many of them, or a whole class, end the command.

    Raises:
        DataError: More than ``max_bad`` are rejected, or every file of a class.
    """
    samples = dataset.samples
    rejected = list(dataset.rejected)
    for lost in found.rejected:
        sample = samples[lost.index]
        rejected.append(Rejected(sample.name, lost.reason, lost.detail, sample.label))
    if not rejected:
        return ()
    total = len(samples) + len(dataset.rejected)
    reasons = ", ".join(
        f"{count} {reason}" for reason, count in Counter(r.reason for r in rejected).most_common()
    )
    text = f"{len(rejected)} of {total} files cannot be used: {reasons}"
    good = Counter(sample.label for sample in samples)
    good.subtract(samples[lost.index].label for lost in found.rejected)
    emptied = [name for label, name in enumerate(dataset.classes) if good[label] <= 0]
    if emptied and not config.allow_empty:
        raise DataError(f"{text}; no usable file is left in {listed(emptied, shown=20)}")
    if len(rejected) > config.max_bad * total:
        first = f"{printable(rejected[0].name)}: {rejected[0].reason}"
        raise DataError(
            f"{text} (first: {first}); more than --max-bad {config.max_bad:g} allows: repair or "
            "remove them, or raise --max-bad"
        )
    emit(Warned(text + "; rejected.csv in the run folder names them"))
    return tuple(sorted(rejected, key=lambda bad: bad.name))


def _divide(
    dataset: Dataset,
    found: Survey,
    rejected: tuple[Rejected, ...],
    config: DataConfig,
    emit: Emit,
) -> Photos:
    samples = dataset.samples
    usable = np.ones(len(samples), bool)
    usable[[lost.index for lost in found.rejected]] = False
    kept = np.flatnonzero(usable)
    labels = np.array([sample.label for sample in samples], np.int64)
    facts = [found.facts[i] for i in kept]
    grouping = group(
        [samples[i].name for i in kept],
        labels[kept],
        content=[fact.content_sha256 for fact in facts],
        pixels=[fact.pixel_sha256 for fact in facts],
        looks=[fact.look for fact in facts],
        how=config.group,
    )
    for rule in grouping.rules:
        emit(Notice(rule))
    roles = np.full(len(samples), NO_ROLE, dtype="<U5")
    roles[kept] = assign_roles(
        labels[kept], grouping.ids, ratio=config.ratio, seed=config.seed, stratify=config.stratify
    )
    groups = np.full(len(samples), -1, np.int64)
    groups[kept] = grouping.ids
    return Photos(
        root=dataset.root,
        classes=dataset.classes,
        names=tuple(sample.name for sample in samples),
        paths=tuple(sample.path for sample in samples),
        labels=labels,
        roles=roles,
        groups=groups,
        facts=tuple(found.facts),
        rejected=rejected,
        grouping=grouping,
        store=found.store,
    )
