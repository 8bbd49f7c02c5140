"""From pixels to logits, and from logits to predictions. Knows no figure of merit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from inceptcli.data.loader import normalise
from inceptcli.data.prepare import Photos
from inceptcli.data.reader import Looked, PixelSpec, read
from inceptcli.engine.device import Device
from inceptcli.errors import UsageError
from inceptcli.files import printable
from inceptcli.model.fold import fold_batch_norm
from inceptcli.model.inception import build
from inceptcli.model.weights import Weights, load_into, load_weights, name_outputs

BATCH_SIZE = 32
Watch = Callable[[int, int], None]  # images done, images in all


def nobody(done: int, total: int) -> None:
    """Watch nothing: the default."""
    del done, total


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
        images = normalise(pixels, device=self._device.torch_device, dtype=self._device.dtype)
        answer: Tensor = self._net(images)
        return answer.float().cpu()


@dataclass(frozen=True)
class Loaded:
    """A weights file, its network and what to call its answers.

    Attributes:
        weights: The file as it was read and checked.
        model: The network with those weights.
        classes: Its class names, or () when nobody gave them.
        outputs: A name for each output; those without a class are called "class 7".
        temperature: What logits are divided by before the softmax.
        spec: How a picture becomes the network's input.
    """

    weights: Weights
    model: nn.Module
    classes: tuple[str, ...]
    outputs: tuple[str, ...]
    temperature: float
    spec: PixelSpec


def load_network(path: Path, *, classes: Sequence[str] = (), raw: bool = False) -> Loaded:
    """Read a weights file and build its network.

    Args:
        path: The file.
        classes: Names for the outputs, for a file without a record.
        raw: Leave the stored temperature aside.

    Raises:
        WeightsError: The file is damaged, hostile or not of a network known here.
        UsageError: Names were given although the file has its own, or too many.
    """
    weights = load_weights(path)
    record = weights.record
    if classes and record is not None:
        raise UsageError(
            f"{printable(str(path))} names its own classes; leave out --class-names "
            "and --classes-from"
        )
    if len(classes) > weights.outputs:
        raise UsageError(
            f"{len(classes)} class names for a network of {weights.outputs} outputs; give "
            f"at most {weights.outputs}"
        )
    names = record.classes if record is not None else tuple(classes)
    model = build(weights.arch, weights.outputs, weights.image_size)
    load_into(model, weights)
    return Loaded(
        weights=weights,
        model=model,
        classes=names,
        outputs=name_outputs(names, weights.outputs),
        temperature=1.0 if raw or record is None else record.temperature or 1.0,
        spec=PixelSpec(weights.image_size, record.resize if record else "stretch"),
    )


class Answers(NamedTuple):
    """What a network answers for photographs.

    Attributes:
        which: (N,) int64, indices into the photographs, in order.
        logits: (N, C) float32, on the CPU.
    """

    which: npt.NDArray[np.int64]
    logits: Tensor


def infer_role(
    model: nn.Module, photos: Photos, role: str, device: Device, *, watch: Watch = nobody
) -> Answers:
    """The logits of all photographs of a role, the same in every process.

    Each process computes every ``world``-th of them, so that nothing depends on their number. A
    photograph that has vanished since it was looked at has no answer.
    """
    classifier = Classifier(model, device)
    chosen = photos.indices(role)
    own = chosen[device.rank :: device.world]
    where: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    parts: list[Tensor] = []
    for start in range(0, len(own), BATCH_SIZE):
        pixels, which = photos.store.take(own[start : start + BATCH_SIZE])
        if len(which):
            parts.append(classifier.logits(torch.from_numpy(pixels)))
            where.append(which)
        watch(min((start + BATCH_SIZE) * device.world, len(chosen)), len(chosen))
    outputs = device.most(parts[0].shape[1] if parts else 0)
    logits = torch.zeros(len(photos.names), outputs)
    there = torch.zeros(len(photos.names))
    if parts:
        found = torch.from_numpy(np.concatenate(where))
        logits[found], there[found] = torch.cat(parts), 1.0
    answered = np.flatnonzero(device.sum(there).cpu().numpy())
    return Answers(answered, device.sum(logits).cpu()[answered])


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
