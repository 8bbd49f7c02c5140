"""From pixels to logits, and from logits to predictions. Knows no figure of merit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from inceptcli.data.fingerprints import Memory, Seen
from inceptcli.data.loader import normalise
from inceptcli.data.prepare import Photos
from inceptcli.data.reader import Looked, PixelSpec, read
from inceptcli.engine.device import Device
from inceptcli.errors import UsageError, WeightsError
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
        threshold: Probability below which an answer is uncertain; 0 when none is stored.
        spec: How a picture becomes the network's input.
        memory: Of its training photographs; None when the file has none.
    """

    weights: Weights
    model: nn.Module
    classes: tuple[str, ...]
    outputs: tuple[str, ...]
    temperature: float
    threshold: float
    spec: PixelSpec
    memory: Memory | None


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
        threshold=(record.threshold or 0.0) if record is not None else 0.0,
        spec=PixelSpec(weights.image_size, weights.resize),
        memory=_memory(weights),
    )


def _memory(weights: Weights) -> Memory | None:
    if weights.fingerprints is None:
        return None
    try:
        return Memory(weights.fingerprints)
    except ValueError as error:
        raise WeightsError(f"{printable(str(weights.path))}: {error}; get it anew") from error


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
class Input:
    """Something to predict: a file, or a name that leads to none.

    Attributes:
        path: As it was given, or found in a folder that was.
        error: Why there is nothing to read ("reason: detail"), or None.
    """

    path: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one input.

    Attributes:
        path: The input's.
        top: Class names with their probabilities, largest first; empty when there is an error.
        error: Why it could not be read ("reason: detail"), or None.
        uncertain: Whether the largest probability is below the threshold.
        trained_on: "copy" or "near" when the network saw the file or a near copy in training,
            "" when not, None when that is unknown.
    """

    path: str
    top: tuple[tuple[str, float], ...] = ()
    error: str | None = None
    uncertain: bool = False
    trained_on: Seen | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """How inputs are read and what is asked of them.

    Attributes:
        topk: How many classes to give.
        threshold: Probability below which an answer is uncertain.
        workers: Decoding processes; 0 decodes in this one.
        max_megapixels: Larger pictures are rejected from their header.
    """

    topk: int = 1
    threshold: float = 0.0
    workers: int = 0
    max_megapixels: float = 150.0


def predict(
    inputs: Iterable[Input], loaded: Loaded, device: Device, question: Question
) -> Iterator[Prediction]:
    """One prediction an input, in order, while the next ones are decoded.

    Inputs are drawn as they are needed; memory is bounded by a few batches.
    """
    classifier = Classifier(loaded.model, device)
    spec = replace(loaded.spec, max_megapixels=question.max_megapixels)
    waiting: deque[Input] = deque()

    def paths() -> Iterator[Path]:
        for each in inputs:
            waiting.append(each)
            if each.error is None:
                yield Path(each.path)

    facts = loaded.memory is not None
    looked = read(paths(), spec, workers=question.workers, want_facts=facts)
    while batch := list(islice(looked, BATCH_SIZE)):
        answers = iter(_probabilities(batch, classifier, loaded.temperature))
        for item in batch:
            while waiting[0].error is not None:
                yield Prediction(waiting[0].path, error=waiting.popleft().error)
            path = waiting.popleft().path
            if item.pixels is None:
                yield Prediction(path, error=f"{item.reason}: {item.detail}")
            else:
                seen = _seen(loaded.memory, item)
                yield _prediction(path, next(answers), loaded.outputs, question, seen)
    for each in waiting:
        yield Prediction(each.path, error=each.error)


def _probabilities(batch: list[Looked], classifier: Classifier, temperature: float) -> Tensor:
    """(n, C) float64 for the n files of a batch that could be read."""
    pixels = [item.pixels for item in batch if item.pixels is not None]
    if not pixels:
        return torch.empty(0, 0)
    logits = classifier.logits(torch.from_numpy(np.stack(pixels)))
    return torch.softmax(logits.double() / temperature, dim=1)


def _seen(memory: Memory | None, item: Looked) -> Seen | None:
    if memory is None or item.facts is None:
        return None
    return memory.seen(item.facts.content_sha256, item.facts.look)


def _prediction(
    path: str,
    probabilities: Tensor,
    outputs: Sequence[str],
    question: Question,
    seen: Seen | None,
) -> Prediction:
    values, order = probabilities.topk(min(question.topk, len(outputs)))
    top = tuple((outputs[i], p) for i, p in zip(order.tolist(), values.tolist(), strict=True))
    return Prediction(path, top, uncertain=top[0][1] < question.threshold, trained_on=seen)
