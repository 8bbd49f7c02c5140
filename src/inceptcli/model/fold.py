"""The network as it is used once trained: batch normalisation inside the convolutions."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

Net = TypeVar("Net", bound=nn.Module)


def fold_batch_norm(model: Net) -> Net:
    """A copy in evaluation mode whose convolutions do their batch normalisation's work.

    In evaluation ``y = g (Wx + b - m) / s + h`` is a convolution with weights ``g W / s`` and
    bias ``g (b - m) / s + h``; the answers differ from the original's by rounding alone.
    """
    folded = copy.deepcopy(model)
    folded.eval()
    for sequence in [part for part in folded.modules() if isinstance(part, nn.Sequential)]:
        _fold_sequence(sequence)
    return folded


def _fold_sequence(sequence: nn.Sequential) -> None:
    for index in range(len(sequence) - 1):
        conv, norm = sequence[index], sequence[index + 1]
        if isinstance(conv, nn.Conv2d) and isinstance(norm, _BatchNorm):
            sequence[index] = fuse_conv_bn_eval(conv, norm)
            sequence[index + 1] = nn.Identity()
