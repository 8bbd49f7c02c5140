"""What the engine and the data rooms say happened: frozen dataclasses of plain numbers.

They never print: they call ``emit(event)``, which is ``silent`` unless somebody listens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Notice:
    """Something worth a line: what was chosen, found or left out."""

    text: str


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that may make the result wrong or lose work."""

    text: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A long piece of work has moved on. ``done == total`` ends it.

    Attributes:
        task: What is being done, in the present participle: "reading photographs".
        done: Items done so far.
        total: Items in all, or None when that is not known.
    """

    task: str
    done: int
    total: int | None


@dataclass(frozen=True, slots=True)
class RolesReady:
    """The photographs are counted and have their roles.

    Attributes:
        counts: class -> role -> number of photographs, in the order of the classes.
        images: Photographs in all.
        groups: Groups in all; equal to ``images`` when each file stands for itself.
    """

    counts: Mapping[str, Mapping[str, int]]
    images: int
    groups: int


@dataclass(frozen=True, slots=True)
class TrainingStarted:
    """The first step is about to be made.

    Attributes:
        settings: name -> (value as text, where it came from).
        run: The run folder as it should be shown.
        epochs: Epochs in all.
        first_epoch: 1, or the epoch at which a resumed run goes on.
    """

    settings: Mapping[str, tuple[str, str]]
    run: str
    epochs: int
    first_epoch: int


@dataclass(frozen=True, slots=True)
class BatchDone:
    """One step of training or one batch of validation is done.

    Attributes:
        epoch: From 1.
        role: "train" or "val".
        done: Images of this epoch and role so far.
        total: Images of this epoch and role in all.
        images_per_second: Over this epoch and role so far.
        wait_share: Part of the time spent waiting for pixels, 0 to 1.
    """

    epoch: int
    role: str
    done: int
    total: int
    images_per_second: float
    wait_share: float


@dataclass(frozen=True, slots=True)
class EpochDone:
    """One epoch is trained, validated and saved; the columns of ``history.csv``.

    Losses and accuracies are means over images; accuracies lie in [0, 1]. ``wait_seconds`` is the
    part of ``seconds`` that the training part waited for pixels; NaN in a run of an earlier
    version.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    seconds: float
    best: bool
    wait_seconds: float = math.nan


@dataclass(frozen=True, slots=True)
class StateSaved:
    """The state of the training is durable on the disk up to this step of this epoch."""

    epoch: int
    step: int


Event = (
    Notice | Warned | Progress | RolesReady | TrainingStarted | BatchDone | EpochDone | StateSaved
)
Emit = Callable[[Event], None]


def silent(event: Event) -> None:
    """Listen to nothing: the default ``emit``."""
    del event
