"""The learning-rate range test (Smith, "Cyclical Learning Rates", 2017, section 3.3).

The learning rate grows at every step by the same factor while the loss is watched: where it falls
fastest training is fast, and somewhat beyond its lowest point training diverges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inceptcli.config import TrainConfig
from inceptcli.data.loader import Loader
from inceptcli.engine.finetune import training_mode
from inceptcli.engine.optim import set_rate
from inceptcli.engine.run import joined, prepare_photos, set_up
from inceptcli.engine.signals import StopRequest
from inceptcli.engine.train import batches_of, crop_ahead, seed_dropout, train_step
from inceptcli.engine.training import Training
from inceptcli.errors import DataError, StoppedError, UsageError
from inceptcli.events import BatchDone, Emit, Notice, silent

LOWEST, HIGHEST = 1e-6, 1.0
STEPS = 100
SMOOTH = 0.9  # part of the running mean of the losses that each step keeps
DIVERGED = 3.0  # times the lowest loss: there is nothing more to see
BELOW = 4.0  # the suggestion is so much below the rate of the lowest loss


@dataclass(frozen=True)
class RangeTest:
    """What a learning-rate range test saw.

    Attributes:
        rates: Learning rate of each step.
        losses: Running mean of the training loss up to that step.
        suggestion: For ``--lr``.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, as ``train --find-lr --json`` prints them."""
        return {
            "suggestion": self.suggestion,
            "rates": list(self.rates),
            "losses": list(self.losses),
        }


def find_lr(config: TrainConfig, *, emit: Emit = silent) -> RangeTest:
    """Train a new network for up to ``STEPS`` steps with ever larger rates; nothing is written.

    With ``--weights`` all layers learn, so that the rate suits the epochs after the frozen ones.

    Raises:
        InceptcliError: As ``run`` does, before its first step.
        UsageError: Several processes were started; the test is for one.
        StoppedError: A signal asked for it.
    """
    with StopRequest() as stop, joined(config) as device:
        if device.world > 1:
            raise UsageError("--find-lr runs in one process; start it without torchrun")
        photos = prepare_photos(config, device, stop, emit)
        with photos.store:
            config = replace(config, lr=LOWEST, freeze_epochs=0)
            training = set_up(config, photos, device, Path(), stop, emit)
            emit(Notice(f"computing on {device.torch_device} in {device.precision}"))
            rates, losses = _sweep(training)
    return RangeTest(tuple(rates), tuple(losses), suggest(rates, losses))


def suggest(rates: list[float], losses: list[float]) -> float:
    """A rate for ``--lr``: a quarter of that of the lowest loss, with two digits.

    There the loss still falls, and there is room above for a harder batch.

    Raises:
        DataError: The loss never fell.
    """
    lowest = min(range(len(losses)), key=losses.__getitem__, default=0)
    if lowest == 0:
        raise DataError(
            "--find-lr: the loss never fell, so that no learning rate can be named; look at the "
            "photographs with: inceptcli split DATA --check"
        )
    return float(f"{rates[lowest] / BELOW:.2g}")


def _sweep(t: Training) -> tuple[list[float], list[float]]:
    rates: list[float] = []
    losses: list[float] = []
    mean, epochs = 0.0, t.config.epochs
    training_mode(t)
    while len(rates) < STEPS and t.progress.epoch <= max(epochs, STEPS):
        steps = batches_of(t, t.progress.epoch)
        for batch in Loader(t.photos.store, steps, crop=crop_ahead(t)):
            if len(batch.indices) < 2:
                continue
            rate = LOWEST * (HIGHEST / LOWEST) ** (len(rates) / (STEPS - 1))
            set_rate(t.optimizer, rate)
            seed_dropout(t)
            t.progress.step += 1
            loss = float(train_step(t, batch, total=len(steps[batch.step]))[0].mean())
            mean = SMOOTH * mean + (1 - SMOOTH) * loss
            smooth = mean / (1 - SMOOTH ** (len(rates) + 1))
            if not math.isfinite(smooth) or (losses and smooth > DIVERGED * min(losses)):
                return rates, losses
            rates.append(rate)
            losses.append(smooth)
            t.emit(BatchDone(1, "train", len(rates), STEPS, 0.0, 0.0))
            if t.stop:
                raise StoppedError("stopped; nothing was written", t.stop.signum or 0)
            if len(rates) == STEPS:
                break
        t.progress.begin(t.progress.epoch + 1)
    return rates, losses
