"""Options that several commands share, and how what is typed becomes settings."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from inceptcli.config import CACHES, Arch, DataConfig, TrainConfig, option_name
from inceptcli.errors import UsageError

DEFAULTS = {item.name: item.default for item in fields(TrainConfig)}
LINKS = ("symlink", "hardlink", "copy")
ARCHS = get_args(Arch)
ARCH_HELP = (
    "Network: the tutorial's; with batch norm in the stem too and one linear layer; with the "
    "paper's two auxiliary classifiers in training; torchvision's, which has 3x3 where the paper "
    "has 5x5."
)
DATA, MODEL, TRAINING, OUTPUT = "Data", "Network", "Training", "Output"
TABLES = (".csv", ".txt", ".tsv")  # how the name of a table ends


def option(*names: str, panel: str, help: str, metavar: str | None = None) -> Any:  # noqa: A002
    """An option that is None when it is not given; its default, in ``config``, is shown."""
    field_name = names[-1].split("/")[0].removeprefix("--").replace("-", "_")
    default = DEFAULTS.get({"img_size": "image_size"}.get(field_name, field_name))
    if isinstance(default, bool):
        help = f"{help} (default: {'yes' if default else 'no'})"  # noqa: A001
    elif default is not None:
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        help = f"{help} (default: {shown})"  # noqa: A001
    return typer.Option(
        *names, help=help, rich_help_panel=panel, metavar=metavar, show_default=False
    )


DataRoot = Annotated[Path, typer.Argument(metavar="DATA", help="Folder of class folders.")]
Labels = Annotated[
    str | None,
    option(
        "--labels",
        panel=DATA,
        metavar="CSV",
        help="CSV of path and class for a flat folder; CSV:PATH,CLASS names its two columns.",
    ),
]
Split = Annotated[
    Path | None,
    option(
        "--split",
        panel=DATA,
        metavar="CSV",
        help="Take the roles from this CSV (path, role) instead of dividing anew. Groups are not "
        "read from it: give --group or --group-file again.",
    ),
]
Ratio = Annotated[
    str | None,
    option(
        "--ratio",
        panel=DATA,
        metavar="A,B,C",
        help="Parts of train, val and test; two numbers give no test.",
    ),
]
Seed = Annotated[
    int | None, option("--seed", panel=DATA, help="Number that all random choices follow from.")
]
Stratify = Annotated[
    bool | None,
    option("--stratify/--no-stratify", panel=DATA, help="Divide every class by the same ratio."),
]
Group = Annotated[
    str | None,
    option(
        "--group",
        panel=DATA,
        metavar="auto|none|REGEX",
        help="Which files must share a role. auto: copies, by content, look and name. none: every "
        "file alone. REGEX: files with the same text in its first (...), searched in CLASS/FILE.",
    ),
]
GroupFile = Annotated[
    Path | None, option("--group-file", panel=DATA, metavar="CSV", help="CSV of path and group.")
]
ImageSize = Annotated[
    int | None,
    option(
        "--img-size", panel=DATA, help="Height and width of the network's input in pixels, from 32."
    ),
]
ResizeBy = Annotated[
    str | None,
    option(
        "--resize",
        panel=DATA,
        metavar="stretch|crop|pad",
        help="How a picture becomes square: stretch distorts it, crop cuts its edges off, pad adds "
        "borders.",
    ),
]
FollowLinks = Annotated[
    bool | None,
    option(
        "--follow-links/--no-follow-links", panel=DATA, help="Enter links to folders outside DATA."
    ),
]
AllowEmpty = Annotated[
    bool | None,
    option(
        "--allow-empty/--no-allow-empty",
        panel=DATA,
        help="Leave out classes without pictures instead of refusing.",
    ),
]
MaxBad = Annotated[
    float | None,
    option(
        "--max-bad", panel=DATA, help="Refuse data of which more than this part cannot be read."
    ),
]
MaxMegapixels = Annotated[
    float | None,
    option("--max-megapixels", panel=DATA, help="Reject larger pictures from their header."),
]
Workers = Annotated[
    int | None,
    option(
        "-j",
        "--workers",
        panel=DATA,
        help="Decoding processes; 0 decodes in this one. Without it: one a processor.",
    ),
]
Cache = Annotated[
    str | None,
    option(
        "--cache",
        panel=DATA,
        metavar="auto|ram|disk|none|DIR",
        help="Where decoded pixels are kept: auto is disk where they fit, else ram where they "
        "fit, else none.",
    ),
]
Weights = Annotated[
    Path | None,
    option(
        "-m",
        "--model",
        panel=MODEL,
        metavar="WEIGHTS",
        help="Weights file or run folder. Without it: the best weights of the latest run in runs/.",
    ),
]
Models = Annotated[
    list[Path] | None,
    option(
        "-m",
        "--model",
        panel=MODEL,
        metavar="WEIGHTS",
        help="Weights file or run folder; several, and the folds of a run, answer with the mean "
        "of their probabilities. Without it: the best weights of the latest run in runs/.",
    ),
]
TtaOption = Annotated[
    str,
    typer.Option(
        "--tta",
        rich_help_panel=MODEL,
        metavar="none|flips|crops",
        help="Answer with the mean over views: mirrored too (twice the work); five crops, "
        "mirrored too (ten times).",
    ),
]
DeviceOption = Annotated[
    str | None,
    option("--device", panel=MODEL, metavar="auto|cpu|cuda|mps", help="What to compute on."),
]
PrecisionOption = Annotated[
    str | None,
    option(
        "--precision",
        panel=MODEL,
        metavar="auto|fp32|bf16|fp16",
        help="What to compute in; auto takes what is fast here. On an NVIDIA GPU fp32 multiplies "
        "in TF32.",
    ),
]
ClassNames = Annotated[
    str | None,
    option(
        "--class-names",
        panel=MODEL,
        metavar="A,B,...",
        help="Names of the outputs, for a weights file without a record.",
    ),
]
ClassesFrom = Annotated[
    Path | None,
    option(
        "--classes-from",
        panel=MODEL,
        metavar="DATA",
        help="Take those names from the class folders of DATA.",
    ),
]
Raw = Annotated[
    bool, typer.Option("--raw", help="Leave the stored temperature (calibration) aside.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of tables.")]


def settings(ctx: typer.Context, kind: type[DataConfig]) -> dict[str, Any]:
    """What was given on the command line of the settings that ``kind`` has."""
    known = {item.name for item in fields(kind)}
    given = {k: v for k, v in ctx.params.items() if k in known and v is not None}
    if "time_seconds" in given:
        given["time_seconds"] = seconds(given["time_seconds"])
    for name in ("ratio", "train_sizes"):
        if name in given:
            given[name] = numbers(option_name(name), given[name])
    if {"group", "group_file"} <= given.keys():
        raise UsageError("--group and --group-file are two ways to say it; give one of them")
    for name in ("ratio", "stratify"):
        if "split" in given and name in given:
            raise UsageError(f"{option_name(name)} divides, and --split gives the roles; leave one")
    return given | _absolute(given)


def _absolute(given: dict[str, Any]) -> dict[str, Any]:
    """Those that are paths, so that a run can go on from another folder."""
    paths: dict[str, Any] = {
        name: given[name].absolute() for name in ("root", "group_file", "split") if name in given
    }
    texts = {"labels"} if given.get("cache") in CACHES else {"labels", "cache"}
    for name in texts & given.keys():  # labels perhaps with names of columns at the end
        paths[name] = os.path.abspath(given[name])  # noqa: PTH100
    return paths


def refuse_typed(ctx: typer.Context, why: str, *names: str) -> None:
    """Refuse those of the options that were typed, since they would have no effect."""
    for name in names:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"{option_name(name)} {why}")


def numbers(option: str, text: str) -> tuple[float, ...]:
    """Numbers with commas between.

    Raises:
        UsageError: They are not; the message names the option.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option}: '{text}' is not numbers with commas between") from error


def seconds(text: str) -> float:
    """Seconds of a duration: 90s, 30m, 1.5h, 1h30m."""
    parts = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?", text.strip().lower())
    if not text.strip() or parts is None:
        raise UsageError(f"--time: '{text}' is no duration; give for example 30m, 1h30m or 90s")
    try:
        units = zip(parts.groups(), (3600, 60, 1), strict=True)
        return sum(float(number) * unit for number, unit in units if number)
    except ValueError as error:
        raise UsageError(f"--time: '{text}' is no duration; give for example 30m") from error


def keep_outside(root: Path, *outputs: Path | None) -> None:
    """Refuse to write into the data folder, before anything is done."""
    from inceptcli.data.folder import check_output

    for path in outputs:
        if path is not None:
            check_output(path, root)
