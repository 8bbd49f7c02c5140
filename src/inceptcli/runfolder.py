"""The run folder: claimed by one process at a time, and found again.

The lock is the system's own lock on the file ``.lock``: no two processes can hold it however
close they start, and it ends with its owner however that dies. What the file says (process,
machine, time) is for the message, and for file systems shared by machines or without locks.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import socket
import stat
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from inceptcli.errors import DataError, OutputError, UsageError, WeightsError
from inceptcli.files import (
    NOFOLLOW,
    NONBLOCK,
    cannot_write,
    is_alive,
    is_temporary,
    printable,
    read_regular,
    sweep,
    sync_folder,
)

if TYPE_CHECKING:
    from types import TracebackType

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".lock"
RUNS = "runs"  # where runs lie whose folder was not named
LAST, PREVIOUS, BEST = "last.pth", "last.prev.pth", "best_model.pth"
STATES = (LAST, PREVIOUS)  # the newest first
CONFIG, SPLIT, REJECTED, HISTORY = "config.json", "split.csv", "rejected.csv", "history.csv"
METRICS, PREDICTIONS = "metrics.json", "predictions.csv"
CURVES, CONFUSION, RELIABILITY = "curves.png", "confusion.png", "reliability.png"
SAMPLES, REPORT = "samples.png", "report.html"
FIND_LR = "find_lr.png"  # drawn before a training, perhaps into its folder
FOLDS = "folds.json"  # of a run of several trainings
TENSORBOARD = "tensorboard"  # a folder of event files
FAILED = "failed.json"  # why a training ended; gone as soon as it goes on
ENDINGS = (METRICS, PREDICTIONS, CURVES, CONFUSION, RELIABILITY, SAMPLES, REPORT, FAILED)
EVENT_FILES = "events.out.tfevents.*"
RUN_FILES = (  # what can be gone on with goes first, so that half a removal cannot be resumed
    *(*STATES, BEST, SPLIT, REJECTED, HISTORY, METRICS, PREDICTIONS),
    *(CURVES, CONFUSION, RELIABILITY, SAMPLES, REPORT, FOLDS, FAILED),
    CONFIG,  # by which the rest is known for a run's
)
_PART = re.compile(r"repeat\d+(-fold\d+)?|fold\d+")
_MAX_CONFIG_BYTES = 1 << 20
_ATTEMPTS = 50  # at a lock that is changing hands
_PAUSE_SECONDS = 0.01  # between two of them


@dataclass(frozen=True, slots=True)
class _Owner:
    """What a lock file says about the process that holds it, or held it when it died."""

    pid: int
    host: str
    since: str  # for the reader of the message

    def is_elsewhere(self) -> bool:
        return self.host != socket.gethostname()

    def may_live(self) -> bool:
        return self.is_elsewhere() or is_alive(self.pid)


@dataclass
class RunLock:
    """A claimed run folder; leaving the ``with`` block gives it back.

    Folders that the claim made and that are still empty then are removed.
    """

    folder: Path
    _descriptor: int  # -1 once it is given back
    _made: list[Path] = field(default_factory=list)  # innermost first

    def clear(self) -> None:
        """Remove an earlier run's files: call it when the new run is about to write its first.

        Raises:
            OutputError: One of them could not be removed, or they are not a run's.
        """
        theirs = [name for name in RUN_FILES if (self.folder / name).exists()]
        if theirs and not is_run(self.folder):
            raise OutputError(
                f"{printable(str(self.folder))} holds no run, so its {theirs[0]} is not replaced; "
                "choose another folder"
            )
        events = (self.folder / TENSORBOARD).glob(EVENT_FILES)
        for path in (*(self.folder / name for name in RUN_FILES), *events):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise cannot_write(path, error) from error

    def release(self) -> None:
        """Give the folder back; a second time does nothing."""
        if self._descriptor < 0:
            return
        with suppress(OSError):  # Windows keeps an open file: there the name stays, unlocked
            (self.folder / LOCK).unlink()  # before it is unlocked, else it could be another's
        os.close(self._descriptor)
        self._descriptor = -1
        with suppress(OSError):  # not empty: the run has begun
            for folder in self._made:
                folder.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def claim_run(folder: Path, *, resume: bool, overwrite: bool) -> RunLock:
    """Make the run folder, or take one that no living process uses, and lock it.

    Nothing of an earlier run is removed: with ``overwrite`` see ``RunLock.clear``.

    Args:
        folder: The run folder; missing parents are made too.
        resume: Go on with the run in it.
        overwrite: Replace the run in it.

    Raises:
        UsageError: There is no such folder to resume.
        OutputError: It is in use, or holds files and neither flag is given, or cannot be made.
    """
    if resume and not folder.is_dir():
        raise UsageError(printable(f"cannot resume {folder}: there is no such run folder"))
    try:
        if not (resume or overwrite or (folder / LOCK).exists()):
            _refuse_files(folder)  # while nothing is written yet
        lock = _lock(folder)
        try:
            _sign(lock._descriptor)
            if not (resume or overwrite):
                _refuse_files(folder)
            sweep(folder)
        except BaseException:
            lock.release()
            raise
    except OSError as error:
        raise cannot_write(folder, error) from error
    return lock


def find_weights(given: Sequence[Path]) -> list[Path]:
    """Weights files for what ``-m`` names, see ``expand_models``, or of the run trained last.

    Raises:
        WeightsError: None was given and ``runs/`` holds none; no training of a run is finished.
    """
    if given:
        return expand_models(given)
    runs = Path(RUNS)  # by their last epoch: a threshold is stored into BEST much later
    for run in (*latest_runs(runs, HISTORY, FOLDS), *latest_runs(runs, BEST)):
        if (run / BEST).exists() or _trained_parts(run):
            return expand_models([run])
    raise WeightsError("no weights: runs/ holds no trained network; train one or give -m FILE")


def latest_runs(runs: Path, *having: str) -> list[Path]:
    """The folders in ``runs`` with one of the files ``having``, that written last before others.

    Raises:
        OutputError: ``runs`` cannot be listed.
    """
    try:
        folders = list(runs.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise OutputError(printable(f"cannot list {runs}: {error.strerror}")) from error
    written: dict[Path, int] = {}
    for folder, name in product(folders, having):
        with suppress(OSError):  # without that file, or gone by now
            facts = (folder / name).stat()
            if stat.S_ISREG(facts.st_mode):
                written[folder] = max(facts.st_mtime_ns, written.get(folder, 0))
    return sorted(written, key=lambda folder: (written[folder], folder.name), reverse=True)


def resume_command(folder: Path) -> str:
    """The command that goes on with a run, as a shell takes it."""
    text = str(folder)
    if sys.platform == "win32":
        return "inceptcli train --resume " + (f'"{text}"' if " " in text else text)
    return f"inceptcli train --resume {shlex.quote(text)}"


def is_run(folder: Path) -> bool:
    """Whether a folder's ``config.json`` is a run's."""
    with suppress(DataError):
        return bool(read_settings(folder))
    return False


def check_target(path: Path, endings: Sequence[str], inputs: Sequence[Path | None] = ()) -> None:
    """Refuse to replace what is not an earlier file of the same kind.

    Args:
        path: What is to be written.
        endings: How the name of such a file ends.
        inputs: Files that the command reads; none of them is given up.

    Raises:
        UsageError: It is an input, a part of a run, or a file that is there and ends otherwise.
    """
    shown = printable(str(path))
    if path.name in RUN_FILES and is_run(path.parent):
        raise UsageError(f"{shown} is a part of a run; write to another file")
    if not path.exists():
        return
    if any(given is not None and given.exists() and path.samefile(given) for given in inputs):
        raise UsageError(f"{shown} is read by this command; write to another file")
    if path.suffix.lower() not in endings:
        raise UsageError(
            f"{shown} is there already and its name does not end in {endings[0]}; "
            "write to another file"
        )


def is_finished(folder: Path) -> bool:
    """Whether a training has written all its results."""
    return all((folder / name).exists() for name in (METRICS, PREDICTIONS))


def is_complete(folder: Path) -> bool:
    """Whether nothing is to be done for a training: the report is the last that is written.

    Without a state there is nothing from which a missing report could be made.
    """
    return is_finished(folder) and ((folder / REPORT).exists() or not has_state(folder))


def has_state(folder: Path) -> bool:
    """Whether there is something to resume from; a kill inside a save leaves the one before."""
    return any((folder / name).exists() for name in STATES)


def part_name(repeat: int | None, fold: int | None) -> str:
    """The folder of one training of several, counted from 1."""
    counted = (("repeat", repeat), ("fold", fold))
    return "-".join(f"{word}{number}" for word, number in counted if number is not None)


def parts_of(folder: Path) -> list[Path]:
    """The trainings in the folder of a run of several, sorted by name."""
    return sorted(path for path in folder.iterdir() if _PART.fullmatch(path.name))


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings that a run was started with, as ``config.json`` in its folder says.

    Raises:
        DataError: There is no such file in it, or it is damaged.
    """
    settings: dict[str, Any] = read_description(folder)["settings"]
    return settings


def read_description(folder: Path) -> dict[str, Any]:
    """What ``config.json`` in a run folder says; ``settings`` is sure to be a mapping.

    Raises:
        DataError: There is no such file in it, or it is damaged.
    """
    path = folder / CONFIG
    try:
        description = json.loads(read_regular(path, max_bytes=_MAX_CONFIG_BYTES))
        if isinstance(description["settings"], dict):
            return dict(description)
    except FileNotFoundError as error:
        raise DataError(
            printable(f"{folder} is no run folder: it holds no {CONFIG}; give one that does")
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(printable(f"cannot read {path}: {error}; give another run")) from error
    raise DataError(printable(f"{path} holds no settings; give another run"))


def beginning(folder: Path) -> dict[str, Any]:
    """``started`` (local time, ISO 8601) and ``command`` of a run: now's, unless it goes on."""
    now = {"started": datetime.now().isoformat(timespec="seconds"), "command": sys.argv}
    with suppress(DataError):
        then = read_description(folder)
        return {name: then.get(name, value) for name, value in now.items()}
    return now


def is_in_use(folder: Path) -> bool:
    """Whether a process holds the run folder, or one on another machine has signed for it.

    Asking never makes the lock file, and takes the lock for less than a claim waits for it.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | NOFOLLOW | NONBLOCK)
    except OSError:
        return False
    try:
        locked = _try_lock(descriptor)
        owner = _read_owner(descriptor)
        if locked:
            return owner is not None and owner.is_elsewhere()
        return locked is False or (owner is not None and owner.may_live())
    finally:
        os.close(descriptor)


def _refuse_files(folder: Path) -> None:
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.name not in (LOCK, FIND_LR) and not is_temporary(path.name):
                raise OutputError(
                    printable(
                        f"{folder} is not empty; go on with its run by --resume, "
                        "replace it by --overwrite, or choose another folder"
                    )
                )


def _lock(folder: Path) -> RunLock:
    """Hold the folder's lock; a lock whose owner is dead, or has not signed yet, is tried again."""
    owner, lacking = None, None
    for attempt in range(_ATTEMPTS):
        time.sleep(_PAUSE_SECONDS if attempt else 0)
        try:
            made = _make(folder)
            flags = os.O_RDWR | os.O_CREAT | NOFOLLOW | NONBLOCK
            descriptor = os.open(folder / LOCK, flags, 0o666)
        except FileNotFoundError as error:
            lacking = error  # its last owner has just removed the folder; or it cannot be made
            continue
        lacking = None
        try:
            locked = _try_lock(descriptor)
            owner = _read_owner(descriptor)
            if owner and (owner.is_elsewhere() if locked else owner.may_live()):
                raise _in_use(folder, owner, stale=locked is not False)
            if locked is not False and _is_at(folder / LOCK, descriptor):
                return RunLock(folder, descriptor, made)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    if lacking is not None:
        why = lacking.strerror or "it is removed as soon as it is made"
        raise OutputError(printable(f"cannot make {folder}: {why}; choose another folder"))
    raise _in_use(folder, owner, stale=False)


def _make(folder: Path) -> list[Path]:
    """Make a folder and its missing parents; those made, innermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        sync_folder(each.parent)
    return missing


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the lock still has its name: an owner that left has removed it with the name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    owner = _Owner(os.getpid(), socket.gethostname(), since)
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, json.dumps(asdict(owner)).encode())


def _read_owner(descriptor: int) -> _Owner | None:
    """Who signed last, or None: not signed yet, or not by this program."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        value = json.loads(os.read(descriptor, 1000))
        return _Owner(int(value["pid"]), str(value["host"]), str(value["since"]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def _in_use(folder: Path, owner: _Owner | None, *, stale: bool) -> OutputError:
    who = "another process"
    if owner:
        where = f" on {owner.host}" if owner.is_elsewhere() else ""
        who = f"process {owner.pid}{where} since {owner.since}"
    advice = f"if that is no more, delete {folder / LOCK}" if stale else "wait for its end"
    return OutputError(printable(f"{folder} is in use by {who}; {advice} or choose another folder"))


if sys.platform == "win32":

    def _try_lock(descriptor: int) -> bool | None:
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # past the text: a locked byte is unreadable
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

else:

    def _try_lock(descriptor: int) -> bool | None:
        """Whether this process now holds the lock; None where the file system has no locks."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP):
                return None
            raise
        return True


def expand_models(given: Sequence[Path]) -> list[Path]:
    """Weights files for what ``-m`` names: files, run folders, and runs of several trainings.

    Of the latter all finished trainings are taken.

    Raises:
        WeightsError: No training of such a run is finished.
    """
    paths = []
    for path in given:
        if (path / FOLDS).exists():
            parts = _trained_parts(path)
            if not parts:
                raise WeightsError(
                    f"no training in {printable(str(path))} is finished; wait, give another -m, "
                    f"or go on with: {printable(resume_command(path))}"
                )
            paths += parts
        else:
            paths.append(path / BEST if (path / BEST).exists() else path)
    return paths


def _trained_parts(folder: Path) -> list[Path]:
    """The weights of the finished trainings in a run of several."""
    return [each / BEST for each in parts_of(folder) if (each / METRICS).exists()]
