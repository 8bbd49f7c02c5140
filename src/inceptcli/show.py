"""What each command prints at its end: the same results as tables or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inceptcli import console
from inceptcli.errors import DataError, PartialError
from inceptcli.files import counted, printable

# Endings of a state_dict's names that batch norm counts with and no optimizer moves.
NO_PARAMETERS = (".running_mean", ".running_var", ".num_batches_tracked")

if TYPE_CHECKING:  # torch and its weight stay away until a command needs them
    from inceptcli.data.cache_folder import CacheEntry
    from inceptcli.data.check import Check, Shapes
    from inceptcli.data.prepare import Photos
    from inceptcli.engine.calibration import Abstention
    from inceptcli.engine.comparison import Comparison
    from inceptcli.engine.conclude import TrainResult
    from inceptcli.engine.evaluate import Evaluation
    from inceptcli.engine.export import Exported
    from inceptcli.engine.figures import BinaryFigures, Figures
    from inceptcli.engine.find_lr import RangeTest
    from inceptcli.engine.folds import FoldsResult
    from inceptcli.engine.forecast import Forecast
    from inceptcli.engine.predict import Prediction
    from inceptcli.model.summary import BlockRow, LayerTable, MeasuredMemory, Reduction
    from inceptcli.model.weights import Weights
    from inceptcli.report.runs import Run, RunPair, Share


def layers(
    table: LayerTable, measured: MeasuredMemory | None, *, as_json: bool, markdown: bool
) -> None:
    """The layer table with its totals and memory."""
    if as_json:
        values = asdict(table)
        values = {"layers": values.pop("rows"), **values}
        if measured is not None:
            values["measured"] = asdict(measured)
        console.print_json(values)
        return
    console.print_table(
        ("", "layer", "output shape", "parameters", "mult-adds"),
        [
            (row.index, row.layer, _shape(row.output_shape), row.parameters, row.mult_adds)
            for row in table.rows
        ],
        left=3,
        markdown=markdown,
    )
    totals = [
        ("parameters", f"{table.total_parameters:,}"),
        ("trainable parameters", f"{table.trainable_parameters:,}"),
        ("mult-adds for one image", f"{table.mult_adds:,}"),
        ("input", f"{table.input_mb:.2f} MB"),
        ("forward/backward pass", f"{table.forward_backward_mb:.2f} MB"),
        ("parameters", f"{table.parameters_mb:.2f} MB"),
        ("estimated total", f"{table.total_mb:.2f} MB"),
    ]
    if measured is not None:
        name = f"measured peak, batch of {measured.batch_size} on {measured.device}"
        totals.append((name, f"{measured.peak_bytes / 2**20:.2f} MB ({measured.method})"))
    console.print_table(("total", ""), totals, markdown=markdown)


def blocks(rows: Sequence[BlockRow], *, as_json: bool, markdown: bool) -> None:
    """The paper's table: a line a block, with what the 1x1 reductions save."""
    if as_json:
        values = [asdict(row) | {"widths": row.widths._asdict()} for row in rows]
        console.print_json({"blocks": values})
        return
    heads = ("block", "output", "1x1", "3x3 red.", "3x3", "5x5 red.", "5x5", "pool proj.")
    console.print_table(
        (*heads, "parameters", "mult-adds", "3x3 saves", "5x5 saves"),
        [
            (
                row.name.removeprefix("inception"),  # 3a ... 5b, as the paper's table has them
                _shape(row.output_shape),
                *row.widths[1:],
                row.parameters,
                f"{row.mult_adds / 1e6:.1f} M",
                _saved(row.three),
                _saved(row.five),
            )
            for row in rows
        ],
        left=2,
        markdown=markdown,
    )
    console.say("red.: the 1x1 reduction before a larger convolution")
    console.say("saves: part of the parameters, and of the mult-adds, that the two do without")


def weights_file(weights: Weights, *, as_json: bool, markdown: bool) -> None:
    """What a weights file says of itself."""
    record = weights.record
    facts: dict[str, Any] = {
        "path": str(weights.path),
        "arch": weights.arch,
        "outputs": weights.outputs,
        "parameters": sum(
            part.numel()
            for name, part in weights.state_dict.items()
            if not name.endswith(NO_PARAMETERS)
        ),
        "digest": weights.digest,
        "record": None if record is None else json.loads(record.to_json()),
    }
    if as_json:
        console.print_json(facts)
        return
    rows = [(name, str(value)) for name, value in facts.items() if name != "record"]
    if record is None:
        rows.append(
            ("record", "none: a plain state_dict, as a script saves it; no digest to check")
        )
    else:
        rows += [(name, _short(value)) for name, value in facts["record"].items()]
    console.print_table(("", "value"), rows, left=2, markdown=markdown)


def split(photos: Photos, found: Check | None, *, as_json: bool) -> None:
    """Photographs by class and role and, where they were checked, what is odd about them."""
    counts = photos.counts()
    if as_json:
        roles = {role: int((photos.roles == role).sum()) for role in next(iter(counts.values()))}
        values = {
            "images": len(photos.indices("all")),
            "groups": photos.group_count,
            "classes": counts,
            "roles": roles,
            "rejected": len(photos.rejected),
        }
        console.print_json(values | ({"check": found.to_json()} if found is not None else {}))
        return
    console.print_roles(counts)
    if found is not None:
        _check(found)


def _check(found: Check) -> None:
    rows: list[tuple[str, str]] = [
        ("groups", f"{found.groups:,} of {found.images:,} images"),
        ("exact copies", f"{found.exact_copies:,}"),
        ("near copies", f"{found.near_copies:,}"),
    ]
    rows += [
        (f"{role} images with a relative in train", f"{n:,}") for role, n in found.leaked.items()
    ]
    rows += [(f"rejected: {reason}", f"{count:,}") for reason, count in found.rejected.items()]
    rows += [(flag, f"{count:,}") for flag, count in found.flags.items()]
    if found.tiny:
        rows.append(("classes of few groups", _names(found.tiny)))
    if found.dominating:
        rows.append(("dominating classes", _names(found.dominating)))
    if found.shapes is not None:
        rows += _shape_rows(found.shapes)
    console.print_table(("check", "found"), rows, left=2)
    if found.suspects:
        pairs = [
            (each.kind, found.names[each.first], found.names[each.second])
            for each in found.suspects[:20]
        ]
        title = f"{len(found.suspects):,} suspicious pairs" + (
            ", the first 20" * (len(found.suspects) > 20)
        )
        console.print_table(("why", "file", "and"), pairs, title=title, left=3)


def _names(names: Sequence[str]) -> str:
    return ", ".join(printable(name) for name in names)


def _shape_rows(shapes: Shapes) -> list[tuple[str, str]]:
    return [
        (
            "width / height",
            f"{shapes.narrowest:.2f} to {shapes.widest:.2f}, median {shapes.usual:.2f}",
        ),
        ("square", f"{shapes.square:.0%}"),
        ("stretch draws the short side too large by", f"{shapes.stretch:.0%}"),
        ("crop cuts away, of the image", f"{shapes.crop:.0%}"),
        ("pad leaves empty, of the square", f"{shapes.pad:.0%}"),
    ]


def training(result: TrainResult, *, as_json: bool) -> None:
    """What a training came to; the last line is the run folder."""
    if as_json:
        console.print_json(result.to_json())
        return
    val, test = result.val.figures, result.test.figures if result.test else None
    rows = [(f"val accuracy (chosen by it: epoch {result.best_epoch})", _figure(val, "accuracy"))]
    if test is None:
        console.say(
            "no test role: the val figure is optimistic, since the best epoch was chosen by it"
        )
    else:
        rows.append(("test accuracy (looked at once)", _figure(test, "accuracy")))
    console.print_table(("", "figure"), rows, left=2)
    _warn_of_few(val if test is None else test)
    console.result(str(result.run))


def finished(run: Path, *, as_json: bool) -> None:
    """A run that had ended before; the last line is its folder."""
    if as_json:
        from inceptcli.report.runs import read_finished

        console.print_json(read_finished(run))
    else:
        console.result(str(run))


def folds(result: FoldsResult, *, as_json: bool) -> None:
    """What several trainings came to; the last line is the run folder."""
    if as_json:
        console.print_json(result.to_json())
        return
    pooled = result.pooled
    console.print_table(
        ("training", "val accuracy", "test accuracy"),
        [(part.name, part.val, part.test) for part in result.parts],
    )
    if result.role == "val":
        console.say("no test role: the figures are of val, by which the epochs were chosen")
    low, high = pooled.interval
    rows = [
        (f"mean {result.role} accuracy of {pooled.folds} trainings", f"{pooled.mean:.4f}"),
        ("standard deviation over them", "-" if pooled.std is None else f"{pooled.std:.4f}"),
        ("accuracy over all their images", f"{pooled.accuracy:.4f}  {_interval(low, high)}"),
    ]
    console.print_table(("", "figure"), rows, left=2)
    console.result(str(result.run))


def forecast(result: Forecast, *, as_json: bool) -> None:
    """What a training would take."""
    if as_json:
        console.print_json(asdict(result))
        return
    rows = [
        ("training images", f"{result.images:,}"),
        ("steps an epoch", f"{result.steps_per_epoch:,}"),
        ("images a second, training", f"{result.images_per_second:.1f}"),
        ("an epoch with validation", _duration(result.epoch_seconds)),
        (f"in all, {counted(result.epochs, 'epoch')}", _duration(result.total_seconds)),
        ("peak memory so far", f"{result.peak_bytes / 2**20:,.0f} MB"),
    ]
    console.print_table(("forecast", ""), rows)
    console.say("no run folder was written; times are measured on a few steps and will vary")


def range_test(found: RangeTest, picture: Path, *, as_json: bool) -> None:
    """What a learning-rate range test suggests."""
    if as_json:
        console.print_json(found.to_json() | {"plot": str(picture)})
        return
    console.say(f"{len(found.rates)} steps; the plot is {printable(str(picture))}")
    console.result(f"--lr {found.suggestion:g}")


def evaluation(
    result: Evaluation,
    *,
    as_json: bool,
    against: Comparison | None = None,
    abstention: Abstention | None = None,
) -> None:
    """All figures of a model on a role's photographs, perhaps beside another model's."""
    if as_json:
        values = result.to_json()
        if against is not None:
            differ = [result.names[i] for i in against.differ]
            values["against"] = asdict(against) | {"differ": differ}
        if abstention is not None:
            values["abstention"] = asdict(abstention)
        console.print_json(values)
        return
    figures = result.figures
    rows = _figure_rows(result)
    if abstention is not None:
        rows += _abstention(abstention)
    title = f"{counted(figures.images, 'photograph')} of role {result.role}"
    if result.trained_on is None:
        console.say("whether the network was trained on some of these photographs is unknown")
    elif result.trained_on.any():
        rows.append(_without_seen(result))
    if result.trained_on is not None and not result.knows_all:
        console.say("what these weights were trained on is not all known")
    if figures.groups != figures.images:
        title += f" in {counted(figures.groups, 'group')}"
    console.print_table(("figure", "value"), rows, title=title, left=2)
    console.print_table(
        ("class", "images", "precision", "recall", "specificity", "F1", "AUC"),
        [
            (c.name, c.support, c.precision, c.recall, c.specificity, c.f1, c.auc)
            for c in figures.classes
        ],
    )
    console.print_confusion(figures.confusion, [c.name for c in figures.classes], figures.outputs)
    _mistakes(result)
    if against is not None:
        _comparison(result, against)
    _warn_of_few(figures)


def _warn_of_few(figures: Figures) -> None:
    if figures.few_groups:
        console.warn(f"too few for precise intervals: {counted(figures.groups, 'group')}")


def _figure_rows(result: Evaluation) -> list[tuple[str, str]]:
    figures = result.figures
    names = {
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced accuracy",
        "loss": "loss (cross-entropy)",
        "macro_f1": "macro F1",
        "auc": "ROC AUC (macro, one against the rest)",
    }
    from inceptcli.engine.predict import is_averaged

    averaged = is_averaged(result.weights)
    if averaged:
        names["loss"] = "loss (cross-entropy of the calibrated mean)"
    rows = [(shown, _figure(figures, name)) for name, shown in names.items()]
    if result.rejected:
        name = f"accuracy, {result.rejected:,} unreadable files as wrong"
        rows.append((name, f"{result.accuracy_counting_rejected:.4f}"))
    rows += [(f"top-{k} accuracy", f"{value:.4f}") for k, value in figures.top_k.items()]
    if figures.binary is not None:
        rows += _binary(figures.binary)
    before, after = figures.calibration.before, figures.calibration.after
    if averaged:
        return [
            *rows,
            ("calibration error", f"{after.ece:.4f}"),
            ("Brier score", f"{after.brier:.4f}"),
        ]
    rows.append(("calibration error, before and after", f"{before.ece:.4f}  {after.ece:.4f}"))
    rows.append(("Brier score, before and after", f"{before.brier:.4f}  {after.brier:.4f}"))
    return rows


def _abstention(found: Abstention) -> list[tuple[str, str]]:
    precision = "-" if found.precision is None else f"{found.precision:.4f}"
    return [
        ("answers kept above this probability", f"{found.threshold:.4f}"),
        ("  part that is answered", f"{found.coverage:.4f}"),
        ("  part of the answers that is right", precision),
    ]


def _comparison(result: Evaluation, found: Comparison, most: int = 10) -> None:
    low, high = found.interval
    rows = [
        ("accuracy of this network", f"{found.accuracy_a:.4f}"),
        ("accuracy of the other", f"{found.accuracy_b:.4f}"),
        (
            "the other less this",
            f"{found.difference:+.4f}  (95 % interval {low:+.4f} to {high:+.4f})",
        ),
        (found.test, f"p = {found.p_value:.4f}"),
        ("photographs that one alone has right", f"{len(found.differ):,}"),
    ]
    rows += [("", printable(result.names[i])) for i in found.differ[:most]]
    console.print_table(("comparison", ""), rows, left=2)


def _without_seen(result: Evaluation) -> tuple[str, str]:
    """The accuracy on what the network has not seen in training, and a warning."""
    seen = result.trained_on
    assert seen is not None  # noqa: S101 - the caller has looked
    text = f"{seen.sum():,} of {len(seen):,} photographs, or near copies of them, were trained on"
    console.warn(text)
    if seen.all():
        return "accuracy without them", "-"
    return "accuracy without them", _figure(result.subset(~seen).figures, "accuracy")


def _mistakes(result: Evaluation, most: int = 5) -> None:
    worst = result.mistakes(most)
    if worst:
        console.print_table(
            ("most confident mistakes", "is", "taken for", "probability"), worst, left=3
        )


def _binary(figures: BinaryFigures) -> list[tuple[str, str]]:
    names = {
        "sensitivity": "sensitivity",
        "specificity": "specificity",
        "ppv": "positive predictive value",
        "npv": "negative predictive value",
    }
    return [
        (f"{shown} ({printable(figures.positive)})", _figure(figures, name))
        for name, shown in names.items()
    ]


def predictions(rows: Iterable[Prediction], *, form: str) -> Iterator[Prediction]:
    """Print each prediction when it comes, and hand it on.

    Args:
        rows: The predictions.
        form: "rows", "jsonl" or "json".
    """
    if form == "json":
        everything = list(rows)
        console.print_json([prediction_json(row) for row in everything])
        yield from everything
        return
    for row in rows:
        if form == "jsonl":
            console.print_json(prediction_json(row), indent=None)
        else:
            console.print_prediction(row.path, row.top, row.error, uncertain=row.uncertain)
        yield row


def prediction_json(row: Prediction) -> dict[str, Any]:
    """One prediction as ``--json`` and ``--jsonl`` give it."""
    best = row.top[0] if row.top else (None, None)
    return {
        "path": row.path,
        "class": best[0],
        "probability": best[1],
        "top": [list(pair) for pair in row.top],
        "uncertain": row.uncertain,
        "trained_on": row.trained_on,
        "error": row.error,
    }


def csv_header(topk: int) -> list[str]:
    """Columns of ``predict --csv``."""
    more = [f"{name}_{k}" for k in range(2, topk + 1) for name in ("class", "probability")]
    return ["path", "class", "probability", "uncertain", "error", *more]


def csv_rows(rows: Iterable[Prediction], topk: int) -> Iterator[list[object]]:
    """Lines of ``predict --csv``, of equal length."""
    for row in rows:
        pairs: list[object] = [part for pair in row.top for part in pair]
        pairs += [None] * (2 * topk - len(pairs))
        yield [row.path, *pairs[:2], int(row.uncertain), row.error, *pairs[2:]]


def exported(result: Exported, *, as_json: bool) -> None:
    """What was exported and how it compares; the last line is the file."""
    if as_json:
        console.print_json(result.to_json())
        return
    rows = [
        ("size", f"{result.bytes / 1e6:.1f} MB (the weights: {result.weights_bytes / 1e6:.1f})")
    ]
    parity, cost = result.parity, result.accuracy
    if parity is not None:
        pictures = counted(parity.photographs, "photograph")
        sizes = counted(parity.sizes, "size")
        rows += [
            ("compared with the program on", f"{pictures} of {sizes}, {parity.drawn} drawn"),
            ("largest difference in a probability", f"{parity.largest:.1e}"),
            ("same class", f"{parity.agreement:.2%}"),
        ]
    if cost is not None:
        change = cost.after - cost.before
        rows += [
            (
                f"accuracy before, {counted(cost.images, 'photograph')} of {cost.role}",
                f"{cost.before:.4f}",
            ),
            ("accuracy after", f"{cost.after:.4f}"),
            ("change", f"{change:+.4f}  {_interval(*cost.interval)}"),
        ]
    rows += [
        (f"images a second, {name}", f"{rate:,.1f}")
        for name, rate in result.images_per_second.items()
    ]
    console.print_table(("export", result.precision), rows, left=2)
    console.result(str(result.path))


def runs(found: Sequence[Run], folder: Path, *, as_json: bool) -> None:
    """The runs in a folder, the oldest first."""
    if as_json:
        console.print_json([run.to_json() for run in found])
        return
    if not found:
        console.say(f"no runs in {folder}; inceptcli train makes one")
        return
    console.print_table(
        ("run", "begun", "data", "recipe", "state", "epochs", "best", "val", "test", "time"),
        [
            (
                run.name,
                run.when.replace("T", " ")[:16],
                Path(run.data).name,
                run.recipe,
                run.state,
                f"{run.epochs}/{run.epochs_wanted}",
                run.best_epoch,
                _accuracy(run.val),
                _accuracy(run.test),
                _duration(run.seconds),
            )
            for run in found
        ],
        left=5,
    )
    for run in found:
        if run.problem:
            console.warn(f"{run.name}: {run.problem}")


def _accuracy(share: Share | None) -> str:
    if share is None:
        return "-"
    low, high = share.interval or (None, None)
    return f"{share.value:.4f}" + (f" ({low:.2f} to {high:.2f})" if share.interval else "")


def run_pair(pair: RunPair, picture: Path, *, as_json: bool) -> None:
    """Two runs side by side; the last line is the picture of their curves."""
    if as_json:
        console.print_json(pair.to_json() | {"picture": str(picture)})
        return
    rows = [
        ("state", *(run.state for run in pair.runs)),
        ("epochs", *(f"{run.epochs}/{run.epochs_wanted}" for run in pair.runs)),
        ("val accuracy", *(_accuracy(run.val) for run in pair.runs)),
        ("test accuracy", *(_accuracy(run.test) for run in pair.runs)),
        ("time", *(_duration(run.seconds) for run in pair.runs)),
        *((name, one, other) for name, one, other in pair.differ),
    ]
    lines = [console.sparkline([row.val_accuracy for row in part]) for part in pair.histories]
    rows.append(("val accuracy by epoch", *lines))
    console.print_table(("", *(run.name for run in pair.runs)), rows, left=3)
    console.result(str(picture))


def cache(entries: Sequence[CacheEntry], *, as_json: bool) -> None:
    """What is cached, by size and way of fitting."""
    if as_json:
        console.print_json([asdict(entry) for entry in entries])
        return
    console.print_table(
        ("pixels", "resize", "pictures", "MB", "last used"),
        [
            (
                f"{entry.image_size}x{entry.image_size}",
                entry.resize,
                entry.pictures,
                f"{entry.bytes / 2**20:,.1f}",
                datetime.fromtimestamp(entry.last_used).strftime("%Y-%m-%d %H:%M"),
            )
            for entry in entries
        ],
        left=2,
    )


@dataclass
class Tally:
    """Counts predictions that pass, and those that failed."""

    inputs: int = 0
    failed: int = 0
    seen: int = 0

    def count(self, rows: Iterable[Prediction]) -> Iterator[Prediction]:
        """Hand the rows on."""
        for row in rows:
            self.inputs += 1
            self.failed += row.error is not None
            self.seen += bool(row.trained_on)
            yield row

    def check(self) -> None:
        """Say by the exit code what became of the inputs.

        Raises:
            DataError: None could be read.
            PartialError: Some could not.
        """
        if self.seen:
            console.warn(
                f"{self.seen} of {self.inputs} inputs, or near copies of them, were trained on"
            )
        if self.failed == self.inputs:
            if not self.inputs:
                raise DataError("no input: stdin names no file")
            raise DataError(f"none of {self.inputs} inputs could be read; see the rows above")
        if self.failed:
            raise PartialError(f"{self.failed} of {self.inputs} inputs could not be read")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _figure(figures: Figures | BinaryFigures, name: str) -> str:
    value = getattr(figures, name)
    if value is None:
        return "-"
    interval = figures.intervals.get(name)
    return f"{value:.4f}" + (f"  {_interval(*interval)}" if interval else "")


def _interval(low: float, high: float) -> str:
    return f"(95 % interval {low:.4f} to {high:.4f})"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _saved(part: Reduction) -> str:
    parameters = f"{1 - part.parameters / part.parameters_without:.0%}"
    mult_adds = f"{1 - part.mult_adds / part.mult_adds_without:.0%}"
    return parameters if parameters == mult_adds else f"{parameters}, {mult_adds}"


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
