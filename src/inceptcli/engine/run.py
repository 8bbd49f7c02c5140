"""One training, from a folder of photographs to a run folder: ``run``."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inceptcli import __version__
from inceptcli.config import FREE_TO_CHANGE, MIN_IMAGE_SIZE, TrainConfig, known
from inceptcli.data.fingerprints import MOST, join_fingerprints, make_fingerprints
from inceptcli.data.folder import check_output
from inceptcli.data.labels import listed
from inceptcli.data.prepare import Photos, prepare, write_manifest
from inceptcli.data.reader import StoppingError
from inceptcli.engine import resume
from inceptcli.engine.adapt import adapt
from inceptcli.engine.average import Average
from inceptcli.engine.checkpoint import save_now, write_history
from inceptcli.engine.conclude import TrainResult, conclude
from inceptcli.engine.device import Device, choose_device, leave, make_deterministic
from inceptcli.engine.finetune import begin, scale_groups
from inceptcli.engine.optim import (
    balanced_class_weights,
    load_optimizer,
    loss_per_image,
    make_optimizer,
)
from inceptcli.engine.plan import PLANNED, measured_plan
from inceptcli.engine.resume import Saved
from inceptcli.engine.signals import StopRequest
from inceptcli.engine.train import fit
from inceptcli.engine.training import Training
from inceptcli.errors import (
    DataError,
    InceptcliError,
    OutputError,
    ResourceError,
    StoppedError,
    UsageError,
    WeightsError,
    is_out_of_memory,
)
from inceptcli.events import Emit, Notice, TrainingStarted, Warned, silent
from inceptcli.files import cannot_write, counted, printable, write_csv, write_json
from inceptcli.model.inception import build
from inceptcli.model.weights import Record
from inceptcli.runfolder import (
    BEST,
    CONFIG,
    ENDINGS,
    FAILED,
    HISTORY,
    LAST,
    REJECTED,
    RUNS,
    SPLIT,
    RunLock,
    beginning,
    claim_run,
)

# Settings that say something about this machine, not about the weights.
PLACES = FREE_TO_CHANGE - {"max_bad"} | {"weights"}


def run(
    config: TrainConfig,
    *,
    sources: Mapping[str, str] | None = None,
    resuming: bool = False,
    allow_change: bool = False,
    whole: Path | None = None,
    emit: Emit = silent,
) -> TrainResult:
    """Train on a folder of photographs and write a run folder.

    Under torchrun every process calls this; on several machines they must share the run folder.

    Args:
        config: The settings; ``output`` names the folder of the run to go on with.
        sources: Where each setting came from, for the list that is shown at the start.
        resuming: Go on with the run in ``config.output``.
        allow_change: Go on although settings or photographs have changed.
        whole: The folder of the run of several trainings that this one is of.
        emit: Told of everything that happens.

    Raises:
        InceptcliError: One of its kinds, see ``errors``.
    """
    folder = choose_folder(config)
    with StopRequest() as stop, joined(config) as device:
        run_dir = Path(device.share(str(folder)))
        emit = emit if device.is_first else silent
        with _claimed(run_dir, config, device, resuming) as lock:
            saved, damaged = _load_state(run_dir, emit) if resuming else (None, False)
            device = _as_before(device, config, saved)
            photos = prepare_photos(config, device, stop, emit, resuming=resuming)
            with photos.store:
                config, planned = _in_time(config, photos, device, stop, saved, sources or {})
                training = set_up(config, photos, device, run_dir, stop, emit, saved=saved)
                training.saving.damaged, training.whole = damaged, whole
                if saved is not None:
                    restore(training, saved, allow_change=allow_change)
                else:
                    _give_up_if_asked(stop, device)
                    if lock is not None:
                        lock.clear()  # an earlier run's files, with --overwrite
                _begin(training, {**(sources or {}), **planned, **training.reasons})
                with _telling(training):
                    return _train(training)


def _as_before(device: Device, config: TrainConfig, saved: Saved | None) -> Device:
    """The device in the precision that ``auto`` found when the training began.

    What is fast is measured, and a busy machine must not change it in the middle of a training.
    """
    then = saved.surroundings if saved is not None else {}
    if config.precision != "auto" or then.get("device") != device.torch_device.type:
        return device
    return replace(device, precision=then["precision"], reason="as the run began")


def _in_time(
    config: TrainConfig,
    photos: Photos,
    device: Device,
    stop: StopRequest,
    saved: Saved | None,
    sources: Mapping[str, str],
) -> tuple[TrainConfig, dict[str, str]]:
    """Plan a training for ``--time``, or take the plan of a saved one; others are as they are."""
    if config.time_seconds is None or sources.get("time_seconds", "").startswith(PLANNED):
        return config, {}
    if saved is not None:
        then = saved.settings
        sizes = (float(then["train_sizes"][0]), float(then["train_sizes"][1]))
        planned: dict[str, Any] = {"epochs": int(then["epochs"]), "train_sizes": sizes}
        typed = {name for name in planned if sources.get(name) == "option"}
        kept = {name: value for name, value in planned.items() if name not in typed}
        return replace(config, least_steps=0, **kept), {}  # the plan has heard of them

    def begin(tried: TrainConfig) -> Training:
        return set_up(tried, photos, device, Path(), stop, silent)

    config, reasons, _ = measured_plan(config, begin, sources)
    return config, reasons


def rehearse(
    config: TrainConfig, *, sources: Mapping[str, str] | None = None, stop: StopRequest
) -> None:
    """Come to the first step and no further: nothing is written.

    Raises:
        InceptcliError: As ``run`` does before that step.
    """
    with joined(config) as device:
        photos = prepare_photos(config, device, stop, silent)
        with photos.store:
            config, _ = _in_time(config, photos, device, stop, None, sources or {})
            set_up(config, photos, device, Path(), stop, silent)
        _give_up_if_asked(stop, device)


def _give_up_if_asked(stop: StopRequest, device: Device) -> None:
    """End here if a signal came while it was prepared for the first step; nothing is lost."""
    if stop and device.world == 1:  # several processes end together, after a step
        raise StoppedError("stopped before the first step; nothing was saved", stop.signum or 0)


def choose_folder(config: TrainConfig) -> Path:
    """The run folder that the settings ask for.

    Raises:
        UsageError: It lies inside the data folder, where nothing is ever written.
    """
    folder = config.output
    if folder is None:
        folder = Path(RUNS) / (config.name or datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    check_output(folder, config.root)
    return folder


def set_up(
    config: TrainConfig,
    photos: Photos,
    device: Device,
    run_dir: Path,
    stop: StopRequest,
    emit: Emit,
    *,
    saved: Saved | None = None,
) -> Training:
    """A training that stands before its first step; what it begins with may come from a state."""
    config, reasons = adapt(config, photos)
    _check_shares(config, device)
    torch.manual_seed(config.seed)
    outputs = max(config.min_outputs, len(photos.classes))
    # At a size that is not the tutorial's the last pool takes any: sizes change in training.
    pooled = config.image_size if config.train_sizes == (1.0, 1.0) else MIN_IMAGE_SIZE
    model = device.place(build(config.arch, outputs, pooled, training=True))
    taken, taught = frozenset[str](), b""
    if saved is not None:
        taken, taught = frozenset(saved.taken), saved.taught.numpy().tobytes()
    elif config.weights is not None:
        taken, taught = begin(model, config, photos, device, emit)
    average = Average(model, steps=config.ema_epochs * steps_per_epoch(config, photos))
    class_weights = None
    if config.class_weights == "balanced":
        labels = torch.from_numpy(photos.labels[photos.indices("train")])
        class_weights = balanced_class_weights(labels, outputs).to(device.torch_device)
    optimizer = make_optimizer(model, config)
    scale_groups(optimizer, model, taken, config.layer_lr_decay)
    return Training(
        config=config,
        device=device,
        photos=photos,
        model=model,
        parallel=device.distribute(model),
        optimizer=optimizer,
        scaler=device.scaler(),
        average=average,
        losses_of=loss_per_image(double_softmax=config.double_softmax, class_weights=class_weights),
        objective_of=loss_per_image(
            double_softmax=config.double_softmax,
            class_weights=class_weights,
            label_smoothing=config.label_smoothing,
        ),
        described=resume.describe_photos(photos),
        run_dir=run_dir,
        record=_record(config, photos, device, outputs),
        fingerprints=_fingerprints(photos, taught, emit) if config.fingerprints else None,
        stop=stop,
        emit=emit,
        reasons=reasons,
        taken=taken,
        taught=taught,
    )


def _check_shares(config: TrainConfig, device: Device) -> None:
    each, why = 2, "normalises two photographs or more"
    if device.shares_batch_norm:
        each, why = 1, "takes one photograph or more"
    least = each * device.world
    if device.world > 1 and known(config.batch_size) < least:
        raise UsageError(
            f"batches of {config.batch_size} are too small for {device.world} processes, of which "
            f"each {why}; give -b {least} or fewer processes"
        )


def steps_per_epoch(config: TrainConfig, photos: Photos) -> int:
    """Steps of the optimizer in an epoch, up to one."""
    return max(1, len(photos.indices("train")) // known(config.batch_size))


def restore(training: Training, saved: Saved, *, allow_change: bool) -> None:
    """Put a training where a saved one stood.

    Raises:
        DataError: Settings or photographs are others than then, and that is not allowed, or the
            best epoch so far could not be compared with later ones.
        WeightsError: It is allowed, and makes another network.
    """
    t = training
    changed = resume.changes(saved, t.config, t.photos)
    if changed and not allow_change:
        raise DataError(
            f"cannot go on with {printable(str(t.run_dir))}, since the training has changed: "
            f"{'; '.join(changed)}; undo that, or "
            + ("add --allow-change" if t.whole is None else "begin another run")
        )
    if unlike := resume.unlike_the_best(saved, t.config):
        raise DataError(
            f"cannot go on with {printable(str(t.run_dir))} and another {', '.join(unlike)}: the "
            "best epoch so far could not be compared with the next ones; undo that, or begin "
            f"another run with --weights {printable(str(t.run_dir / BEST))}"
        )
    if t.config.epochs < len(saved.progress.history):
        raise UsageError(
            f"--epochs {t.config.epochs}: the training has {len(saved.progress.history)} already"
        )
    if changed:
        t.emit(Notice("going on although the training has changed: " + "; ".join(changed)))
    now, then = resume.surroundings(t.device), saved.surroundings
    other = [
        f"{name} {then.get(name)} -> {now[name]}" for name in now if then.get(name) != now[name]
    ]
    if other:
        t.emit(Notice(f"not bit-exact with the training so far: {', '.join(other)}"))
    try:
        _load(t, saved)
    except (RuntimeError, ValueError) as error:  # torch's for other names, shapes or groups
        raise WeightsError(
            f"cannot go on with {printable(str(t.run_dir))}: its state is of another network than "
            f"{t.config.arch} for {len(t.photos.classes)} classes; undo what has changed: "
            f"{'; '.join(changed)}, or begin another run"
        ) from error
    if changed:
        save_now(t)  # before config.json says so: a kill between them would contradict the state


def _load(t: Training, saved: Saved) -> None:
    t.model.load_state_dict(saved.model)
    t.average.load_state_dict(saved.average)
    if saved.settings.get("optimizer") == t.config.optimizer:  # another one begins anew
        load_optimizer(t.optimizer, saved.optimizer)
    if saved.scaler:  # that of another precision is empty
        t.scaler.load_state_dict(saved.scaler)
    t.progress = saved.progress
    then, now = saved.settings["batch_size"], known(t.config.batch_size)
    if t.progress.step and not t.progress.change_batches(then, now):
        t.emit(Notice(f"epoch {t.progress.epoch} begins again: its batches are others now"))


def _begin(t: Training, sources: Mapping[str, str]) -> None:
    """Write what is known before the first step, and tell that it comes."""
    if t.device.is_first:
        for name in ENDINGS:  # of a run that had ended and goes on
            try:
                (t.run_dir / name).unlink(missing_ok=True)
            except OSError as error:
                raise cannot_write(t.run_dir / name, error) from error
        write_json(t.run_dir / CONFIG, _description(t, sources))
        write_history(t.run_dir / HISTORY, t.progress.history)  # the state is what is true
        write_manifest(t.run_dir / SPLIT, t.photos)
        write_csv(
            t.run_dir / REJECTED,
            ("path", "reason", "detail"),
            [(bad.name, bad.reason, bad.detail) for bad in t.photos.rejected],
        )
    t.emit(
        TrainingStarted(
            settings=_shown(t, sources),
            run=str(t.run_dir),
            epochs=t.config.epochs,
            first_epoch=t.progress.epoch,
        )
    )


def _train(t: Training) -> TrainResult:
    """Train to the end.

    Raises:
        ResourceError: Memory ran out; the message has a batch size that needs half as much.
    """
    try:
        fit(t)
        return conclude(t)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # Out here nothing holds the step's tensors any more.
    smaller = max(2, known(t.config.batch_size) // 2)
    where = f"{t.device.torch_device}, epoch {t.progress.epoch}, step {t.progress.step + 1}"
    again = f"start again with -b {smaller}"
    if (t.run_dir / LAST).exists() and t.whole is None:
        again = f"go on with: {t.resume_command} --allow-change -b {smaller}"
    raise ResourceError(f"not enough memory on {where}, batches of {t.config.batch_size}; {again}")


@contextmanager
def _telling(t: Training) -> Iterator[None]:
    """Leave word in the run folder of why a training failed, for ``inceptcli runs``."""
    try:
        yield
    except StoppedError:
        raise
    except InceptcliError as error:
        if t.device.is_first:
            with suppress(OutputError):  # what failed may be the disk
                word = {"exit_code": error.exit_code, "error": str(error)}
                write_json(t.run_dir / FAILED, word)
        raise


def _description(t: Training, sources: Mapping[str, str]) -> dict[str, Any]:
    return {
        "format": 1,
        "settings": t.config.to_json(),
        "sources": dict(sources),
        "surroundings": resume.surroundings(t.device),
        "versions": dict(t.record.versions),
        "machine": platform.platform(),
        **beginning(t.run_dir),
    }


def _shown(t: Training, sources: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Each setting as text with where it came from; what was chosen here says so."""
    shown = {
        name: (_text(value), sources.get(name, "default"))
        for name, value in t.config.to_json().items()
        if value is not None
    }
    if t.config.device == "auto":
        shown["device"] = (str(t.device.torch_device), "found here")
    if t.config.precision == "auto":
        shown["precision"] = (t.device.precision, t.device.reason)
    return shown


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"  # a tenth of six epochs is 0.6 to a reader
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _fingerprints(photos: Photos, taught: bytes, emit: Emit) -> bytes:
    facts = [fact for fact in (photos.facts[i] for i in photos.indices("train")) if fact]
    if len(facts) > MOST:
        emit(Notice(f"the weights remember a sample of the {len(facts):,} training photographs"))
    own = make_fingerprints([f.content_sha256 for f in facts], [f.look for f in facts])
    return join_fingerprints(own, taught) if taught else own


def _record(config: TrainConfig, photos: Photos, device: Device, outputs: int) -> Record:
    settings = {name: value for name, value in config.to_json().items() if value is not None}
    return Record(
        arch=config.arch,
        classes=photos.classes,
        outputs=outputs,
        image_size=config.image_size,
        resize=config.resize,
        recipe=config.recipe,
        settings={name: settings[name] for name in settings if name not in PLACES}
        | {"precision": device.precision},
        versions={
            "inceptcli": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    )


@contextmanager
def joined(config: TrainConfig) -> Iterator[Device]:
    """The device of the settings; with torchrun's other processes, until the end."""
    device = choose_device(config.device, config.precision)
    if config.deterministic:
        make_deterministic()
    try:
        yield device
    except BaseException as error:
        leave(error)
        raise
    leave()


@contextmanager
def _claimed(
    run_dir: Path, config: TrainConfig, device: Device, resuming: bool
) -> Iterator[RunLock | None]:
    """The run folder, locked by the first process; the others get None."""
    if not device.is_first:
        yield None
        return
    with claim_run(run_dir, resume=resuming, overwrite=config.overwrite) as lock:
        yield lock


def prepare_photos(
    config: TrainConfig,
    device: Device,
    stop: StopRequest,
    emit: Emit,
    *,
    divide: bool = True,
    resuming: bool = False,
) -> Photos:
    """The photographs; the first process looks first, the others then find its cache on disk.

    Those that have gone since a run began are no fault of its split: ``restore`` counts them.
    """
    looking = True

    def stopping() -> bool:
        return looking and bool(stop)

    try:
        with device.first_goes_first():
            photos = prepare(
                config, divide=divide, all_there=not resuming, emit=emit, stopping=stopping
            )
    except StoppingError as error:
        raise StoppedError(
            "stopped before the first step; nothing was saved", stop.signum or 0
        ) from error
    looking = False  # from now on a batch in hand is finished, and the state saved
    _check_same(photos, device)
    if divide:
        _check_roles(photos)
    return photos


def _check_same(photos: Photos, device: Device) -> None:
    """Refuse processes that would take parts of different lists, and train on neither."""
    if device.world == 1:
        return
    seen = hashlib.sha256()
    for part in resume.describe_photos(photos).values():
        seen.update(str(part).encode() if isinstance(part, list) else part.numpy().tobytes())
    if device.share(seen.hexdigest()) != seen.hexdigest():
        raise DataError(
            f"process {device.rank} finds other photographs, classes or roles than process 0; "
            "give each machine the same folder and the same split"
        )


def _check_roles(photos: Photos) -> None:
    for role, least in (("train", 2), ("val", 1)):
        count = len(photos.indices(role))
        if count < least:
            raise DataError(
                f"{counted(count, 'photograph')} for {role}, where it takes {least} or more; "
                "give the split more of them"
            )
    taught = np.unique(photos.labels[photos.indices("train")])
    if untaught := [name for i, name in enumerate(photos.classes) if i not in taught]:
        raise DataError(
            f"no photograph for train of {listed(untaught)}, so the network could not learn it; "
            "give the split some, or leave the class out"
        )


def _load_state(run_dir: Path, emit: Emit) -> tuple[Saved, bool]:
    """The state to go on from, and whether the one after it is damaged."""
    saved, problems = resume.load(run_dir)
    for problem in problems:
        emit(Warned(f"{problem}; going on from the state before it"))
    return saved, bool(problems)
