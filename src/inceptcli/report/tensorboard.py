"""Event files for TensorBoard, written as a training goes. Needs the ``tensorboard`` extra."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import Self

from inceptcli.errors import UsageError
from inceptcli.events import Emit, EpochDone, Event, TrainingStarted, Warned
from inceptcli.report.runs import read_history
from inceptcli.runfolder import EVENT_FILES, TENSORBOARD

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError as error:
    raise UsageError(
        "--tensorboard needs the tensorboard package: pip install 'inceptcli[tensorboard]'"
    ) from error

TAGS = {
    "accuracy/train": "train_accuracy",
    "accuracy/val": "val_accuracy",
    "loss/train": "train_loss",
    "loss/val": "val_loss",
    "learning_rate": "learning_rate",
    "time/seconds": "seconds",
    "time/wait_seconds": "wait_seconds",
}


class EventFiles:
    """Writes the epochs of each training into its run folder, and hands every event on.

    What cannot be written is a warning: no training ends for its event files. When a training goes
    on, the epochs so far are written anew from its history: a kill may have come between the two,
    or they were not asked for before.

    Args:
        emit: Told of every event.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._writer: SummaryWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._end()

    def __call__(self, event: Event) -> None:
        """Hand an event on, then write what of it TensorBoard can show."""
        self._emit(event)
        try:
            if isinstance(event, TrainingStarted):
                self._begin(Path(event.run))
            elif isinstance(event, EpochDone) and self._writer is not None:
                self._write(self._writer, event)
        except OSError as error:
            self._writer = None
            self._emit(Warned(f"no more event files for TensorBoard: {error}"))

    def _begin(self, run: Path) -> None:
        self._end()
        for path in (run / TENSORBOARD).glob(EVENT_FILES):
            path.unlink()
        self._writer = SummaryWriter(str(run / TENSORBOARD))
        for row in read_history(run):
            self._write(self._writer, row)

    @staticmethod
    def _write(writer: SummaryWriter, row: EpochDone) -> None:
        for tag, name in TAGS.items():
            value = getattr(row, name)
            if math.isfinite(value):
                writer.add_scalar(tag, value, row.epoch)
        writer.flush()

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None
