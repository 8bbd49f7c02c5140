"""The picture files of a run, an evaluation and a split."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from inceptcli.data.check import Check, suspects_sheet
from inceptcli.data.prepare import Photos
from inceptcli.engine.conclude import TrainResult
from inceptcli.engine.evaluate import Evaluation, write_metrics, write_predictions
from inceptcli.engine.find_lr import RangeTest
from inceptcli.events import Emit, Warned
from inceptcli.files import cannot_write, counted, write_bytes
from inceptcli.report import plots
from inceptcli.report.runs import RunPair
from inceptcli.runfolder import (
    CONFUSION,
    CURVES,
    FIND_LR,
    METRICS,
    PREDICTIONS,
    RELIABILITY,
    SAMPLES,
)

SAMPLES_A_CLASS = 8
MAX_CLASSES = 30  # rows of a contact sheet


def write_run(result: TrainResult, emit: Emit) -> None:
    """Draw ``curves.png``, ``samples.png``, ``confusion.png`` and ``reliability.png``.

    That one cannot be drawn is a warning: the training is finished, its results on the disk.
    """
    try:
        write_bytes(result.run / CURVES, plots.curves(result.history))
        write_samples(result.run / SAMPLES, result.photos)
        _write_figures(result.run, result.test or result.val)
    except Exception as error:
        why = str(error) or type(error).__name__
        emit(Warned(f"a picture is missing, the training's results are complete: {why}"))


def write_range_test(folder: Path, found: RangeTest) -> Path:
    """Draw ``find_lr.png`` into a folder, which is made if need be; its path.

    Raises:
        OutputError: It could not be written.
    """
    _make(folder)
    picture = plots.range_test(found.rates, found.losses, suggestion=found.suggestion)
    write_bytes(folder / FIND_LR, picture)
    return folder / FIND_LR


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write ``metrics.json``, ``predictions.csv`` and the pictures of an evaluation.

    Raises:
        OutputError: One could not be written.
    """
    _make(folder)
    write_metrics(folder / METRICS, {evaluation.role: evaluation})
    write_predictions(folder / PREDICTIONS, evaluation)
    _write_figures(folder, evaluation)


def write_comparison(path: Path, pair: RunPair) -> None:
    """Draw the curves of two runs over one another.

    Raises:
        OutputError: It could not be written.
    """
    _make(path.parent)
    names = [Path(run.name).name for run in pair.runs]
    if names[0] == names[1]:  # two runs' fold1
        names = ["/".join(Path(run.name).parts[-2:]) for run in pair.runs]
    write_bytes(path, plots.overlaid(list(zip(names, pair.histories, strict=True))))


def write_samples(path: Path, photos: Photos) -> None:
    """Draw a contact sheet: the first pictures of each class as the network sees them.

    Raises:
        OutputError: It could not be written.
    """
    rows = []
    for label, name in list(enumerate(photos.classes))[:MAX_CLASSES]:
        own = np.flatnonzero((photos.labels == label) & (photos.roles != ""))
        rows.append((name, photos.store.take(own[:SAMPLES_A_CLASS])[0]))
    write_bytes(path, plots.samples(rows, columns=SAMPLES_A_CLASS))


def write_suspects(path: Path, found: Check, photos: Photos) -> None:
    """Draw the suspicious pairs of a check side by side.

    Raises:
        OutputError: It could not be written.
    """
    buffer = io.BytesIO()
    paths = [photos.paths[i] for i in photos.indices("all")]
    suspects_sheet(found, paths).save(buffer, "png")
    write_bytes(path, buffer.getvalue())


def _write_figures(folder: Path, evaluation: Evaluation) -> None:
    figures = evaluation.figures
    title = f"{counted(figures.images, 'photograph')} of role {evaluation.role}"
    rows = [each.name for each in figures.classes]
    matrix = np.array(figures.confusion, np.int64)
    write_bytes(folder / CONFUSION, plots.confusion(matrix, rows, figures.outputs, title=title))
    before, after = (evaluation.at(t).bins() for t in (1.0, evaluation.temperature))
    write_bytes(folder / RELIABILITY, plots.reliability(before, after, title=title))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
