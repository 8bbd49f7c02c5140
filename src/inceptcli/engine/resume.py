"""Everything a stopped training needs to go on, bit for bit where it stood.

Order, augmentation, learning rate and dropout are pure functions of (seed, epoch, step), so a
position and the tensors are all there is to keep: no state of any random generator.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inceptcli.config import FREE_TO_CHANGE, TrainConfig, option_name
from inceptcli.data.labels import listed
from inceptcli.data.prepare import NO_ROLE, Photos
from inceptcli.engine.device import Device
from inceptcli.errors import DataError, InceptcliError, WeightsError
from inceptcli.events import EpochDone
from inceptcli.files import cannot_write, counted, printable, system
from inceptcli.model.weights import load_state, save_state
from inceptcli.runfolder import LAST, PREVIOUS


@dataclass(slots=True)
class Progress:
    """Where a training stands.

    Attributes:
        epoch: The epoch under way, from 1.
        step: Steps of it that are done.
        loss_sum: Sum of the losses of its images so far.
        correct: Its images classified rightly so far.
        images: Its images so far.
        seconds: Its time so far, over all sittings.
        wait_seconds: The part of it that was spent waiting for pixels.
        history: The finished epochs.
        best_epoch: The best one, 0 when there is none yet.
        best_score: Its monitored figure and loss, such that a larger tuple is better.
    """

    epoch: int = 1
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    images: int = 0
    seconds: float = 0.0
    wait_seconds: float = 0.0
    history: list[EpochDone] = field(default_factory=list)
    best_epoch: int = 0
    best_score: tuple[float, float] = (-float("inf"), -float("inf"))

    def sums(self) -> Tensor:
        """(3,) float64: what ``note`` took over."""
        values = [self.loss_sum, self.correct, self.images]
        return torch.tensor(values, dtype=torch.float64)

    def note(self, sums: Tensor, seconds: float) -> None:
        """Take over the sums (3,) of losses, right answers and images of the epoch so far."""
        loss_sum, correct, images = sums.tolist()
        self.loss_sum, self.correct, self.images = loss_sum, int(correct), int(images)
        self.seconds = seconds

    def begin(self, epoch: int) -> None:
        """Stand before the first step of an epoch."""
        self.epoch, self.step = epoch, 0
        self.loss_sum, self.correct, self.images = 0.0, 0, 0
        self.seconds = self.wait_seconds = 0.0

    def change_batches(self, then: int, now: int) -> bool:
        """Stand at the same photograph with batches of ``now`` instead of ``then`` photographs.

        Returns:
            False where no new batch begins there: the epoch begins again, so that none of its
            photographs is left out or counted twice.
        """
        step, inside = divmod(self.step * then, now)
        if inside:
            self.begin(self.epoch)
        else:
            self.step = step
        return not inside


@dataclass(frozen=True, slots=True)
class Saved:
    """What ``last.pth`` holds.

    Attributes:
        progress: Where the training stood.
        model: The network's ``state_dict``.
        optimizer: The optimizer's.
        scaler: The gradient scaler's; empty unless the precision is fp16.
        settings: The training's settings, as ``TrainConfig.to_json`` gives them.
        surroundings: Versions, threads and device: what may change the last bits.
        photos: What ``describe_photos`` says of its photographs.
        average: The averaged network's ``state_dict``; empty when there is none.
        taken: Names of the tensors that were taken over from other weights, sorted.
        taught: (n,) uint8, the fingerprints of the photographs that these were trained on.
    """

    progress: Progress
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    settings: dict[str, Any]
    surroundings: dict[str, Any]
    photos: dict[str, Any]
    average: dict[str, Any]
    taken: list[str] = field(default_factory=list)
    taught: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))


def save(run_dir: Path, saved: Saved, *, over: bool = False) -> None:
    """Write ``last.pth``; the one before it becomes ``last.prev.pth``.

    Until the new file is durable the previous one is whole, under one of the two names.

    Args:
        run_dir: The run folder.
        saved: What to write.
        over: Replace ``last.pth``, which is damaged, and keep ``last.prev.pth``.

    Raises:
        OutputError: It could not be written; the previous state is intact.
    """
    last = run_dir / LAST
    try:
        with contextlib.suppress(FileNotFoundError):  # the first save, or the last one failed
            if not over:
                system.replace(last, run_dir / PREVIOUS)
    except OSError as error:
        raise cannot_write(run_dir / PREVIOUS, error) from error
    save_state(
        last,
        {item.name: getattr(saved, item.name) for item in fields(saved)}
        | {"progress": asdict(saved.progress)},
    )


def load(run_dir: Path) -> tuple[Saved, list[str]]:
    """The newest valid state of a run and what is to be said about the others.

    Raises:
        DataError: There is no state in that folder.
        WeightsError: There are state files and none is valid; the message lists them.
    """
    paths = [run_dir / name for name in (LAST, PREVIOUS) if (run_dir / name).exists()]
    if not paths:
        raise DataError(
            f"no training to resume in {printable(str(run_dir))}: it holds no {LAST}; "
            "give a run folder, or --resume latest"
        )
    problems: list[str] = []
    for path in paths:
        try:
            return _restore(load_state(path)), problems
        except InceptcliError as error:
            problems.append(str(error))
    raise WeightsError("no valid state to resume from: " + "; ".join(problems))


def surroundings(device: Device) -> dict[str, Any]:
    """What may change the last bits of a result without changing its meaning."""
    return {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "device": device.torch_device.type,
        "precision": device.precision,
        "processes": device.world,
    }


def describe_photos(photos: Photos) -> dict[str, Any]:
    """What a resumed training compares its photographs with.

    Lists are tensors of JSON, of which a state file can hold any number of bytes.

    Returns:
        ``classes``, and in the same order ``names``, ``roles`` and ``content`` (N, 8) uint8, the
        first bytes of the content's SHA-256, of all photographs that have a role; ``others``: the
        names of files that have none, whose places in the list are counted too.
    """
    chosen = photos.indices("all")
    digests = b"".join(
        facts.content_sha256[:8] for facts in (photos.facts[i] for i in chosen) if facts is not None
    )
    return {
        "classes": list(photos.classes),
        "names": _packed([photos.names[i] for i in chosen]),
        "roles": _packed(photos.roles[chosen].tolist()),
        "content": as_tensor(digests).reshape(-1, 8),
        "others": _packed([photos.names[i] for i in np.flatnonzero(photos.roles == NO_ROLE)]),
    }


def as_tensor(data: bytes) -> Tensor:
    """(n,) uint8, as a state file can hold bytes of any number."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0).byte()


def _packed(texts: Sequence[str]) -> Tensor:
    return as_tensor(json.dumps(texts).encode())


def _unpacked(data: Tensor) -> list[str]:
    texts: list[str] = json.loads(data.numpy().tobytes())
    return texts


def unlike_the_best(saved: Saved, config: TrainConfig) -> list[str]:
    """Settings that have changed and by which the best epoch so far cannot be compared any more."""
    now = config.to_json()
    return [
        option_name(name)
        for name in ("image_size", "resize", "monitor", "class_weights")
        if name in saved.settings and saved.settings[name] != now[name]
    ]


def changes(saved: Saved, config: TrainConfig, photos: Photos) -> list[str]:
    """What of settings and photographs is not as it was, each in a few words."""
    changed = [
        f"{option_name(name)} was {saved.settings[name]}, is {value}"
        for name, value in config.to_json().items()
        if name in saved.settings and name not in FREE_TO_CHANGE and saved.settings[name] != value
    ]
    before, now = saved.photos, describe_photos(photos)
    if before["classes"] != now["classes"]:
        changed.append(f"classes were {listed(before['classes'])}, are {listed(now['classes'])}")
    then, here = _by_name(before), _by_name(now)
    both = then.keys() & here.keys()
    # Crops and flips of a photograph depend on its place among all files, unusable ones too.
    others, others_now = set(_unpacked(before["others"])), set(_unpacked(now["others"]))
    found = {
        "gone": (then.keys() | others) - (here.keys() | others_now),
        "new": (here.keys() | others_now) - (then.keys() | others),
        "not usable any more, or not listed": then.keys() & others_now,
        "usable now": here.keys() & others,
        "of other content": {name for name in both if then[name][1] != here[name][1]},
        "in another role": {name for name in both if then[name][0] != here[name][0]},
    }
    return changed + [
        f"{counted(len(names), 'photograph')} {what} ({listed(sorted(names))})"
        for what, names in found.items()
        if names
    ]


def _by_name(photos: Mapping[str, Any]) -> dict[str, tuple[str, bytes]]:
    content = map(bytes, photos["content"].tolist())
    pairs = zip(_unpacked(photos["roles"]), content, strict=True)
    return dict(zip(_unpacked(photos["names"]), pairs, strict=True))


def _restore(state: dict[str, Any]) -> Saved:
    try:
        progress = dict(state["progress"])
        rows = [EpochDone(**row) for row in progress.pop("history")]
        best = tuple(progress.pop("best_score"))
        state["progress"] = Progress(**progress, history=rows, best_score=(best[0], best[1]))
        saved = Saved(**state)
        for name in ("names", "roles", "others"):
            _unpacked(saved.photos[name])
        return saved
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise WeightsError(
            f"the state file lacks or misnames {error}: another version of inceptcli wrote it; "
            "resume with that version"
        ) from error
