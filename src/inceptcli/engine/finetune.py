"""A training that begins with another's weights: what is taken, how fast it moves, what is frozen.

The layers taken over learn more slowly the nearer they are to the image (Howard and Ruder,
"Universal Language Model Fine-tuning", 2018, section 3.2), and not at all in the first epochs,
in which only new layers learn. Batch norms taken over keep their statistics where their layers
learn more slowly or not at all; where all learn alike they follow the new photographs, as in a
training from random weights (docs/how-to/fine-tune.md has what either gives).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from inceptcli.config import IMAGENET, TrainConfig
from inceptcli.data.fingerprints import UNKNOWN, trained_on
from inceptcli.engine.infer import memory_of
from inceptcli.engine.onnx import is_exported
from inceptcli.errors import WeightsError
from inceptcli.events import Emit, Notice, Warned
from inceptcli.files import counted, printable
from inceptcli.model.weights import AUXILIARY, Weights, load_weights

if TYPE_CHECKING:
    from inceptcli.data.prepare import Photos
    from inceptcli.engine.device import Device
    from inceptcli.engine.training import Training

# Beginnings of layers' names from the image on; the rest is the head.
DEPTHS = (("conv", "norm"), ("inception3",), ("inception4",), ("inception5",))
MAX_SHOWN = 6


@dataclass(frozen=True)
class Transfer:
    """What fits of a weights file.

    Attributes:
        taken: Names of the tensors that the network has taken over.
        left: Those of the network that it has not -> why.
        unused: Those of the file that the network does not have.
    """

    taken: frozenset[str]
    left: Mapping[str, str]
    unused: tuple[str, ...]


def read_source(words: str) -> Weights:
    """The weights that ``--weights`` names: a file, or "imagenet" for torchvision's.

    Raises:
        WeightsError: They are not there, damaged, or not to be downloaded.
    """
    if words == IMAGENET:
        from inceptcli.model.imagenet import imagenet_weights  # torchvision, only when asked for

        return imagenet_weights()
    if is_exported(Path(words)):
        raise WeightsError(
            f"{printable(words)} is an exported network; give the weights file it was made from"
        )
    return load_weights(Path(words))


def suggestions(source: Weights) -> dict[str, Any]:
    """Settings that go with the weights unless others are given: network, size, fitting.

    Weights of which all training photographs are known were trained here from random ones. Beside
    those of ImageNet they have seen little, and are better when all their layers learn alike
    (docs/how-to/fine-tune.md).
    """
    found = {"arch": source.arch, "image_size": source.image_size, "resize": source.resize}
    memory = memory_of(source)
    if memory is not None and memory.complete:
        found |= {"freeze_epochs": 0, "layer_lr_decay": 1.0}
    return found


def transfer(model: nn.Module, source: Weights, classes: Sequence[str]) -> Transfer:
    """Copy what fits by name and shape into the network, but for the last layer.

    The last layer stays new unless the file names the very same classes in the same order.

    Raises:
        WeightsError: Nothing fits.
    """
    own = model.state_dict()
    same = source.record is not None and source.record.classes == tuple(classes)
    last = "" if same else last_layer(model)
    taken, left = {}, {}
    for name, part in own.items():
        given = source.state_dict.get(name)
        if last and name.startswith(f"{last}."):
            left[name] = "new: the classes are others"
        elif given is None:
            left[name] = "not in the file"
        elif given.shape != part.shape:
            left[name] = f"{_shape(given)} in the file, {_shape(part)} here"
        else:
            taken[name] = given
    if not any(name.endswith("weight") for name in taken):
        raise WeightsError(
            f"{printable(str(source.path))}: no layer of {source.arch} fits this network; "
            f"use --arch {source.arch}"
        )
    model.load_state_dict(taken, strict=False)
    unused = tuple(name for name in source.state_dict if name not in own)
    return Transfer(frozenset(taken), left, unused)


def last_layer(model: nn.Module) -> str:
    """The name of the layer that answers."""
    names = [
        name
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and not name.startswith(AUXILIARY)
    ]
    return str(names[-1])


def begin(
    model: nn.Module, config: TrainConfig, photos: Photos, device: Device, emit: Emit
) -> tuple[frozenset[str], bytes]:
    """Take over the weights that ``config.weights`` names; say what was taken and what not.

    Returns:
        The names of the tensors taken, and the fingerprints of what they were trained on.

    Raises:
        WeightsError: They cannot be used.
    """
    with device.first_goes_first():  # for the download, if there is one
        source = read_source(str(config.weights))
    moved = transfer(model, source, photos.classes)
    shown = printable(str(source.path))
    tensors = len(moved.taken) + len(moved.left)
    emit(Notice(f"taken over from {shown}: {len(moved.taken)} of {tensors} tensors"))
    for name, why in [*moved.left.items()][:MAX_SHOWN]:
        emit(Notice(f"  not taken: {name} ({why})"))
    if len(moved.left) > MAX_SHOWN:
        emit(Notice(f"  not taken: {len(moved.left) - MAX_SHOWN} more"))
    if moved.unused:
        emit(Notice(f"  in the file alone: {_first(moved.unused)}"))
    if config.freeze_epochs >= config.epochs:
        emit(
            Notice(
                f"  only new layers learn: --freeze-epochs covers {counted(config.epochs, 'epoch')}"
            )
        )
    _warn_of_leaks(source, photos, emit)
    return moved.taken, UNKNOWN if source.fingerprints is None else source.fingerprints


def _warn_of_leaks(source: Weights, photos: Photos, emit: Emit) -> None:
    """Say how many val and test photographs the weights were trained on, or that it is unknown."""
    shown = printable(str(source.path))
    memory = memory_of(source)
    if memory is None or not memory.complete:
        emit(Notice(f"  not all photographs that {shown} was trained on are known"))
    if memory is None:
        return
    for role in ("val", "test"):
        facts = [fact for fact in (photos.facts[i] for i in photos.indices(role)) if fact]
        seen = trained_on(memory, [f.content_sha256 for f in facts], [f.look for f in facts])
        if seen.any():
            text = f"{seen.sum()} of {len(seen)} {role} photographs were trained on by {shown}"
            emit(Warned(f"{text}: the {role} figures will be too good"))


# Learning rates


def scale_groups(
    optimizer: torch.optim.Optimizer, model: nn.Module, taken: Collection[str], decay: float
) -> None:
    """Divide the optimizer's groups so that each layer has a learning rate of its own depth.

    Group option "scale" is the factor on the schedule's learning rate: 1 for new layers and the
    head, ``decay`` for the fifth blocks, its square for the fourth, and so on down to the stem.
    The groups with factor 1 come first. Where nothing was taken over the groups stay as they are.
    """
    if not taken:
        return
    scale_of = {
        id(part): decay ** (len(DEPTHS) - _depth(name)) if name in taken else 1.0
        for name, part in model.named_parameters()
    }
    groups = []
    for group in optimizer.param_groups:
        for scale in sorted({scale_of[id(part)] for part in group["params"]}, reverse=True):
            chosen = [part for part in group["params"] if scale_of[id(part)] == scale]
            groups.append({**group, "params": chosen, "scale": scale})
    optimizer.param_groups[:] = sorted(groups, key=lambda group: -group["scale"])


def _depth(name: str) -> int:
    """From 0, the stem, to 3, the fifth blocks, and 4, the head."""
    found = (index for index, starts in enumerate(DEPTHS) if name.startswith(starts))
    return next(found, len(DEPTHS))


# Freezing


def training_mode(training: Training) -> None:
    """Put the network into training mode; what is frozen in this epoch is a function of it alone.

    Where the epoch is one of the first ``freeze_epochs``, what was taken over but for the last
    layer has no gradients. Batch norms that were taken over use and keep the statistics that they
    came with, but for later epochs in which all layers learn at one rate.
    """
    t = training
    last = last_layer(t.model)
    early = t.progress.epoch <= t.config.freeze_epochs
    frozen = {name for name in t.taken if early and not name.startswith(f"{last}.")}
    changed = False
    for name, part in t.model.named_parameters():
        changed |= part.requires_grad == (name in frozen)
        part.requires_grad_(name not in frozen)
    if changed:
        t.parallel = t.device.distribute(t.model)  # which looks once at what has gradients
    t.parallel.train()
    if not early and t.config.layer_lr_decay == 1:
        return
    for name, module in t.model.named_modules():
        if isinstance(module, _BatchNorm) and f"{name}.running_mean" in t.taken:
            module.eval()


def _shape(part: torch.Tensor) -> str:
    return "x".join(map(str, part.shape)) or "one number"


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(printable(name)[:80] for name in names[:MAX_SHOWN]) + more
