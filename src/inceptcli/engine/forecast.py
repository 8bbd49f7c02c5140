"""What a training would take: a few steps made, nothing written."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from inceptcli.config import TrainConfig
from inceptcli.data.image import Pixels
from inceptcli.data.loader import Loader
from inceptcli.engine.device import Device
from inceptcli.engine.infer import Classifier
from inceptcli.engine.run import joined, prepare_photos, set_up
from inceptcli.engine.signals import StopRequest
from inceptcli.engine.train import batches_of, crop_of, train_step
from inceptcli.events import Emit, Notice, silent

STEPS = 3  # timed ones; one more before them warms up


@dataclass(frozen=True)
class Forecast:
    """The time and memory that a training is expected to take.

    Attributes:
        images: In the train role.
        val_images: In the val role.
        steps_per_epoch: Of the optimizer.
        epochs: In all.
        images_per_second: Measured in training.
        epoch_seconds: An epoch's training and validation.
        total_seconds: All epochs.
        peak_bytes: The most memory held so far, of the GPU where there is one.
    """

    images: int
    val_images: int
    steps_per_epoch: int
    epochs: int
    images_per_second: float
    epoch_seconds: float
    total_seconds: float
    peak_bytes: int


def forecast(config: TrainConfig, *, emit: Emit = silent) -> Forecast:
    """Look at the photographs, build the network, make a few steps and reckon from them.

    Raises:
        InceptcliError: As ``run`` does, before its first step.
    """
    with StopRequest() as stop, joined(config) as device:
        photos = prepare_photos(config, device, stop, emit)
        training = set_up(config, photos, device, Path(), stop, emit)
        steps = batches_of(training, 1)
        training.parallel.train()
        started, made = time.monotonic(), 0
        for batch in Loader(photos.store, steps[: STEPS + 1], crop=crop_of(training)):
            train_step(training, batch, total=len(steps[batch.step]))[0].sum().item()
            if batch.step == 0:
                started = time.monotonic()  # the first step also chooses kernels
            else:
                made += len(steps[batch.step])
        train_rate = made / (time.monotonic() - started) if made else float(len(steps[0]))
        val_rate = _inference_rate(training.model, photos.store.take(steps[0])[0], device)
        emit(Notice(f"computing on {device.torch_device} in {device.precision}: {device.reason}"))
        images, val_images = len(photos.indices("train")), len(photos.indices("val"))
        seconds = images / train_rate + val_images / val_rate
        return Forecast(
            images=images,
            val_images=val_images,
            steps_per_epoch=len(steps),
            epochs=config.epochs,
            images_per_second=train_rate,
            epoch_seconds=seconds,
            total_seconds=seconds * config.epochs,
            peak_bytes=_peak_bytes(device.torch_device),
        )


def _inference_rate(model: nn.Module, pixels: Pixels, device: Device) -> float:
    classifier = Classifier(model, device)
    batch = torch.from_numpy(pixels)
    classifier.logits(batch)
    started = time.monotonic()
    classifier.logits(batch)
    return len(batch) / (time.monotonic() - started)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0  # not told without a further library
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, kilobytes here
