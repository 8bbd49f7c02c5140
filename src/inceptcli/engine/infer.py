"""From pixels to logits, and from logits to predictions. Knows no figure of merit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from inceptcli.data.loader import normalise
from inceptcli.data.prepare import Photos
from inceptcli.data.reader import Looked, PixelSpec, read
from inceptcli.engine.device import Device
from inceptcli.model.fold import fold_batch_norm

BATCH_SIZE = 32
Watch = Callable[[int, int], None]  # images done, images in all


class Classifier:
    """A trained network, ready to answer: batch norm folded, on its device, in its precision.

    Args:
        model: The network, answering logits; it is copied.
        device: Where and how to compute.
    """

    def __init__(self, model: nn.Module, device: Device) -> None:
        self._device = device
        self._net = device.place(fold_batch_norm(model)).to(device.dtype)

    @torch.inference_mode()
    def logits(self, pixels: Tensor) -> Tensor:
        """Pixels (N, S, S, 3) uint8 -> logits (N, C) float32 on the CPU."""
        images = normalise(pixels, self._device.torch_device)
        answer: Tensor = self._net(images.to(self._device.dtype))
        return answer.float().cpu()


def infer_role(
    model: nn.Module, photos: Photos, role: str, device: Device, *, watch: Watch | None = None
) -> tuple[Tensor, Tensor]:
    """The logits and labels of all pictures of a role, in their order, in every process.

    Each process computes every ``world``-th picture, so that the answers do not depend on the
    number of processes.

    Returns:
        Logits (N, C) float32 and labels (N,) int64, both on the CPU.
    """
    classifier = Classifier(model, device)
    chosen = photos.indices(role)
    own = np.arange(device.rank, len(chosen), device.world)
    parts: list[Tensor] = []
    for start in range(0, len(own), BATCH_SIZE):
        pixels = photos.store.take(chosen[own[start : start + BATCH_SIZE]])
        parts.append(classifier.logits(torch.from_numpy(pixels)))
        if watch is not None:
            watch(min((start + BATCH_SIZE) * device.world, len(chosen)), len(chosen))
    labels = torch.from_numpy(photos.labels[chosen])
    if device.world == 1:
        return torch.cat(parts), labels
    outputs = device.most(parts[0].shape[1] if parts else 0)
    logits = torch.zeros(len(chosen), outputs)
    if parts:
        logits[own] = torch.cat(parts)
    return device.sum(logits).cpu(), labels


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one input.

    Attributes:
        path: The input as it was given.
        top: Class names with their probabilities, largest first; empty when it failed.
        error: Why it could not be read ("reason: detail"), or None.
        content: SHA-256 of the file's bytes, or None when it failed.
        look: Its perceptual description, or None when it failed.
    """

    path: str
    top: tuple[tuple[str, float], ...] = ()
    error: str | None = None
    content: bytes | None = None
    look: bytes | None = None


def predict(
    paths: Iterable[str],
    classifier: Classifier,
    classes: Sequence[str],
    spec: PixelSpec,
    *,
    topk: int,
    temperature: float,
    workers: int,
) -> Iterator[Prediction]:
    """Predictions for files, one each, in order, while the next ones are decoded.

    Memory is bounded by a few batches, however many paths there are.

    Args:
        paths: Files; drawn from as they are needed.
        classifier: The network.
        classes: A name for each of its outputs.
        spec: How pictures become pixels.
        topk: How many classes to give.
        temperature: What logits are divided by before the softmax; 1 leaves them as they are.
        workers: Decoding processes; 0 decodes in this one.
    """
    given: list[str] = []

    def noted() -> Iterator[Path]:
        for path in paths:
            given.append(path)
            yield Path(path)

    looked = read(noted(), spec, workers=workers, want_facts=True)
    while batch := list(islice(looked, BATCH_SIZE)):
        names, given[: len(batch)] = given[: len(batch)], []
        yield from _answer(names, batch, classifier, classes, topk, temperature)


def _answer(
    names: list[str],
    batch: list[Looked],
    classifier: Classifier,
    classes: Sequence[str],
    topk: int,
    temperature: float,
) -> Iterator[Prediction]:
    pixels = [item.pixels for item in batch if item.pixels is not None]
    probabilities: Iterator[Tensor] = iter(())
    if pixels:
        logits = classifier.logits(torch.from_numpy(np.stack(pixels)))
        probabilities = iter(torch.softmax(logits.double() / temperature, dim=1))
    for name, item in zip(names, batch, strict=True):
        if item.pixels is None:
            yield Prediction(name, error=f"{item.reason}: {item.detail}")
            continue
        values, order = next(probabilities).topk(min(topk, len(classes)))
        top = [(classes[i], p) for i, p in zip(order.tolist(), values.tolist(), strict=True)]
        facts = item.facts
        yield Prediction(
            name,
            tuple(top),
            content=facts.content_sha256 if facts else None,
            look=facts.look if facts else None,
        )
