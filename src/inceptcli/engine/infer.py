"""From pixels to logits with torch. Knows no figure of merit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from inceptcli.data.fingerprints import Memory
from inceptcli.data.loader import normalise
from inceptcli.data.prepare import Photos
from inceptcli.data.reader import PixelSpec
from inceptcli.engine.device import Device
from inceptcli.engine.predict import Answer, Logits, Network, Watch, ask, nobody
from inceptcli.errors import UsageError, WeightsError
from inceptcli.files import counted, printable
from inceptcli.model.fold import fold_batch_norm, separate_pools
from inceptcli.model.inception import build
from inceptcli.model.weights import Weights, load_into, load_weights, name_outputs

if TYPE_CHECKING:
    from inceptcli.data.image import Pixels


class Classifier:
    """A trained network, ready to answer: with less work (``model.fold``), on its device.

    Args:
        model: The network, answering logits; it is copied.
        device: Where and how to compute.
    """

    def __init__(self, model: nn.Module, device: Device) -> None:
        self._device = device
        net = fold_batch_norm(model)
        if device.torch_device.type == "cpu":
            net = separate_pools(net)
        self._net = device.place(net).to(device.dtype)

    @torch.inference_mode()
    def logits(self, pixels: Tensor) -> Tensor:
        """Pixels (N, S, S, 3) uint8 -> logits (N, C) float32 on the CPU."""
        images = normalise(pixels, device=self._device.torch_device, dtype=self._device.dtype)
        answer: Tensor = self._net(images)
        return answer.float().cpu()

    def answer(self, pixels: Pixels) -> Logits:
        """The same for numpy's arrays."""
        logits: Logits = self.logits(torch.from_numpy(pixels)).numpy()
        return logits


@dataclass(frozen=True, kw_only=True)
class Loaded(Network):
    """A weights file and its network, run by torch.

    Attributes:
        weights: The file as it was read and checked.
        model: The network with those weights.
    """

    weights: Weights
    model: nn.Module

    @property
    def names_itself(self) -> bool:
        """See ``Network``."""
        return self.weights.record is not None

    def answer(self, device: Device | None) -> Answer:
        """See ``Network``; ``device`` is needed here."""
        assert device is not None  # noqa: S101 - only an exported network does without
        return Classifier(self.model, device).answer

    def infer(
        self, photos: Photos, role: str, device: Device | None, *, watch: Watch = nobody
    ) -> tuple[npt.NDArray[np.int64], Logits]:
        """See ``Network``; ``device`` is needed here."""
        assert device is not None  # noqa: S101
        which, logits = infer_role(self.model, photos, role, device, watch=watch)
        return which, logits.numpy()


def load_network(path: Path, *, classes: Sequence[str] = (), raw: bool = False) -> Loaded:
    """Read a weights file and build its network.

    Args:
        path: The file.
        classes: Names for the outputs, for a file without a record.
        raw: Leave the stored temperature aside, and the threshold that was found with it.

    Raises:
        WeightsError: The file is damaged, hostile or not of a network known here.
        UsageError: More names were given than the network has outputs.
    """
    weights = load_weights(path)
    record = weights.record
    names = record.classes if record is not None else tuple(classes)
    if len(names) > weights.outputs:
        raise UsageError(
            f"{len(names)} class names for a network of {counted(weights.outputs, 'output')}; give "
            f"at most {weights.outputs}"
        )
    model = build(weights.arch, weights.outputs, weights.image_size)
    load_into(model, weights)
    return Loaded(
        path=weights.path,
        digest=weights.digest,
        weights=weights,
        model=model,
        classes=names,
        outputs=name_outputs(names, weights.outputs),
        temperature=1.0 if raw or record is None else record.temperature or 1.0,
        threshold=0.0 if raw or record is None else record.threshold or 0.0,
        spec=PixelSpec(weights.image_size, weights.resize),
        memory=memory_of(weights),
    )


def memory_of(weights: Weights) -> Memory | None:
    """What a weights file remembers of its training photographs; None where it has nothing.

    Raises:
        WeightsError: That part of it is damaged.
    """
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

    def all_of_us(done: int, _: int) -> None:
        watch(min(done * device.world, len(chosen)), len(chosen))

    found, parts = ask(classifier.answer, photos, own, watch=all_of_us)
    outputs = device.most(parts[0].shape[1] if parts else 0)
    logits, there = torch.zeros(len(chosen), outputs), torch.zeros(len(chosen))
    if parts:
        places = np.searchsorted(chosen, found)
        logits[places], there[places] = torch.from_numpy(np.concatenate(parts)), 1.0
    answered = np.flatnonzero(device.sum(there).cpu().numpy())
    return Answers(chosen[answered], device.sum(logits).cpu()[answered])
