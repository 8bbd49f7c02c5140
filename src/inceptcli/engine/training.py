"""All that takes part in one training, in one place."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inceptcli.config import TrainConfig
from inceptcli.data.prepare import Photos
from inceptcli.engine.average import Average
from inceptcli.engine.device import Device
from inceptcli.engine.optim import LossPerImage
from inceptcli.engine.resume import Progress
from inceptcli.engine.signals import StopRequest
from inceptcli.events import Emit
from inceptcli.model.weights import Record
from inceptcli.runfolder import resume_command


@dataclass
class Saving:
    """What of a training is on the disk.

    Attributes:
        at: When it was last saved or tried, on the monotonic clock, seconds.
        best: The best weights and their record while they are not on the disk yet.
        behind: Whether the last save failed.
        damaged: Whether the newest state is, so that the one before it must be kept.
        seconds: Spent after epochs in this sitting; what is spent inside one is in its own time.
    """

    at: float = field(default_factory=time.monotonic)
    best: tuple[dict[str, Tensor], Record] | None = None
    behind: bool = False
    damaged: bool = False
    seconds: float = 0.0


@dataclass
class Training:
    """One training; ``train.fit`` moves it on from where ``progress`` stands.

    Attributes:
        config: Its settings, none of them still open.
        device: Where and how it computes.
        photos: What it learns from.
        model: The network as it is saved.
        parallel: The same network, as all processes train it together.
        optimizer: What moves the weights.
        scaler: Of gradients; does nothing unless the precision is fp16.
        average: Of the weights: the network that is validated and saved.
        losses_of: The loss of each image, as it is shown.
        objective_of: What training makes small: the same with label smoothing.
        described: ``resume.describe_photos`` of them.
        run_dir: Its folder.
        record: What its weights file says of itself, but for the epoch and its figures.
        fingerprints: The weights file's record of the training pictures, or None.
        stop: Set by a signal.
        emit: Told of what happens.
        reasons: Why ``adapt`` chose what it chose, by setting.
        progress: Where it stands.
        saving: What of it is on the disk.
        lost: Photographs that could not be read when last told of.
        advised: Whether it was looked, in this sitting, for what makes it slow.
        taken: Names of the tensors that were taken over from other weights.
        taught: Fingerprints of the photographs that those were trained on.
        whole: The folder of the run of several trainings that this one is of, or None.
    """

    config: TrainConfig
    device: Device
    photos: Photos
    model: nn.Module
    parallel: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: Average
    losses_of: LossPerImage
    objective_of: LossPerImage
    described: dict[str, Any]
    run_dir: Path
    record: Record
    fingerprints: bytes | None
    stop: StopRequest
    emit: Emit
    reasons: Mapping[str, str] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    saving: Saving = field(default_factory=Saving)
    lost: int = 0
    advised: bool = False
    taken: frozenset[str] = frozenset()
    taught: bytes = b""
    whole: Path | None = None

    @property
    def resume_command(self) -> str:
        """The command that goes on with it, or with all trainings of its run."""
        return resume_command(self.whole or self.run_dir)
