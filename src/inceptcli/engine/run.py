"""One training from a folder of photographs to a run folder: ``run``."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inceptcli import __version__
from inceptcli.config import FREE_TO_CHANGE, TrainConfig, option_name
from inceptcli.data.loader import Loader
from inceptcli.data.prepare import Photos, prepare
from inceptcli.data.reader import StoppingError
from inceptcli.data.split import write_split
from inceptcli.engine import resume
from inceptcli.engine.calibration import fit_temperature
from inceptcli.engine.checkpoint import BEST, HISTORY, Keeper
from inceptcli.engine.device import Device, choose_device, leave, make_deterministic
from inceptcli.engine.evaluate import Evaluation, evaluate, write_metrics, write_predictions
from inceptcli.engine.infer import load_network
from inceptcli.engine.optim import balanced_class_weights, loss_per_image, make_optimizer
from inceptcli.engine.resume import Progress, Saved
from inceptcli.engine.signals import StopRequest
from inceptcli.engine.train import Training, fit
from inceptcli.errors import DataError, StoppedError, UsageError
from inceptcli.events import Emit, EpochDone, Notice, TrainingStarted, silent
from inceptcli.files import is_inside, printable, write_csv, write_json
from inceptcli.model.inception import build
from inceptcli.model.weights import Record, load_weights, save_weights
from inceptcli.runfolder import claim_run

RUNS = Path("runs")
METRICS, CONFIG, SPLIT = "metrics.json", "config.json", "split.csv"


@dataclass(frozen=True)
class TrainResult:
    """What a training came to.

    Attributes:
        run: The run folder.
        history: One row an epoch.
        best_epoch: The epoch whose weights are in ``best_model.pth``.
        val: Evaluation of those weights on the val role, by which they were chosen.
        test: The same on the test role, which nothing was chosen by; None without such a role.
        seconds: Sum over the epochs.
    """

    run: Path
    history: tuple[EpochDone, ...]
    best_epoch: int
    val: Evaluation
    test: Evaluation | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, as ``train --json`` prints them."""
        return {
            "run": str(self.run),
            "weights": str(self.run / BEST),
            "epochs": len(self.history),
            "best_epoch": self.best_epoch,
            "seconds": self.seconds,
            "val": self.val.to_json(),
            "test": None if self.test is None else self.test.to_json(),
            "history": [asdict(row) for row in self.history],
        }


def run(
    config: TrainConfig,
    *,
    sources: Mapping[str, str] | None = None,
    resuming: bool = False,
    allow_change: bool = False,
    emit: Emit = silent,
) -> TrainResult:
    """Train on a folder of photographs and write a run folder.

    Under torchrun every process calls this; on several machines they must share the run folder.

    Args:
        config: The settings; ``output`` names the folder of the run to go on with.
        sources: Where each setting came from, for the list that is shown at the start.
        resuming: Go on with the run in ``config.output``.
        allow_change: Go on although settings or photographs have changed.
        emit: Told of everything that happens.

    Raises:
        InceptcliError: One of its kinds, see ``errors``.
    """
    run_dir = choose_folder(config)
    device = choose_device(config.device, config.precision)
    if config.deterministic:
        make_deterministic()
    emit = emit if device.is_first else silent
    with StopRequest() as stop, _joined(), _claimed(run_dir, config, device, resuming) as lock:
        saved = _load_state(run_dir, emit) if resuming else None
        photos = _prepare(config, device, stop, emit)
        training = set_up(config, photos, device, run_dir, stop, emit)
        if saved is not None:
            restore(training, saved, allow_change=allow_change)
        elif lock is not None:
            lock.clear()  # of an earlier run's files, with --overwrite
        _begin(training, sources or {})
        fit(training)
        return conclude(training)


def choose_folder(config: TrainConfig) -> Path:
    """The run folder that the settings ask for.

    Raises:
        UsageError: It lies inside the data folder, where nothing is ever written.
    """
    folder = config.output
    if folder is None:
        folder = RUNS / (config.name or datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    if is_inside(folder, config.root):
        raise UsageError(
            f"the run folder {printable(str(folder))} lies inside the data folder, which is never "
            "written to; choose another with -o"
        )
    return folder


def set_up(
    config: TrainConfig,
    photos: Photos,
    device: Device,
    run_dir: Path,
    stop: StopRequest,
    emit: Emit,
) -> Training:
    """A training that stands before its first step."""
    torch.manual_seed(config.seed)
    outputs = max(config.min_outputs, len(photos.classes))
    model = device.place(build(config.arch, outputs, config.image_size))
    class_weights = None
    if config.class_weights == "balanced":
        labels = torch.from_numpy(photos.labels[photos.indices("train")])
        class_weights = balanced_class_weights(labels, outputs).to(device.torch_device)
    return Training(
        config=config,
        device=device,
        photos=photos,
        model=model,
        parallel=device.distribute(model),
        optimizer=make_optimizer(model, config),
        scaler=device.scaler(),
        losses_of=loss_per_image(double_softmax=config.double_softmax, class_weights=class_weights),
        run_dir=run_dir,
        record=_record(config, photos, device, outputs),
        fingerprints=None,
        stop=stop,
        emit=emit,
        data=_data_state(photos),
    )


def restore(training: Training, saved: Saved, *, allow_change: bool) -> None:
    """Put a training where a saved one stood.

    Raises:
        DataError: Settings or photographs are others than then, and that is not allowed.
    """
    t = training
    changed = _changed_settings(saved.settings, t.config) + _changed_photos(saved.data, t.photos)
    if changed and not allow_change:
        raise DataError(
            f"cannot go on with {printable(str(t.run_dir))}, since the training has changed: "
            f"{'; '.join(changed)}; undo that, or add --allow-change"
        )
    if changed:
        t.emit(Notice("going on although the training has changed: " + "; ".join(changed)))
    now = resume.surroundings(t.device)
    other = [f"{k} {saved.surroundings.get(k)} -> {v}" for k, v in now.items()]
    other = [
        text
        for text, key in zip(other, now, strict=True)
        if saved.surroundings.get(key) != now[key]
    ]
    if other:
        t.emit(Notice(f"not bit-exact with the training so far: {', '.join(other)}"))
    t.model.load_state_dict(saved.model)
    t.optimizer.load_state_dict(saved.optimizer)
    t.scaler.load_state_dict(saved.scaler)
    t.progress = saved.progress


def conclude(training: Training) -> TrainResult:
    """Evaluate the best weights once on val and test, and write the results.

    A temperature is fitted on val and stored with the weights.

    Raises:
        OutputError: A file could not be written.
        StoppedError: A signal asked for it; resuming goes on here.
    """
    t, path = training, training.run_dir / BEST
    finish(t)
    t.device.wait()  # until the first process has written the best weights

    def watch(done: int, total: int) -> None:
        t.emit(Progress("evaluating the best weights", done, total))
        if t.device.world == 1:
            stop_if_asked(t)

    loaded = load_network(path)
    evaluations = {}
    for role in ("val", "test"):
        if len(t.photos.indices(role)):
            evaluations[role] = evaluate(
                loaded, t.photos, role, t.device, seed=t.config.seed, watch=watch
            )
    val = evaluations["val"]
    temperature = fit_temperature(val.logits, val.labels).value
    evaluations = {role: part.at(temperature) for role, part in evaluations.items()}
    if t.device.is_first:
        _write_results(t, evaluations, temperature)
    return TrainResult(
        run=t.run_dir,
        history=tuple(t.progress.history),
        best_epoch=t.progress.best_epoch,
        val=evaluations["val"],
        test=evaluations.get("test"),
        seconds=sum(row.seconds for row in t.progress.history),
    )


def _write_results(t: Training, evaluations: Mapping[str, Evaluation], temperature: float) -> None:
    path = t.run_dir / BEST
    weights = load_weights(path)
    if weights.record is None:
        raise WeightsError(f"{printable(str(path))} has lost its record; do not change the run")
    metrics = {
        f"{role}_{name}": getattr(evaluation.figures, name)
        for role, evaluation in evaluations.items()
        for name in ("accuracy", "loss")
    }
    record = replace(weights.record, temperature=temperature, metrics=metrics)
    save_weights(path, weights.state_dict, record, fingerprints=weights.fingerprints)
    write_metrics(t.run_dir / METRICS, evaluations)
    write_predictions(t.run_dir / "predictions.csv", [*evaluations.values()][-1])


def _begin(t: Training, sources: Mapping[str, str]) -> None:
    if t.device.is_first:
        write_json(t.run_dir / CONFIG, t.config.to_json())
        write_split(
            t.run_dir / SPLIT,
            t.photos.names,
            classes=[t.photos.classes[label] for label in t.photos.labels],
            roles=t.photos.roles,
            groups=t.photos.grouping.ids,
        )
        write_csv(
            t.run_dir / "rejected.csv",
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
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _record(config: TrainConfig, photos: Photos, device: Device, outputs: int) -> Record:
    return Record(
        arch=config.arch,
        classes=photos.classes,
        outputs=outputs,
        image_size=config.image_size,
        resize=config.resize,
        recipe=config.recipe,
        settings={name: value for name, value in config.to_json().items() if name not in HERE}
        | {"precision": device.precision},
        versions={
            "inceptcli": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    )


def _data_state(photos: Photos) -> dict[str, Any]:
    digests = b"".join(facts.content_sha256[:8] for facts in photos.facts)
    return {
        "classes": list(photos.classes),
        "names": list(photos.names),
        "roles": [str(role) for role in photos.roles],
        "content": torch.frombuffer(bytearray(digests), dtype=torch.uint8).reshape(-1, 8),
    }


def _changed_settings(before: Mapping[str, Any], config: TrainConfig) -> list[str]:
    return [
        f"{option_name(name)} was {_text(before[name])}, is {_text(value)}"
        for name, value in config.to_json().items()
        if name in before and name not in FREE_TO_CHANGE and before[name] != value
    ]


def _changed_photos(before: Mapping[str, Any], photos: Photos) -> list[str]:
    now = _data_state(photos)
    changed = []
    if before["classes"] != now["classes"]:
        changed.append(f"classes were {_text(before['classes'])}, are {_text(now['classes'])}")
    then = {
        name: (role, bytes(digest.tolist()))
        for name, role, digest in zip(
            before["names"], before["roles"], before["content"], strict=True
        )
    }
    here = {
        name: (role, bytes(digest.tolist()))
        for name, role, digest in zip(now["names"], now["roles"], now["content"], strict=True)
    }
    gone, new = then.keys() - here.keys(), here.keys() - then.keys()
    other = [name for name in then.keys() & here.keys() if then[name] != here[name]]
    for what, count in (
        ("gone", len(gone)),
        ("new", len(new) + photos.left_out),
        ("with other content or another role", len(other)),
    ):
        if count:
            changed.append(f"{count} photographs {what}")
    return changed


@contextmanager
def _joined() -> Iterator[None]:
    """Part from torchrun's processes at the end, whatever happens."""
    try:
        yield
    finally:
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


def _load_state(run_dir: Path, emit: Emit) -> Saved:
    saved, problems = resume.load(run_dir)
    for problem in problems:
        emit(Warned(f"{problem}; going on from the state before it"))
    return saved


def _prepare(config: TrainConfig, device: Device, stop: StopRequest, emit: Emit) -> Photos:
    """The photographs; the first process looks first, the others then find its cache."""
    if not device.is_first:
        device.wait()
    try:
        photos = prepare(config, emit=emit, stopping=lambda: bool(stop))
    except StoppingError as error:
        raise StoppedError(
            "stopped before the first step; nothing was saved", stop.signum or 0
        ) from error
    if device.is_first:
        device.wait()
    return photos
