"""The pictures in a run folder. Drawn off screen; each function returns PNG bytes.

Colours are the first of Okabe and Ito's palette, which the colour-blind can tell apart ("Color
Universal Design", 2008); lines differ in style as well.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from inceptcli.events import EpochDone
from inceptcli.files import printable

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
MAX_CELLS = 40  # classes up to which a confusion matrix carries names and counts


def curves(history: Sequence[EpochDone]) -> bytes:
    """Accuracy and loss of train and val side by side, the best epoch marked."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row.epoch for row in history]
    best = [row.epoch for row in history if row.best][-1:]
    for axes, name in ((left, "accuracy"), (right, "loss")):
        for role, colour, style in (("train", BLUE, "--"), ("val", ORANGE, "-")):
            values = [getattr(row, f"{role}_{name}") for row in history]
            marker = "o" if len(history) == 1 else ""
            axes.plot(epochs, values, style, color=colour, label=role, marker=marker)
        for epoch in best:
            axes.axvline(epoch, color=GREY, linestyle=":", label=f"best epoch: {epoch}")
    return _by_epoch(figure, left, right)


def overlaid(histories: Sequence[tuple[str, Sequence[EpochDone]]]) -> bytes:
    """Accuracy and loss of several runs over one another: a colour a run, train dashed."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, history), colour in zip(histories, (BLUE, ORANGE), strict=True):
        epochs = [row.epoch for row in history]
        for role, style in (("train", "--"), ("val", "-")):
            for axes, kind in ((left, "accuracy"), (right, "loss")):
                values = [getattr(row, f"{role}_{kind}") for row in history]
                label = f"{_names([name])[0]}, {role}"
                marker = "o" if len(history) == 1 else ""
                axes.plot(epochs, values, style, color=colour, label=label, marker=marker)
    return _by_epoch(figure, left, right)


def _by_epoch(figure: Figure, left: Any, right: Any) -> bytes:
    """Name and scale the axes of accuracy (left) and loss (right); the picture."""
    for axes, name in ((left, "accuracy"), (right, "loss")):
        axes.set(title=name.capitalize(), xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    left.set_ylim(0, 1.02)
    right.set_ylim(bottom=0)
    return _png(figure)


def confusion(
    matrix: npt.NDArray[np.int64], rows: Sequence[str], columns: Sequence[str], *, title: str
) -> bytes:
    """The confusion matrix: rows true, columns predicted, shaded by the part of each row."""
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(14.0, 3.2 + 0.55 * len(columns))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(title=title, xlabel="predicted", ylabel="true")
    if len(columns) <= MAX_CELLS:
        axes.set_xticks(range(len(columns)), _names(columns), rotation=45, ha="right")
        axes.set_yticks(range(len(rows)), _names(rows))
        for (row, column), count in np.ndenumerate(matrix):
            colour = "white" if share[row, column] > 0.5 else "black" if count else "#999999"
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour)
    figure.colorbar(image, ax=axes, label="part of the true class", shrink=0.8)
    return _png(figure)


def reliability(before: Sequence[Any], after: Sequence[Any], *, title: str) -> bytes:
    """Accuracy against confidence in bins, before and after the temperature; n under it."""
    figure = Figure(figsize=(5.5, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfectly calibrated")
    for bins, colour, style, name in (
        (before, BLUE, "s--", "as trained"),
        (after, ORANGE, "o-", "with the temperature"),
    ):
        full = [part for part in bins if part.images]
        confidence = [part.confidence for part in full]
        axes.plot(confidence, [part.accuracy for part in full], style, color=colour, label=name)
    axes.set(title=title, xlabel="probability of the answer", ylabel="part that is right")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return _png(figure)


def range_test(rates: Sequence[float], losses: Sequence[float], *, suggestion: float) -> bytes:
    """The loss against the learning rate, the suggestion marked."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color=BLUE)
    axes.axvline(suggestion, color=ORANGE, linestyle="--", label=f"suggestion: {suggestion:g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, running mean")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    return _png(figure)


def samples(rows: Sequence[tuple[str, npt.NDArray[np.uint8]]], *, columns: int = 8) -> bytes:
    """A contact sheet: a row of pictures a class, exactly as the network sees them.

    Args:
        rows: For each class its name and pixels (n, S, S, 3) uint8.
        columns: Pictures a row, at most.
    """
    figure = Figure(figsize=(1.5 * columns, 1.75 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, pixels) in zip(grid, rows, strict=True):
        for axes in line:
            axes.axis("off")
        for axes, picture in zip(line, pixels, strict=False):
            axes.imshow(picture)
        line[0].set_title(_names([name])[0], loc="left", fontsize=11)
    return _png(figure)


def _names(names: Sequence[str]) -> list[str]:
    shown = [printable(name) for name in names]
    short = [name if len(name) <= 24 else name[:23] + "…" for name in shown]
    return [name.replace("$", r"\$") for name in short]  # else matplotlib reads mathematics


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # of scripts that matplotlib's font lacks: boxes are drawn
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
