"""What the report says: plain values for the page, gathered from a run and its evaluations.

Figures are taken from the very objects that ``metrics.json`` is written from.
"""

from __future__ import annotations

import hashlib
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np

from inceptcli import __version__
from inceptcli.config import option_name
from inceptcli.data.prepare import Photos
from inceptcli.engine.calibration import Bin, precision_by_threshold
from inceptcli.engine.comparison import Comparison
from inceptcli.engine.evaluate import Evaluation
from inceptcli.engine.infer import Loaded
from inceptcli.engine.metrics import curve
from inceptcli.engine.metrics import mistakes as worst
from inceptcli.engine.predict import is_averaged
from inceptcli.errors import DataError
from inceptcli.events import EpochDone
from inceptcli.files import counted, printable
from inceptcli.report.charts import MAX_SERIES, Chart, Series
from inceptcli.report.explain import attributions, overlay
from inceptcli.report.runs import read_history
from inceptcli.report.thumbnails import LARGE, data_uri, thumbnails
from inceptcli.runfolder import read_description

SHEET_A_CLASS, SHEET_CLASSES = 8, 24  # of the contact sheet
SHEET_PHOTOS = 96
MISTAKES = 24  # with image and attribution
CELL_PHOTOS = 12  # thumbnails of one cell of the confusion matrix
PHOTOS = 240  # thumbnails of all cells
LISTED = 4000  # paths of all cells
MATRIX_CLASSES = 40  # up to which the confusion matrix is a table
PAIRS = 60  # of classes confused, listed beyond that
TABLE_CLASSES = 500  # rows of the table of classes
REJECTED = 200  # rejected files listed
DIFFER = 100  # photographs listed that one of two networks has right
CLASS_FIGURES = ("precision", "recall", "specificity", "f1", "auc")
FIGURES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "loss": "loss (cross-entropy)",
    "macro_f1": "macro F1",
    "auc": "ROC AUC (macro, one against the rest)",
}
BINARY = {
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "positive predictive value",
    "npv": "negative predictive value",
}


@dataclass(frozen=True)
class Subject:
    """What a report is about.

    Attributes:
        evaluations: By role; the last one is shown in full.
        photos: The photographs they were measured on.
        loaded: The network.
        rival: Another network's evaluation of the same photographs, and the comparison with it.
    """

    evaluations: Mapping[str, Evaluation]
    photos: Photos
    loaded: Loaded
    rival: tuple[Evaluation, Comparison] | None = None

    @property
    def main(self) -> Evaluation:
        """The evaluation that is shown in full."""
        return [*self.evaluations.values()][-1]

    @property
    def places(self) -> list[int]:
        """For each photograph of ``main`` its index among the photographs."""
        index = {name: i for i, name in enumerate(self.photos.names)}
        return [index[name] for name in self.main.names]


def content(subject: Subject) -> dict[str, Any]:
    """Everything that the page shows, by section."""
    folder = subject.loaded.weights.path.parent
    try:
        description = read_description(folder)
    except DataError:
        description = {}  # weights that lie in no run folder
    history = read_history(folder) if description else ()
    metrics = {role: evaluation.to_json() for role, evaluation in subject.evaluations.items()}
    main = metrics[subject.main.role]
    return {
        "version": __version__,
        "made": datetime.now().strftime("%Y-%m-%d %H:%M"),
        "folder": str(folder),
        "title": folder.name if description else subject.loaded.weights.path.name,
        "role": subject.main.role,
        "roles": list(metrics),
        "metrics": main,
        "outputs": [printable(name) for name in main["outputs"]],
        "headline": headline(main, history),
        "figures": figure_rows(metrics),
        "classes": class_rows(main),
        "confusion": confusion(main),
        "charts": result_charts(subject.main),
        "gallery": gallery(subject),
        "mistakes": mistakes(subject),
        "comparison": comparison(subject),
        "training": training(history),
        "data": data(subject.photos),
        "made_by": made_by(subject, description),
    }


def headline(main: Mapping[str, Any], history: Sequence[EpochDone]) -> dict[str, Any]:
    """The few facts that a reader sees first."""
    notes = []
    if main["few_groups"]:
        notes.append(f"Too few for precise intervals: {counted(main['groups'], 'group')}.")
    if main["role"] == "val":
        notes.append("Role val: where it chose the best epoch, the figures are optimistic.")
    seen = main["trained_on"]
    if seen and seen["images"]:
        notes.append(
            f"{seen['images']:,} of {main['images']:,} photographs, or near copies of them, were "
            "trained on."
        )
    if seen and seen.get("complete") is False:
        notes.append("What the network was trained on is not all known.")
    if main["rejected"]:
        notes.append(f"Files that could not be read and are not counted: {main['rejected']:,}.")
    if main["absent"]:
        notes.append(f"Classes without a photograph here: {', '.join(main['absent'][:20])}.")
    best = [row.epoch for row in history if row.best][-1:]
    return {"notes": notes, "best": best[0] if best else None, "epochs": len(history)}


def figure_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name -> (value, interval) by role, for the table of figures."""
    rows = []
    weights = next(iter(metrics.values()))["weights"]
    for name, shown in FIGURES.items():
        cells = [_cell(of_role, name) for of_role in metrics.values()]
        rows.append({"name": shown, "key": name, "cells": cells})
    for k in next(iter(metrics.values()))["top_k"]:
        cells = [(of_role["top_k"].get(k), None) for of_role in metrics.values()]
        rows.append({"name": f"top-{k} accuracy", "key": f"top_{k}", "cells": cells})
    if all(of_role["binary"] for of_role in metrics.values()):
        tests = [of_role["binary"] for of_role in metrics.values()]
        for name, shown in BINARY.items():
            shown = f"{shown} ({tests[0]['positive']})"
            rows.append({"name": shown, "key": name, "cells": [_cell(t, name) for t in tests]})
    for name, shown in (("ece", "calibration error"), ("brier", "Brier score")):
        for when, words in calibrated(weights).items():
            cells = [(of_role["calibration"][when][name], None) for of_role in metrics.values()]
            key = f"{name}_{when}"
            rows.append({"name": f"{shown}, {words}", "key": key, "cells": cells})
    return rows


def class_rows(main: Mapping[str, Any]) -> dict[str, Any]:
    """The table of classes; of very many those with the lowest F1."""
    rows = main["classes"]
    if len(rows) > TABLE_CLASSES:
        rows = sorted(rows, key=lambda row: 2 if row["f1"] is None else row["f1"])[:TABLE_CLASSES]
    return {
        "rows": [
            {
                "name": row["name"],
                "support": row["support"],
                "predicted": row["predicted"],
                "cells": [_cell(row, name) for name in CLASS_FIGURES],
            }
            for row in rows
        ],
        "all": len(main["classes"]),
    }


def confusion(main: Mapping[str, Any]) -> dict[str, Any]:
    """The matrix as rows of cells, or for very many classes the pairs most often confused."""
    names = [row["name"] for row in main["classes"]]
    matrix, outputs = main["confusion"], main["outputs"]
    if len(outputs) > MATRIX_CLASSES:
        pairs = [
            (count, names[i], outputs[j])
            for i, row in enumerate(matrix)
            for j, count in enumerate(row)
            if count and i != j
        ]
        pairs.sort(key=lambda pair: -pair[0])
        return {"rows": [], "outputs": outputs, "pairs": pairs[:PAIRS], "all": len(pairs)}
    rows = []
    for i, (name, counts) in enumerate(zip(names, matrix, strict=True)):
        total = sum(counts)
        cells = [
            {"count": count, "kind": _shade(count / total if total else 0, right=i == j), "to": j}
            for j, count in enumerate(counts)
        ]
        rows.append({"name": name, "index": i, "cells": cells, "total": total})
    return {"rows": rows, "outputs": outputs, "pairs": [], "all": 0}


def _shade(share: float, *, right: bool) -> str:
    """One of five shades of "right" or "wrong", by the part of the true class."""
    if share == 0:
        return "none"
    level = 1 + sum(share > bound for bound in (0.05, 0.15, 0.35, 0.65))
    return f"{'right' if right else 'wrong'}{level}"


def result_charts(main: Evaluation) -> list[dict[str, Any]]:
    """Reliability, thresholds, ROC and precision-recall."""
    whole = (0.0, 1.0)
    charts = [
        (
            Chart(
                title="Do probabilities mean what they say?",
                x="probability of the answer",
                y="part that is right",
                series=[
                    _reliability(words, (main if when == "after" else main.at(1.0)).bins())
                    for when, words in calibrated(main.weights).items()
                ],
                x_range=whole,
                y_range=whole,
                diagonal="perfectly calibrated",
            ),
            f"Temperature {main.temperature:.4f}. Answers are put into 15 bins by their "
            "probability; a point below the diagonal is a bin whose answers are too sure.",
        ),
        (
            _thresholds(main),
            "Answers below the threshold are withheld. Precision counts the answers that are "
            "given, recall all photographs.",
        ),
    ]
    charts += _curves(main)
    return [{"chart": chart, "text": text} for chart, text in charts]


def calibrated(weights: Mapping[str, Any]) -> dict[str, str]:
    """The states of the answers that are shown; a mean's members have their temperatures."""
    if is_averaged(weights):
        return {"after": "of the calibrated mean"}
    return {"before": "as trained", "after": "with the temperature"}


def _reliability(name: str, bins: Sequence[Bin]) -> Series:
    full = [b for b in bins if b.confidence is not None and b.accuracy is not None]
    return Series(
        name,
        [(b.confidence or 0.0, b.accuracy or 0.0) for b in full],
        [f", {counted(b.images, 'photograph')}" for b in full],
    )


def _thresholds(main: Evaluation) -> Chart:
    thresholds, coverage, precision = precision_by_threshold(main.probabilities, main.labels)
    values = {
        "precision: right among the answers": precision,
        "recall: answered rightly among all": precision * coverage,
        "answered among all": coverage,
    }
    return Chart(
        title="Precision and recall by threshold",
        x="threshold on the probability",
        y="part",
        series=[
            Series(name, list(zip(thresholds.tolist(), part.tolist(), strict=True)))
            for name, part in values.items()
        ],
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
    )


def _curves(main: Evaluation) -> list[tuple[Chart, str]]:
    """ROC and precision-recall of the classes, of many those with the lowest AUC."""
    present = [
        (2.0 if row.auc is None else row.auc, index, row)
        for index, row in enumerate(main.figures.classes)
        if row.support
    ]
    chosen = sorted(present)[:MAX_SERIES] if len(present) > MAX_SERIES else present
    roc, recall = [], []
    for _, index, row in chosen:
        points = curve(main.probabilities[:, index], main.labels == index)
        area = "" if row.auc is None else f" (AUC {row.auc:.4f})"
        pairs = zip(points.false_positive_rate.tolist(), points.recall.tolist(), strict=True)
        roc.append(Series(f"{row.name}{area}", list(pairs)))
        pairs = zip(points.recall.tolist(), points.precision.tolist(), strict=True)
        recall.append(Series(row.name, [pair for pair in pairs if not math.isnan(pair[1])]))
    rule = "One class against the rest."
    if len(present) > len(chosen):
        rule += f" The {len(chosen)} of {len(present)} classes with the lowest AUC."
    whole = (0.0, 1.0)
    return [
        (
            Chart(
                title="ROC by class",
                x="false positive rate",
                y="true positive rate (recall)",
                series=roc,
                x_range=whole,
                y_range=whole,
                diagonal="guessing",
            ),
            rule,
        ),
        (
            Chart(
                title="Precision and recall by class",
                x="recall",
                y="precision",
                series=recall,
                x_range=whole,
                y_range=whole,
            ),
            rule,
        ),
    ]


def gallery(subject: Subject) -> list[dict[str, Any]]:
    """The photographs behind the confusion matrix: wrong ones first, of those the surest first.

    Of right ones the least sure come first. Each cell has at most ``CELL_PHOTOS`` thumbnails, all
    together ``PHOTOS``; beyond that a photograph is listed by its path, up to ``LISTED`` of them.
    Where there is no matrix (``MATRIX_CLASSES``) nothing would show them.
    """
    main = subject.main
    if len(main.outputs) > MATRIX_CLASSES:
        return []
    probabilities, places = main.probabilities, subject.places
    answers, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    order = np.lexsort((np.where(main.right, sure, -sure), main.right))[:LISTED].tolist()
    shown, cells = set[int](), Counter[tuple[int, int]]()
    for i in order:
        cell = int(main.labels[i]), int(answers[i])
        if len(shown) < PHOTOS and cells[cell] < CELL_PHOTOS:
            cells[cell] += 1
            shown.add(i)
    pictures = thumbnails(subject.photos, (places[i] for i in shown))
    return [
        {
            "path": printable(main.names[i]),
            "true": int(main.labels[i]),
            "predicted": int(answers[i]),
            "probability": float(sure[i]),
            "src": pictures.get(places[i]) if i in shown else None,
        }
        for i in order
    ]


def mistakes(subject: Subject) -> dict[str, Any]:
    """The most confident wrong answers, each with where the network looked for its answer."""
    main, places = subject.main, subject.places
    probabilities = main.probabilities
    wrong = worst(probabilities, main.labels, most=MISTAKES).tolist()
    pixels, which = subject.photos.store.take([places[i] for i in wrong])
    row_of = {places[i]: i for i in wrong}
    rows = [row_of[index] for index in which.tolist()]  # those that can still be read
    answers = main.logits[rows].argmax(axis=1).tolist()
    maps = attributions(subject.loaded, pixels, answers)
    cards = [
        {
            "path": main.names[i],
            "full_path": str(subject.photos.paths[places[i]]),
            "true": main.outputs[main.labels[i]],
            "predicted": main.outputs[answer],
            "probability": float(probabilities[i, answer]),
            "src": data_uri(picture, LARGE),
            "map": data_uri(overlay(picture, found), LARGE),
        }
        for i, answer, picture, found in zip(rows, answers, pixels, maps, strict=True)
    ]
    return {"cards": cards, "all": int((~main.right).sum())}


def comparison(subject: Subject) -> dict[str, Any] | None:
    """This network beside another on the same photographs."""
    if subject.rival is None:
        return None
    main, (other, found) = subject.main, subject.rival
    ours, theirs = main.logits.argmax(axis=1), other.logits.argmax(axis=1)
    differ = [
        {
            "path": main.names[i],
            "true": main.outputs[main.labels[i]],
            "this": main.outputs[ours[i]],
            "other": other.outputs[theirs[i]],
            "right": "this" if main.right[i] else "other",
        }
        for i in found.differ[:DIFFER].tolist()
    ]
    return asdict(found) | {
        "this_weights": main.weights["path"],
        "other_weights": other.weights["path"],
        "rows": differ,
        "all": len(found.differ),
    }


def training(history: Sequence[EpochDone]) -> dict[str, Any] | None:
    """Curves and table of the epochs."""
    if not history:
        return None
    best = [row.epoch for row in history if row.best][-1:]
    mark = (float(best[0]), f"best: {best[0]}") if best else None

    def chart(title: str, unit: str, **lines: str) -> Chart:
        series = [
            Series(name, [(row.epoch, getattr(row, column)) for row in history])
            for name, column in lines.items()
        ]
        series = [each for each in series if any(math.isfinite(y) for _, y in each.points)]
        return Chart(title=title, x="epoch", y=unit, series=series, mark=mark)

    charts = [
        chart("Accuracy", "accuracy", train="train_accuracy", val="val_accuracy"),
        chart("Loss", "loss, nats", train="train_loss", val="val_loss"),
        chart("Learning rate", "learning rate", **{"learning rate": "learning_rate"}),
        chart(
            "Time",
            "seconds",
            **{"an epoch": "seconds", "of it waiting for pixels": "wait_seconds"},
        ),
    ]
    return {"charts": [{"chart": each, "text": ""} for each in charts], "rows": history}


def data(photos: Photos) -> dict[str, Any]:
    """Counts, rejected files and a contact sheet."""
    counts = photos.counts()
    roles = list(next(iter(counts.values()), {}))
    each = max(1, min(SHEET_A_CLASS, SHEET_PHOTOS // max(1, len(counts))))
    chosen = [
        np.flatnonzero((photos.labels == label) & (photos.roles != ""))[:each].tolist()
        for label in range(min(len(counts), SHEET_CLASSES))
    ]
    pictures = thumbnails(photos, (i for row in chosen for i in row))
    return {
        "root": str(photos.root),
        "roles": roles,
        "counts": [
            {"name": name, "cells": [count[role] for role in roles], "all": sum(count.values())}
            for name, count in list(counts.items())[:TABLE_CLASSES]
        ],
        "sums": [sum(count[role] for count in counts.values()) for role in roles],
        "images": len(photos.indices("all")),
        "groups": photos.group_count,
        "fingerprint": fingerprint(photos),
        "reasons": Counter(bad.reason for bad in photos.rejected).most_common(),
        "rejected": photos.rejected[:REJECTED],
        "rejected_all": len(photos.rejected),
        "sheet": [
            {
                "name": photos.classes[label],
                "pictures": [(photos.names[i], pictures[i]) for i in row if i in pictures],
            }
            for label, row in enumerate(chosen)
        ],
        "classes": len(counts),
    }


def fingerprint(photos: Photos) -> str:
    """SHA-256 over path, class, role and content of every photograph that has a role, in order."""
    digest = hashlib.sha256()
    for i in photos.indices("all").tolist():
        facts = photos.facts[i]
        words = (photos.names[i], photos.classes[photos.labels[i]], str(photos.roles[i]))
        digest.update("\0".join(words).encode("utf-8", "surrogateescape") + b"\0")
        digest.update(facts.content_sha256 if facts else b"")
    return digest.hexdigest()


def made_by(subject: Subject, description: Mapping[str, Any]) -> dict[str, Any]:
    """Settings and where each came from, versions, machine, command."""
    weights = subject.loaded.weights
    record = weights.record
    stored = description.get("settings") or (record.settings if record else {})
    sources = description.get("sources") or {}
    settings = [
        ("DATA" if name == "root" else option_name(name), _words(value), sources.get(name, ""))
        for name, value in stored.items()
        if value is not None
    ]
    facts = {
        "network": f"{weights.arch}, {weights.outputs} outputs, {weights.image_size} pixels",
        "weights": str(weights.path),
        "SHA-256 of the weights": weights.digest or "none: a plain script's file",
        "begun": description.get("started"),
        "command": _command(description.get("command")),
        "machine": description.get("machine"),
    }
    facts |= {
        name: _words(value) for name, value in (description.get("surroundings") or {}).items()
    }
    versions = description.get("versions") or (dict(record.versions) if record else {})
    facts |= versions
    return {
        "settings": settings,
        "facts": [(name, str(value)) for name, value in facts.items() if value],
    }


def _command(words: object) -> str:
    """The command line as it was typed; the program by its name wherever it lies."""
    if not (isinstance(words, list) and words):
        return ""
    return "inceptcli " + shlex.join(map(str, words[1:]))


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _cell(figures: Mapping[str, Any], name: str) -> tuple[float | None, list[float] | None]:
    return figures[name], figures["intervals"].get(name)
