"""Several trainings of one folder of photographs, and one figure from all: ``run_folds``.

A cross-validation (``folds``), the same training with other seeds (``repeats``), or both. Each
training is a run like any other, in a folder of its own below the run folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from inceptcli import __version__
from inceptcli.config import FREE_TO_CHANGE, IMAGENET, TrainConfig, option_name
from inceptcli.data.machine import process_count
from inceptcli.data.prepare import Photos, write_manifest
from inceptcli.data.split import assign_folds, assign_roles, read_split
from inceptcli.engine.conclude import TrainResult
from inceptcli.engine.device import choose_device
from inceptcli.engine.intervals import Pooled, pool
from inceptcli.engine.plan import PLANNED
from inceptcli.engine.run import choose_folder, prepare_photos, rehearse, run
from inceptcli.engine.signals import StopRequest
from inceptcli.errors import DataError, OutputError, StoppedError, UsageError
from inceptcli.events import Emit, Event, Notice, RolesReady, silent
from inceptcli.files import (
    MAX_CSV_BYTES,
    is_inside,
    printable,
    read_csv,
    read_regular,
    write_json,
)
from inceptcli.runfolder import (
    CONFIG,
    FOLDS,
    METRICS,
    PREDICTIONS,
    SPLIT,
    RunLock,
    beginning,
    claim_run,
    has_state,
    is_finished,
    is_run,
    part_name,
    parts_of,
    read_settings,
    resume_command,
)


@dataclass(frozen=True, slots=True)
class Part:
    """One training of several: its folder's name and the accuracies of its best weights."""

    name: str
    val: float
    test: float | None


@dataclass(frozen=True, slots=True)
class FoldsResult:
    """What several trainings came to.

    Attributes:
        run: The run folder, which holds a folder a part.
        role: What ``pooled`` was measured on: "test", or "val" where there is no test role.
        parts: The finished trainings.
        pooled: Mean and spread of their accuracies, and the accuracy over all their images.
    """

    run: Path
    role: str
    parts: tuple[Part, ...]
    pooled: Pooled

    def to_json(self) -> dict[str, Any]:
        """Plain values, as ``folds.json`` and ``train --folds K --json`` have them."""
        return {
            "format": 1,
            "inceptcli": __version__,
            "run": str(self.run),
            "role": self.role,
            "folds": [
                {"name": part.name, "val_accuracy": part.val, "test_accuracy": part.test}
                for part in self.parts
            ],
            "mean": self.pooled.mean,
            "std": self.pooled.std,
            "accuracy": self.pooled.accuracy,
            "interval": list(self.pooled.interval),
        }


def nothing(result: TrainResult) -> None:
    """Do nothing after a training: the default ``after``."""
    del result


def run_folds(
    config: TrainConfig,
    *,
    sources: Mapping[str, str] | None = None,
    resuming: bool = False,
    after: Callable[[TrainResult], None] = nothing,
    finished: Callable[[Path], bool] = is_finished,
    emit: Emit = silent,
) -> FoldsResult:
    """Train once a fold and repeat, each in a folder of its own, and pool the test figures.

    Args:
        config: The settings, with ``folds``, ``repeats`` or both; ``output`` as for ``run``.
        sources: Where each setting came from.
        resuming: Go on with the run in ``config.output``: finished trainings are left as they
            are, one that was stopped goes on, the others follow.
        after: Called with the result of each training that was finished here.
        finished: Whether the training in a folder is, with all that ``after`` makes.
        emit: Told of everything that happens.

    Raises:
        InceptcliError: One of its kinds, as ``run`` does.
    """
    if process_count() > 1:
        raise UsageError("--folds and --repeats: not under torchrun; run them in one process")
    folder = choose_folder(config)
    parts = _parts(config, folder)
    with (
        claim_run(folder, resume=resuming, overwrite=config.overwrite) as lock,
        StopRequest() as stop,
    ):
        if resuming:
            _refuse_changes(config, folder)
        else:
            _begin(config, lock, parts, sources or {}, stop, emit)
            write_json(folder / CONFIG, _description(config, folder, sources or {}))
        for number, part in enumerate(parts, start=1):
            name = part.output.name if part.output else ""
            if finished(folder / name):
                emit(Notice(f"{name} is finished"))
                continue
            emit(Notice(f"{name}: training {number} of {len(parts)}"))
            part, told = _as_planned(part, parts[0], sources or {})
            with _leaving_nothing(lock, parts) if number == 1 and not resuming else nullcontext():
                done = _train(part, folder / name, told, stop, emit)
            after(done)
            write_json(folder / FOLDS, _pooled(folder, parts[:number]).to_json())
        result = _pooled(folder, parts)
        write_json(folder / FOLDS, result.to_json())  # a kill may have come before the last one
    return result


def _parts(config: TrainConfig, folder: Path) -> list[TrainConfig]:
    """The settings of each training: repeats have other seeds, folds a split of their own."""
    parts = []
    count = (config.repeats or 1) * (config.folds or 1)
    if config.time_seconds is not None and config.time_seconds < count:
        raise UsageError(
            f"--time: {config.time_seconds:g} s for {count} trainings is less than a second for "
            "each; give more"
        )
    for repeat in range(config.repeats or 1):
        for fold in range(config.folds or 1):
            name = part_name(
                repeat + 1 if config.repeats else None, fold + 1 if config.folds else None
            )
            part = replace(
                config,
                seed=config.seed + repeat,
                split=folder / f"{name}.csv" if config.folds else config.split,
                output=folder / name,
                name=None,
                time_seconds=config.time_seconds and config.time_seconds / count,
                folds=None,
                repeats=None,
            )
            parts.append(part)
    return parts


def _as_planned(
    part: TrainConfig, first: TrainConfig, sources: Mapping[str, str]
) -> tuple[TrainConfig, dict[str, str]]:
    """With ``--time`` the epochs and sizes planned for the first training, not others for each."""
    told = dict(sources)
    if first.time_seconds is None or part is first or first.output is None:
        return part, told
    then = TrainConfig.from_json(read_settings(first.output))
    told["time_seconds"] = f"{PLANNED} {first.output.name}"
    for name in ("epochs", "train_sizes"):
        if told.get(name) != "option":
            told[name] = told["time_seconds"]
    part = replace(part, epochs=then.epochs, train_sizes=then.train_sizes, least_steps=0)
    return part, told


def _begin(
    config: TrainConfig,
    lock: RunLock,
    parts: Sequence[TrainConfig],
    sources: Mapping[str, str],
    stop: StopRequest,
    emit: Emit,
) -> None:
    """Divide the photographs, then take the folder: every split is written before any training.

    Raises:
        UsageError: With ``--overwrite`` what the trainings need would be removed.
        OutputError: The folder is no run of several and holds one with a training's name.
    """
    _keep_inputs(config, lock.folder)
    earlier = parts_of(lock.folder)
    if earlier and not (lock.folder / FOLDS).exists():
        raise OutputError(
            printable(f"{earlier[0]} is there already; move it away, or choose another folder")
        )
    divided = []
    if config.folds is not None:
        photos = _photos(config, stop, emit)
        photos.store.close()  # each training opens its own
        for start in range(0, len(parts), config.folds):
            divided += _divided(photos, parts[start : start + config.folds])
    if is_run(lock.folder):  # with --overwrite: it stays where no training can begin
        emit(Notice("trying whether the first training can begin"))
        with TemporaryDirectory() as place:
            first = replace(parts[0], split=config.split)
            if divided:
                first = replace(first, split=Path(place) / SPLIT)
                write_manifest(Path(place) / SPLIT, divided[0][1])
            rehearse(first, sources=sources, stop=stop)
    lock.clear()
    for path in earlier:
        if (path / CONFIG).exists():
            with claim_run(path, resume=False, overwrite=True) as part:
                part.clear()
    write_json(lock.folder / FOLDS, {"format": 1, "folds": []})  # for --resume latest
    for path, photos in divided:
        write_manifest(path, photos)


@contextmanager
def _leaving_nothing(lock: RunLock, parts: Sequence[TrainConfig]) -> Iterator[None]:
    """Remove what was written before the first training where that cannot begin as it was told."""
    try:
        yield
    except UsageError:
        lock.clear()
        for part in parts:
            if part.split is not None and part.split.parent == lock.folder:
                part.split.unlink(missing_ok=True)
        raise


def _keep_inputs(config: TrainConfig, folder: Path) -> None:
    """Refuse files in the folder that the trainings, which follow one another, all read."""
    for name in ("weights", "split", "group_file", "labels"):
        given = getattr(config, name)
        if given is not None and given != IMAGENET and is_inside(Path(given), folder):
            raise UsageError(
                f"{option_name(name)} lies in {printable(str(folder))}, which is to be replaced; "
                "copy it to another place, or choose another folder"
            )


def _photos(config: TrainConfig, stop: StopRequest, emit: Emit) -> Photos:
    """The photographs without roles; a folder that gives roles is refused."""

    def without_roles(event: Event) -> None:
        if not isinstance(event, RolesReady):  # each training says its own
            emit(event)

    device = choose_device(config.device, config.precision)
    photos = prepare_photos(config, device, stop, without_roles, divide=False)
    if set(photos.roles[photos.indices("all")]) != {"test"}:
        raise UsageError(
            f"--folds: {printable(str(config.root))} has a folder a role, so it is divided already;"
            " give a folder of class folders, or leave out --folds"
        )
    return photos


def _divided(photos: Photos, parts: Sequence[TrainConfig]) -> list[tuple[Path, Photos]]:
    """The splits of one repeat: fold k is the test role of part k, the rest is divided.

    Returns:
        Where each split is to be written, and the photographs with its roles.

    Raises:
        DataError: A class has too few groups.
    """
    chosen = photos.indices("all")
    labels, groups = photos.labels[chosen], photos.groups[chosen]
    seed, (train, val, *_) = parts[0].seed, parts[0].ratio
    fold_of = assign_folds(labels, groups, folds=len(parts), seed=seed, classes=photos.classes)
    divided = []
    for fold, part in enumerate(parts):
        rest = fold_of != fold
        roles = photos.roles.copy()  # "test" where there is one
        roles[chosen[rest]] = assign_roles(
            labels[rest],
            groups[rest],
            ratio=(train / (train + val), val / (train + val)),
            seed=seed,
            stratify=part.stratify,
            classes=photos.classes,
        )
        divided.append((part.split or Path(), replace(photos, roles=roles)))
    return divided


def _description(config: TrainConfig, folder: Path, sources: Mapping[str, str]) -> dict[str, Any]:
    return {
        "format": 1,
        "settings": config.to_json(),
        "sources": dict(sources),
        "versions": {"inceptcli": __version__},
        **beginning(folder),
    }


def _refuse_changes(config: TrainConfig, folder: Path) -> None:
    """Raise DataError when the finished trainings and the coming ones would not be alike."""
    stored = read_settings(folder)
    changed = [
        f"{option_name(name)} was {stored.get(name)}, is {value}"
        for name, value in config.to_json().items()
        if name not in FREE_TO_CHANGE and stored.get(name) != value
    ]
    if changed:
        raise DataError(
            f"cannot go on with {printable(str(folder))} with other settings: "
            f"{'; '.join(changed)}; leave them out, or begin a new run"
        )


def _train(
    part: TrainConfig, folder: Path, sources: Mapping[str, str], stop: StopRequest, emit: Emit
) -> TrainResult:
    """One training, from its start or from where it was saved."""
    resuming = has_state(folder)
    if resuming:
        part = replace(part, split=folder / SPLIT)
    here = dict.fromkeys(("split", "output", "seed", "overwrite"), "folds")
    try:
        if stop:  # between two trainings
            raise StoppedError("stopped", stop.signum or 0)
        return run(
            replace(part, overwrite=not resuming),  # what was begun but never saved
            sources=dict(sources) | here,
            resuming=resuming,
            whole=folder.parent,
            emit=emit,
        )
    except StoppedError as error:
        raise StoppedError(
            f"stopped in {folder.name}; go on with: {resume_command(folder.parent)}",
            error.exit_code - 128,
        ) from error


def _pooled(folder: Path, parts: Sequence[TrainConfig]) -> FoldsResult:
    """The figures of finished trainings, read from their folders.

    Raises:
        DataError: A file of one is missing or damaged.
    """
    found, rights, groups, role = [], [], [], "val"
    number: dict[str, int] = {}
    for part in parts:
        place = part.output or folder
        group_of = {row.name: row.group or row.name for row in read_split(place / SPLIT)}
        accuracies = _accuracies(place / METRICS)
        role = "test" if "test" in accuracies else "val"
        found.append(Part(place.name, accuracies["val"], accuracies.get("test")))
        rows = read_csv(place / PREDICTIONS)
        try:
            rights.append(np.array([row["correct"] == "1" for row in rows], dtype=bool))
            names = [group_of[row["path"]] for row in rows]
        except KeyError as error:
            raise _damaged(place, error) from error
        groups.append(np.array([number.setdefault(name, len(number)) for name in names], np.int64))
    return FoldsResult(run=folder, role=role, parts=tuple(found), pooled=pool(rights, groups))


def _accuracies(path: Path) -> dict[str, float]:
    """Role -> accuracy, from a run's ``metrics.json``."""
    try:
        metrics = json.loads(read_regular(path, max_bytes=MAX_CSV_BYTES))
        return {role: float(figures["accuracy"]) for role, figures in metrics.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path.parent, error) from error


def _damaged(folder: Path, error: Exception) -> DataError:
    return DataError(
        printable(f"cannot read the results in {folder}: {error}; delete that folder and resume")
    )
