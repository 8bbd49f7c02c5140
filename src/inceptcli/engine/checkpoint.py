"""When and what a training saves: the best weights, the state to go on from, the history.

All processes call these functions; only the first writes. A save that fails before the end is a
warning: the files of before are whole, and the next save tries again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

from torch import Tensor

from inceptcli.engine import resume
from inceptcli.engine.guard import check_finite
from inceptcli.engine.resume import Saved, as_tensor
from inceptcli.engine.training import Training
from inceptcli.errors import OutputError, StoppedError
from inceptcli.events import EpochDone, StateSaved, Warned
from inceptcli.files import write_csv
from inceptcli.model.weights import save_weights
from inceptcli.runfolder import BEST, HISTORY


def save_epoch(training: Training, row: EpochDone) -> None:
    """Save after an epoch: first the best weights, then the state, then the history.

    Raises:
        DivergedError: A weight is not finite; nothing was written.
        StoppedError: A signal asked for a stop; everything is saved.
    """
    t = training
    _check_finite(t, f"the end of epoch {row.epoch}")
    if row.best and t.device.is_first:
        weights = {
            name: part.cpu().clone() for name, part in t.average.network.state_dict().items()
        }
        figures = {"val_accuracy": row.val_accuracy, "val_loss": row.val_loss}
        t.saving.best = weights, replace(t.record, epoch=row.epoch, metrics=figures)
    started = time.monotonic()
    _save(t, must=False)
    t.saving.seconds += time.monotonic() - started
    stop_if_asked(t)


def save_if_due(training: Training, sums: Tensor, seconds: float) -> None:
    """Save inside an epoch when the time has come or a signal has.

    Args:
        training: The training.
        sums: (3,) this process's sums of losses, right answers and images of the epoch.
        seconds: The epoch's time so far.

    Raises:
        DivergedError: A weight is not finite; nothing was written.
        StoppedError: A signal asked for a stop; the state is saved.
    """
    t = training
    due = time.monotonic() - t.saving.at >= 60 * t.config.save_minutes
    if t.device.most(int(due or bool(t.stop))):
        t.progress.note(t.device.sum(sums.clone()), seconds)
        _check_finite(t, f"epoch {t.progress.epoch}, step {t.progress.step}")
        _save(t, must=False)
        stop_if_asked(t)


def stop_if_asked(training: Training) -> None:
    """End the training here if a signal asked any process to; its state must be saved.

    Raises:
        StoppedError: It did.
        OutputError: It did, and the state could not be saved.
    """
    signum = training.device.most(training.stop.signum or 0)
    if signum:
        finish(training)
        raise StoppedError(
            f"stopped at epoch {training.progress.epoch}, step {training.progress.step}; go on "
            f"with: {training.resume_command}",
            signum,
        )


def save_now(training: Training) -> None:
    """Save where the training stands, with its settings of now.

    Raises:
        OutputError: It could not be written.
    """
    _save(training, must=True)


def finish(training: Training) -> None:
    """Write what an earlier save could not.

    Raises:
        OutputError: It still cannot be written.
    """
    if training.saving.behind:
        _save(training, must=True)


def _save(t: Training, *, must: bool) -> None:
    if t.device.is_first:
        try:
            _write(t)
        except OutputError as error:
            t.saving.behind = True
            if must:
                raise
            t.emit(Warned(f"not saved; training goes on and tries again: {error}"))
        else:
            t.saving.behind = False
            t.emit(StateSaved(t.progress.epoch, t.progress.step))
    t.saving.at = time.monotonic()


def _write(t: Training) -> None:
    if t.saving.best is not None:
        weights, record = t.saving.best
        save_weights(t.run_dir / BEST, weights, record, fingerprints=t.fingerprints)
        t.saving.best = None
    saved = Saved(
        progress=t.progress,
        model=t.model.state_dict(),
        optimizer=t.optimizer.state_dict(),
        scaler=t.scaler.state_dict(),
        settings=t.config.to_json(),
        surroundings=resume.surroundings(t.device),
        photos=t.described,
        average=t.average.state_dict(),
        taken=sorted(t.taken),
        taught=as_tensor(t.taught),
    )
    resume.save(t.run_dir, saved, over=t.saving.damaged)
    t.saving.damaged = False
    write_history(t.run_dir / HISTORY, t.progress.history)


def _check_finite(t: Training, when: str) -> None:
    check_finite(t.model.state_dict(), what="weights", when=when)
    check_finite(t.average.state_dict(), what="averaged weights", when=when)
    check_finite(t.optimizer.state_dict(), what="optimizer state", when=when)


def write_history(path: Path, history: Sequence[EpochDone]) -> None:
    """Write ``history.csv``: one row an epoch, figures in full precision, best as 0 or 1.

    Raises:
        OutputError: It could not be written.
    """
    header = [item.name for item in fields(EpochDone)]
    rows = [asdict(row) | {"best": int(row.best)} for row in history]
    write_csv(path, header, [[row[name] for name in header] for row in rows])
