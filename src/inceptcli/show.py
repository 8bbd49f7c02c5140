"""What each command prints at its end: the same results as tables or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from inceptcli import console

if TYPE_CHECKING:  # torch and its weight stay away until a command needs them
    from inceptcli.data.prepare import Photos
    from inceptcli.engine.evaluate import Evaluation
    from inceptcli.engine.metrics import Figures
    from inceptcli.engine.run import TrainResult
    from inceptcli.model.summary import BlockRow, LayerTable, MeasuredMemory, Reduction
    from inceptcli.model.weights import Weights


def layers(
    table: LayerTable, measured: MeasuredMemory | None, *, as_json: bool, markdown: bool
) -> None:
    """The layer table with its totals and memory."""
    if as_json:
        values = asdict(table)
        values = {"layers": values.pop("rows"), **values}
        if measured is not None:
            values["measured"] = asdict(measured)
        return console.print_json(values)
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
        return console.print_json({"blocks": values})
    heads = ("block", "output", "1x1", "3x3 reduce", "3x3", "5x5 reduce", "5x5", "pool proj")
    savings = ("parameters", "mult-adds", "3x3 saves", "5x5 saves")
    console.print_table(
        heads + savings,
        [
            (
                row.name,
                _shape(row.output_shape),
                *row.widths[1:],
                row.parameters,
                row.mult_adds,
                _saved(row.three),
                _saved(row.five),
            )
            for row in rows
        ],
        left=2,
        markdown=markdown,
    )
    console.say(
        "saves: the part of the parameters (and of the mult-adds) that a 1x1 reduction with the "
        "convolution after it does without, against that convolution alone"
    )


def weights_file(weights: Weights, *, as_json: bool, markdown: bool) -> None:
    """What a weights file says of itself."""
    record = weights.record
    facts: dict[str, Any] = {
        "path": str(weights.path),
        "arch": weights.arch,
        "outputs": weights.outputs,
        "parameters": sum(part.numel() for part in weights.state_dict.values()),
        "digest": weights.digest,
        "record": None if record is None else json.loads(record.to_json()),
    }
    if as_json:
        return console.print_json(facts)
    rows = [(name, str(value)) for name, value in facts.items() if name != "record"]
    if record is None:
        rows.append(
            ("record", "none: a plain state_dict, as a script saves it; no digest to check")
        )
    else:
        rows += [(name, _short(value)) for name, value in facts["record"].items()]
    console.print_table(("", "value"), rows, left=2, markdown=markdown)


def split(photos: Photos, *, as_json: bool) -> None:
    """Photographs by class and role."""
    counts = photos.counts()
    if as_json:
        roles = {
            role: sum(count[role] for count in counts.values())
            for role in next(iter(counts.values()))
        }
        return console.print_json(
            {
                "images": len(photos.indices("all")),
                "groups": photos.group_count,
                "classes": counts,
                "roles": roles,
                "rejected": len(photos.rejected),
            }
        )
    console.print_roles(counts)


def training(result: TrainResult, *, as_json: bool) -> None:
    """What a training came to; the last line is the run folder."""
    if as_json:
        return console.print_json(result.to_json())
    val, test = result.val.figures, result.test.figures if result.test else None
    rows = [(f"val accuracy (chosen by it: epoch {result.best_epoch})", _figure(val, "accuracy"))]
    if test is None:
        console.say(
            "no test role: the val figure is optimistic, since the best epoch was chosen by it"
        )
    else:
        rows.append(("test accuracy (looked at once)", _figure(test, "accuracy")))
    console.print_table(("", "figure"), rows, left=2)
    console.result(str(result.run))


def _figure(figures: Figures, name: str) -> str:
    value = getattr(figures, name)
    if value is None:
        return "-"
    interval = figures.intervals.get(name)
    note = f"  (95 % interval {interval.low:.4f} to {interval.high:.4f})" if interval else ""
    return f"{value:.4f}{note}"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _saved(part: Reduction) -> str:
    parameters = 1 - part.parameters / part.parameters_without
    mult_adds = 1 - part.mult_adds / part.mult_adds_without
    return f"{parameters:.0%} ({mult_adds:.0%})"


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
