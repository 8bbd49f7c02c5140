"""Inception v1 as the tutorial builds it: keys, shapes and order of its ``state_dict``.

The paper: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, arXiv:1409.4842;
table 1 gives the widths below. The tutorial adds batch normalisation in the blocks, has none
in the stem, keeps a bias in every convolution, leaves the auxiliary classifiers out and ends
in two linear layers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

INPUT_CHANNELS = 3
REFERENCE_IMAGE_SIZE = 224
MIN_IMAGE_SIZE = 32


class Widths(NamedTuple):
    """Channels of one block: its input and its six convolutions (paper, table 1)."""

    inputs: int
    one: int
    reduce3: int
    three: int
    reduce5: int
    five: int
    pool: int

    @property
    def outputs(self) -> int:
        """Channels after the four branches are concatenated."""
        return self.one + self.three + self.five + self.pool


BLOCKS: dict[str, Widths] = {
    "inception3a": Widths(192, 64, 96, 128, 16, 32, 32),
    "inception3b": Widths(256, 128, 128, 192, 32, 96, 64),
    "inception4a": Widths(480, 192, 96, 208, 16, 48, 64),
    "inception4b": Widths(512, 160, 112, 224, 24, 64, 64),
    "inception4c": Widths(512, 128, 128, 256, 24, 64, 64),
    "inception4d": Widths(512, 112, 144, 288, 32, 64, 64),
    "inception4e": Widths(528, 256, 160, 320, 32, 128, 128),
    "inception5a": Widths(832, 256, 160, 320, 32, 128, 128),
    "inception5b": Widths(832, 384, 192, 384, 48, 128, 128),
}


def conv_norm_relu(inputs: int, outputs: int, kernel_size: int) -> list[nn.Module]:
    """A convolution that keeps height and width, batch normalisation, ReLU."""
    return [
        nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


class InceptionBlock(nn.Module):
    """Four branches on one input, concatenated by channel (paper, figure 2b).

    Args:
        widths: Channels of the input and of the six convolutions.
    """

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        w = widths
        self.branch1 = nn.Sequential(*conv_norm_relu(w.inputs, w.one, 1))
        self.branch2 = nn.Sequential(
            *conv_norm_relu(w.inputs, w.reduce3, 1), *conv_norm_relu(w.reduce3, w.three, 3)
        )
        self.branch3 = nn.Sequential(
            *conv_norm_relu(w.inputs, w.reduce5, 1), *conv_norm_relu(w.reduce5, w.five, 5)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), *conv_norm_relu(w.inputs, w.pool, 1)
        )

    def _get_name(self) -> str:
        return "inception_block"  # the tutorial's name, as its layer table prints it

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W)."""
        branches = [self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)]
        return torch.cat(branches, dim=1)


class InceptionV1(nn.Module):
    """The tutorial's network; answers logits.

    Args:
        classes: Number of outputs, at least 1.
        image_size: Height and width of the input in pixels, from 32 up. At 224 the last pool
            is the tutorial's ``AvgPool2d(7)``; at any other size it averages whatever is left.
            It has no parameters, so the keys are the same.
        softmax: End in the tutorial's ``Softmax``, as its script and its layer table do; the
            network then answers probabilities. Adds no key.

    Raises:
        ValueError: ``image_size`` is below 32, where nothing is left to pool.
    """

    def __init__(
        self, classes: int, *, image_size: int = REFERENCE_IMAGE_SIZE, softmax: bool = False
    ) -> None:
        super().__init__()
        if image_size < MIN_IMAGE_SIZE:
            raise ValueError(f"image_size must be at least {MIN_IMAGE_SIZE}, not {image_size}")
        self.conv1 = nn.Conv2d(INPUT_CHANNELS, 64, 7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(64, 64, 1)
        self.conv3 = nn.Conv2d(64, 192, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, padding=1)

        self.inception3a = InceptionBlock(BLOCKS["inception3a"])
        self.inception3b = InceptionBlock(BLOCKS["inception3b"])
        self.maxpool3 = nn.MaxPool2d(3, stride=2, padding=1)

        self.inception4a = InceptionBlock(BLOCKS["inception4a"])
        self.inception4b = InceptionBlock(BLOCKS["inception4b"])
        self.inception4c = InceptionBlock(BLOCKS["inception4c"])
        self.inception4d = InceptionBlock(BLOCKS["inception4d"])
        self.inception4e = InceptionBlock(BLOCKS["inception4e"])
        self.maxpool4 = nn.MaxPool2d(3, stride=2, padding=1)

        self.inception5a = InceptionBlock(BLOCKS["inception5a"])
        reference = image_size == REFERENCE_IMAGE_SIZE
        self.inception5b = nn.Sequential(
            InceptionBlock(BLOCKS["inception5b"]),
            nn.AvgPool2d(7, stride=1, padding=0) if reference else nn.AdaptiveAvgPool2d(1),
            nn.Dropout(0.4),
        )
        head = [nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, classes)]
        self.classifier = nn.Sequential(*head, *([nn.Softmax(dim=1)] if softmax else []))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, 3, S, S) float -> logits (N, classes).

        The shapes beside the lines are those of the reference size, S = 224.
        """
        x = functional.relu(self.conv1(images))  # (N, 64, 112, 112)
        x = self.maxpool1(x)  # (N, 64, 56, 56)
        x = functional.relu(self.conv2(x))  # (N, 64, 56, 56)
        x = functional.relu(self.conv3(x))  # (N, 192, 56, 56)
        x = self.maxpool2(x)  # (N, 192, 28, 28)

        x = self.inception3a(x)  # (N, 256, 28, 28)
        x = self.inception3b(x)  # (N, 480, 28, 28)
        x = self.maxpool3(x)  # (N, 480, 14, 14)

        x = self.inception4a(x)  # (N, 512, 14, 14)
        x = self.inception4b(x)  # (N, 512, 14, 14)
        x = self.inception4c(x)  # (N, 512, 14, 14)
        x = self.inception4d(x)  # (N, 528, 14, 14)
        x = self.inception4e(x)  # (N, 832, 14, 14)
        x = self.maxpool4(x)  # (N, 832, 7, 7)

        x = self.inception5a(x)  # (N, 832, 7, 7)
        x = self.inception5b(x)  # (N, 1024, 1, 1)
        logits: Tensor = self.classifier(torch.flatten(x, 1))  # (N, classes)
        return logits


ARCHITECTURES: dict[str, type[InceptionV1]] = {"inception_v1": InceptionV1}


def build(arch: str, classes: int, image_size: int) -> InceptionV1:
    """The network called ``arch`` with random weights, answering logits.

    Raises:
        KeyError: No network has that name; ``ARCHITECTURES`` lists them.
    """
    return ARCHITECTURES[arch](classes, image_size=image_size)
