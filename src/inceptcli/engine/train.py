"""The loop of training: ``fit`` -> ``train_one_epoch`` -> ``train_step``.

``engine.run`` sets it up and draws the conclusion.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from inceptcli.data.loader import Batch, normalise
from inceptcli.engine.checkpoint import save_epoch, save_if_due
from inceptcli.engine.guard import Guard
from inceptcli.engine.infer import Watch, infer_role
from inceptcli.engine.optim import learning_rate
from inceptcli.engine.training import Training
from inceptcli.events import BatchDone, EpochDone


class Validation(NamedTuple):
    """Figures of the val role after an epoch; ``score`` is larger where the epoch is better."""

    loss: float
    accuracy: float
    score: tuple[float, float]


def fit(training: Training) -> None:
    """Train, validate and save, epoch by epoch, to the last one or until patience ends.

    Raises:
        StoppedError: A signal asked for it; the state is saved.
        DivergedError: A loss or a weight is not finite; the files of before are intact.
        OutputError: The last save failed.
    """
    t, progress = training, training.progress
    while progress.epoch <= t.config.epochs and not out_of_patience(t):
        train_loss, train_accuracy = train_one_epoch(t)
        started = time.monotonic()
        val = validate(t)
        row = EpochDone(
            epoch=progress.epoch,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            val_loss=val.loss,
            val_accuracy=val.accuracy,
            learning_rate=t.optimizer.param_groups[0]["lr"],
            seconds=progress.seconds + time.monotonic() - started,
            best=val.score > progress.best_score,
        )
        if row.best:
            progress.best_epoch, progress.best_score = row.epoch, val.score
        progress.history.append(row)
        progress.begin(row.epoch + 1)
        save_epoch(t, row)
        t.emit(row)


def train_one_epoch(training: Training) -> tuple[float, float]:
    """Pass once over the training pictures; the mean loss and accuracy over them."""
    t, progress, device = training, training.progress, training.device
    sums = progress.sums().to(device.torch_device, device.wide)
    sums *= device.is_first  # they are added over the processes when looked at
    guard, clock = Guard(device.precision), Clock(t, already=progress.seconds)
    t.parallel.train()
    for batch in t.loader.epoch(progress.epoch, start=progress.step):
        seed_dropout(t)
        set_learning_rate(t)
        losses, correct = train_step(t, batch)
        sums += torch.stack([losses.sum(), correct, torch.tensor(len(losses))])
        progress.step += 1
        guard.note(progress.epoch, progress.step, losses.sum())
        clock.tick(batch)
        if progress.step % device.check_every == 0:
            guard.check()
            save_if_due(t, sums, clock.seconds)
    guard.check()
    progress.note(device.sum(sums), clock.seconds)
    return progress.loss_sum / progress.images, progress.correct / progress.images


def train_step(training: Training, batch: Batch) -> tuple[Tensor, Tensor]:
    """One step of the optimizer on this process's share of a batch.

    Returns:
        The losses (n,) of the share's images, and how many of them were classified rightly.
    """
    t, device = training, training.device
    images = normalise(batch.images, device.torch_device)  # (n, 3, S, S) float32
    labels = batch.labels.to(device.torch_device, non_blocking=True)  # (n,) int64
    with device.autocast():
        logits = t.parallel(images)  # (n, C)
    losses = t.losses_of(logits.float(), labels)  # (n,)
    # Gradients are averaged over processes; this makes that the mean over all images.
    loss = losses.sum() * (device.world / batch.total)
    t.optimizer.zero_grad(set_to_none=True)
    t.scaler.scale(loss).backward()
    t.scaler.step(t.optimizer)
    t.scaler.update()
    return losses.detach(), (logits.argmax(dim=1) == labels).sum()


def set_learning_rate(training: Training) -> None:
    """Give the optimizer the learning rate of the step that comes next."""
    progress, steps = training.progress, training.loader.steps
    step = (progress.epoch - 1) * steps + progress.step
    for group in training.optimizer.param_groups:
        group["lr"] = learning_rate(training.config, step=step, steps_per_epoch=steps)


def seed_dropout(training: Training) -> None:
    """Make dropout a pure function of seed, epoch, step and process: nothing of it to save."""
    progress, config = training.progress, training.config
    key = [config.seed, progress.epoch, progress.step, training.device.rank]
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


def validate(training: Training) -> Validation:
    """Loss and accuracy over the val role, the same in every process."""
    t = training
    which, logits = infer_role(t.model, t.photos, "val", t.device, watch=val_watch(t))
    labels = torch.from_numpy(t.photos.labels[which])
    losses = t.losses_of(logits, labels).double()  # (N,)
    right = (logits.argmax(dim=1) == labels).double()
    loss, accuracy = float(losses.mean()), float(right.mean())
    if t.config.monitor == "val_loss":
        return Validation(loss, accuracy, (-loss, -loss))
    if t.config.monitor == "val_accuracy":
        return Validation(loss, accuracy, (accuracy, -loss))
    recalls = [float(right[labels == label].mean()) for label in labels.unique()]
    return Validation(loss, accuracy, (sum(recalls) / len(recalls), -loss))


def out_of_patience(training: Training) -> bool:
    """Whether more epochs than ``--patience`` have gone by without a better one."""
    progress, patience = training.progress, training.config.patience
    return patience is not None and progress.epoch - 1 - progress.best_epoch >= patience


class Clock:
    """Measures one epoch's training, and says so after every step."""

    def __init__(self, training: Training, *, already: float) -> None:
        self._training = training
        self._already = already
        self._started = time.monotonic()
        self._images = 0

    @property
    def seconds(self) -> float:
        """Time of this epoch's training so far, earlier sittings included."""
        return self._already + time.monotonic() - self._started

    def tick(self, batch: Batch) -> None:
        """Emit where the epoch stands after a batch."""
        t = self._training
        self._images += batch.total
        elapsed = max(time.monotonic() - self._started, 1e-9)
        done = min(t.progress.step * t.config.batch_size, t.loader.images)
        if t.progress.step == t.loader.steps:
            done = t.loader.images
        t.emit(
            BatchDone(
                epoch=t.progress.epoch,
                role="train",
                done=done,
                total=t.loader.images,
                images_per_second=self._images / elapsed,
                wait_share=min(1.0, t.loader.waited / elapsed),
            )
        )


def val_watch(training: Training) -> Watch:
    """What ``infer_role`` calls after each batch of validation."""
    t, started = training, time.monotonic()

    def watch(done: int, total: int) -> None:
        if t.device.world == 1:  # several agree on a stop after validation
            save_if_due(t, t.progress.sums(), t.progress.seconds)
        rate = done / max(time.monotonic() - started, 1e-9)
        t.emit(BatchDone(t.progress.epoch, "val", done, total, rate, 0.0))

    return watch
