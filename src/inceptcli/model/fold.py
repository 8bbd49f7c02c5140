"""The network as it is used once trained: the same answers with less work."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
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


class SeparablePool(nn.Module):
    """``MaxPool2d(3, stride=1, padding=1)`` as maxima along the rows, then along the columns.

    The same numbers. On a CPU it takes half the time, since no index of a maximum is kept, which
    only gradients need.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return _of_three(_of_three(maps, 3), 2)


def _of_three(x: Tensor, axis: int) -> Tensor:
    """The maximum of each value and its two neighbours along an axis."""
    size = x.shape[axis]
    if size == 1:
        return x
    pairs = torch.maximum(x.narrow(axis, 0, size - 1), x.narrow(axis, 1, size - 1))
    result = torch.empty_like(x)
    result.narrow(axis, 0, 1).copy_(pairs.narrow(axis, 0, 1))
    result.narrow(axis, size - 1, 1).copy_(pairs.narrow(axis, size - 2, 1))
    inner = [pairs.narrow(axis, start, size - 2) for start in (0, 1)]
    torch.maximum(*inner, out=result.narrow(axis, 1, size - 2))
    return result


def separate_pools(model: Net) -> Net:
    """The network itself, its pools of 3x3 with stride 1 made separable."""
    for parent in list(model.modules()):
        for name, part in parent.named_children():
            if isinstance(part, nn.MaxPool2d) and _is_separable(part):
                setattr(parent, name, SeparablePool())
    return model


def _is_separable(pool: nn.MaxPool2d) -> bool:
    shape = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    return shape == (3, 1, 1, 1) and not pool.return_indices
