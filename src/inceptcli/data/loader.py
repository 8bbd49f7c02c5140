"""Batches in an order that depends on (seed, epoch, index) alone, prepared ahead in a thread.

Nothing here draws from a generator with a state: the number of workers, prefetching, resuming
and the number of processes cannot change an order or a picture.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from inceptcli.config import MEAN, STD
from inceptcli.data.ahead import ahead
from inceptcli.data.augment import WORD, Indices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from inceptcli.data.cache import PixelStore


def epoch_order(count: int, *, seed: int, epoch: int) -> Indices:
    """A permutation of ``range(count)``, another one for each seed and epoch.

    The samples are sorted by raw words of Philox (Salmon et al., 2011) keyed with (seed, epoch);
    numpy keeps those the same for ever, unlike its ``permutation``.

    Returns:
        int64 (count,).
    """
    key = np.array([seed & WORD, epoch & WORD], np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable")


def batches(order: Indices, batch_size: int, *, least: int = 2) -> list[Indices]:
    """Cut an order into batches; a last one of fewer than ``least`` joins the batch before it.

    Batch norm has no variance over one image of one pixel, where deep layers end: each process
    needs two images of every batch.
    """
    starts = list(range(0, len(order), batch_size))
    if 0 < len(order) % batch_size < least and len(starts) > 1:
        starts.pop()
    return np.split(order, starts[1:]) if starts else []


def normalise(
    images: torch.Tensor, *, device: torch.device, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """(x / 255 - mean) / std, in float32, then cast.

    Equal to the bit to torchvision's ``ToTensor`` and ``Normalize`` with ImageNet's figures.

    Args:
        images: uint8 (N, H, W, 3).
        device: Where to compute; the transfer does not wait when ``images`` are pinned.
        dtype: Of the result.

    Returns:
        (N, 3, H, W) in channels-last memory.
    """
    count, height, width, _ = images.shape
    mean, std = _rows_of_mean_and_std(width, device)
    result = torch.empty((count, height, width * 3), dtype=dtype, device=device)
    # One image at a time stays in a processor's cache; a GPU wants all at once.
    part = 1 if device.type == "cpu" else max(1, count)
    for pixels, out in zip(torch.split(images, part), torch.split(result, part), strict=True):
        rows = pixels.to(device, non_blocking=True).to(torch.float32).view_as(out)
        out.copy_(rows.div_(255).sub_(mean).div_(std))
    return result.view(count, height, width, 3).permute(0, 3, 1, 2)


@lru_cache
def _rows_of_mean_and_std(width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Repeated along a row of pixels, for long inner loops; kept, as a transfer makes GPUs wait."""
    with torch.inference_mode(False):
        return torch.tensor(MEAN * width).to(device), torch.tensor(STD * width).to(device)


@dataclass(frozen=True, slots=True)
class Batch:
    """One process's share of one step.

    Attributes:
        step: Place in the list of batches, from 0.
        indices: int64 (M,): which samples these are. Lost files are left out, and a process may
            have none at all when a batch is smaller than the number of processes.
        images: uint8 (M, S, S, 3), cropped; for a GPU, which crops them itself, pinned instead.
    """

    step: int
    indices: Indices
    images: torch.Tensor


def as_it_is(images: torch.Tensor, indices: Indices) -> torch.Tensor:
    """Pictures that are cropped later or not at all."""
    del indices
    return images


class Waiting:
    """Seconds in which nothing was computed for want of a batch: a context around each wait.

    A GPU works behind the program, which may wait while the GPU does not. There the time is that
    between the end of the work that it has and the arrival of the batch, told by CUDA's events.
    """

    def __init__(self, *, on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        self._waited = 0.0
        self._since = 0.0
        self._gaps: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def __enter__(self) -> None:
        if self._on_gpu:
            self._gaps.append((_event(), _event()))
            self._gaps[-1][0].record()
        else:
            self._since = time.monotonic()

    def __exit__(self, *exception: object) -> None:
        if self._on_gpu:
            self._gaps[-1][1].record()
        else:
            self._waited += time.monotonic() - self._since

    @property
    def seconds(self) -> float:
        """So far; on a GPU, as far as it has come."""
        while self._gaps and self._gaps[0][1].query():  # type: ignore[no-untyped-call]
            start, end = self._gaps.popleft()
            self._waited += start.elapsed_time(end) / 1000
        return self._waited


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


class Loader:
    """One process's share of each batch, the next one prepared while this one is computed on.

    Args:
        store: The pixels.
        steps: The batches of all processes together, as :func:`batches` cuts them.
        start: The first step to give; a resumed run begins in the middle.
        rank: Of this process.
        world: Processes; each takes one contiguous part, sizes differ by one at most.
        crop: (images, indices) -> images: what is done to them in the thread.
        pin: Whether images go to a GPU.

    """

    def __init__(
        self,
        store: PixelStore,
        steps: Sequence[Indices],
        *,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        crop: Callable[[torch.Tensor, Indices], torch.Tensor] = as_it_is,
        pin: bool = False,
    ) -> None:
        self._waiting = Waiting(on_gpu=pin)
        self._store = store
        self._shares = [
            (step, np.array_split(steps[step], world)[rank]) for step in range(start, len(steps))
        ]
        self._crop = crop
        self._pin = pin

    def __len__(self) -> int:
        return len(self._shares)

    @property
    def waited(self) -> float:
        """Seconds in which the computing has waited for batches so far."""
        return self._waiting.seconds

    def __iter__(self) -> Iterator[Batch]:
        ready = ahead(self._batch(step, share) for step, share in self._shares)
        while True:
            with self._waiting:
                batch = next(ready, None)
            if batch is None:
                return
            yield batch

    def _batch(self, step: int, share: Indices) -> Batch:
        pixels, indices = self._store.take(share)
        images = self._crop(torch.from_numpy(pixels), indices)
        return Batch(step, indices, images.pin_memory() if self._pin else images)
