"""From a folder to photographs with classes, groups and roles: one way for every command.

scan -> one pass over the files -> groups -> roles. Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inceptcli.config import ROLES, DataConfig
from inceptcli.data.cache import PixelStore, survey
from inceptcli.data.folder import Dataset, Rejected, scan
from inceptcli.data.groups import Grouping, group
from inceptcli.data.reader import Facts, PixelSpec, default_workers, never
from inceptcli.data.split import assign_roles, read_split
from inceptcli.errors import DataError
from inceptcli.events import Emit, Notice, Progress, RolesReady, Warned, silent
from inceptcli.files import printable

Ints = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Photos:
    """The photographs of a folder that can be used, in the order of their names.

    Attributes:
        root: The folder.
        classes: Class names, sorted; ``labels`` are indices into them.
        names: Paths relative to ``root``, with "/".
        paths: Where to open them.
        labels: (N,) int64.
        roles: (N,) "train", "val" or "test".
        grouping: Which of them show the same thing.
        facts: What the one pass found out about each.
        rejected: The files that cannot be used, each with its reason.
        store: Their pixels.
        positions: (N,) int64, their indices in ``store``.
    """

    root: Path
    classes: tuple[str, ...]
    names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: Ints
    roles: npt.NDArray[np.str_]
    grouping: Grouping
    facts: tuple[Facts, ...]
    rejected: tuple[Rejected, ...]
    store: PixelStore
    positions: Ints

    def indices(self, role: str) -> Ints:
        """The photographs of a role, or of "all", in order."""
        if role == "all":
            return np.arange(len(self.names))
        return np.flatnonzero(self.roles == role)

    def pixels(self, indices: Ints) -> tuple[Pixels, Ints]:
        """The pixels (n, S, S, 3) uint8 of these photographs, and which they are.

        A file that has vanished or changed since it was looked at is left out of both.
        """
        pixels, positions = self.store.take(self.positions[indices])
        return pixels, np.searchsorted(self.positions, positions)

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
    dataset = scan(config)
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
    return _divide(dataset, found, config, emit)
