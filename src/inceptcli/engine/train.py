"""The loop of training: ``fit`` -> ``train_one_epoch`` -> ``train_step``.

``engine.run`` sets it up and draws the conclusion.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from inceptcli.config import known
from inceptcli.data.augment import Crop, Indices, change, flip, flip_draws
from inceptcli.data.loader import Batch, Loader, as_it_is, batches, epoch_order, normalise
from inceptcli.engine.checkpoint import save_epoch, save_if_due
from inceptcli.engine.clock import Clock
from inceptcli.engine.finetune import training_mode
from inceptcli.engine.guard import Guard
from inceptcli.engine.infer import infer_role
from inceptcli.engine.optim import learning_rate, set_rate, train_size
from inceptcli.engine.predict import Watch
from inceptcli.engine.training import Training
from inceptcli.errors import DataError
from inceptcli.events import BatchDone, EpochDone, Notice, Warned
from inceptcli.files import counted, printable
from inceptcli.model.inception import AUXILIARY_WEIGHT, heads


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
        DataError: More photographs than ``max_bad`` allows can no longer be read.
        OutputError: The last save failed.
    """
    t, progress = training, training.progress
    while progress.epoch <= t.config.epochs and not out_of_patience(t):
        if out_of_time(t):
            limit = f"--time {t.config.time_seconds:g}s"
            t.emit(Notice(f"ending before epoch {progress.epoch}, which would end after {limit}"))
            break
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
            best=math.isfinite(val.loss) and val.score > progress.best_score,
            wait_seconds=progress.wait_seconds,
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
    steps = batches_of(t, progress.epoch)
    sums = progress.sums().to(device.torch_device, device.wide)
    sums *= device.is_first  # they are added over the processes when looked at
    loader = Loader(
        t.photos.store,
        steps,
        start=progress.step,
        rank=device.rank,
        world=device.world,
        crop=crop_ahead(t),
        pin=device.torch_device.type == "cuda",
    )
    guard, clock = Guard(device.precision, device.most), Clock(t, loader, steps)
    training_mode(t)
    for batch in loader:
        few = len(batch.indices) < 2  # files have vanished, and batch norm needs two
        if few and device.world == 1:
            progress.step += 1
            continue
        seed_dropout(t)
        set_learning_rate(t, len(steps))
        # Other processes wait for this one's part, small as it is: it takes the running statistics.
        resting = few and not device.shares_batch_norm
        if resting:
            rest_batch_norm(t.model)
        losses, correct = train_step(t, batch, total=len(steps[batch.step]))
        if resting:
            training_mode(t)
        t.average.update((progress.epoch - 1) * len(steps) + progress.step)
        sums += torch.stack([losses.sum(), correct, torch.full_like(correct, len(losses))])
        progress.step += 1
        guard.note(progress.epoch, progress.step, losses.sum())
        clock.tick()
        if progress.step % device.check_every == 0:
            guard.check()
            save_if_due(t, sums, clock.seconds)
    guard.check()
    check_lost(t)
    clock.finish()
    progress.note(device.sum(sums), clock.seconds)
    if not progress.images:
        raise DataError(f"no photograph of train can be read; go on with: {t.resume_command}")
    return progress.loss_sum / progress.images, progress.correct / progress.images


def train_step(training: Training, batch: Batch, *, total: int) -> tuple[Tensor, Tensor]:
    """One step of the optimizer on this process's share of a batch of ``total`` images.

    With ``--accumulate`` the gradients of its parts are summed; batch norm sees part by part.

    Returns:
        The losses (n,) of the share's images, and how many of them were classified rightly.
    """
    t = training
    t.optimizer.zero_grad(set_to_none=True)
    parts = parts_of(batch, parts_for_all(t, batch))
    answers = []
    for number, part in enumerate(parts, start=1):
        with t.device.alone(t.parallel, until_last=number < len(parts)):
            answers.append(add_gradients(t, part, total=total))
    t.scaler.step(t.optimizer)
    t.scaler.update()
    losses, correct = zip(*answers, strict=True)
    return torch.cat(losses), torch.stack(correct).sum()


def add_gradients(training: Training, batch: Batch, *, total: int) -> tuple[Tensor, Tensor]:
    """Add the gradients of some images of a batch of ``total``; their losses and hits."""
    t, device = training, training.device
    images = network_input(t, batch)  # (n, 3, S, S) float32
    labels = torch.from_numpy(t.photos.labels[batch.indices])  # (n,)
    labels = labels.to(device.torch_device, non_blocking=images.is_cuda)
    with device.autocast():
        logits, *auxiliary = heads(t.parallel(images))  # (n, C) each
    objective = t.objective_of(logits.float(), labels).sum()
    for each in auxiliary:
        objective = objective + AUXILIARY_WEIGHT * t.objective_of(each.float(), labels).sum()
    # Gradients are averaged over processes; this makes that the mean over all images.
    loss = objective * (device.world / total)
    t.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    logits = logits.detach().float()
    return t.losses_of(logits, labels), (logits.argmax(dim=1) == labels).sum()


def parts_for_all(training: Training, batch: Batch) -> int:
    """In how many parts every process computes its share, such that each has two images or more.

    GPUs exchange batch-norm statistics in each part, so all must have as many.
    """
    device, wanted = training.device, training.config.accumulate
    if wanted == 1:
        return 1
    return -device.most(-max(1, min(wanted, len(batch.indices) // 2)))


def parts_of(batch: Batch, count: int) -> list[Batch]:
    """A batch in ``count`` parts of equal size or one less."""
    if count == 1:
        return [batch]
    indices = np.array_split(batch.indices, count)
    images = torch.split(batch.images, [len(each) for each in indices])
    return [Batch(batch.step, *pair) for pair in zip(indices, images, strict=True)]


def rest_batch_norm(model: nn.Module) -> None:
    """Let batch norms use the running statistics, and everything else train."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def network_input(training: Training, batch: Batch) -> Tensor:
    """The pixels of a batch, augmented and normalised: (n, 3, S, S) float32 on the device."""
    config, device = training.config, training.device.torch_device
    seed, epoch = config.seed, training.progress.epoch
    pixels = batch.images.to(device, non_blocking=True)
    if device.type == "cuda":
        pixels = crop_of(training)(pixels, batch.indices)
    mirrored = flip_draws(batch.indices, seed=seed, epoch=epoch, flips=config.flips)
    images = normalise(flip(pixels, *mirrored), device=device)
    return change(images, batch.indices, config, seed=seed, epoch=epoch)


def crop_of(training: Training) -> Crop:
    """The crops of this epoch's pictures, at its size."""
    config, epoch = training.config, training.progress.epoch
    return Crop(train_size(config, epoch), config.crop_area, config.seed, epoch)


def crop_ahead(training: Training) -> Callable[[Tensor, Indices], Tensor]:
    """What the loader's thread does to pictures: crops, but for a GPU, which does it faster."""
    return as_it_is if training.device.torch_device.type == "cuda" else crop_of(training)


def batches_of(training: Training, epoch: int) -> list[Indices]:
    """The photographs of each step of an epoch, over all processes."""
    train = training.photos.indices("train")
    order = train[epoch_order(len(train), seed=training.config.seed, epoch=epoch)]
    return batches(order, known(training.config.batch_size), least=2 * training.device.world)


def set_learning_rate(training: Training, steps_per_epoch: int) -> None:
    """Give the optimizer the learning rate of the step that comes next."""
    progress = training.progress
    step = (progress.epoch - 1) * steps_per_epoch + progress.step
    rate = learning_rate(training.config, step=step, steps_per_epoch=steps_per_epoch)
    set_rate(training.optimizer, rate)


def seed_dropout(training: Training) -> None:
    """Make dropout a pure function of seed, epoch, step and process: nothing of it to save."""
    progress = training.progress
    key = [training.config.seed, progress.epoch, progress.step, training.device.rank]
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


def validate(training: Training) -> Validation:
    """Loss and accuracy over the val role, the same in every process."""
    t = training
    t.device.share_buffers(t.average.network)
    which, logits = infer_role(t.average.network, t.photos, "val", t.device, watch=val_watch(t))
    check_lost(t)
    if not len(which):
        raise DataError(f"no photograph of val can be read; go on with: {t.resume_command}")
    labels = torch.from_numpy(t.photos.labels[which])
    losses = t.losses_of(logits, labels).double()  # (N,)
    right = (logits.argmax(dim=1) == labels).double()
    loss, accuracy = float(losses.mean()), float(right.mean())
    if t.config.monitor == "val_loss":
        return Validation(loss, accuracy, (-loss, -loss))
    if t.config.monitor == "val_accuracy":
        return Validation(loss, accuracy, (accuracy, -loss))
    recalls = [float(right[labels == label].mean()) for label in set(labels.tolist())]
    return Validation(loss, accuracy, (sum(recalls) / len(recalls), -loss))


def check_lost(training: Training) -> None:
    """Warn of photographs that can no longer be read as they were; they are left out.

    Raises:
        DataError: They are more than ``max_bad`` allows, as when a disk has gone.
    """
    t, lost = training, training.photos.store.lost
    count = t.device.most(len(lost))  # each process has missed its own; all end together
    if count == t.lost:
        return
    t.lost = count
    one = next(reversed(lost.values()), None)
    text = f"gone, changed or unreadable since the training began: {counted(count, 'photograph')}"
    if one is not None:
        text += f", as {printable(t.photos.names[one.index])}: {one.reason}"
    if count > t.config.max_bad * len(t.photos.indices("all")):
        raise DataError(f"{text}; check the disk, then go on with: {t.resume_command}")
    if count == 0:
        return  # all are back
    t.emit(Warned(f"{text}; left out"))


def out_of_patience(training: Training) -> bool:
    """Whether ``--patience`` epochs have gone by without a better one."""
    progress, patience = training.progress, training.config.patience
    return patience is not None and progress.epoch - 1 - progress.best_epoch >= patience


def out_of_time(training: Training) -> bool:
    """Whether one more epoch like the last would end after ``--time``; all processes agree.

    The plan leaves room; this is for a machine that has become slower.
    """
    history, limit = training.progress.history, training.config.time_seconds
    if limit is None or not history:
        return False
    spent = sum(row.seconds for row in history) + training.saving.seconds
    return bool(training.device.most(int(spent + history[-1].seconds > limit)))


def val_watch(training: Training) -> Watch:
    """What ``infer_role`` calls after each batch of validation."""
    t, started = training, time.monotonic()

    def watch(done: int, total: int) -> None:
        rate = done / max(time.monotonic() - started, 1e-9)
        t.emit(BatchDone(t.progress.epoch, "val", done, total, rate, 0.0))
        if t.device.world == 1:  # several processes agree on a stop after validation
            save_if_due(t, t.progress.sums(), t.progress.seconds)

    return watch
