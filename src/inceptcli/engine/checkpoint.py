"""When and what a training saves: the best weights, the state to go on from, the history."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inceptcli.engine import resume
from inceptcli.engine.device import Device
from inceptcli.engine.guard import check_finite
from inceptcli.engine.resume import Progress, Saved
from inceptcli.engine.signals import StopRequest
from inceptcli.errors import OutputError, StoppedError
from inceptcli.events import Emit, EpochDone, StateSaved, Warned
from inceptcli.files import write_csv
from inceptcli.model.weights import Record, save_weights

BEST, HISTORY = "best_model.pth", "history.csv"


@dataclass
class Keeper:
    """Saves one training. All processes call it; only the first writes.

    A save that fails before the end is a warning: the files of before are whole, and the next
    save tries again.

    Attributes:
        run_dir: The run folder.
        record: What the weights file says of itself, but for the epoch and its figures.
        fingerprints: The weights file's record of the training pictures, or None.
        settings: The training's settings as plain values.
        data: What a resumed training compares its pictures with.
        save_seconds: Between saves inside an epoch.
    """

    run_dir: Path
    record: Record
    fingerprints: bytes | None
    settings: dict[str, Any]
    data: dict[str, Any]
    save_seconds: float
    device: Device
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    progress: Progress
    stop: StopRequest
    emit: Emit
    _saved_at: float = field(default_factory=time.monotonic)
    _best: tuple[dict[str, Tensor], Record] | None = None  # what is not on the disk yet
    _behind: bool = False  # whether the last save failed

    def save_epoch(self, row: EpochDone) -> None:
        """Save after an epoch: first the best weights, then the state, then the history.

        Raises:
            DivergedError: A weight is not finite; nothing was written.
            StoppedError: A signal asked for a stop; everything is saved.
        """
        self._check_finite(f"the end of epoch {row.epoch}")
        if row.best and self.device.is_first:
            weights = {name: part.cpu().clone() for name, part in self.model.state_dict().items()}
            figures = {"val_accuracy": row.val_accuracy, "val_loss": row.val_loss}
            self._best = weights, replace(self.record, epoch=row.epoch, metrics=figures)
        self._save(must=False)
        self.stop_if_asked()

    def save_if_due(self, sums: Tensor, seconds: float) -> None:
        """Save inside an epoch when the time has come or a signal has.

        Args:
            sums: (3,) this process's sums of losses, right answers and images of the epoch.
            seconds: The epoch's time so far.

        Raises:
            DivergedError: A weight is not finite; nothing was written.
            StoppedError: A signal asked for a stop; the state is saved.
        """
        due = time.monotonic() - self._saved_at >= self.save_seconds and self.device.is_first
        if self.device.most(int(due or bool(self.stop))):
            self.progress.note(self.device.sum(sums.clone()), seconds)
            at = f"epoch {self.progress.epoch}, step {self.progress.step}"
            self._check_finite(at)
            self._save(must=bool(self.stop))
            self.stop_if_asked()

    def stop_if_asked(self) -> None:
        """End the training here if a signal asked any process to; the state must be saved.

        Raises:
            StoppedError: It did.
        """
        signum = self.device.most(self.stop.signum or 0)
        if signum:
            self.stop_now(signum)

    def stop_now(self, signum: int) -> None:
        """Save where ``progress`` stands and end the training.

        Raises:
            StoppedError: Always, unless the save fails.
            OutputError: The state could not be saved.
        """
        self._save(must=True)
        raise StoppedError(
            f"stopped at epoch {self.progress.epoch}, step {self.progress.step}; go on with: "
            f"inceptcli train --resume {self.run_dir}",
            signum,
        )

    def finish(self) -> None:
        """Write what an earlier save could not.

        Raises:
            OutputError: It still cannot be written.
        """
        if self._behind:
            self._save(must=True)

    def _save(self, *, must: bool) -> None:
        if not self.device.is_first:
            return
        try:
            self._write()
        except OutputError as error:
            self._behind = True
            if must:
                raise
            self.emit(Warned(f"not saved, training goes on and tries again: {error}"))
        else:
            self._behind = False
            self.emit(StateSaved(self.progress.epoch, self.progress.step))
        self._saved_at = time.monotonic()

    def _write(self) -> None:
        if self._best is not None:
            weights, record = self._best
            save_weights(self.run_dir / BEST, weights, record, fingerprints=self.fingerprints)
            self._best = None
        saved = Saved(
            progress=self.progress,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            settings=self.settings,
            surroundings=resume.surroundings(str(self.device.torch_device)),
            data=self.data,
        )
        resume.save(self.run_dir, saved)
        write_history(self.run_dir / HISTORY, self.progress.history)

    def _check_finite(self, when: str) -> None:
        check_finite(self.model.state_dict(), what="weights", when=when)
        check_finite(self.optimizer.state_dict(), what="optimizer state", when=when)


def write_history(path: Path, history: list[EpochDone]) -> None:
    """Write ``history.csv``: one row an epoch, figures in full precision, best as 0 or 1.

    Raises:
        OutputError: It could not be written.
    """
    rows = [asdict(row) | {"best": int(row.best)} for row in history]
    header = [*EpochDone.__dataclass_fields__]
    write_csv(path, header, [[row[name] for name in header] for row in rows])
