"""Everything a stopped training needs to go on, bit for bit where it stood.

Order, augmentation, learning rate and dropout are pure functions of (seed, epoch, step), so a
position and the tensors are all there is to keep: no state of any random generator.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inceptcli.engine.device import Device
from inceptcli.errors import DataError, InceptcliError, WeightsError
from inceptcli.events import EpochDone
from inceptcli.files import printable
from inceptcli.model.weights import load_state, save_state

LAST, PREVIOUS = "last.pth", "last.prev.pth"


@dataclass(slots=True)
class Progress:
    """Where a training stands.

    Attributes:
        epoch: The epoch under way, from 1.
        step: Steps of it that are done.
        loss_sum: Sum of the losses of its images so far.
        correct: Its images classified rightly so far.
        images: Its images so far.
        seconds: Its time so far, over all sittings.
        history: The finished epochs.
        best_epoch: The best one, 0 when there is none yet.
        best_score: Its monitored figure and loss, such that a larger tuple is better.
    """

    epoch: int = 1
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    images: int = 0
    seconds: float = 0.0
    history: list[EpochDone] = field(default_factory=list)
    best_epoch: int = 0
    best_score: tuple[float, float] = (-float("inf"), -float("inf"))

    def sums(self) -> Tensor:
        """(3,) float64: what ``note`` took over."""
        values = [self.loss_sum, self.correct, self.images]
        return torch.tensor(values, dtype=torch.float64)

    def note(self, sums: Tensor, seconds: float) -> None:
        """Take over the sums (3,) of losses, right answers and images of the epoch so far."""
        loss_sum, correct, images = sums.tolist()
        self.loss_sum, self.correct, self.images = loss_sum, int(correct), int(images)
        self.seconds = seconds

    def begin(self, epoch: int) -> None:
        """Stand before the first step of an epoch."""
        self.epoch, self.step = epoch, 0
        self.loss_sum, self.correct, self.images, self.seconds = 0.0, 0, 0, 0.0


@dataclass(frozen=True, slots=True)
class Saved:
    """What ``last.pth`` holds.

    Attributes:
        progress: Where the training stood.
        model: The network's ``state_dict``.
        optimizer: The optimizer's.
        scaler: The gradient scaler's; empty unless the precision is fp16.
        settings: The training's settings, as ``TrainConfig.to_json`` gives them.
        surroundings: Versions, threads and device: what may change the last bits.
        data: Name, role and first bytes of the content's digest of every picture, in order.
    """

    progress: Progress
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    settings: dict[str, Any]
    surroundings: dict[str, Any]
    data: dict[str, Any]


def save(run_dir: Path, saved: Saved) -> None:
    """Write ``last.pth``; the one before it becomes ``last.prev.pth``.

    Until the new file is durable the previous one is whole, under one of the two names.

    Raises:
        OutputError: It could not be written; the previous state is intact.
    """
    last = run_dir / LAST
    with contextlib.suppress(FileNotFoundError):
        os.replace(last, run_dir / PREVIOUS)  # noqa: PTH105 - the same call as files.write_bytes
    save_state(
        last,
        {item.name: getattr(saved, item.name) for item in fields(saved)}
        | {"progress": asdict(saved.progress)},
    )


def load(run_dir: Path) -> tuple[Saved, list[str]]:
    """The newest valid state of a run and what is to be said about the others.

    Raises:
        DataError: There is no state in that folder.
        WeightsError: There are state files and none is valid; the message lists them.
    """
    paths = [run_dir / name for name in (LAST, PREVIOUS) if (run_dir / name).exists()]
    if not paths:
        raise DataError(
            f"no training to resume in {printable(str(run_dir))}: it holds no {LAST}; "
            "give a run folder, or --resume latest"
        )
    problems: list[str] = []
    for path in paths:
        try:
            return _restore(load_state(path)), problems
        except InceptcliError as error:
            problems.append(str(error))
    raise WeightsError("no valid state to resume from: " + "; ".join(problems))


def surroundings(device: Device) -> dict[str, Any]:
    """What may change the last bits of a result without changing its meaning."""
    return {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "device": device.torch_device.type,
        "precision": device.precision,
        "processes": device.world,
    }


def _restore(state: dict[str, Any]) -> Saved:
    try:
        progress = dict(state["progress"])
        rows = [EpochDone(**row) for row in progress.pop("history")]
        best = tuple(progress.pop("best_score"))
        state["progress"] = Progress(**progress, history=rows, best_score=(best[0], best[1]))
        return Saved(**state)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise WeightsError(
            f"the state file lacks or misnames {error}: another version of inceptcli wrote it; "
            "resume with that version"
        ) from error
