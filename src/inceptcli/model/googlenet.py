"""torchvision's GoogLeNet, for its pretrained weights.

It is another network than the paper's: where that has 5x5 convolutions it has 3x3 (as the port
of its weights has), no biases in convolutions, batch normalisation everywhere, one linear layer.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from torch import nn
from torchvision.models.googlenet import GoogLeNet, Inception


class ConvNormRelu(nn.Sequential):
    """torchvision's ``BasicConv2d``, keys and numbers, as a sequence that can be folded."""

    def __init__(self, inputs: int, outputs: int, **options: Any) -> None:
        conv = nn.Conv2d(inputs, outputs, bias=False, **options)
        norm = nn.BatchNorm2d(outputs, eps=0.001)
        super().__init__(OrderedDict(conv=conv, bn=norm, relu=nn.ReLU(True)))


def googlenet(classes: int) -> GoogLeNet:
    """The GoogLeNet of torchvision with random weights, without its auxiliary classifiers.

    It takes images of any size from 32 px up, normalised like all networks here, and changes
    them itself to the range that torchvision's pretrained weights were made for.

    Args:
        classes: Number of outputs, at least 1.
    """
    return GoogLeNet(
        classes,
        aux_logits=False,
        transform_input=True,
        # Without a word torchvision warns; see ``initialise`` for the device "meta".
        init_weights=torch.get_default_device().type != "meta",
        blocks=[ConvNormRelu, partial(Inception, conv_block=ConvNormRelu), nn.Identity],
    )
