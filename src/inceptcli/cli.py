"""The door: options become settings, errors become exit codes. The only file with Typer.

Nothing heavy is imported until a command needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from inceptcli import __version__, console, show
from inceptcli.config import (
    FREE_TO_CHANGE,
    IMAGENET,
    ROLES,
    Arch,
    DataConfig,
    TrainConfig,
    Tta,
    one_of,
    option_name,
    plain,
    resolve,
)
from inceptcli.engine.signals import Interrupted, interruptible
from inceptcli.errors import (
    DataError,
    InceptcliError,
    PartialError,
    UsageError,
    is_out_of_memory,
)
from inceptcli.events import Emit, silent
from inceptcli.files import printable, write_csv
from inceptcli.runfolder import (
    CONFIG,
    FOLDS,
    LAST,
    REPORT,
    RUNS,
    SPLIT,
    check_target,
    find_weights,
    is_finished,
    is_run,
    latest_run,
    read_settings,
)

if TYPE_CHECKING:
    from inceptcli.data.layout import Link
    from inceptcli.engine.comparison import Comparison
    from inceptcli.engine.conclude import TrainResult
    from inceptcli.engine.device import Device
    from inceptcli.engine.infer import Loaded
    from inceptcli.engine.predict import Input, Network, Prediction, Question
    from inceptcli.report.content import Subject

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
LINKS = ("symlink", "hardlink", "copy")
BEGINNINGS = (  # settings that have their effect when a run begins, and none at a resume
    *("recipe", "weights", "ratio", "group", "group_file", "stratify", "folds", "repeats"),
)
ARCHS = get_args(Arch)
ARCH_HELP = (
    "Network: the tutorial's; with batch norm in the stem too and one linear layer; with the "
    "paper's two auxiliary classifiers in training; torchvision's, which has 3x3 where the paper "
    "has 5x5."
)
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
    _open_missing()
    try:
        with interruptible():
            code = app([word for word in words if word != "--debug"], standalone_mode=False) or 0
            sys.stdout.flush()
    except InceptcliError as error:
        code = _report(str(error), error.exit_code, debug=debug)
    except typer.TyperException as error:
        code = _report(_one_line(error.format_message()), error.exit_code, debug=debug)
    except (BrokenPipeError, SystemExit):  # the latter is Typer's answer to the former
        _silence()
        code = 141
    except OSError as error:
        text = f"cannot write the results: {error.strerror or error}"
        if error.filename is None:  # it was stdout
            _silence()
        else:
            text = f"cannot use {error.filename}: {error.strerror}; check its name and permissions"
        code = _report(text, 5, debug=debug)
    except Interrupted as stop:
        text = "stopped; each file that was written is whole, and nothing else was changed"
        code = _report(text, 128 + stop.signum, debug=debug)
    except Exception as error:
        text = (
            f"{type(error).__name__}: {error}; this is a bug: run again with --debug and report it"
        )
        code = 1
        if is_out_of_memory(error):
            text, code = "not enough memory; end other programs or use another --device", 7
        code = _report(text, code, debug=debug)
    sys.exit(code)


def _open_missing() -> None:
    """Let what is printed to a closed stream go nowhere, and no file take its number."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        stream = getattr(sys, name)
        if not (stream.encoding or "utf").lower().startswith("utf"):
            stream.reconfigure(errors="backslashreplace")  # a name is shown as far as it can be


def _silence() -> None:
    """Forget what stdout could not take, so that the end of the process does not try again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(text: str, code: int, *, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    console.fail(text)
    return code


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _settings(ctx: typer.Context, kind: type[DataConfig]) -> dict[str, Any]:
    """What was given on the command line of the settings that ``kind`` has."""
    known = {item.name for item in fields(kind)}
    given = {k: v for k, v in ctx.params.items() if k in known and v is not None}
    if "time_seconds" in given:
        given["time_seconds"] = _seconds(given["time_seconds"])
    for name in ("ratio", "train_sizes"):
        if name in given:
            given[name] = _numbers(option_name(name), given[name])
    for name in ("root", "group_file"):
        if name in given:
            given[name] = given[name].absolute()
    if "labels" in given:  # perhaps with names of columns at its end
        given["labels"] = os.path.abspath(given["labels"])  # noqa: PTH100
    return given


def _refuse_typed(ctx: typer.Context, why: str, *names: str) -> None:
    """Refuse those of the options that were typed, since they would have no effect."""
    for name in names:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"{option_name(name)} {why}")


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option}: '{text}' is not numbers with commas between") from error


def _seconds(text: str) -> float:
    """Seconds of a duration: 90s, 30m, 1.5h, 1h30m."""
    parts = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?", text.strip().lower())
    if not text.strip() or parts is None:
        raise UsageError(f"--time: '{text}' is no duration; give for example 30m, 1h30m or 90s")
    try:
        units = zip(parts.groups(), (3600, 60, 1), strict=True)
        return sum(float(number) * unit for number, unit in units if number)
    except ValueError as error:
        raise UsageError(f"--time: '{text}' is no duration; give for example 30m") from error


def _pair(option: str, text: str) -> tuple[str, str]:
    left, equals, right = text.partition("=")
    if not (left and equals and right):
        raise UsageError(f"{option}: '{text}' is not A=B")
    return left, right


def _classes(names: str | None, folder: Path | None) -> tuple[str, ...]:
    """Class names that were given for a weights file without a record."""
    if names is not None and folder is not None:
        raise UsageError("--class-names and --classes-from say the same; give one of them")
    if names is not None:
        return tuple(names.split(","))
    if folder is None:
        return ()
    from inceptcli.data.folder import scan

    return scan(folder).classes


def _members(
    model: list[Path] | None,
    device: str | None,
    precision: str | None,
    *,
    classes: tuple[str, ...],
    raw: bool,
) -> tuple[list[Network], Device | None]:
    """The networks that ``-m`` names, each said, and what torch runs them on."""
    paths = find_weights(model or [])
    found = [_network(path, device, precision, classes=classes, raw=raw) for path in paths]
    if classes and all(network.names_itself for network, _ in found):
        raise UsageError(
            f"{printable(str(paths[0]))} names its own classes; leave out --class-names "
            "and --classes-from"
        )
    on = next((on for _, on in found if on is not None), None)
    if _speaks(on):
        for network, _ in found:
            console.say(f"weights: {network.path}")
    if on is not None and on.is_first:
        console.say(f"computing on {on.torch_device} in {on.precision}")
    return [network for network, _ in found], on


def _speaks(on: Device | None) -> bool:
    """Whether this is the only process, or the one of torchrun's that prints and writes."""
    return on is None or on.is_first


def _averaged(members: list[Network], tta: str) -> Network:
    """One network that answers for all of them, in all views."""
    if len(members) == 1 and tta == "none":
        return members[0]
    from inceptcli.engine.committee import average

    option = "-m, several times," if len(members) > 1 else "--tta"
    return average([_weights_of(member, option) for member in members], cast("Tta", tta))


def _check_averaged(count: int, tta: str, *, save: bool, named: bool, report: bool) -> None:
    """Refuse what averaged answers, of ``count`` networks, cannot be evaluated for."""
    if save and (count > 1 or tta != "none"):
        raise UsageError("--save is for one network's own answers; give one -m and no --tta")
    if count > 1 and not named:
        raise UsageError(
            "which photographs? those of a run were trained on by its other folds; name a "
            "folder, or see folds.json for each fold on its own test photographs"
        )
    if count > 1 and report:
        raise UsageError("--report shows where one network looks; give one -m")


def _network(
    path: Path,
    device: str | None,
    precision: str | None,
    *,
    classes: tuple[str, ...] = (),
    raw: bool = False,
) -> tuple[Network, Device | None]:
    """A network and what torch runs it on; an exported one needs neither torch nor a device."""
    from inceptcli.engine import onnx

    if onnx.is_exported(path):
        onnx.check_options(device, precision)
        return onnx.load_onnx(path, raw=raw), None
    from inceptcli.engine.device import choose_device
    from inceptcli.engine.infer import load_network

    on = choose_device(device or "auto", precision or "auto")
    return load_network(path, classes=classes, raw=raw), on


def _rival(
    path: Path | None,
    tta: str,
    device: str | None,
    precision: str | None,
    *,
    classes: tuple[str, ...],
    raw: bool,
) -> tuple[Network | None, Device | None]:
    """The network of ``--against``, before any work is done; none where there is none."""
    if path is None:
        return None, None
    one = _one(find_weights([path]), "--against")
    network, on = _network(one, device, precision, classes=classes, raw=raw)
    return _averaged([network], tta), on


def _one(paths: list[Path], option: str) -> Path:
    """The weights file where one network is wanted.

    Raises:
        UsageError: A run of several trainings was named.
    """
    if len(paths) > 1:
        from inceptcli.data.labels import listed

        names = listed([str(path) for path in paths])
        raise UsageError(f"{option} takes one network, and here are {len(paths)}: {names}")
    return paths[0]


def _check_saving(path: Path, min_precision: float | None, *, save: bool, raw: bool) -> None:
    """Refuse --save where there is no threshold to store, or no place for it."""
    from inceptcli.engine.onnx import is_exported

    if not save:
        return
    if min_precision is None:
        raise UsageError("--save stores what --min-precision finds; give that as well")
    if raw:
        raise UsageError("--save is for the temperature that predict uses; leave out --raw")
    if is_exported(path):
        raise UsageError("--save stores in a weights file; give that as -m, then export it anew")


def _weights_of(network: Network, option: str) -> Loaded:
    """The network as torch has it.

    Raises:
        UsageError: It is an exported one.
    """
    from inceptcli.engine.infer import Loaded

    if not isinstance(network, Loaded):
        raise UsageError(
            f"{option} needs the weights themselves, and an exported network cannot be looked "
            "into; give the weights file as -m"
        )
    return network


def _keep_outside(root: Path, *outputs: Path | None) -> None:
    """Refuse to write into the data folder, before anything is done."""
    from inceptcli.data.folder import check_output

    for path in outputs:
        if path is not None:
            check_output(path, root)


def _class_map(words: list[str]) -> dict[str, str]:
    pairs = [_pair("--map", text) for text in words]
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UsageError("--map names a class of the data twice; give each one counterpart")
    return found


def _check_targets(output: Path | None, report: Path | None) -> None:
    """Refuse to write an evaluation over a run's own results or another file."""
    if output is not None and is_run(output):
        raise UsageError(
            f"{printable(str(output))} is a run, whose results would be replaced; choose another -o"
        )
    if report is not None:
        check_target(report, (".html", ".htm"))


def _resumed(run: str, typed: dict[str, Any]) -> tuple[TrainConfig, dict[str, str]]:
    """The settings of a run to go on with, and what was typed on top of them."""
    folder = latest_run(Path(RUNS), LAST, FOLDS) if run == "latest" else Path(run)
    if folder is None:
        raise UsageError(f"--resume latest: there is no run in {RUNS}/; name a run folder")
    for name in ("overwrite", "output", "name", "split"):
        if typed.get(name):
            raise UsageError(
                f"--resume goes on with a run in its own folder, on its own split; leave out "
                f"{option_name(name)}"
            )
    stored = read_settings(folder)
    for name in BEGINNINGS:
        if name in typed and plain(typed[name]) != stored.get(name):
            raise UsageError(
                f"{option_name(name)} has its effect when a run begins; leave it out, or begin "
                "another run"
            )
    settings = stored | typed | {"output": folder, "overwrite": False}
    if not (settings.get("folds") or settings.get("repeats")):
        settings["split"] = folder / SPLIT
    sources = dict.fromkeys(stored, "the run") | dict.fromkeys(typed, "option")
    try:
        return TrainConfig.from_json(settings), sources
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the settings in {folder / CONFIG} are damaged: {error}; resume another run"
        ) from error


def _resolved(recipe: str, typed: dict[str, Any]) -> tuple[TrainConfig, dict[str, str]]:
    """The settings of a new training; the weights to begin with suggest network and size."""
    if {"output", "name"} <= typed.keys():
        raise UsageError("-o is the run folder and --name one in runs/; give one of them")
    weights = typed.get("weights")
    if weights is None:
        for name in ("freeze_epochs", "layer_lr_decay"):
            if name in typed:
                raise UsageError(f"{option_name(name)} is for layers that --weights brings")
        return resolve(recipe, typed)
    if weights != IMAGENET:
        typed["weights"] = str(Path(weights).absolute())
    resolve(recipe, typed)  # what is wrong with the options comes before what is with the file
    from inceptcli.engine.finetune import read_source, suggestions

    return resolve(recipe, typed, suggestions(read_source(typed["weights"])))


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
Seed = Annotated[
    int | None, _option("--seed", panel=DATA, help="Number that all random choices follow from.")
]
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
Models = Annotated[
    list[Path] | None,
    _option(
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
TABLES = (".csv", ".txt", ".tsv")  # how the name of a table ends
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of tables.")]


@app.command()
def summary(
    ctx: typer.Context,
    weights: Annotated[
        Path | None, typer.Argument(metavar="WEIGHTS", help="Describe this weights file.")
    ] = None,
    classes: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of classes.")] = 4,
    image_size: Annotated[
        int, typer.Option("--img-size", min=32, max=2048, help="Height and width of the input.")
    ] = 224,
    arch: Annotated[str, typer.Option(metavar="|".join(ARCHS), help=ARCH_HELP)] = "inception_v1",
    batch_size: Annotated[
        int, typer.Option("-b", "--batch-size", min=1, max=100_000, help="For the memory figures.")
    ] = 1,
    blocks: Annotated[
        bool, typer.Option("--blocks", help="The paper's table: one line a block.")
    ] = False,
    tree: Annotated[bool, typer.Option("--tree", help="The module tree.")] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run two training steps and measure their memory.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """Show the network layer by layer, or what a weights file holds.

    Example: inceptcli summary --classes 4
    """
    one_of("--arch", arch, ARCHS)
    if blocks + tree + measure > 1:
        raise UsageError("--blocks, --tree and --measure are three views; give one of them")
    if weights is not None:
        views = ("blocks", "tree", "measure", "classes", "image_size", "arch", "batch_size")
        _refuse_typed(ctx, "is for a network by its name; leave out WEIGHTS", *views)
        from inceptcli.model.weights import load_weights

        show.weights_file(load_weights(weights), as_json=as_json, markdown=markdown)
        return
    from inceptcli.model import summary as model

    if tree:
        if as_json:
            raise UsageError("--tree is text; leave out --json, or --tree for the layers as JSON")
        console.result_block(model.module_tree(arch, classes=classes, image_size=image_size))
        return
    if blocks:
        rows = model.block_table(arch, image_size=image_size)
        if arch == "googlenet":
            console.say("torchvision has 3x3 convolutions where the paper and this table say 5x5")
        show.blocks(rows, as_json=as_json, markdown=markdown)
        return
    layers = model.layer_table(arch, classes=classes, image_size=image_size, batch_size=batch_size)
    measured = None
    if measure:
        measured = model.measure_memory(
            arch, classes=classes, image_size=image_size, batch_size=batch_size
        )
    if arch == "inception_v1_aux":
        console.say("as it is trained: files and predictions are without aux1 and aux2")
    show.layers(layers, measured, as_json=as_json, markdown=markdown)


@app.command()
def split(
    ctx: typer.Context,
    root: DataRoot,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="CSV", help="Write path, class, role, group here."),
    ] = None,
    ratio: Ratio = None,
    stratify: Stratify = None,
    seed: Seed = None,
    labels: Labels = None,
    split: Split = None,
    group: Group = None,
    group_file: GroupFile = None,
    layout: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Lay out DIR/train/CLASS/... as well.")
    ] = None,
    link: Annotated[
        str, typer.Option(metavar="symlink|hardlink|copy", help="How --layout places files.")
    ] = "symlink",
    preview: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Draw samples of each class as the network sees them."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Look for copies, leaks, conflicts and odd files.")
    ] = False,
    suspects: Annotated[
        Path | None, typer.Option(metavar="PNG", help="With --check: draw the suspicious pairs.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="With --check: conflicts and leaks are exit 3.")
    ] = False,
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
    """Divide the photographs into train, val and test; copies that are found stay together.

    Example: inceptcli split data/ -o split.csv
    """
    one_of("--link", link, LINKS)
    if layout is None:
        _refuse_typed(ctx, "is how --layout places files; give that as well", "link")
    config = DataConfig(**_settings(ctx, DataConfig))
    _keep_outside(config.root, output, layout, preview, suspects)
    if group is not None and group_file is not None:
        raise UsageError("--group and --group-file are two ways to say it; give one of them")
    _check_written(config, output, preview, suspects)
    from inceptcli.data.layout import lay_out
    from inceptcli.data.prepare import check_photos, prepare, write_manifest

    with console.Listener(show_roles=False) as listener:  # they are this command's result
        photos = prepare(config, keep_pixels=preview is not None, emit=listener)
    if output is not None:
        write_manifest(output, photos)
    if layout is not None:
        lay_out(layout, photos, link=cast("Link", link))
    if preview is not None:
        from inceptcli.report.pictures import write_samples

        write_samples(preview, photos)
    found = check_photos(photos) if check or suspects is not None or strict else None
    if suspects is not None and found is not None:
        from inceptcli.report.pictures import write_suspects

        write_suspects(suspects, found, photos)
    show.split(photos, found, as_json=as_json)
    if strict and found is not None and found.faults():
        raise DataError("; ".join(found.faults()) + "; repair the folders or the split")


def _check_written(
    config: DataConfig, table: Path | None, preview: Path | None, suspects: Path | None
) -> None:
    """Refuse to write what split writes over what it reads, or one thing over another."""
    labels = config.labels or ""
    inputs = [config.split, config.group_file, Path(labels), Path(labels.rpartition(":")[0])]
    if table is not None:
        check_target(table, TABLES, inputs)
    given = [path for path in (table, preview, suspects) if path is not None]
    for path in given[table is not None :]:
        check_target(path, (".png",), inputs)
    if len(set(given)) < len(given):
        raise UsageError("-o, --preview and --suspects are files of their own; name each")


@app.command()
def train(
    ctx: typer.Context,
    root: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA", help="Folder of class folders, or of train/, val/ and test/."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        _option(
            "--recipe",
            panel=TRAINING,
            metavar="default|tutorial",
            help="Where the other defaults come from; tutorial is the script, faithfully.",
        ),
    ] = None,
    epochs: Annotated[
        int | None, _option("--epochs", panel=TRAINING, help="Passes over the training pictures.")
    ] = None,
    batch_size: Annotated[
        int | None,
        _option(
            "-b",
            "--batch-size",
            panel=TRAINING,
            help="Images a step; without it by the number of pictures.",
        ),
    ] = None,
    accumulate: Annotated[
        int | None,
        _option(
            "--accumulate",
            panel=TRAINING,
            help="Parts that a batch is computed in, one after the other: less memory.",
        ),
    ] = None,
    lr: Annotated[
        float | None,
        _option(
            "--lr",
            panel=TRAINING,
            help="Largest learning rate; without it by --optimizer and batch size.",
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        _option(
            "--optimizer",
            panel=TRAINING,
            metavar="adam|adamw|sgd",
            help="Method that changes the weights.",
        ),
    ] = None,
    weight_decay: Annotated[
        float | None,
        _option(
            "--weight-decay", panel=TRAINING, help="Weight decay, of kernels and matrices only."
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        _option(
            "--schedule",
            panel=TRAINING,
            metavar="constant|cosine",
            help="How the learning rate changes during training.",
        ),
    ] = None,
    warmup_epochs: Annotated[
        float | None,
        _option(
            "--warmup-epochs",
            panel=TRAINING,
            help="Epochs in which the learning rate rises; without it a tenth of all.",
        ),
    ] = None,
    flips: Annotated[
        str | None,
        _option(
            "--flips",
            panel=TRAINING,
            metavar="none|h|hv",
            help="Random mirror images: none, left-right, also upside down.",
        ),
    ] = None,
    label_smoothing: Annotated[
        float | None,
        _option(
            "--label-smoothing",
            panel=TRAINING,
            help="Part of each label that is spread over all classes.",
        ),
    ] = None,
    crop_area: Annotated[
        float | None,
        _option(
            "--crop-area",
            panel=TRAINING,
            help="Train on random crops of at least this part of a picture; 1: on all of it.",
        ),
    ] = None,
    color_jitter: Annotated[
        float | None,
        _option(
            "--color-jitter",
            panel=TRAINING,
            help="Change brightness, contrast and saturation by up to this part.",
        ),
    ] = None,
    random_erase: Annotated[
        float | None,
        _option(
            "--random-erase",
            panel=TRAINING,
            help="Probability of covering a box of a training picture.",
        ),
    ] = None,
    train_sizes: Annotated[
        str | None,
        _option(
            "--train-sizes",
            panel=TRAINING,
            metavar="A,B",
            help="Training pictures grow from the first to the second part of --img-size.",
        ),
    ] = None,
    ema_epochs: Annotated[
        float | None,
        _option(
            "--ema-epochs",
            panel=TRAINING,
            help="Average the weights over about so many epochs; 0: take the latest.",
        ),
    ] = None,
    class_weights: Annotated[
        str | None,
        _option(
            "--class-weights",
            panel=TRAINING,
            metavar="none|balanced|auto",
            help="Let small classes count as much as large ones; auto: where one is rare.",
        ),
    ] = None,
    monitor: Annotated[
        str | None,
        _option(
            "--monitor",
            panel=TRAINING,
            metavar="val_accuracy|val_balanced_accuracy|val_loss",
            help="What the best epoch is best in; ties go to the lower loss.",
        ),
    ] = None,
    time_seconds: Annotated[
        str | None,
        _option(
            "--time",
            panel=TRAINING,
            metavar="30m",
            help="Plan epochs and sizes that were not given so that training ends in this time.",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        _option(
            "--patience", panel=TRAINING, help="Stop after so many epochs without a better one."
        ),
    ] = None,
    arch: Annotated[
        str | None, _option("--arch", panel=MODEL, metavar="|".join(ARCHS), help=ARCH_HELP)
    ] = None,
    weights: Annotated[
        str | None,
        _option(
            "--weights",
            panel=MODEL,
            metavar="imagenet|FILE",
            help="Begin with these weights, of torchvision (downloaded unless in torch's cache) "
            "or of a file; gives other defaults for epochs, learning rates, network and size.",
        ),
    ] = None,
    freeze_epochs: Annotated[
        int | None,
        _option(
            "--freeze-epochs",
            panel=MODEL,
            help="First epochs in which only new layers learn; 2 with --weights.",
        ),
    ] = None,
    layer_lr_decay: Annotated[
        float | None,
        _option(
            "--layer-lr-decay",
            panel=MODEL,
            help="Factor on the learning rate of layers from --weights, from depth to depth "
            "towards the image; 0.5 with --weights.",
        ),
    ] = None,
    image_size: ImageSize = None,
    resize: ResizeBy = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    deterministic: Annotated[
        bool | None,
        _option(
            "--deterministic/--no-deterministic",
            panel=MODEL,
            help="Same bits every time on a GPU too; on a CPU they are anyway.",
        ),
    ] = None,
    split: Split = None,
    labels: Labels = None,
    ratio: Ratio = None,
    stratify: Stratify = None,
    group: Group = None,
    group_file: GroupFile = None,
    seed: Seed = None,
    folds: Annotated[
        int | None,
        _option(
            "--folds",
            panel=TRAINING,
            metavar="K",
            help="Train K times, each time tested on another part of the photographs.",
        ),
    ] = None,
    repeats: Annotated[
        int | None,
        _option(
            "--repeats",
            panel=TRAINING,
            metavar="R",
            help="Train R times (with --folds: R times all folds) with the seeds from --seed on.",
        ),
    ] = None,
    follow_links: FollowLinks = None,
    allow_empty: AllowEmpty = None,
    max_bad: MaxBad = None,
    max_megapixels: MaxMegapixels = None,
    workers: Workers = None,
    cache: Cache = None,
    output: Annotated[
        Path | None,
        _option(
            "-o",
            "--output",
            panel=OUTPUT,
            metavar="DIR",
            help="Exactly this run folder. Without it: runs/DATE_TIME.",
        ),
    ] = None,
    name: Annotated[
        str | None, _option("--name", panel=OUTPUT, help="The run folder is runs/NAME.")
    ] = None,
    overwrite: Annotated[
        bool | None,
        _option("--overwrite/--no-overwrite", panel=OUTPUT, help="Replace the run in that folder."),
    ] = None,
    resume: Annotated[
        str | None,
        _option(
            "--resume",
            panel=OUTPUT,
            metavar="RUN",
            help="Go on with this run folder; 'latest' is the newest in runs/.",
        ),
    ] = None,
    allow_change: Annotated[
        bool,
        typer.Option(
            "--allow-change",
            rich_help_panel=OUTPUT,
            help="With --resume: go on although photographs or settings have changed; not "
            "--img-size, --resize, --monitor.",
        ),
    ] = False,
    save_minutes: Annotated[
        float | None,
        _option("--save-minutes", panel=OUTPUT, help="Minutes between saves inside a long epoch."),
    ] = None,
    fingerprints: Annotated[
        bool | None,
        _option(
            "--fingerprints/--no-fingerprints",
            panel=OUTPUT,
            help="Let the weights remember which pictures they were trained on.",
        ),
    ] = None,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard",
            rich_help_panel=OUTPUT,
            help="Write event files for TensorBoard into the run folder as well.",
        ),
    ] = False,
    find_rate: Annotated[
        bool,
        typer.Option(
            "--find-lr",
            rich_help_panel=TRAINING,
            help="Learning-rate range test instead: suggest --lr, draw find_lr.png in -o or runs/.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            rich_help_panel=OUTPUT,
            help="Scan, build, make a few steps, forecast time and memory; write no run folder.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train on a folder of photographs; the last line printed is the run folder.

    Example: inceptcli train data/ --epochs 40
    """
    typed = _settings(ctx, TrainConfig)
    if resume is not None:
        config, sources = _resumed(resume, typed)
        changed = typed.keys() - FREE_TO_CHANGE
        if not changed and config.output is not None and _is_complete(config.output):
            console.say("nothing to do: this training is finished; evaluate and predict use it")
            show.finished(config.output, as_json=as_json)
            return
    elif root is None:
        raise UsageError("train: which photographs? give a folder, as in: inceptcli train data/")
    else:
        config, sources = _resolved(recipe or "default", typed)
    _check_together(
        config, find_rate, dry_run, allow_change=allow_change, resuming=resume is not None
    )
    if find_rate:
        _find_lr(config, as_json=as_json)
        return
    if config.folds or config.repeats:
        if dry_run or allow_change:
            raise UsageError("--folds and --repeats go with neither --dry-run nor --allow-change")
        _train_folds(
            config, sources, resuming=resume is not None, tensorboard=tensorboard, as_json=as_json
        )
        return
    from inceptcli.engine.device import is_first_process
    from inceptcli.engine.forecast import forecast
    from inceptcli.engine.run import run
    from inceptcli.report.page import write_run_report
    from inceptcli.report.pictures import write_run

    script_lines = config.recipe == "tutorial"
    with _listening(script_lines, tensorboard=tensorboard, as_json=as_json) as listener:
        if dry_run:
            expected = forecast(config, sources=sources, emit=listener)
            if is_first_process():
                show.forecast(expected, as_json=as_json)
            return
        result = run(
            config,
            sources=sources,
            resuming=resume is not None,
            allow_change=allow_change,
            emit=listener,
        )
        if not is_first_process():
            return
        write_run(result, listener)
        write_run_report(result, listener)
    show.training(result, as_json=as_json)


def _is_complete(run: Path) -> bool:
    """Whether nothing is to be done for a run: the report is the last that is written."""
    return is_finished(run) and (run / REPORT).exists()


def _check_together(
    config: TrainConfig, find_rate: bool, dry_run: bool, *, allow_change: bool, resuming: bool
) -> None:
    if allow_change and not resuming:
        raise UsageError("--allow-change is for --resume; give the run to go on with")
    if find_rate and dry_run:
        raise UsageError("--find-lr and --dry-run are two tests; give one of them")
    if find_rate and (config.folds or config.repeats):
        raise UsageError("--find-lr tests one training; leave out --folds and --repeats")


@contextmanager
def _listening(script_lines: bool, *, tensorboard: bool, as_json: bool) -> Iterator[Emit]:
    """What shows a training's events and, where it is asked for, writes them for TensorBoard.

    Raises:
        UsageError: The tensorboard package is not installed; nothing was begun.
    """
    with console.Listener(rows_to_stdout=not as_json, script_lines=script_lines) as listener:
        if not tensorboard:
            yield listener
            return
        from inceptcli.report.tensorboard import EventFiles

        with EventFiles(listener) as both:
            yield both


def _find_lr(config: TrainConfig, *, as_json: bool) -> None:
    from inceptcli.engine.find_lr import find_lr
    from inceptcli.report.pictures import write_range_test

    folder = config.output or Path(RUNS)
    _keep_outside(config.root, folder)
    with console.Listener(rows_to_stdout=False) as listener:
        found = find_lr(config, emit=listener)
    show.range_test(found, write_range_test(folder, found), as_json=as_json)


def _train_folds(
    config: TrainConfig,
    sources: dict[str, str],
    *,
    resuming: bool,
    tensorboard: bool,
    as_json: bool,
) -> None:
    from inceptcli.engine.folds import run_folds
    from inceptcli.report.page import write_run_report
    from inceptcli.report.pictures import write_run

    script_lines = config.recipe == "tutorial"
    with _listening(script_lines, tensorboard=tensorboard, as_json=as_json) as listener:

        def finish(result: TrainResult) -> None:
            write_run(result, listener)
            write_run_report(result, listener)

        result = run_folds(config, sources=sources, resuming=resuming, after=finish, emit=listener)
    show.folds(result, as_json=as_json)


@app.command()
def evaluate(
    ctx: typer.Context,
    root: Annotated[
        Path | None,
        typer.Argument(metavar="DATA", help="Labelled photographs. Without it: the run's own."),
    ] = None,
    model: Models = None,
    tta: TtaOption = "none",
    role: Annotated[
        str | None,
        typer.Option(
            metavar="train|val|test|all",
            help="Which photographs. Without it: test, else val, else all.",
        ),
    ] = None,
    positive: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="The class that a test is for: sensitivity, specificity, predictive values.",
        ),
    ] = None,
    mapped: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="A=B",
            help="Take the data's class A as the model's class B; may be repeated.",
        ),
    ] = None,
    class_names: ClassNames = None,
    classes_from: ClassesFrom = None,
    split: Split = None,
    labels: Labels = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Leave the stored temperature (calibration) aside.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="Write metrics.json, predictions.csv, confusion.png and reliability.png there.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a page of figures, mistakes and pictures (HTML) there."
        ),
    ] = None,
    open_page: Annotated[
        bool,
        typer.Option(
            "--open", help="Show that page in the browser; without --report a temporary one."
        ),
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(metavar="OTHER", help="Compare with these weights on the same photographs."),
    ] = None,
    min_precision: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1.0,
            help="Find on val the probability from which on this part of the answers is right.",
        ),
    ] = None,
    save: Annotated[
        bool, typer.Option("--save", help="With --min-precision: store it for predict.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 8 when a photograph could not be read.")
    ] = False,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    follow_links: FollowLinks = None,
    max_bad: MaxBad = None,
    max_megapixels: MaxMegapixels = None,
    workers: Workers = None,
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """Measure a trained network on labelled photographs.

    Example: inceptcli evaluate photos/ -m runs/first/best_model.pth
    """
    one_of("--tta", tta, get_args(Tta))
    one_of("--role", role or "all", (*ROLES, "all"))
    chosen = _classes(class_names, classes_from)
    class_map = _class_map(mapped or [])
    given = _settings(ctx, DataConfig)
    from inceptcli.data.prepare import Photos, prepare
    from inceptcli.engine import evaluate as engine
    from inceptcli.engine.predict import describe

    members, on = _members(model, device, precision, classes=chosen, raw=raw)
    page = report is not None or open_page
    _check_averaged(len(members), tta, save=save, named=root is not None, report=page)
    _check_saving(members[0].path, min_precision, save=save, raw=raw)
    drawn = _weights_of(members[0], "--report") if page else None
    loaded = _averaged(members, tta)
    rival, there = _rival(against, tta, device, precision, classes=chosen, raw=raw)
    config = engine.photos_config(loaded, given, own=len(members) == 1)
    _keep_outside(config.root, output, report)
    _check_targets(output, report)
    with console.Listener() as listener:
        emit: Emit = listener if _speaks(on) else silent

        def photos_for(network: Network, emit: Emit) -> Photos:
            seen = replace(config, image_size=network.spec.image_size, resize=network.spec.resize)
            with nullcontext() if on is None else on.first_goes_first():
                return prepare(seen, to_learn=False, divide=config.split is not None, emit=emit)

        def measure(
            network: Network, photos: Photos, role: str, on: Device | None = on
        ) -> engine.Evaluation:
            return engine.evaluate(
                network,
                photos,
                role,
                on,
                class_map=class_map,
                positive=positive,
                emit=emit,
            )

        photos = photos_for(loaded, emit)
        role = role or engine.default_role(photos)
        result = measure(loaded, photos, role)
        result = replace(result, weights=describe(members, cast("Tta", tta)))
        extras: dict[str, Any] = {}
        compared: tuple[engine.Evaluation, Comparison] | None = None
        if rival is not None:
            other = measure(rival, photos_for(rival, silent), role, there)
            extras["against"] = engine.compare_models(result, other, emit)
            compared = other, extras["against"]
        if min_precision is not None:
            engine.check_choice(photos, role, emit)
            val = measure(loaded, photos, "val")
            threshold = engine.choose_threshold(val, min_precision=min_precision)
            extras["abstention"] = result.abstention(threshold)
            if save and _speaks(on):
                engine.save_threshold(members[0].path, threshold)
    if not _speaks(on):
        return
    if output is not None:
        from inceptcli.report.pictures import write_evaluation

        write_evaluation(output, result)
    show.evaluation(result, as_json=as_json, **extras)
    if drawn is not None:
        from inceptcli.report.content import Subject

        subject = Subject({result.role: result}, photos, drawn, compared)
        _write_report(report, subject, opened=open_page)
    if strict and result.rejected:
        raise PartialError(f"{result.rejected} photographs could not be read")


def _write_report(path: Path | None, subject: Subject, *, opened: bool) -> None:
    """Write the page of an evaluation and perhaps show it in the browser."""
    import tempfile
    import webbrowser

    from inceptcli.report.page import write_report

    if path is None:
        path = Path(tempfile.mkdtemp(prefix="inceptcli-")) / REPORT
    write_report(path, subject)
    console.say(f"report: {path}")
    if opened and not webbrowser.open(path.absolute().as_uri()):
        console.warn(f"no browser was found; open {path} in one")


@app.command()
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
    raw: Annotated[
        bool, typer.Option("--raw", help="Leave the stored temperature (calibration) aside.")
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Mark rows of a lower probability as uncertain."),
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
        _refuse_typed(ctx, "is how --sort places files; give that as well", "link")
    config = DataConfig(root=Path(), **_settings(ctx, DataConfig))
    chosen = _classes(class_names, classes_from)
    from inceptcli.engine.inputs import expand
    from inceptcli.engine.predict import Question

    members, on = _members(model, device, precision, classes=chosen, raw=raw)
    if explain is not None and len(members) > 1:
        raise UsageError("--explain shows where one network looks; give one -m")
    drawn = _weights_of(members[0], "--explain") if explain is not None else None
    loaded = _averaged(members, tta)
    if loaded.memory is None and _speaks(on):
        console.say("whether the inputs were trained on is unknown: these weights do not say")
    from inceptcli.data.machine import default_workers

    alone = len(paths) == 1 and os.path.isfile(paths[0])  # noqa: PTH113 - not worth a process
    topk = min(topk, len(loaded.outputs))
    question = Question(
        topk=topk,
        threshold=threshold if threshold is not None else loaded.threshold,
        workers=(0 if alone else default_workers()) if config.workers is None else config.workers,
        max_megapixels=config.max_megapixels,
    )
    if on is not None and on.world > 1 and "-" in paths:
        raise UsageError("- cannot be shared by several processes; name folders or patterns")
    rows = _rows(expand(paths, recursive=recursive, null=null), loaded, on, question)
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


def _check_forms(paths: list[str], csv: Path | None, *, null: bool, both: bool) -> None:
    if both:
        raise UsageError("--json and --jsonl are two forms; give one of them")
    if null and "-" not in paths:
        raise UsageError("-0 is for names on stdin; give - as well")
    if csv is not None:
        check_target(csv, TABLES, [Path(path) for path in paths])


def _rows(
    inputs: Iterator[Input], network: Network, on: Device | None, question: Question
) -> Iterator[Prediction]:
    """The predictions; of torchrun's processes only the first goes on with them."""
    from inceptcli.engine.predict import predict as answers

    if on is None or on.world == 1:
        return answers(inputs, network, network.answer(on), question)
    from inceptcli.engine.share import predict_shared

    rows = predict_shared(inputs, network, network.answer(on), question, on)
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


@app.command()
def export(
    model: Weights = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write here. Without it: model.onnx, .pt2 or .safetensors.",
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
    raw: Annotated[
        bool, typer.Option("--raw", help="Leave the stored temperature (calibration) aside.")
    ] = False,
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
        _keep_outside(check, order.output)
    path = _one(find_weights([] if model is None else [model]), "-m")
    if is_run(path.parent) and (root := read_settings(path.parent).get("root")):
        _keep_outside(Path(str(root)), order.output)
    check_target(order.output, (engine.FORMATS[form],), [path])
    network = load_network(path, classes=_classes(class_names, classes_from), raw=raw)
    console.say(f"weights: {path}")
    with console.Listener() as listener:
        result = engine.export(network, order, emit=listener)
    show.exported(result, as_json=as_json)


@app.command()
def runs(
    folder: Annotated[
        Path, typer.Argument(metavar="RUNS", help="The folder that they lie in.", show_default=True)
    ] = Path(RUNS),
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B", help="Lay the curves of two runs, named or by path, over one another."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PNG",
            help="With --compare: draw them there. Without it: RUNS/A-and-B.png.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the runs: what each was trained on, how good it is, and whether it is finished.

    Example: inceptcli runs --compare first second
    """
    from inceptcli.report import runs as report

    if compare is None:
        if output is not None:
            raise UsageError("-o goes with --compare; give that as well")
        show.runs(report.list_runs(folder), folder, as_json=as_json)
        return
    paths = [report.find_run(folder, name) for name in compare]
    pair = report.compare_runs(*paths)
    if output is None:
        output = folder / f"{paths[0].name}-and-{paths[1].name}.png"
    check_target(output, (".png",))
    from inceptcli.report.pictures import write_comparison

    write_comparison(output, pair)
    show.run_pair(pair, output, as_json=as_json)


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
) -> None:
    """Write the built-in sample: 1,797 handwritten digits as class folders.

    Example: inceptcli sample digits/
    """
    from inceptcli.data.sample import write_sample

    count = write_sample(folder)
    console.say(f"{count} pictures of handwritten digits in 10 classes")
    console.result(str(folder))


@app.command()
def cache(
    action: Annotated[
        str, typer.Argument(metavar="size|list|clear", help="What to do with it.")
    ] = "list",
    as_json: Json = False,
) -> None:
    """Show or clear the cache of decoded pixels, which all commands share.

    Example: inceptcli cache clear
    """
    one_of("cache", action, ("size", "list", "clear"))
    from inceptcli.data import cache_folder

    if action == "list":
        show.cache(cache_folder.cache_list(), as_json=as_json)
        return
    count = cache_folder.cache_clear() if action == "clear" else cache_folder.cache_size()
    if as_json:
        console.print_json({"folder": str(cache_folder.default_cache_folder()), "bytes": count})
        return
    console.result(f"{count / 2**20:,.1f} MB{' removed' if action == 'clear' else ''}")


if __name__ == "__main__":
    main()
