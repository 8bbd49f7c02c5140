"""Augmentations that the program does not have, put into a training to see what they are worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import TrivialAugmentWide

from inceptcli.data.loader import Batch
from inceptcli.engine import train
from inceptcli.engine.optim import LossPerImage
from inceptcli.engine.training import Training

Blend = Callable[[Tensor, np.random.Generator], tuple[Tensor, float]]
ALPHA = 0.2  # of mixup; the paper has 0.1 to 0.4 for photographs
CUT = 0.5  # part of the batches that CutMix changes, as the paper has it for small pictures


def mixup(images: Tensor, draw: np.random.Generator) -> tuple[Tensor, float]:
    """Each image blended with another one (Zhang et al., 2018); (N, 3, H, W), and its own share."""
    share = float(draw.beta(ALPHA, ALPHA))
    return images.lerp(images.flip(0), 1 - share), share


def cutmix(images: Tensor, draw: np.random.Generator) -> tuple[Tensor, float]:
    """A box of each image out of another one (Yun et al., 2019), and the share of the rest."""
    if draw.random() >= CUT:
        return images, 1.0
    height, width = images.shape[2:]
    part = np.sqrt(draw.random())  # of either side
    middle = draw.random(2) * (height, width)
    reach = part * np.array((height, width)) / 2
    top, left = np.clip(np.rint(middle - reach), 0, (height, width)).astype(int).tolist()
    bottom, right = np.clip(np.rint(middle + reach), 0, (height, width)).astype(int).tolist()
    changed = images.clone()
    changed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
    return changed, 1 - (bottom - top) * (right - left) / (height * width)


@contextmanager
def mixed(blend: Blend) -> Iterator[None]:
    """In it, trainings blend each batch with itself in reverse order, labels as images."""
    prepared = train.network_input

    def network_input(training: Training, batch: Batch) -> Tensor:
        whole = getattr(training.objective_of, "whole", training.objective_of)
        images, share = blend(prepared(training, batch), np.random.default_rng(_key(training)))
        training.objective_of = _shared(whole, share)
        return images

    with patch.object(train, "network_input", network_input):
        yield


def _shared(whole: LossPerImage, share: float) -> LossPerImage:
    def losses(logits: Tensor, labels: Tensor) -> Tensor:
        return share * whole(logits, labels) + (1 - share) * whole(logits, labels.flip(0))

    losses.whole = whole  # type: ignore[attr-defined]
    return losses


@contextmanager
def policy() -> Iterator[None]:
    """In it, trainings change each picture by TrivialAugment (Mueller and Hutter, 2021)."""
    prepared = train.network_input

    def network_input(training: Training, batch: Batch) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.default_rng(_key(training)).integers(2**63)))
            change = TrivialAugmentWide()
            rows = [change(image.permute(2, 0, 1)).permute(1, 2, 0) for image in batch.images]
        return prepared(training, Batch(batch.step, batch.indices, torch.stack(rows)))

    with patch.object(train, "network_input", network_input):
        yield


def _key(training: Training) -> list[int]:
    return [training.config.seed, training.progress.epoch, training.progress.step]
