"""From a folder to a list of labelled image files. It lists names and opens no image.

One walk finds every file that may be an image, each once, whatever links lead to it. Then the
names say the class: ``CLASS/...``, or ``ROLE/CLASS/...`` when the root holds roles, or a table
of labels gives it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from inceptcli.data.image import EXTENSIONS, Reason
from inceptcli.data.labels import listed, match_labels
from inceptcli.errors import DataError, UsageError
from inceptcli.files import counted, is_inside, printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

LAYOUT = "\n  photos/\n    cat/   1.jpg  2.jpg\n    dog/   3.jpg  4.jpg"
ROLE_WORDS = {  # what a role is called, in folders and in tables
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Left by systems and tools beside photographs; what begins with a dot is ignored as well.
IGNORED_FOLDERS = frozenset(
    (
        *("__MACOSX", "@eaDir", "@Recycle", "#recycle", "lost+found", "__pycache__"),
        *("$RECYCLE.BIN", "System Volume Information"),
    )
)
# Photographs that the decoder does not read: counted as rejected, never taken for "not images".
FOREIGN_EXTENSIONS = frozenset(
    (
        *(".heic", ".heif", ".jp2", ".jxl", ".psd", ".dng", ".cr2", ".cr3"),
        *(".nef", ".arw", ".orf", ".rw2", ".raf"),
    )
)
_CANDIDATES = frozenset(EXTENSIONS) | FOREIGN_EXTENSIONS | {""}  # no extension: content decides


@dataclass(frozen=True, slots=True)
class Sample:
    """One image file with its class.

    Attributes:
        path: Where to open it.
        name: Path relative to the data root with "/" (undecodable bytes as surrogates).
        label: Index into the classes.
        role: "train", "val" or "test" when the root has folders for them, else None.
    """

    path: Path
    name: str
    label: int
    role: str | None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A file that should be a photograph and cannot be used.

    Attributes:
        name: As in ``Sample``.
        reason: One of ``image.Reason``.
        detail: More about it, safe to print; may be empty.
        label: Index into the classes, or None when it has no class.
        role: The role that its folder or a split gives it; None when it has none.
    """

    name: str
    reason: str
    detail: str
    label: int | None
    role: str | None = None


@dataclass(frozen=True)
class Dataset:
    """What a data folder holds.

    Attributes:
        root: The folder.
        classes: Names, sorted, or in the order that was asked for.
        samples: Sorted by name.
        rejected: Sorted by name.
        notes: What was left out or found odd, one printable line each.
    """

    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    rejected: tuple[Rejected, ...]
    notes: tuple[str, ...]


def scan(
    root: Path,
    *,
    labels: Path | None = None,
    label_columns: tuple[str, str] | None = None,
    follow_links: bool = False,
    allow_empty: bool = False,
    to_learn: bool = True,
) -> Dataset:
    """List the photographs of a data folder with their classes.

    Args:
        root: Holds a folder a class; or train/, val/ (valid/, validation/), test/ with these.
        labels: A CSV file that gives the classes instead; see ``read_labels``.
        label_columns: Its columns of file and class, by name or by position from 1.
        follow_links: Enter linked folders that lie outside the root. Linked files are read always.
        allow_empty: Leave out classes without photographs instead of failing.
        to_learn: Whether a network is to learn from them, so that there must be two classes and
            none may be empty; False when one is only measured.

    Raises:
        DataError: There is no such folder, a part of it cannot be listed, its layout is none of
            the above, or a class is empty or the only one.
    """
    root = Path(root)
    walk = _walk(root, follow_links=follow_links)
    if labels is not None:
        homes = _homes_by_table(walk, labels, label_columns)
    else:
        homes = _homes_by_folder(walk, every_role=not to_learn)
    dataset = _label(walk, homes)
    if to_learn:
        return _check_empty(dataset, allow_empty=allow_empty)
    return _check_any(dataset)


def list_images(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Return the files of a folder that may be images, sorted; the decoder judges them.

    Raises:
        DataError: The folder, or with ``recursive`` one below it, cannot be listed.
    """
    walk = _walk(Path(folder), follow_links=False, recursive=recursive)
    return [walk.root / name for name in sorted([*walk.files, *(bad[0] for bad in walk.bad)])]


def reject(
    dataset: Dataset,
    rejected: Iterable[Rejected],
    *,
    allow_empty: bool = False,
    to_learn: bool = True,
) -> Dataset:
    """Take samples out by name and check the classes again.

    Args:
        dataset: As ``scan`` returned it.
        rejected: What reading the files found.
        allow_empty: Leave out classes that have lost all their photographs.
        to_learn: As for ``scan``.

    Raises:
        DataError: A class has lost all its photographs, or only one class is left.
    """
    rejected = tuple(rejected)
    names = {each.name for each in rejected}
    left = replace(
        dataset,
        samples=tuple(sample for sample in dataset.samples if sample.name not in names),
        rejected=tuple(sorted([*dataset.rejected, *rejected], key=lambda each: each.name)),
    )
    return _check_empty(left, allow_empty=allow_empty) if to_learn else _check_any(left)


def check_output(output: Path, root: Path) -> None:
    """Refuse to write into the data folder.

    Raises:
        UsageError: ``output`` is ``root`` or lies in it.
    """
    if is_inside(output, root):
        where = f"{output} lies in the data folder {root}"
        raise UsageError(printable(f"{where}, which is never written to; choose another folder"))


# ---- the walk


@dataclass
class _Walk:
    """Every file that may be an image, once, and what was passed by.

    ``files`` and all other lists hold names relative to ``root``.
    """

    root: Path
    follow_links: bool
    recursive: bool
    files: list[str] = field(default_factory=list)
    bad: list[tuple[str, Reason, str]] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    repeated_files: list[str] = field(default_factory=list)
    repeated_folders: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    _links: list[str] = field(default_factory=list)
    _entered: set[Path] = field(default_factory=set)  # real paths
    _inodes: dict[int, str] = field(default_factory=dict)

    def enter(self, name: str, real: Path) -> None:
        """List a folder and those below it; links are kept for later."""
        waiting = [(name, real)]
        while waiting:
            name, real = waiting.pop()
            if real in self._entered:
                self.repeated_folders.append(name)
                continue
            self._entered.add(real)
            self.folders.append(name)
            try:
                with os.scandir(self.root / name) as entries:
                    below = [e for e in sorted(entries, key=_by_name) if self._sort_in(e, name)]
            except OSError as error:
                self.unreadable.append(f"{printable(name or str(self.root))} ({error.strerror})")
                continue
            waiting += [(_join(name, e.name), real / e.name) for e in reversed(below)]

    def follow(self) -> None:
        """Judge the links, last, so that what lies in the root itself is counted there."""
        files = []
        for name in self._links:  # which grows: a linked folder may hold links
            try:
                status = (self.root / name).stat()
            except OSError as error:
                if self._is_image(name):
                    lost = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
                    reason = Reason.DANGLING_LINK if lost else Reason.UNREADABLE
                    self.bad.append((name, reason, error.strerror or ""))
                continue
            if stat.S_ISDIR(status.st_mode):
                self._follow_folder(name)
            elif not self._is_image(name):
                continue
            elif stat.S_ISREG(status.st_mode):
                files.append((name, status.st_ino))
            else:
                self.bad.append((name, Reason.NOT_A_REGULAR_FILE, "a link to a device or pipe"))
        self._follow_files(files)

    def notes(self) -> list[str]:
        """What was passed by, a line each."""
        kinds = (
            ("folders ignored", _counted(self.ignored), 12),
            ("files left out that are not images", _counted(self.others), 12),
            ("files reached twice, counted once", self.repeated_files, 3),
            ("links to folders that are read already, not followed", self.repeated_folders, 3),
            ("links to folders outside, read only with --follow-links", self.outside, 3),
        )
        return [f"{what}: {listed(names, shown=shown)}" for what, names, shown in kinds if names]

    def _sort_in(self, entry: os.DirEntry[str], folder: str) -> bool:
        """Put one entry where it belongs; True for a folder to enter."""
        name = _join(folder, entry.name)
        if entry.is_symlink():
            self._links.append(name)
        elif entry.is_dir(follow_symlinks=False):
            return self.recursive and self._wants(name)
        elif not self._is_image(name):
            pass
        elif not entry.is_file(follow_symlinks=False):
            self.bad.append((name, Reason.NOT_A_REGULAR_FILE, "a pipe, socket or device"))
        else:
            self._add(name, entry.inode())
        return False

    def _is_image(self, name: str) -> bool:
        if _is_candidate(name):
            return True
        base = _base(name)
        self.others["hidden" if base.startswith(".") else _extension(base)] += 1
        return False

    def _wants(self, folder: str) -> bool:
        base = _base(folder)
        if base in IGNORED_FOLDERS or base.startswith("."):
            self.ignored[base] += 1
            return False
        if "/" in folder and _extension(base) in EXTENSIONS:
            self.bad.append((folder, Reason.NOT_A_REGULAR_FILE, "a folder"))
            return False
        return True

    def _add(self, name: str, inode: int) -> None:
        first = self._inodes.setdefault(inode, name)
        if first is not name and self._is_hard_link(first, name):
            self.repeated_files.append(name)
        else:
            self.files.append(name)

    def _is_hard_link(self, first: str, name: str) -> bool:
        """Look closer: network file systems give one inode number to several files."""
        try:
            one, other = ((self.root / each).stat() for each in (first, name))
        except OSError:  # gone meanwhile, which its reader will say
            return False
        return one.st_nlink > 1 and _identity(one) == _identity(other)

    def _follow_folder(self, name: str) -> None:
        if not (self.recursive and self._wants(name)):
            return
        real = (self.root / name).resolve()
        if real in self._entered:
            self.repeated_folders.append(name)
        elif self.follow_links or is_inside(real, self.root):
            self.enter(name, real)
        else:
            self.outside.append(name)

    def _follow_files(self, links: list[tuple[str, int]]) -> None:
        targets: set[Path] = set()
        for name, inode in sorted(links):
            real = (self.root / name).resolve()
            if real in targets or (real.parent in self._entered and _is_candidate(real.name)):
                self.repeated_files.append(name)
            else:
                targets.add(real)
                self._add(name, inode)


def _walk(root: Path, *, follow_links: bool, recursive: bool = True) -> _Walk:
    try:
        mode = root.stat().st_mode
    except OSError as error:
        raise _no_layout(root, error.strerror or str(error)) from error
    if not stat.S_ISDIR(mode):
        raise _no_layout(root, "it is not a folder")
    walk = _Walk(root, follow_links, recursive)
    walk.enter("", root.resolve())
    walk.follow()
    if walk.unreadable:
        raise DataError(f"cannot list {', '.join(walk.unreadable)}; allow reading or move it away")
    return walk


def _no_layout(root: Path, why: str) -> DataError:
    """The one message of several lines: it draws what is expected."""
    return DataError(printable(f"no classes in {root}: {why}; expected is") + LAYOUT)


def _by_name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _extension(base: str) -> str:
    return base[base.rindex(".") :].lower() if "." in base[1:] else ""


def _is_candidate(name: str) -> bool:
    base = _base(name)
    return not base.startswith(".") and _extension(base) in _CANDIDATES


def _counted(counts: Counter[str]) -> list[str]:
    return [f"{count} {name}" for name, count in sorted(counts.items())]


# ---- classes and roles


@dataclass(frozen=True)
class _Homes:
    """Where files belong: by a table of names, or by the folders they lie in."""

    classes: Collection[str]
    notes: Sequence[str] = ()
    table: Mapping[str, str] | None = None  # name -> class
    roles: Mapping[str, str] | None = None  # folder -> role

    def of(self, name: str) -> tuple[str, str | None] | None:
        """The class and role of a file, or None when it has no class."""
        if self.table is not None:
            return (self.table[name], None) if name in self.table else None
        parts = name.split("/", 2)
        if self.roles is None:
            return (parts[0], None) if len(parts) > 1 else None
        role = self.roles.get(parts[0])
        return (parts[1], role) if role is not None and len(parts) > 2 else None


def _homes_by_folder(walk: _Walk, *, every_role: bool) -> _Homes:
    """Take the folders in the root for classes, or for roles where they are named so."""
    top = [name for name in walk.folders if name and "/" not in name]
    if not top:
        loose = counted(len(walk.files), "file") if walk.files else "nothing"
        raise _no_layout(walk.root, f"no folder a class, {loose} directly in it")
    roles = {name: ROLE_WORDS[name.lower()] for name in top if name.lower() in ROLE_WORDS}
    others = sorted(set(top) - set(roles))
    if "train" not in roles.values() or len(set(roles.values())) < 2:
        return _Homes(top)
    classes: dict[str, set[str]] = {role: set() for role in roles.values()}
    for folder, below in (name.split("/") for name in walk.folders if name.count("/") == 1):
        if folder in roles:
            classes[roles[folder]].add(below)
    if not classes["train"]:
        if others:  # photographs of trains, perhaps, among other things
            return _Homes(top)
        raise _no_layout(walk.root, f"{listed(sorted(roles))} hold no folder a class")
    notes = [f"folders beside train, left out: {listed(others)}"] if others else []
    notes += [f"roles are those of the folders {listed(sorted(roles))}", *_differences(classes)]
    known = set().union(*classes.values()) if every_role else classes["train"]
    return _Homes(known, notes, roles=roles)


def _homes_by_table(walk: _Walk, labels: Path, columns: tuple[str, str] | None) -> _Homes:
    names = {*walk.files, *(bad[0] for bad in walk.bad)}
    table, notes = match_labels(labels, names, root=walk.root, columns=columns)
    return _Homes(set(table.values()), notes, table=table)


def _differences(classes: Mapping[str, set[str]]) -> list[str]:
    """What each role has more or less than train, a line each."""
    notes = []
    for role in (name for name in ("val", "test") if name in classes):
        missing = sorted(classes["train"] - classes[role])
        extra = sorted(classes[role] - classes["train"])
        if missing:
            notes.append(f"classes of train that {role} has not: {listed(missing, shown=12)}")
        if extra:
            notes.append(f"classes of {role} that train has not: {listed(extra, shown=12)}")
    return notes


def _label(walk: _Walk, homes: _Homes) -> Dataset:
    """Give every file its class; files without one are noted, classes without an index too."""
    classes = tuple(sorted(homes.classes))
    index = {name: number for number, name in enumerate(classes)}
    samples, homeless, strange = [], [], Counter[str]()
    for name in sorted(walk.files):
        home = homes.of(name)
        if home is None:
            homeless.append(name)
        elif home[0] not in index:
            strange[home[0]] += 1
        else:
            samples.append(Sample(walk.root / name, name, index[home[0]], home[1]))
    notes = [*walk.notes(), *homes.notes]
    if homeless:
        notes.append(f"images without a class, left out ({len(homeless)}): {listed(homeless)}")
    if strange:
        notes.append(f"images of other classes than train's, left out: {listed(_counted(strange))}")
    rejected = []
    for name, reason, detail in sorted(walk.bad):
        home = homes.of(name)
        label, role = (index.get(home[0]), home[1]) if home else (None, None)
        rejected.append(Rejected(name, reason, detail, label, role))
    return Dataset(walk.root, classes, tuple(samples), tuple(rejected), tuple(notes))


def _check_empty(dataset: Dataset, *, allow_empty: bool) -> Dataset:
    """Every class needs photographs to learn from; leave out those that have none, or fail."""
    learned = {each.label for each in dataset.samples if each.role in (None, "train")}
    empty = [number for number in range(len(dataset.classes)) if number not in learned]
    if empty and not (allow_empty and learned):
        bad = Counter(each.label for each in dataset.rejected)
        names = ", ".join(
            printable(dataset.classes[number]) + (f" ({bad[number]} rejected)" * bool(bad[number]))
            for number in empty
        )
        where = printable(str(dataset.root))
        raise DataError(f"no usable photographs in {where} for {names}; add some or --allow-empty")
    if empty:
        dataset = _without_classes(dataset, empty)
    if len(dataset.classes) < 2:
        only = f"only one class in {dataset.root} ({', '.join(dataset.classes)})"
        raise DataError(printable(f"{only}; it takes two or more, a folder each"))
    return dataset


def _without_classes(dataset: Dataset, empty: Collection[int]) -> Dataset:
    kept = [number for number in range(len(dataset.classes)) if number not in empty]
    new = {old: number for number, old in enumerate(kept)}
    dropped = listed([dataset.classes[number] for number in empty], shown=12)
    return replace(
        dataset,
        classes=tuple(dataset.classes[number] for number in kept),
        samples=tuple(
            replace(each, label=new[each.label]) for each in dataset.samples if each.label in new
        ),
        rejected=tuple(
            each if each.label is None else replace(each, label=new.get(each.label))
            for each in dataset.rejected
        ),
        notes=(*dataset.notes, f"classes without photographs left out: {dropped}"),
    )


def _check_any(dataset: Dataset) -> Dataset:
    """To measure something takes at least one photograph, of whatever class."""
    if not dataset.samples:
        raise DataError(printable(f"no usable photographs in {dataset.root}; check the folder"))
    return dataset
