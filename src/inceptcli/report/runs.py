"""The runs under a folder, from what they have written. Imports no torch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from inceptcli.errors import DataError, DivergedError, OutputError
from inceptcli.events import EpochDone
from inceptcli.files import printable, read_csv, read_regular
from inceptcli.runfolder import (
    BEST,
    CONFIG,
    FAILED,
    FOLDS,
    HISTORY,
    METRICS,
    has_state,
    is_in_use,
    parts_of,
    read_description,
    read_settings,
)

State = Literal["finished", "running", "stopped", "diverged", "failed"]
_MAX_JSON_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class Share:
    """An accuracy, 0 to 1, with its 95 % interval where one is known."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run folder.

    Attributes:
        name: Its path below the folder of runs, with "/".
        when: When it was begun, local time, ISO 8601.
        data: The folder of photographs.
        recipe: The recipe's name.
        epochs: Epochs done; of a run of several trainings in all of them, as ``seconds``.
        epochs_wanted: Epochs asked for, or planned for ``--time``.
        best_epoch: The best so far, or None.
        val: Accuracy on val of the best epoch.
        test: Accuracy on test, of a finished run with that role; of a run of several trainings
            the accuracy over all their test images.
        seconds: Sum over the epochs.
        state: "finished"; "running" while a process holds it; "diverged" when its numbers were no
            longer finite; "failed" when an error ended it, or before its first save; "stopped"
            when a signal or a kill did, and it can be resumed.
        problem: The error that ended it, or what is damaged in its history; "" as a rule.
    """

    name: str
    when: str
    data: str
    recipe: str
    epochs: int
    epochs_wanted: int
    best_epoch: int | None
    val: Share | None
    test: Share | None
    seconds: float
    state: State
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def list_runs(folder: Path) -> list[Run]:
    """The runs in a folder, the oldest first; what is no run folder is passed over.

    Raises:
        OutputError: The folder cannot be listed.
    """
    found = [run for path in _folders(folder) for run in _with_parts(folder, path)]
    return sorted(found, key=lambda run: (run.when, run.name))


def read_run(path: Path, *, name: str = "") -> Run:
    """What a run folder says of itself.

    Raises:
        DataError: It is no run folder, or its settings are damaged.
    """
    description = read_description(path)
    settings = description["settings"]
    history, damage = _read_history(path)
    failure = _read_json(path / FAILED)
    best = [row for row in history if row.best][-1:]
    metrics = _read_json(path / METRICS)
    val, test = _share(metrics, "val"), _share(metrics, "test")
    if val is None and best:
        val = Share(best[0].val_accuracy, None)
    folds = _read_json(path / FOLDS)
    if "accuracy" in folds:
        low, high = folds["interval"]
        pooled = Share(folds["accuracy"], (low, high))
        val, test = (val, pooled) if folds["role"] == "test" else (pooled, None)
    parts = [part for part in parts_of(path) if _is_run(part)] if folds else []
    rows = [*history, *(row for part in parts for row in read_history(part))]
    return Run(
        name=name or path.name,
        when=_when(path, description),
        data=str(settings.get("root", "")),
        recipe=str(settings.get("recipe", "")),
        epochs=len(rows),
        epochs_wanted=_epochs_wanted([settings, *map(_settings, parts)]) * _trainings(settings),
        best_epoch=best[0].epoch if best else None,
        val=val,
        test=test,
        seconds=math.fsum(row.seconds for row in rows),
        state=_state(path, settings, folds, failure),
        problem=str(failure.get("error", "")) or damage,
    )


def read_finished(path: Path) -> dict[str, Any]:
    """What ``train --json`` printed at the end of a run, from its folder.

    Raises:
        DataError: It is no run folder, or its settings are damaged.
    """
    run, metrics = read_run(path), _read_json(path / METRICS)
    return {
        "run": str(path),
        "weights": str(path / BEST),
        "epochs": run.epochs,
        "best_epoch": run.best_epoch,
        "seconds": run.seconds,
        "val": metrics.get("val"),
        "test": metrics.get("test"),
        "history": [asdict(row) for row in read_history(path)],
    }


def read_history(path: Path) -> tuple[EpochDone, ...]:
    """The rows of a run's ``history.csv`` up to where it is damaged; none where there is none."""
    return _read_history(path)[0]


def _read_history(path: Path) -> tuple[tuple[EpochDone, ...], str]:
    """The rows, one an epoch, and what is damaged."""
    if not (path / HISTORY).exists():
        return (), ""
    rows: dict[int, EpochDone] = {}
    damage = ""
    try:
        table = read_csv(path / HISTORY)
        damage = f"{HISTORY}: {table.damage}" if table.damage else ""
        for row in table:
            numbers = {name: float(text or "nan") for name, text in row.items()}
            epoch, best = int(numbers.pop("epoch")), bool(numbers.pop("best"))
            if epoch in rows:
                damage = f"{HISTORY} has epoch {epoch} twice"
            rows[epoch] = EpochDone(epoch=epoch, best=best, **numbers)
    except (DataError, ValueError, TypeError, KeyError) as error:
        damage = f"{HISTORY}: {error}"
    return tuple(rows.values()), damage


@dataclass(frozen=True, slots=True)
class RunPair:
    """Two runs side by side.

    Attributes:
        runs: What each says of itself.
        histories: The epochs of each.
        differ: The settings in which they differ: name, the one's value, the other's.
    """

    runs: tuple[Run, Run]
    histories: tuple[tuple[EpochDone, ...], tuple[EpochDone, ...]]
    differ: tuple[tuple[str, str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "runs": [
                run.to_json() | {"history": [asdict(row) for row in history]}
                for run, history in zip(self.runs, self.histories, strict=True)
            ],
            "settings": {name: [one, other] for name, one, other in self.differ},
        }


def compare_runs(one: Path, other: Path) -> RunPair:
    """Two runs side by side.

    Raises:
        DataError: One of them is no run folder, or one of several trainings.
    """
    ours, theirs = (read_description(path)["settings"] for path in (one, other))
    for path in (one, other):
        if (path / FOLDS).is_file():
            raise DataError(
                f"{printable(str(path))} has several trainings; compare one of those in it"
            )
    names = [*ours, *(name for name in theirs if name not in ours)]
    own = {"output", "name", "overwrite", "split"}  # say which run it is
    return RunPair(
        runs=(read_run(one, name=str(one)), read_run(other, name=str(other))),
        histories=(read_history(one), read_history(other)),
        differ=tuple(
            (name, _plain(ours.get(name)), _plain(theirs.get(name)))
            for name in names
            if name not in own and ours.get(name) != theirs.get(name)
        ),
    )


def find_run(runs: Path, name: str) -> Path:
    """The folder of a run that is named by its path or by its name below ``runs``.

    Raises:
        DataError: There is none.
    """
    for path in (Path(name), runs / name):
        if _is_run(path):
            return path
    raise DataError(f"no run {printable(name)}, here or in {printable(str(runs))}")


def _folders(folder: Path) -> Sequence[Path]:
    try:
        return sorted(path for path in folder.iterdir() if _is_run(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise OutputError(printable(f"cannot list {folder}: {error.strerror}")) from error


def _is_run(path: Path) -> bool:
    return os.path.isfile(path / CONFIG)  # noqa: PTH113 - Path.is_file raises where forbidden


def _with_parts(runs: Path, path: Path) -> Iterator[Run]:
    """A run, and the trainings that it is made of."""
    parts = _folders(path) if (path / FOLDS).is_file() else []
    for each in (path, *parts):
        with suppress(DataError, ValueError, TypeError, KeyError, OutputError):
            yield read_run(each, name=each.relative_to(runs).as_posix())


def _state(
    path: Path,
    settings: Mapping[str, Any],
    folds: Mapping[str, Any],
    failure: Mapping[str, Any],
) -> State:
    if is_in_use(path):
        return "running"
    if failure:
        diverged = failure.get("exit_code") == DivergedError.exit_code
        return "diverged" if diverged else "failed"
    if folds:
        return "finished" if len(folds["folds"]) == _trainings(settings) else "stopped"
    if (path / METRICS).is_file():
        return "finished"
    return "stopped" if has_state(path) else "failed"


def _settings(path: Path) -> Mapping[str, Any]:
    with suppress(DataError):
        return read_settings(path)
    return {}


def _epochs_wanted(settings: Sequence[Mapping[str, Any]]) -> int:
    """Of one training, as the last one that says so was begun; ``--time`` may have planned it."""
    said = [int(each["epochs"]) for each in settings if "epochs" in each]
    return said[-1] if said else 0


def _trainings(settings: Mapping[str, Any]) -> int:
    return int(settings.get("folds") or 1) * int(settings.get("repeats") or 1)


def _when(path: Path, description: Mapping[str, Any]) -> str:
    started = description.get("started")
    if isinstance(started, str):
        return started
    modified = (path / CONFIG).stat().st_mtime  # a run of an earlier version
    return datetime.fromtimestamp(modified).isoformat(timespec="seconds")


def _share(metrics: Mapping[str, Any], role: str) -> Share | None:
    figures = metrics.get(role)
    if not isinstance(figures, dict):
        return None
    try:
        interval = figures["intervals"].get("accuracy")
        bounds = (float(interval[0]), float(interval[1])) if interval else None
        return Share(float(figures["accuracy"]), bounds)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return None  # damaged


def _read_json(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        value = json.loads(read_regular(path, max_bytes=_MAX_JSON_BYTES))
        if isinstance(value, dict):
            return value
    return {}


def _plain(value: object) -> str:
    if value is None:
        return "-"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
