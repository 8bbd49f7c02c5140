"""Random changes to training pictures, drawn for each from (seed, epoch, index) alone.

Draws are made on the CPU by a counter-based generator, so that workers, prefetching, resuming and
processes cannot change them; what they decide is computed for the batch. Cropping comes first, on
uint8: in the loader's thread where the CPU computes, for all pictures at once on a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from inceptcli.config import MEAN, STD

if TYPE_CHECKING:
    from inceptcli.config import Flips, TrainConfig

Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

WORD = 2**64 - 1
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: how bright red, green and blue look
ASPECT = 4 / 3  # a crop's width to its height lies between this and its inverse
ERASED = (0.02, 0.25)  # parts of the area, and the aspect, of what is erased
ERASED_ASPECT = 3.0
CROP, COLOUR, ERASE = 4, 3, 5  # random numbers that each takes
STREAMS = {"crop": 1, "colour": 5, "erase": 8}  # where those of each begin; 0 is the flips'


def _mixed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's step and finaliser (Steele, Lea and Flood, 2014, figure 15)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _words(indices: Indices, *, seed: int, epoch: int) -> npt.NDArray[np.uint64]:
    start = np.array([seed & WORD], np.uint64)
    return _mixed(_mixed(_mixed(start) ^ np.uint64(epoch & WORD)) ^ indices.astype(np.uint64))


def flip_draws(indices: Indices, *, seed: int, epoch: int, flips: Flips) -> tuple[Flags, Flags]:
    """Whether each sample is mirrored (left and right) and overturned (top and bottom).

    Args:
        indices: int64 (N,), the samples' own numbers, not their places in the batch.
        seed: Of the run.
        epoch: From 1.
        flips: "none", "h" or "hv"; each allowed flip comes up in half of the draws.

    Returns:
        Two bool arrays (N,).
    """
    words = _words(indices, seed=seed, epoch=epoch)
    horizontal = (words >> np.uint64(63)).astype(bool) & ("h" in flips)
    vertical = (words >> np.uint64(62) & np.uint64(1)).astype(bool) & ("v" in flips)
    return horizontal, vertical


def uniform_draws(indices: Indices, *, seed: int, epoch: int, first: int, count: int) -> Floats:
    """Random numbers of each sample, streams ``first`` to ``first + count - 1`` of it.

    Returns:
        float64 (N, count) in [0, 1), multiples of 2^-53.
    """
    streams = np.arange(first, first + count, dtype=np.uint64)
    words = _mixed(_words(indices, seed=seed, epoch=epoch)[:, None] ^ streams)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def flip(images: torch.Tensor, horizontal: Flags, vertical: Flags) -> torch.Tensor:
    """Return a batch, uint8 (N, H, W, 3) on whatever device, with the images marked flipped."""
    for flags, axis in ((horizontal, 2), (vertical, 1)):
        if flags.any():
            chosen = torch.from_numpy(np.flatnonzero(flags))
            chosen = chosen.to(images.device, non_blocking=images.is_cuda)
            backwards = torch.arange(images.shape[axis] - 1, -1, -1, device=images.device)
            flipped = images[chosen].index_select(axis, backwards)  # faster than flip here
            images = images.index_copy(0, chosen, flipped)
    return images


@dataclass(frozen=True, slots=True)
class Crop:
    """Random resized crops of one epoch (Szegedy et al., 2015, section 6).

    Attributes:
        size: Side of the result in pixels.
        area: The smallest part of the picture's area that is shown, 0 to 1; 1: always all of it.
        seed: Of the run.
        epoch: From 1.
    """

    size: int
    area: float
    seed: int
    epoch: int

    def __call__(self, images: torch.Tensor, indices: Indices) -> torch.Tensor:
        """uint8 (N, S, S, 3) of the samples ``indices`` -> uint8 (N, size, size, 3)."""
        side = images.shape[1]
        if self.area == 1 and side == self.size:
            return images
        draws = uniform_draws(
            indices, seed=self.seed, epoch=self.epoch, first=STREAMS["crop"], count=CROP
        )
        boxes = crop_boxes(draws, side=side, area=self.area)
        if images.is_cuda:
            return resized_at_once(images, boxes, size=self.size)
        return resized(images, boxes, size=self.size)


def crop_boxes(draws: Floats, *, side: int, area: float) -> Indices:
    """Where to cut out of square pictures.

    The part of the area is uniform from ``area`` to 1, the aspect log-uniform from 3/4 to 4/3 of
    what the network is shown, so that a crop is distorted no more than a whole picture plus
    that; the place is uniform.

    Returns:
        int64 (N, 4): left, top, width, height.
    """
    part = area + (1 - area) * draws[:, 0]
    stretch = np.exp((2 * draws[:, 1] - 1) * math.log(ASPECT) * (area < 1))
    width = np.clip(np.rint(side * np.sqrt(part * stretch)), 1, side)
    height = np.clip(np.rint(side * np.sqrt(part / stretch)), 1, side)
    left = np.floor(draws[:, 2] * (side - width + 1))
    top = np.floor(draws[:, 3] * (side - height + 1))
    return np.stack([left, top, width, height], axis=1).astype(np.int64)


def resized(images: torch.Tensor, boxes: Indices, *, size: int) -> torch.Tensor:
    """Boxes of pictures uint8 (N, H, W, 3), bilinear and antialiased: uint8 (N, size, size, 3)."""
    result = torch.empty((len(images), size, size, 3), dtype=torch.uint8)
    for image, box, out in zip(images, boxes.tolist(), result, strict=True):
        left, top, width, height = box
        part = image[top : top + height, left : left + width].permute(2, 0, 1).unsqueeze(0)
        out.copy_(
            functional.interpolate(part, size=(size, size), mode="bilinear", antialias=True)[
                0
            ].permute(1, 2, 0)
        )
    return result


def resized_at_once(images: torch.Tensor, boxes: Indices, *, size: int) -> torch.Tensor:
    """What ``resized`` gives, to one grey level, for the whole batch on its device.

    Each side's filter is a matrix, so that a few products do what takes one call a picture there,
    too many for a GPU to be kept busy.
    """
    places = torch.from_numpy(boxes).to(images.device, torch.float32, non_blocking=images.is_cuda)
    left, top, width, height = places.unsqueeze(2).unbind(1)  # (N, 1) each
    down = _filters(top, height, side=images.shape[1], size=size).unsqueeze(1)
    along = _filters(left, width, side=images.shape[2], size=size).unsqueeze(1)
    pixels = images.permute(0, 3, 1, 2).float()
    result = down @ pixels @ along.transpose(2, 3)  # (N, 3, size, size)
    return result.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _filters(start: torch.Tensor, length: torch.Tensor, *, side: int, size: int) -> torch.Tensor:
    """How much each of ``side`` pixels gives to each of ``size``: bilinear, antialiased.

    The triangle is as wide as a pixel of the result where that is the larger one, as Pillow's.

    Args:
        start: (N, 1), where a box begins along this side.
        length: (N, 1), of the box.
        side: Pixels of the picture.
        size: Pixels of the result.

    Returns:
        float32 (N, size, side); what a pixel of the result takes adds up to 1.
    """
    scale = length / size
    middle = start + (torch.arange(size, device=start.device) + 0.5) * scale  # (N, size)
    pixels = torch.arange(side, device=start.device) + 0.5  # (side,)
    distance = (pixels - middle.unsqueeze(2)).abs() / scale.clamp(min=1).unsqueeze(2)
    inside = (pixels > start) & (pixels < start + length)  # (N, side)
    weights = (1 - distance).clamp_(min=0) * inside.unsqueeze(1)
    return weights / weights.sum(2, keepdim=True)


def change(
    images: torch.Tensor, indices: Indices, config: TrainConfig, *, seed: int, epoch: int
) -> torch.Tensor:
    """Colours changed and boxes erased, as the settings ask; the images themselves otherwise.

    Args:
        images: Normalised, (N, 3, H, W); may be changed in place.
        indices: int64 (N,), the samples' own numbers.
        config: The settings.
        seed: Of the run.
        epoch: From 1.
    """
    if config.color_jitter:
        draws = uniform_draws(
            indices, seed=seed, epoch=epoch, first=STREAMS["colour"], count=COLOUR
        )
        images = jitter_colour(images, draws, strength=config.color_jitter)
    if config.random_erase:
        draws = uniform_draws(indices, seed=seed, epoch=epoch, first=STREAMS["erase"], count=ERASE)
        images = erase(images, draws, probability=config.random_erase)
    return images


def jitter_colour(images: torch.Tensor, draws: Floats, *, strength: float) -> torch.Tensor:
    """Change brightness, contrast and saturation, each by a factor in 1 +- ``strength``.

    All three are one linear map of an image's colours: x -> A x + b. Nothing is cut off at black
    and white, which only a file would need.

    Args:
        images: Normalised, (N, 3, H, W).
        draws: (N, 3) in [0, 1).
        strength: 0 to 1.
    """
    factors = torch.from_numpy(1 + strength * (2 * draws - 1))
    factors = factors.to(images.device, images.dtype, non_blocking=images.is_cuda)
    bright, contrast, colourful = (factor.view(-1, 1, 1) for factor in factors.unbind(1))
    luma, mean, std, eye = _constants(images.device, images.dtype)
    grey = luma.transpose(1, 2).expand(1, 3, 3)  # a colour -> its brightness, three times
    matrix = bright * contrast * (colourful * eye + (1 - colourful) * grey)
    centre = images.mean((2, 3)).unsqueeze(2) * std + mean  # (N, 3, 1) in [0, 1]
    offset = bright * (1 - contrast) * (luma * centre).sum(1, keepdim=True)
    # The same in the normalised numbers that the pixels are now.
    offset = (matrix @ mean + offset - mean) / std
    matrix = matrix * std.transpose(1, 2) / std
    pixels = images.permute(0, 2, 3, 1).flatten(1, 2)  # (N, H * W, 3), no copy in channels-last
    changed = torch.baddbmm(offset.transpose(1, 2), pixels, matrix.transpose(1, 2))
    return changed.view(len(images), *images.shape[2:], 3).permute(0, 3, 1, 2)


@lru_cache
def _constants(device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Brightness, mean and deviation (1, 3, 1), and the identity; kept, as GPUs wait for them."""
    columns = [torch.tensor(values).view(1, 3, 1) for values in (LUMA, MEAN, STD)]
    return tuple(each.to(device, dtype) for each in (*columns, torch.eye(3)))


def erase(images: torch.Tensor, draws: Floats, *, probability: float) -> torch.Tensor:
    """Cover a random box of some images with the mean colour (Zhong et al., 2020), in place.

    Args:
        images: Normalised, (N, 3, H, W).
        draws: (N, 5) in [0, 1).
        probability: Of each image.
    """
    height, width = images.shape[2:]
    for image, (chance, part, aspect, x, y) in zip(images, draws.tolist(), strict=True):
        if chance < probability:
            area = ERASED[0] + (ERASED[1] - ERASED[0]) * part
            stretch = ERASED_ASPECT ** (2 * aspect - 1)
            wide = max(1, min(width, round(width * math.sqrt(area * stretch))))
            high = max(1, min(height, round(height * math.sqrt(area / stretch))))
            left, top = int(x * (width - wide + 1)), int(y * (height - high + 1))
            image[:, top : top + high, left : left + wide] = 0.0
    return images
