"""How the weights move: loss, optimizer, each step's learning rate, each epoch's size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from inceptcli.config import MIN_IMAGE_SIZE, TrainConfig, known

LossPerImage = Callable[[Tensor, Tensor], Tensor]
GROWING = 0.7  # part of the epochs in which training pictures grow


def loss_per_image(
    *, double_softmax: bool, class_weights: Tensor | None, label_smoothing: float = 0.0
) -> LossPerImage:
    """The function (logits (N, C) float32, labels (N,) int64) -> losses (N,) float32.

    Args:
        double_softmax: Put a softmax before the cross-entropy, which applies its own again: the
            tutorial's loss. It cannot fall below ``log(1 + (C - 1) / e)``, 0.74 for 4 outputs.
        class_weights: (C,) factors on the losses of each class's images, or None.
        label_smoothing: Part of each label that is spread evenly over the outputs (Szegedy et
            al., "Rethinking the Inception Architecture", 2016, section 7); class weights act on
            an image by its own class.
    """

    def losses(logits: Tensor, labels: Tensor) -> Tensor:
        scores = functional.softmax(logits, dim=1) if double_softmax else logits
        each = functional.cross_entropy(
            scores, labels, reduction="none", label_smoothing=label_smoothing
        )
        if class_weights is None:
            return each
        return each * class_weights.to(each.device)[labels]  # those of validation are on the CPU

    return losses


def balanced_class_weights(labels: Tensor, outputs: int) -> Tensor:
    """Factors (outputs,) float32 that make every class count the same, mean 1 over the images.

    A class of n among N images in C classes gets N / (C n), scikit-learn's "balanced" rule; an
    output without images gets 0.
    """
    counts = torch.bincount(labels, minlength=outputs).double()
    present = counts > 0
    weights = torch.zeros(outputs, dtype=torch.float64)
    weights[present] = labels.numel() / (present.sum() * counts[present])
    return weights.float()


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer that the settings name, over all parameters of the network.

    Weight decay acts on matrices and convolution kernels only: pulling norms and biases towards
    zero regularises nothing (He et al., "Bag of Tricks", 2019, section 3.1).
    """
    lr, decay = known(config.lr), known(config.weight_decay)
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    fused = parameters[0].device.type in ("cuda", "cpu")
    return kind(groups, lr=lr, fused=fused or None)  # one kernel for all


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over the slots and the learning rates of a saved optimizer, and no other option.

    Args:
        optimizer: Made by ``make_optimizer`` for a network on any device.
        state: The saved one's ``state_dict``, contiguous and on the CPU.

    Raises:
        ValueError: It is of other groups of parameters.
    """
    pairs = zip(state["param_groups"], optimizer.param_groups, strict=True)
    kept = {"params", "lr"}
    groups = [then | {k: now[k] for k in now.keys() - kept} for then, now in pairs]
    # "fused" must be right before: by it torch decides where the steps are counted.
    optimizer.load_state_dict({**state, "param_groups": groups})
    for parameter, slots in optimizer.state.items():
        for name, slot in slots.items():
            if slot.shape == parameter.shape:  # one kernel for all wants channels-last slots, too
                slots[name] = torch.empty_like(parameter).copy_(slot)


def learning_rate(config: TrainConfig, *, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, a pure function of its number.

    Args:
        config: The settings.
        step: From 0, over all epochs.
        steps_per_epoch: Steps in each epoch.

    Returns:
        ``config.lr`` times a linear rise over the warm-up and, for "cosine", half a cosine from
        1 down towards 0 (Loshchilov and Hutter, "SGDR", 2017, equation 5, without restarts).
    """
    highest, warmup = known(config.lr), known(config.warmup_epochs) * steps_per_epoch
    total = config.epochs * steps_per_epoch
    rise = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
    if config.schedule == "constant":
        return highest * rise
    along = max(0.0, step - warmup) / max(1.0, total - warmup)
    return highest * rise * 0.5 * (1.0 + math.cos(math.pi * along))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all groups a learning rate, each times its own "scale", which ``finetune`` puts there.

    Layers taken over from other weights are slower; without any, each group has the rate itself.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def train_size(config: TrainConfig, epoch: int) -> int:
    """Side of the training pictures of an epoch in pixels, a pure function of its number.

    It grows by equal steps from the first to the second of ``config.train_sizes`` and reaches
    that after seven tenths of the epochs (progressive resizing; Tan and Le, "EfficientNetV2",
    2021, section 4). Whole numbers of 16 pixels, or 8 for small ones; not below 32.
    """
    first, last = config.train_sizes
    along = min(1.0, (epoch - 1) / max(1.0, GROWING * (config.epochs - 1)))
    side = config.image_size * (first + (last - first) * along)
    if side == config.image_size:
        return config.image_size
    unit = 16 if config.image_size >= 128 else 8
    return min(config.image_size, max(MIN_IMAGE_SIZE, unit * round(side / unit)))
