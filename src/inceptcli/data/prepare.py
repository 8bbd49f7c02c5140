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
from inceptcli.data.groups import Grouping, group_files, splitting_line
from inceptcli.data.labels import listed
from inceptcli.data.machine import default_workers
from inceptcli.data.reader import Facts, PixelSpec, never
from inceptcli.data.split import assign_roles, read_split
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

    def counts(self) -> dict[str, dict[str, int]]:
        """class -> role -> number of photographs; only roles that occur."""
        roles = [role for role in ROLES if (self.roles == role).any()]
        return {
            name: {role: int(((self.labels == i) & (self.roles == role)).sum()) for role in roles}
            for i, name in enumerate(self.classes)
        }
