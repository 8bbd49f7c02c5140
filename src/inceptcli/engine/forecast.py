"""What a training would take: a few steps made, nothing kept."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from inceptcli.config import TrainConfig, known
from inceptcli.data.loader import batches
from inceptcli.engine.adapt import adapt
from inceptcli.engine.plan import measure, measured_plan
from inceptcli.engine.run import joined, prepare_photos, set_up
from inceptcli.engine.signals import StopRequest
from inceptcli.engine.training import Training
from inceptcli.events import Emit, Notice, silent


@dataclass(frozen=True)
class Forecast:
    """The time and memory that a training is expected to take.

    Attributes:
        images: In the train role.
        val_images: In the val role.
        steps_per_epoch: Of the optimizer.
        epochs: In all.
        images_per_second: In training, over all epochs and their sizes.
        epoch_seconds: An epoch's training, validation and saving, on average.
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


def forecast(
    config: TrainConfig, *, sources: Mapping[str, str] | None = None, emit: Emit = silent
) -> Forecast:
    """Look at the photographs, build the network, make a few steps and reckon from them.

    Raises:
        InceptcliError: As ``run`` does, before its first step.
    """
    with StopRequest() as stop, joined(config) as device:
        emit = emit if device.is_first else silent
        photos = prepare_photos(config, device, stop, emit)
        with photos.store:

            def begin(tried: TrainConfig) -> Training:
                return set_up(tried, photos, device, Path(), stop, emit)

            if config.time_seconds is None:
                speed = measure(begin(config))
            else:
                config, _, speed = measured_plan(config, begin, sources or {})
            config, _ = adapt(config, photos)
            train, size = photos.indices("train"), known(config.batch_size)
            steps = batches(train, size, least=2 * device.world)
        emit(Notice(f"computing on {device.torch_device} in {device.precision}: {device.reason}"))
        total = speed.total(config)
        return Forecast(
            images=speed.images,
            val_images=speed.val_images,
            steps_per_epoch=len(steps),
            epochs=config.epochs,
            images_per_second=speed.images
            * config.epochs
            / (total - config.epochs * (speed.val_images * speed.val + speed.save)),
            epoch_seconds=total / config.epochs,
            total_seconds=total,
            peak_bytes=_peak_bytes(device.torch_device),
        )


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0  # not told without a further library
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, kilobytes here
