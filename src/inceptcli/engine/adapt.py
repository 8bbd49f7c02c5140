"""What the photographs decide of a training: the settings that nobody gave.

Every rule is stated where it is shown at the start of a run. A setting that was typed, or that a
recipe names, is never touched.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from inceptcli.config import TrainConfig, known
from inceptcli.data.prepare import Photos
from inceptcli.files import counted

STEPS_PER_EPOCH, STEPS = 25, 200  # wanted at least, by smaller batches; measured in docs/recipe.md
SMALLEST_BATCH, LARGEST_BATCH = 8, 32
LR_OF_32 = {"adam": 1e-3, "adamw": 2e-3, "sgd": 1.25e-2}  # in batches of 32
DECAY = {"adam": 0.0, "adamw": 0.05, "sgd": 5e-4}  # Adam and SGD add it to the gradient
WITH_WEIGHTS = 0.5  # of that rate: what is there already is not to be lost
WARMUP = 0.1  # of the epochs
RARE = 5.0  # the largest class has so many times the images of the smallest: imbalance


def adapt(config: TrainConfig, photos: Photos) -> tuple[TrainConfig, dict[str, str]]:
    """Choose what is still open, by the training photographs.

    Returns:
        Settings with nothing open, and for each that was chosen here the reason, in words.
    """
    labels = photos.labels[photos.indices("train")]
    counts = np.bincount(labels, minlength=len(photos.classes))
    chosen: dict[str, tuple[Any, str]] = {}
    if config.batch_size is None:
        chosen["batch_size"] = _batch_size(len(labels), config.epochs)
    batch_size = known(chosen["batch_size"][0] if "batch_size" in chosen else config.batch_size)
    if config.least_steps:
        steps = math.ceil(len(labels) / batch_size)
        if (epochs := math.ceil(config.least_steps / max(1, steps))) > config.epochs:
            chosen["epochs"] = epochs, f"rule: at least {config.least_steps} steps"
            config = replace(config, epochs=epochs)
        chosen["least_steps"] = 0, "rule: in the epochs"
    if config.lr is None:
        lr = LR_OF_32[config.optimizer] * math.sqrt(batch_size / 32)
        reason = f"rule: {config.optimizer}, root of batch size"
        if config.weights is not None:
            lr, reason = lr * WITH_WEIGHTS, f"{reason}, half with --weights"
        chosen["lr"] = float(f"{lr:.2g}"), reason
    if config.weight_decay is None:
        chosen["weight_decay"] = DECAY[config.optimizer], f"rule: {config.optimizer}"
    if config.warmup_epochs is None:
        chosen["warmup_epochs"] = WARMUP * config.epochs, "rule: a tenth of the epochs"
    if config.class_weights == "auto":
        chosen["class_weights"] = _class_weights(counts)
    values = {name: value for name, (value, _) in chosen.items()}
    return replace(config, **values), {name: reason for name, (_, reason) in chosen.items()}


def _batch_size(images: int, epochs: int) -> tuple[int, str]:
    """The largest power of two that leaves enough steps an epoch and in all, within the limits."""
    fitting = min(images // STEPS_PER_EPOCH, images * epochs // STEPS)
    fitting = max(SMALLEST_BATCH, min(LARGEST_BATCH, fitting))
    reason = f"rule: {images:,} training images, {counted(epochs, 'epoch')}"
    return 2 ** int(math.log2(fitting)), reason


def _class_weights(counts: np.ndarray[Any, np.dtype[np.int64]]) -> tuple[str, str]:
    present = counts[counts > 0]
    ratio = float(present.max() / present.min()) if len(present) else 1.0
    reason = f"rule: largest class is {ratio:.1f} times the smallest"
    return ("balanced" if ratio >= RARE else "none"), reason
