"""Every setting of a training and its default, written once. Imports no torch.

``TrainConfig()`` is the default recipe; ``RECIPES`` holds what another recipe sets otherwise;
``resolve`` puts what the user typed on top and remembers where each value came from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from inceptcli.errors import UsageError

Recipe = Literal["default", "tutorial"]
Arch = Literal["inception_v1"]
Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["constant", "cosine"]
Resize = Literal["stretch", "crop", "pad"]
Flips = Literal["none", "h", "hv"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Monitor = Literal["val_accuracy", "val_balanced_accuracy", "val_loss"]
ClassWeights = Literal["none", "balanced"]

MIN_IMAGE_SIZE = 32
MAX_IMAGE_SIZE = 2048
MEAN = (0.485, 0.456, 0.406)  # of ImageNet's red, green and blue, as the tutorial has them
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training, complete. Each default here is the default recipe's."""

    recipe: Recipe = "default"
    arch: Arch = "inception_v1"
    epochs: int = 40
    batch_size: int = 32  # images a step, over all processes
    optimizer: Optimizer = "adam"
    lr: float = 1e-3  # the largest learning rate of the schedule
    weight_decay: float = 0.0
    schedule: Schedule = "cosine"  # by step, down to zero at the last one
    warmup_epochs: float = 1.0  # the stem has no norm: a full first step often kills its ReLUs
    double_softmax: bool = False  # the tutorial's loss: cross-entropy of a softmax of a softmax
    min_outputs: int = 1  # the tutorial's network has four outputs for its two classes
    image_size: int = 224
    resize: Resize = "stretch"
    flips: Flips = "h"
    class_weights: ClassWeights = "none"
    monitor: Monitor = "val_accuracy"
    patience: int | None = None  # epochs without a better one before stopping; None: never

    ratio: tuple[float, ...] = (0.8, 0.1, 0.1)  # train, val, test
    stratify: bool = True
    group: str = "auto"  # auto | none | a regular expression
    seed: int = 42

    device: DeviceName = "auto"
    precision: Precision = "auto"
    deterministic: bool = False


RECIPES: dict[Recipe, dict[str, Any]] = {
    "default": {},
    "tutorial": {
        "optimizer": "adam",
        "lr": 1e-4,
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup_epochs": 0.0,
        "double_softmax": True,
        "min_outputs": 4,
        "epochs": 40,
        "batch_size": 32,
        "image_size": 224,
        "resize": "stretch",
        "flips": "none",
        "ratio": (0.8, 0.2),
        "stratify": False,
        "group": "none",
        "precision": "fp32",
    },
}
