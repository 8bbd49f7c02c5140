"""The end of a training: its best weights measured once, its results written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from inceptcli.data.prepare import Photos
from inceptcli.engine.calibration import fit_temperature
from inceptcli.engine.checkpoint import finish, stop_if_asked
from inceptcli.engine.evaluate import Evaluation, evaluate, write_metrics, write_predictions
from inceptcli.engine.guard import ADVICE
from inceptcli.engine.infer import load_network
from inceptcli.engine.training import Training
from inceptcli.errors import DivergedError, WeightsError
from inceptcli.events import EpochDone, Notice, Progress
from inceptcli.files import printable
from inceptcli.model.weights import Record, Weights, load_weights, save_weights
from inceptcli.runfolder import BEST, METRICS, PREDICTIONS


@dataclass(frozen=True)
class TrainResult:
    """What a training came to.

    Attributes:
        run: The run folder.
        history: One row an epoch.
        best_epoch: The epoch whose weights are in ``best_model.pth``, as that file says.
        val: Evaluation of those weights on the val role, by which they were chosen.
        test: The same on the test role, which nothing was chosen by; None without such a role.
        seconds: Sum over the epochs.
        photos: What it was trained and measured on.
    """

    run: Path
    history: tuple[EpochDone, ...]
    best_epoch: int
    val: Evaluation
    test: Evaluation | None
    seconds: float
    photos: Photos

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


def conclude(training: Training) -> TrainResult:
    """Evaluate the best weights once on val and test, and write the results.

    A temperature is fitted on val and stored with the weights.

    Raises:
        DivergedError: No epoch was the best, since each val loss was not finite.
        OutputError: A file could not be written.
        StoppedError: A signal asked for it; resuming goes on here.
    """
    t, path = training, training.run_dir / BEST
    if not t.progress.best_epoch:
        raise DivergedError(f"training diverged: no epoch has a finite val loss; {ADVICE}")
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
            evaluations[role] = evaluate(loaded, t.photos, role, t.device, watch=watch)
    val = evaluations["val"]
    fitted = fit_temperature(val.logits, val.labels)
    if fitted.note:
        t.emit(Notice(f"temperature {fitted.value:g}: {fitted.note}"))
    evaluations = {role: part.at(fitted.value) for role, part in evaluations.items()}
    # A kill between the two files, and an epoch that a GPU did not repeat to the bit, may have left
    # weights of another epoch than the state's best.
    record = loaded.weights.record
    if record is None or record.epoch is None:
        raise WeightsError(f"{printable(str(path))} has lost its record; do not change the run")
    if t.device.is_first:
        _write_results(t, loaded.weights, replace(record, temperature=fitted.value), evaluations)
    return TrainResult(
        run=t.run_dir,
        history=tuple(t.progress.history),
        best_epoch=record.epoch,
        val=evaluations["val"],
        test=evaluations.get("test"),
        seconds=sum(row.seconds for row in t.progress.history),
        photos=t.photos,
    )


def _write_results(
    t: Training, weights: Weights, record: Record, evaluations: Mapping[str, Evaluation]
) -> None:
    path = t.run_dir / BEST
    metrics = {
        f"{role}_{name}": getattr(evaluation.figures, name)
        for role, evaluation in evaluations.items()
        for name in ("accuracy", "loss")
    }
    record = replace(record, metrics=metrics)
    save_weights(path, weights.state_dict, record, fingerprints=weights.fingerprints)
    digest = load_weights(path).digest
    for evaluation in evaluations.values():
        evaluation.weights["digest"] = digest  # the tensors are the ones that were measured
    write_metrics(t.run_dir / METRICS, evaluations)
    write_predictions(t.run_dir / PREDICTIONS, [*evaluations.values()][-1])
