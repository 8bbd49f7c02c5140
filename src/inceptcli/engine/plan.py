"""How long epochs take, measured on a few steps, and the training that ends in a given time."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from inceptcli.config import TrainConfig, known
from inceptcli.data.augment import Indices
from inceptcli.data.loader import Loader
from inceptcli.engine.adapt import adapt
from inceptcli.engine.checkpoint import save_now
from inceptcli.engine.infer import Classifier
from inceptcli.engine.optim import train_size
from inceptcli.engine.train import batches_of, crop_ahead, train_step
from inceptcli.engine.training import Saving, Training
from inceptcli.errors import OutputError, UsageError
from inceptcli.events import silent
from inceptcli.files import counted

PLANNED = "planned for"  # how the source of a setting begins
STEPS = 3  # timed ones a size; one more before them warms up
MARGIN = 0.9  # part of the time that is planned: measured speeds are rough
ENOUGH = 20  # epochs wanted before training pictures are made smaller for more
MOST = 300  # epochs; more have nothing to add
SIZES = ((0.5, 0.875), (0.5, 0.75), (0.5, 0.625), (0.5, 0.5))  # of the image size, in this order


@dataclass(frozen=True)
class Speed:
    """What a photograph takes, in seconds: training ``fixed + by_area * side ** 2``, and ``val``.

    Attributes:
        images: In the train role.
        val_images: In the val role.
        fixed: Training on a picture of no size.
        by_area: More for each pixel.
        val: Validation at the full size.
        save: Writing the state and the weights after an epoch.
    """

    images: int
    val_images: int
    fixed: float
    by_area: float
    val: float
    save: float

    def training(self, side: int) -> float:
        """Training on one photograph at a size."""
        return self.fixed + self.by_area * side**2

    def total(self, config: TrainConfig) -> float:
        """All epochs with their validation and saving."""
        sides = (train_size(config, epoch) for epoch in range(1, config.epochs + 1))
        after = config.epochs * (self.val_images * self.val + self.save)
        return self.images * sum(map(self.training, sides)) + after


def measure(training: Training) -> Speed:
    """Make a few steps at the smallest and the largest size; weights and progress are moved by it.

    Of several processes all take the first one's figures.
    """
    t, config = training, training.config
    steps = batches_of(t, 1)
    epoch_of = {train_size(config, epoch): epoch for epoch in (1, config.epochs)}
    sides = sorted(epoch_of)
    seconds = [_seconds_an_image(t, steps, epoch_of[side]) for side in sides]
    by_area = fixed = 0.0
    if len(seconds) == 1:
        by_area = seconds[0] / sides[0] ** 2
    else:
        by_area = max(0.0, (seconds[1] - seconds[0]) / (sides[1] ** 2 - sides[0] ** 2))
        fixed = max(0.0, seconds[1] - by_area * sides[1] ** 2)
    batch = torch.from_numpy(t.photos.store.take(steps[0])[0])
    classifier = Classifier(t.model, t.device)
    classifier.logits(batch)
    started = time.monotonic()
    classifier.logits(batch)
    validated = time.monotonic() - started
    speed = Speed(
        images=len(t.photos.indices("train")),
        val_images=len(t.photos.indices("val")),
        fixed=fixed,
        by_area=by_area,
        val=validated / len(batch) / t.device.world,  # each has its share
        save=_seconds_a_save(t),
    )
    return Speed(**json.loads(t.device.share(json.dumps(asdict(speed)))))


def _seconds_an_image(t: Training, steps: list[Indices], epoch: int) -> float:
    t.progress.begin(epoch)  # at its size
    crop = crop_ahead(t)
    t.parallel.train()
    started, made = time.monotonic(), 0
    few = [steps[index % len(steps)] for index in range(STEPS + 1)]
    for batch in Loader(t.photos.store, few, rank=t.device.rank, world=t.device.world, crop=crop):
        train_step(t, batch, total=len(few[batch.step]))[0].sum().item()
        if batch.step == 0:
            started = time.monotonic()  # the first step also chooses kernels
        else:
            made += len(few[batch.step])
    return (time.monotonic() - started) / max(1, made)


def _seconds_a_save(t: Training) -> float:
    """Writing to the folder for temporary files: the run folder holds nothing yet.

    0 where it cannot be written, or the steps have spoiled the weights: the training will say so.
    """
    weights = {name: part.cpu() for name, part in t.average.network.state_dict().items()}
    saving = Saving(best=(weights, t.record))
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as name:
            save_now(replace(t, run_dir=Path(name), saving=saving, emit=silent))
            return time.monotonic() - started
    except (OSError, OutputError, ValueError):
        return 0.0


def measured_plan(
    config: TrainConfig, begin: Callable[[TrainConfig], Training], sources: Mapping[str, str]
) -> tuple[TrainConfig, dict[str, str], Speed]:
    """What ``plan`` gives, by a speed measured here in batches of the size that it leads to.

    Args:
        config: The settings.
        begin: Sets up a training that stands before its first step.
        sources: Where each setting came from.

    Raises:
        UsageError: Not even the shortest training fits.
    """
    tried = config
    while True:  # fewer epochs have smaller batches, which take longer: three times at most
        training = begin(tried)
        speed = measure(training)
        planned, reasons = plan(config, speed, sources)
        then, _ = adapt(planned, training.photos)
        if known(then.batch_size) >= known(training.config.batch_size):
            return planned, reasons, speed
        tried = planned


def plan(
    config: TrainConfig, speed: Speed, sources: Mapping[str, str]
) -> tuple[TrainConfig, dict[str, str]]:
    """The epochs and training sizes that end within ``config.time_seconds``.

    As many epochs as fit at the recipe's sizes; when they are fewer than ``ENOUGH`` and than the
    settings have (``--weights`` needs few), more at smaller ones. What was typed stays, and sizes
    that are another recipe's own: sizes shrink for typed epochs, epochs for such sizes.

    Returns:
        The settings, and for each that was planned the reason, in words.

    Raises:
        UsageError: Not even the shortest training fits.
    """
    allowed = MARGIN * (config.time_seconds or 0.0)
    given = {name for name in ("epochs", "train_sizes") if sources.get(name) == "option"}
    if sources.get("train_sizes", "default") != "default":
        given.add("train_sizes")
    sizes = (config.train_sizes,) if "train_sizes" in given else SIZES
    wanted = config.epochs if "epochs" in given else min(ENOUGH, config.epochs)
    best: TrainConfig | None = None
    for pair in sizes:
        tried = _longest(replace(config, train_sizes=pair), speed, allowed, given)
        if tried is not None:
            best = tried
            if tried.epochs >= wanted:
                break
    if best is None:
        least = replace(config, train_sizes=sizes[-1])
        least = least if "epochs" in given else replace(least, epochs=1)
        raise UsageError(
            f"--time: {config.time_seconds:g} s a training is too short: "
            f"{counted(least.epochs, 'epoch')} would take about "
            f"{speed.total(least) / MARGIN:.0f} s here; give more, or a smaller --img-size"
        )
    best = replace(best, least_steps=0)
    reason = f"{PLANNED} {config.time_seconds:g} s, about {speed.total(best):.0f} s"
    return best, {name: reason for name in ("epochs", "train_sizes") if name not in given}


def _longest(
    config: TrainConfig, speed: Speed, allowed: float, given: set[str]
) -> TrainConfig | None:
    """These settings with the most epochs that the time allows, or None when there are none."""
    if "epochs" in given:
        return config if speed.total(config) <= allowed else None
    low, high = 0, MOST + 1  # the first fits, the second does not or is not wanted
    while high - low > 1:
        middle = (low + high) // 2
        fits = speed.total(replace(config, epochs=middle)) <= allowed
        low, high = (middle, high) if fits else (low, middle)
    return replace(config, epochs=low) if low else None
