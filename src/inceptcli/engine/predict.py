"""From files to predictions, whatever runs the network. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from inceptcli.data.ahead import ahead
from inceptcli.data.fingerprints import Memory, Seen
from inceptcli.data.reader import Looked, PixelSpec, read

if TYPE_CHECKING:
    from inceptcli.data.image import Pixels
    from inceptcli.data.prepare import Photos
    from inceptcli.engine.device import Device

BATCH_SIZE = 32
Watch = Callable[[int, int], None]  # images done, images in all
Logits = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float64]
Answer = Callable[["Pixels"], Logits]  # (N, S, S, 3) uint8 -> (N, C)


def nobody(done: int, total: int) -> None:
    """Watch nothing: the default."""
    del done, total


@dataclass(frozen=True, kw_only=True)
class Network(ABC):
    """A trained network's file, what to call its answers, and a way to get them.

    Attributes:
        path: The file.
        digest: SHA-256 of its content in hex; None for the file of a plain script.
        classes: Its class names, or () when nobody gave them.
        outputs: A name for each output; see ``model.weights.name_outputs``.
        temperature: What logits are divided by before the softmax.
        threshold: Probability below which an answer is uncertain; 0 when none is stored.
        spec: How a picture becomes the network's input.
        memory: Of its training photographs; None when the file has none.
    """

    path: Path
    digest: str | None
    classes: tuple[str, ...]
    outputs: tuple[str, ...]
    temperature: float
    threshold: float
    spec: PixelSpec
    memory: Memory | None

    @property
    def names_itself(self) -> bool:
        """Whether the names of its classes are its file's own."""
        return True

    @abstractmethod
    def answer(self, device: Device | None) -> Answer:
        """The function that answers pixels with logits.

        Args:
            device: Where torch computes; an exported network takes no notice.
        """

    @abstractmethod
    def infer(
        self, photos: Photos, role: str, device: Device | None, *, watch: Watch = nobody
    ) -> tuple[npt.NDArray[np.int64], Logits]:
        """The photographs of a role that could be read, as indices, and their logits."""


def describe(members: Sequence[Network], tta: str) -> dict[str, Any]:
    """Which files answered and how: the ``weights`` of ``metrics.json``."""
    files = [{"path": str(m.path), "digest": m.digest} for m in members]
    views_ = {} if tta == "none" else {"tta": tta}
    if len(files) == 1:
        return files[0] | views_
    together = {"path": ", ".join(str(each["path"]) for each in files), "digest": None}
    return together | {"members": files} | views_


def is_averaged(weights: Mapping[str, Any]) -> bool:
    """Whether what ``describe`` says is of means of several answers, each with its temperature."""
    return not weights.keys().isdisjoint({"members", "tta"})


def ask(
    answer: Answer, photos: Photos, chosen: npt.NDArray[np.int64], *, watch: Watch = nobody
) -> tuple[npt.NDArray[np.int64], list[Logits]]:
    """Which of the chosen photographs could be read, and their logits, batch by batch."""
    where: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    parts: list[Logits] = []
    starts = range(0, len(chosen), BATCH_SIZE)
    batches = (photos.store.take(chosen[start : start + BATCH_SIZE]) for start in starts)
    with closing(ahead(batches, left=photos.store.leaving)) as taken:
        for start, (pixels, which) in zip(starts, taken, strict=True):
            if len(which):
                parts.append(answer(pixels))
                where.append(which)
            watch(min(start + BATCH_SIZE, len(chosen)), len(chosen))
    return np.concatenate(where), parts


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
        ahead: Whether the next files are read while a batch is computed. Not where names come
            from a stream: a thread that waits for one cannot be ended.
    """

    topk: int = 1
    threshold: float = 0.0
    workers: int = 0
    max_megapixels: float = 150.0
    ahead: bool = True


def predict(
    inputs: Iterable[Input], network: Network, answer: Answer, question: Question
) -> Iterator[Prediction]:
    """One prediction an input, in order, while the next ones are decoded.

    Inputs are drawn as they are needed; memory is bounded by a few batches.
    """
    spec = replace(network.spec, max_megapixels=question.max_megapixels)
    waiting: deque[Input] = deque()

    def paths() -> Iterator[Path]:
        for each in inputs:
            waiting.append(each)
            if each.error is None:
                yield Path(each.path)

    facts, left = network.memory is not None, Event()
    batches = _batched(
        read(paths(), spec, workers=question.workers, want_facts=facts, stopping=left.is_set)
    )
    with closing(ahead(batches, left=left) if question.ahead else batches) as ready:
        for batch in ready:
            answers = iter(_probabilities(batch, answer, network.temperature))
            for item in batch:
                while waiting[0].error is not None:
                    yield Prediction(waiting[0].path, error=waiting.popleft().error)
                path = waiting.popleft().path
                if item.pixels is None:
                    yield Prediction(path, error=f"{item.reason}: {item.detail}")
                else:
                    seen = _seen(network.memory, item)
                    yield _prediction(path, next(answers), network.outputs, question, seen)
    for each in waiting:
        yield Prediction(each.path, error=each.error)


def _batched(looked: Iterator[Looked]) -> Generator[list[Looked], None, None]:
    while batch := list(islice(looked, BATCH_SIZE)):
        yield batch


def _probabilities(batch: list[Looked], answer: Answer, temperature: float) -> Probabilities:
    """(n, C) for the n files of a batch that could be read."""
    pixels = [item.pixels for item in batch if item.pixels is not None]
    if not pixels:
        return np.empty((0, 0))
    return softmax(answer(np.stack(pixels)), temperature)


def softmax(logits: Logits, temperature: float = 1.0) -> Probabilities:
    """(N, C) logits -> (N, C) float64, each row sums to 1."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    exponentials = np.exp(scaled)
    result: Probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result


def _seen(memory: Memory | None, item: Looked) -> Seen | None:
    if memory is None or item.facts is None:
        return None
    return memory.seen(item.facts.content_sha256, item.facts.look)


def _prediction(
    path: str,
    probabilities: Probabilities,
    outputs: Sequence[str],
    question: Question,
    seen: Seen | None,
) -> Prediction:
    best = np.argsort(-probabilities, kind="stable")[: question.topk].tolist()
    top = tuple((outputs[i], float(probabilities[i])) for i in best)
    return Prediction(path, top, uncertain=top[0][1] < question.threshold, trained_on=seen)
