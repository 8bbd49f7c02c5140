"""A network with all that comes before and after it: a picture of any size -> probabilities.

Plain tensor arithmetic from end to end, so that what is exported needs no code beside it. The
resize is ``data.image.fit`` once more, as two matrices of weights: Pillow's bilinear filter,
antialiased, along one side, rounded, then along the other, rounded.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from inceptcli.config import MEAN, STD, Resize
from inceptcli.model.fold import fold_batch_norm

HALF = 1 << 11  # Pillow's weights are whole parts of its square
PAD_COLOUR = tuple(float(round(255 * part)) for part in MEAN)


class _Axis(NamedTuple):
    """How one side of a picture lands on the square; int64 scalars.

    ``size`` pixels, of which ``length`` from ``start`` on become ``new`` pixels from ``corner`` on.
    """

    size: int
    start: Tensor
    length: Tensor
    new: Tensor
    corner: Tensor


class Pipeline(nn.Module):
    """Pixels as a file holds them -> probabilities; batch norm folded, in evaluation mode.

    Args:
        model: The network, answering logits; it is copied.
        image_size: Height and width of its input.
        resize: How a picture becomes that square; see ``data.image.fit``.
        temperature: What logits are divided by.
        mean: Of red, green and blue, for pixels in [0, 1].
        std: Their standard deviation.
        tall_first: Whether tall pictures are resized along their height first, as Pillow does
            from version 13 on: those that lose more than twice as many rows as columns.
    """

    mean: Tensor
    std: Tensor
    pad_colour: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        image_size: int,
        resize: Resize,
        temperature: float = 1.0,
        mean: tuple[float, ...] = MEAN,
        std: tuple[float, ...] = STD,
        tall_first: bool = True,
    ) -> None:
        super().__init__()
        self.net = fold_batch_norm(model)
        self.image_size = image_size
        self.resize = resize
        self.temperature = temperature
        self.tall_first = tall_first
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))
        self.register_buffer("pad_colour", torch.tensor(PAD_COLOUR).view(3, 1, 1))
        self.requires_grad_(False)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """RGB (N, H, W, 3) uint8 -> probabilities (N, C) float32."""
        pixels = self.fit(image) / 255
        logits = self.net((pixels - self.mean) / self.std)
        return torch.softmax(logits.float() / self.temperature, dim=1)

    def fit(self, image: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 -> (N, 3, S, S) float32, whole numbers from 0 to 255."""
        rows, columns = self._axes(image)
        planes = image.permute(0, 3, 1, 2).float()  # (N, 3, H, W)
        by_row, by_column = self._weights(rows), self._weights(columns)
        if self.tall_first:
            lost_rows, lost_columns = rows.size - rows.new, columns.size - columns.new
            tall = (lost_rows > 0) & (lost_rows > 2 * lost_columns)
            square: Tensor = torch.cond(
                tall, _rows_first, _columns_first, (planes, by_row, by_column)
            )
        else:
            square = _columns_first(planes, by_row, by_column)
        if self.resize != "pad":
            return square
        inside = self._inside(rows).view(-1, 1) & self._inside(columns).view(1, -1)
        return torch.where(inside, square, self.pad_colour)

    def _axes(self, image: Tensor) -> tuple[_Axis, _Axis]:
        """Of the rows and of the columns."""
        sizes = image.shape[1:3]
        sides = [torch.scalar_tensor(size, dtype=torch.int64) for size in sizes]
        square = torch.scalar_tensor(self.image_size, dtype=torch.int64)
        zero = torch.zeros_like(square)
        short, long = torch.minimum(*sides), torch.maximum(*sides)
        if self.resize == "stretch":
            lands = [(zero, side, square, zero) for side in sides]
        elif self.resize == "crop":
            lands = [((side - short) // 2, short, square, zero) for side in sides]
        else:
            scale = square.double() / long.double()  # as Python divides whole numbers
            news = [(side * scale).round().long().clamp(min=1) for side in sides]
            lands = [
                (zero, side, new, (square - new) // 2)
                for side, new in zip(sides, news, strict=True)
            ]
        rows, columns = (_Axis(size, *land) for size, land in zip(sizes, lands, strict=True))
        return rows, columns

    def _places(self, axis: _Axis) -> Tensor:
        """The square's pixels, counted from the picture's first one: (S,) int64."""
        return torch.arange(self.image_size) - axis.corner

    def _inside(self, axis: _Axis) -> Tensor:
        places = self._places(axis)
        return (places >= 0) & (places < axis.new)

    def _weights(self, axis: _Axis) -> Tensor:
        """(size, S) float32: how much a pixel of a side counts for one of the square's, x 2^22.

        A triangle around each new pixel's centre, as wide as two new pixels or two old ones,
        whichever is more. Everything is multiplied by 2 x length x new, so that whole numbers
        carry it exactly up to the division.
        """
        old = 2 * (torch.arange(axis.size) - axis.start) + 1
        new = 2 * self._places(axis) + 1
        apart = (old.view(-1, 1) * axis.new - new.view(1, -1) * axis.length).abs()
        parts = (2 * torch.maximum(axis.length, axis.new) - apart).clamp(min=0)
        total = parts.sum(dim=0, keepdim=True).clamp(min=1)  # a pixel of the padding has none
        return torch.floor(parts.double() / total.double() * HALF**2 + 0.5).float()


def _columns_first(planes: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 3, S, S) through (N, 3, H, S)."""
    return _weighted(_weighted(planes, by_column).mT, by_row).mT.contiguous()


def _rows_first(planes: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 3, S, S) through (N, 3, S, W)."""
    return _weighted(_weighted(planes.mT, by_row).mT, by_column).contiguous()


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    """(..., size) whole numbers up to 255 and (size, S) weights -> (..., S), rounded.

    The weights are multiplied in two halves of eleven bits, of which float32 adds up to 32
    exactly; all else here divides by powers of two. So the result is Pillow's to the bit.
    """
    high = torch.floor(weights / HALF)
    low = weights - high * HALF
    sums = values @ torch.cat([high, low], dim=1)
    size = weights.shape[1]
    whole = sums[..., :size] + torch.floor(sums[..., size:] / HALF)
    return torch.floor((whole + HALF // 2) / HALF)
