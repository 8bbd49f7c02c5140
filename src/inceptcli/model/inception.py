"""Inception v1 as the tutorial builds it, with a normalised stem, with auxiliary classifiers.

The paper: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, arXiv:1409.4842;
table 1 gives the widths below. The tutorial adds batch normalisation in the blocks, has none
in the stem, keeps a bias in every convolution, leaves the auxiliary classifiers out and ends
in two linear layers. Keys, shapes and order of its ``state_dict`` are those of ``InceptionV1``;
what the other networks share with it has the same keys.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from inceptcli.config import MIN_IMAGE_SIZE

INPUT_CHANNELS = 3
REFERENCE_IMAGE_SIZE = 224
AUXILIARY_WEIGHT = 0.3  # of an auxiliary classifier's loss in training (paper, section 5)


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
        nn.ReLU(inplace=True),  # nothing else needs what it reads: a tensor and a pass less
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
        check_image_size(image_size)
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
        self.classifier = nn.Sequential(*head, *ending(softmax))

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Normalised images (N, 3, S, S) float -> logits (N, classes).

        The shapes beside the lines are those of the reference size, S = 224.
        """
        return self._from_4d(self._from_4a_to_4d(self._up_to_4a(images)))

    def _stem(self, images: Tensor) -> Tensor:
        # The script has the first and the third ReLU before the pool. Maximum and gradient are the
        # same to the bit, and after it there is a quarter of the numbers to look at.
        x = self.conv1(images)  # (N, 64, 112, 112)
        x = functional.relu_(self.maxpool1(x))  # (N, 64, 56, 56)
        x = functional.relu_(self.conv2(x))  # (N, 64, 56, 56)
        x = self.conv3(x)  # (N, 192, 56, 56)
        return functional.relu_(self.maxpool2(x))  # (N, 192, 28, 28)

    def _up_to_4a(self, images: Tensor) -> Tensor:
        x = self._stem(images)  # (N, 192, 28, 28)
        x = self.inception3a(x)  # (N, 256, 28, 28)
        x = self.inception3b(x)  # (N, 480, 28, 28)
        x = self.maxpool3(x)  # (N, 480, 14, 14)
        features: Tensor = self.inception4a(x)  # (N, 512, 14, 14)
        return features

    def _from_4a_to_4d(self, x: Tensor) -> Tensor:
        x = self.inception4b(x)  # (N, 512, 14, 14)
        x = self.inception4c(x)  # (N, 512, 14, 14)
        features: Tensor = self.inception4d(x)  # (N, 528, 14, 14)
        return features

    def _from_4d(self, x: Tensor) -> Tensor:
        x = self.inception4e(x)  # (N, 832, 14, 14)
        x = self.maxpool4(x)  # (N, 832, 7, 7)

        x = self.inception5a(x)  # (N, 832, 7, 7)
        x = self.inception5b(x)  # (N, 1024, 1, 1)
        logits: Tensor = self.classifier(torch.flatten(x, 1))  # (N, classes)
        return logits


class InceptionV1Aux(InceptionV1):
    """The tutorial's network with the paper's two auxiliary classifiers, as it is trained.

    They stand on the outputs of 4a and 4d and answer in training mode only: the network is used
    as an ``InceptionV1``, and its weights file holds no more.

    Args:
        classes: Number of outputs, at least 1.
        image_size: Height and width of the input in pixels, from 32 up.
        softmax: Let each classifier end in one, as in the paper's figure 3, and all of them
            answer in evaluation mode too: the network as it is shown. Adds no key.

    Raises:
        ValueError: ``image_size`` is below 32.
    """

    def __init__(
        self, classes: int, *, image_size: int = REFERENCE_IMAGE_SIZE, softmax: bool = False
    ) -> None:
        super().__init__(classes, image_size=image_size, softmax=softmax)
        self.shown = softmax
        reference = image_size == REFERENCE_IMAGE_SIZE
        at_4a, at_4d = (BLOCKS[name].outputs for name in ("inception4a", "inception4d"))
        self.aux1 = auxiliary_classifier(at_4a, classes, reference=reference, softmax=softmax)
        self.aux2 = auxiliary_classifier(at_4d, classes, reference=reference, softmax=softmax)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Normalised images (N, 3, S, S) float -> logits (N, classes).

        Returns:
            In training mode three: of the network, of the classifier on 4a and of that on 4d.
        """
        at_4a = self._up_to_4a(images)  # (N, 512, 14, 14)
        at_4d = self._from_4a_to_4d(at_4a)  # (N, 528, 14, 14)
        logits = self._from_4d(at_4d)  # (N, classes)
        if not (self.training or self.shown):
            return logits
        return logits, self.aux1(at_4a), self.aux2(at_4d)


class FourByFour(nn.Module):
    """``AdaptiveAvgPool2d(4)``, whose gradient a GPU also computes the same each time."""

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 4, 4): means over windows that cover all places."""
        for axis in (2, 3):
            side = maps.shape[axis]
            windows = [(i * side // 4, -(-(i + 1) * side // 4)) for i in range(4)]
            means = [maps.narrow(axis, a, b - a).mean(axis, keepdim=True) for a, b in windows]
            maps = torch.cat(means, axis)
        return maps


def auxiliary_classifier(
    inputs: int, classes: int, *, reference: bool, softmax: bool
) -> nn.Sequential:
    """A classifier in the middle of the network (paper, section 5).

    Average pooling to 4x4, 128 convolutions of 1x1, 1024 units, dropout of 70 %, one linear
    layer. At the reference size the pool is the paper's of 5x5 with stride 3.
    """
    return nn.Sequential(
        nn.AvgPool2d(5, stride=3) if reference else FourByFour(),  # (N, inputs, 4, 4)
        nn.Conv2d(inputs, 128, 1),  # (N, 128, 4, 4)
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128 * 4 * 4, 1024),
        nn.ReLU(),
        nn.Dropout(0.7),
        nn.Linear(1024, classes),
        *ending(softmax),
    )


class InceptionV1BN(nn.Sequential):
    """Inception v1 with batch normalisation in the stem as well, and one linear layer at its end.

    Parts that the tutorial's network has too have its keys, so that its weights fit there; the
    last layer's are ``classifier.weight`` and ``classifier.bias``. Takes images of any size.

    Args:
        classes: Number of outputs, at least 1.
        image_size: Height and width of the input in pixels, from 32 up; changes nothing else.
        softmax: End in one. Adds no key.

    Raises:
        ValueError: ``image_size`` is below 32.
    """

    def __init__(
        self, classes: int, *, image_size: int = REFERENCE_IMAGE_SIZE, softmax: bool = False
    ) -> None:
        check_image_size(image_size)
        parts: OrderedDict[str, nn.Module] = OrderedDict()  # shapes: at 224 px
        parts["conv1"] = nn.Conv2d(INPUT_CHANNELS, 64, 7, stride=2, padding=3)
        parts["norm1"] = nn.BatchNorm2d(64)  # (N, 64, 112, 112)
        parts["maxpool1"] = nn.MaxPool2d(3, stride=2, padding=1)  # (N, 64, 56, 56)
        parts["relu1"] = nn.ReLU(True)  # after the pool, as in the stem of InceptionV1
        parts["conv2"] = nn.Conv2d(64, 64, 1)
        parts["norm2"], parts["relu2"] = nn.BatchNorm2d(64), nn.ReLU(True)  # (N, 64, 56, 56)
        parts["conv3"] = nn.Conv2d(64, 192, 3, padding=1)
        parts["norm3"] = nn.BatchNorm2d(192)  # (N, 192, 56, 56)
        parts["maxpool2"] = nn.MaxPool2d(3, stride=2, padding=1)  # (N, 192, 28, 28)
        parts["relu3"] = nn.ReLU(True)
        for name, widths in BLOCKS.items():
            parts[name] = InceptionBlock(widths)
            if name in ("inception3b", "inception4e"):  # (N, 480, 14, 14) and (N, 832, 7, 7)
                parts[f"maxpool{name[9]}"] = nn.MaxPool2d(3, stride=2, padding=1)
        last = parts["inception5b"]  # (N, 1024, 7, 7)
        parts["inception5b"] = nn.Sequential(last, nn.AdaptiveAvgPool2d(1), nn.Dropout(0.4))
        parts["flatten"] = nn.Flatten()  # (N, 1024)
        parts["classifier"] = nn.Linear(1024, classes)  # (N, classes)
        if softmax:
            parts["softmax"] = nn.Softmax(dim=1)
        super().__init__(parts)
        initialise(self)


def initialise(network: nn.Module) -> None:
    """Random weights that keep the size of activations, and logits near zero.

    Convolutions: He et al., "Delving Deep into Rectifiers", 2015, equation 10, biases zero. The
    last layer: a standard deviation of 0.01 (Goyal et al., "Accurate, Large Minibatch SGD", 2017,
    section 5.1), so that training begins at the loss of a guess. On torch's device "meta", which
    has shapes and no numbers, nothing is drawn: there a normal draw imports a second of torch.
    """
    if any(part.is_meta for part in network.parameters()):
        return
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.01)
        if isinstance(part, nn.Conv2d | nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def check_image_size(image_size: int) -> None:
    """Raise ValueError for a size below 32 pixels, where nothing is left to pool."""
    if image_size < MIN_IMAGE_SIZE:
        raise ValueError(f"image_size must be at least {MIN_IMAGE_SIZE}, not {image_size}")


def ending(softmax: bool) -> list[nn.Module]:
    """What comes after the last linear layer: a softmax or nothing."""
    return [nn.Softmax(dim=1)] if softmax else []


def _googlenet(classes: int, *, image_size: int, softmax: bool = False) -> nn.Module:
    from inceptcli.model.googlenet import googlenet  # torchvision, which no other network needs

    check_image_size(image_size)
    network: nn.Module = googlenet(classes)
    if softmax:
        network.fc = nn.Sequential(network.fc, nn.Softmax(dim=1))  # type: ignore[arg-type]
    return network


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "inception_v1": InceptionV1,
    "inception_v1_bn": InceptionV1BN,
    "inception_v1_aux": InceptionV1,  # as it is used; for training see below
    "googlenet": _googlenet,
}
TRAINED_AS = {"inception_v1_aux": InceptionV1Aux}


def build(
    arch: str, classes: int, image_size: int, *, training: bool = False, **options: bool
) -> nn.Module:
    """The network called ``arch`` with random weights, answering logits.

    Args:
        arch: A key of ``ARCHITECTURES``.
        classes: Number of outputs.
        image_size: Height and width of the input, pixels.
        training: With the auxiliary classifiers, where it is trained with some.
        options: ``softmax=True`` ends it in one.

    Raises:
        KeyError: No network has that name.
    """
    kinds = ARCHITECTURES | (TRAINED_AS if training else {})
    return kinds[arch](classes, image_size=image_size, **options)


def heads(answer: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The logits of a network in training: its own, then its auxiliary classifiers'."""
    return (answer,) if isinstance(answer, Tensor) else answer
