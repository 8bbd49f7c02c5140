"""The door: options become settings, errors become exit codes. The only file with Typer.

Nothing heavy is imported until a command needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from inceptcli import __version__, console

from inceptcli.config import DataConfig, Recipe, TrainConfig, resolve
from inceptcli.errors import InceptcliError, PartialError, UsageError

app = typer.Typer(
    name="inceptcli",
    help="Train and use an Inception v1 image classifier from a folder of photographs.",
    epilog="Example: inceptcli train data/ --epochs 40",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DEFAULTS = {item.name: item.default for item in fields(TrainConfig)}
DATA, MODEL, TRAINING, OUTPUT = "Data", "Network", "Training", "Output"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code.

    Args:
        arguments: The words after the program's name; those of this process by default.

    Raises:
        SystemExit: Always, with the exit code of ``errors``.
    """
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    try:
        code = app([word for word in words if word != "--debug"], standalone_mode=False) or 0
        sys.stdout.flush()
    except InceptcliError as error:
        code = _report(str(error), error.exit_code, debug=debug)
    except typer.TyperException as error:
        code = _report(_one_line(error.format_message()), error.exit_code, debug=debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # no second complaint
        code = 141
    except OSError as error:
        code = _report(f"cannot write the results: {error.strerror or error}", 5, debug=debug)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        text = (
            f"{type(error).__name__}: {error}; this is a bug: run again with --debug and report it"
        )
        code = _report(text, 1, debug=debug)
    sys.exit(code)


def _report(text: str, code: int, *, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    console.fail(text)
    return code


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _show_version(wanted: bool) -> None:
    if wanted:
        console.result(f"inceptcli {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; anywhere on the line.")
    ] = False,
) -> None:
    """Train and use an Inception v1 image classifier from a folder of photographs."""
    del version, debug  # --debug is taken out of the words by main


def _option(*names: str, panel: str, help: str, metavar: str | None = None) -> Any:  # noqa: A002
    """An option that is None when it is not given; its default, in ``config``, is shown."""
    field_name = names[-1].split("/")[0].removeprefix("--").replace("-", "_")
    default = DEFAULTS.get({"img_size": "image_size"}.get(field_name, field_name))
    if default is not None and not isinstance(default, bool):
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        help = f"{help} (default: {shown})"  # noqa: A001
    return typer.Option(
        *names, help=help, rich_help_panel=panel, metavar=metavar, show_default=False
    )


# --- options that several commands share -------------------------------------------------------
DataRoot = Annotated[Path, typer.Argument(metavar="DATA", help="Folder of class folders.")]
Labels = Annotated[
    str | None,
    _option(
        "--labels",
        panel=DATA,
        metavar="CSV",
        help="CSV of path and class for a flat folder; CSV:PATH,CLASS names its two columns.",
    ),
]
Split = Annotated[
    Path | None,
    _option(
        "--split",
        panel=DATA,
        metavar="CSV",
        help="Take the roles from this split.csv instead of dividing anew.",
    ),
]
Ratio = Annotated[
    str | None,
    _option(
        "--ratio",
        panel=DATA,
        metavar="A,B,C",
        help="Parts of train, val and test; two numbers give no test.",
    ),
]
Seed = Annotated[int | None, _option("--seed", panel=DATA, help="Of everything random.")]
Stratify = Annotated[
    bool | None,
    _option("--stratify/--no-stratify", panel=DATA, help="Divide every class by the same ratio."),
]
Group = Annotated[
    str | None,
    _option(
        "--group",
        panel=DATA,
        metavar="auto|none|REGEX",
        help="Which files must share a role: found from content, sight and names; none; or those "
        "for which the first bracket of REGEX matches the same text.",
    ),
]
GroupFile = Annotated[
    Path | None, _option("--group-file", panel=DATA, metavar="CSV", help="CSV of path and group.")
]
ImageSize = Annotated[
    int | None,
    _option(
        "--img-size", panel=DATA, help="Height and width of the network's input in pixels, from 32."
    ),
]
ResizeBy = Annotated[
    str | None,
    _option(
        "--resize",
        panel=DATA,
        metavar="stretch|crop|pad",
        help="How another shape becomes a square.",
    ),
]
FollowLinks = Annotated[
    bool | None,
    _option(
        "--follow-links/--no-follow-links", panel=DATA, help="Enter links to folders outside DATA."
    ),
]
AllowEmpty = Annotated[
    bool | None,
    _option(
        "--allow-empty/--no-allow-empty",
        panel=DATA,
        help="Leave out classes without pictures instead of refusing.",
    ),
]
MaxBad = Annotated[
    float | None,
    _option(
        "--max-bad", panel=DATA, help="Refuse data of which more than this part cannot be read."
    ),
]
MaxMegapixels = Annotated[
    float | None,
    _option("--max-megapixels", panel=DATA, help="Reject larger pictures from their header."),
]
Workers = Annotated[
    int | None,
    _option(
        "-j",
        "--workers",
        panel=DATA,
        help="Decoding processes; 0 decodes in this one. Without it: one a processor.",
    ),
]
Cache = Annotated[
    str | None,
    _option(
        "--cache",
        panel=DATA,
        metavar="auto|ram|disk|none|DIR",
        help="Where decoded pixels are kept.",
    ),
]
Weights = Annotated[
    Path | None,
    _option(
        "-m",
        "--model",
        panel=MODEL,
        metavar="WEIGHTS",
        help="Weights file. Without it: the best weights of the latest run in runs/.",
    ),
]
DeviceOption = Annotated[
    str | None,
    _option("--device", panel=MODEL, metavar="auto|cpu|cuda|mps", help="What to compute on."),
]
PrecisionOption = Annotated[
    str | None,
    _option(
        "--precision",
        panel=MODEL,
        metavar="auto|fp32|bf16|fp16",
        help="What to compute in; auto takes what is fast here.",
    ),
]
ClassNames = Annotated[
    str | None,
    _option(
        "--class-names",
        panel=MODEL,
        metavar="A,B,...",
        help="Names of the outputs, for a weights file without a record.",
    ),
]
ClassesFrom = Annotated[
    Path | None,
    _option(
        "--classes-from",
        panel=MODEL,
        metavar="DATA",
        help="Take those names from the class folders of DATA.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of tables.")]


@app.command(rich_help_panel="Commands")
def summary(
    weights: Annotated[
        Path | None, typer.Argument(metavar="[WEIGHTS]", help="Describe this weights file.")
    ] = None,
    classes: Annotated[int, typer.Option("--classes", min=1, max=1_000_000, help="Outputs.")] = 4,
    image_size: ImageSize = None,
    arch: Annotated[str, typer.Option("--arch", help="Network.")] = "inception_v1",
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", min=1, max=100_000, help="For the memory figures.")
    ] = 1,
    blocks: Annotated[bool, typer.Option("--blocks", help="The paper's table of blocks.")] = False,
    tree: Annotated[bool, typer.Option("--tree", help="The module tree.")] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run one training step and measure its memory.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """Show the network layer by layer, or what a weights file holds.

    Example: inceptcli summary --classes 4
    """
    raise NotImplementedError


@app.command()
def split(
    root: DataRoot,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="CSV", help="Write path, class, role, group here."),
    ] = None,
    ratio: Ratio = None,
    stratify: Stratify = None,
    seed: Seed = None,
    labels: Labels = None,
    split_csv: Split = None,
    group: Group = None,
    group_file: GroupFile = None,
    layout: Annotated[
        Path | None,
        typer.Option("--layout", metavar="DIR", help="Lay out DIR/train/CLASS/... as well."),
    ] = None,
    link: Annotated[
        str, typer.Option("--link", metavar="symlink|hardlink|copy", help="How to lay out.")
    ] = "symlink",
    preview: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Draw samples of each class as the network sees them."),
    ] = None,
    image_size: ImageSize = None,
    resize: ResizeBy = None,
    follow_links: FollowLinks = None,
    allow_empty: AllowEmpty = None,
    max_bad: MaxBad = None,
    max_megapixels: MaxMegapixels = None,
    workers: Workers = None,
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """Divide the photographs into train, val and test, copies of one picture together.

    Example: inceptcli split data/ -o split.csv
    """
    raise NotImplementedError


if __name__ == "__main__":
    main()
