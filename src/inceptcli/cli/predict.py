"""``inceptcli predict``."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from inceptcli import console, show
from inceptcli.cli.networks import averaged, classes_of, members_of, speaks, weights_of
from inceptcli.cli.options import (
    LINKS,
    TABLES,
    ClassesFrom,
    ClassNames,
    DeviceOption,
    Json,
    MaxMegapixels,
    Models,
    PrecisionOption,
    Raw,
    TtaOption,
    Workers,
    refuse_typed,
    settings,
)
from inceptcli.config import DataConfig, Tta, one_of
from inceptcli.errors import UsageError
from inceptcli.files import write_csv
from inceptcli.runfolder import check_target

if TYPE_CHECKING:
    from inceptcli.data.layout import Link
    from inceptcli.engine.device import Device
    from inceptcli.engine.predict import Input, Network, Prediction, Question


def predict(
    ctx: typer.Context,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="Files, folders, patterns, or - for a list on stdin."),
    ],
    model: Models = None,
    tta: TtaOption = "none",
    recursive: Annotated[
        bool, typer.Option("-r", "--recursive", help="Enter the folders inside a folder.")
    ] = False,
    null: Annotated[
        bool,
        typer.Option(
            "-0", "--null", help="The list on stdin is separated by NUL, as find -print0 writes it."
        ),
    ] = False,
    topk: Annotated[
        int, typer.Option("-k", "--topk", min=1, max=1000, help="Classes to give for each input.")
    ] = 1,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the rows there as well.")
    ] = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print one JSON object a line.")] = False,
    sort: Annotated[
        Path | None,
        typer.Option(
            "--sort", metavar="DIR", help="Place every file in a folder of its class below DIR."
        ),
    ] = None,
    link: Annotated[
        str, typer.Option(metavar="symlink|hardlink|copy", help="How --sort places files.")
    ] = "copy",
    explain: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Draw in a new folder where the network looks for each class given (Grad-CAM).",
        ),
    ] = None,
    class_names: ClassNames = None,
    classes_from: ClassesFrom = None,
    raw: Raw = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Mark rows of a lower probability as uncertain. Without it: the threshold that "
            "evaluate --save has stored, if any, where one network answers without --tta.",
        ),
    ] = None,
    max_megapixels: MaxMegapixels = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Name the class of photographs: one row an input, in their order.

    Example: inceptcli predict image.jpg -m best_model.pth
    """
    one_of("--link", link, LINKS)
    one_of("--tta", tta, get_args(Tta))
    if threshold is not None and math.isnan(threshold):
        raise UsageError("--threshold: nan is no number; give one from 0 to 1")
    _check_forms(paths, csv, null=null, both=jsonl and as_json)
    if sort is None:
        refuse_typed(ctx, "is how --sort places files; give that as well", "link")
    config = DataConfig(root=Path(), **settings(ctx, DataConfig))
    chosen = classes_of(class_names, classes_from)
    from inceptcli.engine.inputs import expand
    from inceptcli.engine.predict import Question

    members, on = members_of(model, device, precision, classes=chosen, raw=raw)
    if explain is not None and len(members) > 1:
        raise UsageError("--explain shows where one network looks; give one -m")
    drawn = weights_of(members[0], "--explain") if explain is not None else None
    loaded = averaged(members, tta)
    if loaded.memory is None and speaks(on):
        console.say("whether the inputs were trained on is unknown: these weights do not say")
    from inceptcli.data.machine import default_workers

    alone = len(paths) == 1 and os.path.isfile(paths[0])  # noqa: PTH113 - not worth a process
    topk = min(topk, len(loaded.outputs))
    question = Question(
        topk=topk,
        threshold=_threshold(threshold, loaded, members, on),
        workers=(0 if alone else default_workers()) if config.workers is None else config.workers,
        max_megapixels=config.max_megapixels,
        ahead="-" not in paths,
    )
    if on is not None and on.world > 1 and "-" in paths:
        raise UsageError("- cannot be shared by several processes; name folders or patterns")
    listing = partial(expand, paths, recursive=recursive, null=null)
    rows = _rows(listing, loaded, on, question)
    form = "jsonl" if jsonl else "json" if as_json else "rows"
    tally = show.Tally()
    shown = tally.count(show.predictions(rows, form=form))
    if sort is not None:
        shown = _sorted(sort, shown, link)
    if drawn is not None and explain is not None:
        from inceptcli.report.explain import explained

        shown = explained(explain, shown, drawn, max_megapixels=config.max_megapixels)
    if csv is not None:
        write_csv(csv, show.csv_header(topk), show.csv_rows(shown, topk))
    for _ in shown:  # what is left when no CSV drew them
        pass
    tally.check()


def _threshold(
    typed: float | None, loaded: Network, members: Sequence[Network], on: Device | None
) -> float:
    """What was typed, or what is stored; one stored for other answers than these is told of."""
    if typed is not None:
        return typed
    if not loaded.threshold and any(each.threshold for each in members) and speaks(on):
        console.say(
            "the stored threshold is for one network without --tta; no answer is marked uncertain "
            "unless --threshold is given"
        )
    return loaded.threshold


def _check_forms(paths: list[str], csv: Path | None, *, null: bool, both: bool) -> None:
    if both:
        raise UsageError("--json and --jsonl are two forms; give one of them")
    if null and "-" not in paths:
        raise UsageError("-0 is for names on stdin; give - as well")
    if csv is not None:
        check_target(csv, TABLES, [Path(path) for path in paths])


def _rows(
    listing: Callable[[], Iterator[Input]], network: Network, on: Device | None, question: Question
) -> Iterator[Prediction]:
    """The predictions; of torchrun's processes only the first goes on with them."""
    from inceptcli.engine.predict import predict as answers

    if on is None or on.world == 1:
        return answers(listing(), network, network.answer(on), question)
    from inceptcli.engine.share import predict_shared

    rows = predict_shared(listing, network, network.answer(on), question, on)
    if not on.is_first:
        for _ in rows:
            pass
        raise typer.Exit
    return rows


def _sorted(folder: Path, rows: Iterator[Prediction], link: str) -> Iterator[Prediction]:
    """Place the file of each row that passes in the folder of its class."""
    from inceptcli.data.layout import place_by_class

    for row in rows:
        if row.error is None:
            place_by_class(folder, Path(row.path), row.top[0][0], link=cast("Link", link))
        yield row
