"""``inceptcli export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inceptcli import console, show
from inceptcli.cli.networks import classes_of, one_of_them
from inceptcli.cli.options import ClassesFrom, ClassNames, Json, Raw, Weights, keep_outside
from inceptcli.config import one_of
from inceptcli.runfolder import check_target, find_weights, is_run, read_settings


def export(
    model: Weights = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write here. Without it: model.onnx, model.pt2 or model.safetensors.",
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="onnx|pt2|safetensors",
            help="ONNX, torch.export, or the weights alone. Without it: by the ending of -o.",
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            metavar="fp32|fp16|int8",
            help="fp16 halves the file; int8 computes faster and is calibrated on val photographs.",
        ),
    ] = "fp32",
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Compare the answers on these pictures. Without it: the run's val photographs.",
        ),
    ] = None,
    max_drop: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Accuracy that fp16 and int8 may lose."),
    ] = 0.01,
    class_names: ClassNames = None,
    classes_from: ClassesFrom = None,
    raw: Raw = False,
    as_json: Json = False,
) -> None:
    """Write a trained network as one file that other programs run, and prove that it agrees.

    Example: inceptcli export -m best_model.pth -o model.onnx
    """
    from inceptcli.engine import export as engine
    from inceptcli.engine.infer import load_network

    endings = {ending: name for name, ending in engine.FORMATS.items()}
    if form is None:
        form = "onnx" if output is None else endings.get(output.suffix.lower(), "onnx")
    one_of("--format", form, tuple(engine.FORMATS))
    one_of("--precision", precision, engine.PRECISIONS)
    order = engine.Order(
        output=output or Path("model").with_suffix(engine.FORMATS[form]),
        format=form,
        precision=precision,
        check=check,
        max_drop=max_drop,
    )
    if check is not None:
        keep_outside(check, order.output)
    path = one_of_them(find_weights([] if model is None else [model]), "-m")
    if is_run(path.parent) and (root := read_settings(path.parent).get("root")):
        keep_outside(Path(str(root)), order.output)
    check_target(order.output, (engine.FORMATS[form],), [path])
    network = load_network(path, classes=classes_of(class_names, classes_from), raw=raw)
    console.say(f"weights: {path}")
    with console.Listener() as listener:
        result = engine.export(network, order, emit=listener)
    show.exported(result, as_json=as_json)
