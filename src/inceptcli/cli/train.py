"""``inceptcli train``: a new run, one that goes on, folds, and the two tests before a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inceptcli import console, show
from inceptcli.cli.options import (
    ARCH_HELP,
    ARCHS,
    MODEL,
    OUTPUT,
    TRAINING,
    AllowEmpty,
    Cache,
    DeviceOption,
    FollowLinks,
    Group,
    GroupFile,
    ImageSize,
    Json,
    Labels,
    MaxBad,
    MaxMegapixels,
    PrecisionOption,
    Ratio,
    ResizeBy,
    Seed,
    Split,
    Stratify,
    Workers,
    keep_outside,
    option,
    refuse_typed,
    settings,
)
from inceptcli.config import (
    FREE_TO_CHANGE,
    IMAGENET,
    TrainConfig,
    option_name,
    plain,
    resolve,
)
from inceptcli.errors import DataError, UsageError
from inceptcli.events import Emit
from inceptcli.runfolder import (
    CONFIG,
    FOLDS,
    RUNS,
    SPLIT,
    STATES,
    is_complete,
    latest_runs,
    read_description,
)

if TYPE_CHECKING:
    from inceptcli.engine.conclude import TrainResult

RULED = {  # settings that a rule chooses -> those by which it does, and that a resume may change
    "lr": {"optimizer", "batch_size"},
    "weight_decay": {"optimizer"},
    "warmup_epochs": {"epochs"},
}
BEGINNINGS = (  # settings that have their effect when a run begins, and none at a resume
    "recipe",
    "weights",
    "layer_lr_decay",
    "ratio",
    "group",
    "group_file",
    "stratify",
    "folds",
    "repeats",
)


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
        option(
            "--recipe",
            panel=TRAINING,
            metavar="default|tutorial",
            help="Where the other defaults come from; tutorial is the script, faithfully.",
        ),
    ] = None,
    epochs: Annotated[
        int | None, option("--epochs", panel=TRAINING, help="Passes over the training pictures.")
    ] = None,
    batch_size: Annotated[
        int | None,
        option(
            "-b",
            "--batch-size",
            panel=TRAINING,
            help="Images a step; without it by the number of pictures.",
        ),
    ] = None,
    accumulate: Annotated[
        int | None,
        option(
            "--accumulate",
            panel=TRAINING,
            help="Parts that a batch is computed in, one after the other: less memory.",
        ),
    ] = None,
    lr: Annotated[
        float | None,
        option(
            "--lr",
            panel=TRAINING,
            help="Largest learning rate; without it by --optimizer and batch size.",
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        option(
            "--optimizer",
            panel=TRAINING,
            metavar="adam|adamw|sgd",
            help="Method that changes the weights.",
        ),
    ] = None,
    weight_decay: Annotated[
        float | None,
        option(
            "--weight-decay",
            panel=TRAINING,
            help="Weight decay, of kernels and matrices only; without it by --optimizer.",
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        option(
            "--schedule",
            panel=TRAINING,
            metavar="constant|cosine",
            help="How the learning rate changes during training.",
        ),
    ] = None,
    warmup_epochs: Annotated[
        float | None,
        option(
            "--warmup-epochs",
            panel=TRAINING,
            help="Epochs in which the learning rate rises; without it a tenth of all.",
        ),
    ] = None,
    flips: Annotated[
        str | None,
        option(
            "--flips",
            panel=TRAINING,
            metavar="none|h|hv",
            help="Random mirror images: none (where left and right differ, as in letters), "
            "left-right, also upside down.",
        ),
    ] = None,
    label_smoothing: Annotated[
        float | None,
        option(
            "--label-smoothing",
            panel=TRAINING,
            help="Part of each label that is spread over all classes.",
        ),
    ] = None,
    crop_area: Annotated[
        float | None,
        option(
            "--crop-area",
            panel=TRAINING,
            help="Train on random crops of at least this part of a picture; 1: on all of it.",
        ),
    ] = None,
    color_jitter: Annotated[
        float | None,
        option(
            "--color-jitter",
            panel=TRAINING,
            help="Change brightness, contrast and saturation by up to this part.",
        ),
    ] = None,
    random_erase: Annotated[
        float | None,
        option(
            "--random-erase",
            panel=TRAINING,
            help="Probability of covering a box of a training picture.",
        ),
    ] = None,
    train_sizes: Annotated[
        str | None,
        option(
            "--train-sizes",
            panel=TRAINING,
            metavar="A,B",
            help="Training pictures grow from the first to the second part of --img-size.",
        ),
    ] = None,
    ema_epochs: Annotated[
        float | None,
        option(
            "--ema-epochs",
            panel=TRAINING,
            help="Average the weights over about so many epochs; 0: take the latest.",
        ),
    ] = None,
    class_weights: Annotated[
        str | None,
        option(
            "--class-weights",
            panel=TRAINING,
            metavar="none|balanced|auto",
            help="Let small classes count as much as large ones; auto: where one is rare.",
        ),
    ] = None,
    monitor: Annotated[
        str | None,
        option(
            "--monitor",
            panel=TRAINING,
            metavar="val_accuracy|val_balanced_accuracy|val_loss",
            help="Figure that the best epoch is chosen by; of equal ones the lower loss wins.",
        ),
    ] = None,
    time_seconds: Annotated[
        str | None,
        option(
            "--time",
            panel=TRAINING,
            metavar="30m",
            help="Plan epochs and sizes that were not given so that training ends in this time.",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        option(
            "--patience", panel=TRAINING, help="Stop after so many epochs without a better one."
        ),
    ] = None,
    arch: Annotated[
        str | None, option("--arch", panel=MODEL, metavar="|".join(ARCHS), help=ARCH_HELP)
    ] = None,
    weights: Annotated[
        str | None,
        option(
            "--weights",
            panel=MODEL,
            metavar="imagenet|FILE",
            help="Begin with these weights, of torchvision (downloaded unless in torch's cache) "
            "or of a file; gives other defaults for epochs, learning rates, network and size.",
        ),
    ] = None,
    freeze_epochs: Annotated[
        int | None,
        option(
            "--freeze-epochs",
            panel=MODEL,
            help="First epochs in which only new layers learn; 2 with --weights that do not "
            "remember all photographs they were trained on.",
        ),
    ] = None,
    layer_lr_decay: Annotated[
        float | None,
        option(
            "--layer-lr-decay",
            panel=MODEL,
            help="Factor on the learning rate of layers from --weights, from depth to depth "
            "towards the image; 0.5 with --weights that do not remember all photographs they "
            "were trained on.",
        ),
    ] = None,
    image_size: ImageSize = None,
    resize: ResizeBy = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    deterministic: Annotated[
        bool | None,
        option(
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
        option(
            "--folds",
            panel=TRAINING,
            metavar="K",
            help="Train K times, each time tested on another part of the photographs.",
        ),
    ] = None,
    repeats: Annotated[
        int | None,
        option(
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
        option(
            "-o",
            "--output",
            panel=OUTPUT,
            metavar="DIR",
            help="Exactly this run folder. Without it: runs/DATE_TIME.",
        ),
    ] = None,
    name: Annotated[
        str | None, option("--name", panel=OUTPUT, help="The run folder is runs/NAME.")
    ] = None,
    overwrite: Annotated[
        bool | None,
        option("--overwrite/--no-overwrite", panel=OUTPUT, help="Replace the run in that folder."),
    ] = None,
    resume: Annotated[
        str | None,
        option(
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
            "--img-size, --resize, --monitor, --class-weights.",
        ),
    ] = False,
    save_minutes: Annotated[
        float | None,
        option("--save-minutes", panel=OUTPUT, help="Minutes between saves inside a long epoch."),
    ] = None,
    fingerprints: Annotated[
        bool | None,
        option(
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
            help="Write event files for TensorBoard into the run folder as well; needs "
            "pip install '.[tensorboard]'.",
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
    typed = settings(ctx, TrainConfig)
    if resume is not None:
        if find_rate or dry_run:
            raise UsageError("--find-lr and --dry-run are for a new training; leave out --resume")
        config, sources = _resumed(resume, typed)
        changed = typed.keys() - FREE_TO_CHANGE
        if not changed and config.output is not None and is_complete(config.output):
            _finished(config.output, as_json=as_json)
            return
    elif root is None:
        raise UsageError("train: which photographs? give a folder, as in: inceptcli train data/")
    else:
        config, sources = _resolved(recipe or "default", typed)
    resuming = resume is not None
    if find_rate:
        unused = ("name", "lr", "time_seconds", "freeze_epochs", "tensorboard", "overwrite")
        refuse_typed(ctx, "has no effect with --find-lr; leave it out", *unused)
    _check_together(config, find_rate, dry_run, allow_change=allow_change, resuming=resuming)
    if find_rate:
        _find_lr(config, as_json=as_json)
        return
    with _listening(config, tensorboard=tensorboard, as_json=as_json) as listener:
        if dry_run:
            _forecast(config, sources, listener, as_json=as_json)
        elif config.folds or config.repeats:
            _train_folds(config, sources, listener, resuming=resuming, as_json=as_json)
        else:
            _train(
                config,
                sources,
                listener,
                resuming=resuming,
                allow_change=allow_change,
                as_json=as_json,
            )


def _finished(run: Path, *, as_json: bool) -> None:
    from inceptcli.engine.device import is_first_process

    if is_first_process():
        console.say("nothing to do: this training is finished; evaluate and predict use it")
        show.finished(run, as_json=as_json)


def _check_together(
    config: TrainConfig, find_rate: bool, dry_run: bool, *, allow_change: bool, resuming: bool
) -> None:
    if allow_change and not resuming:
        raise UsageError("--allow-change is for --resume; give the run to go on with")
    several = config.folds or config.repeats
    if several and (dry_run or allow_change):
        raise UsageError("--folds and --repeats go with neither --dry-run nor --allow-change")
    if find_rate and dry_run:
        raise UsageError("--find-lr and --dry-run are two tests; give one of them")
    if find_rate and several:
        raise UsageError("--find-lr tests one training; leave out --folds and --repeats")


def _resumed(run: str, typed: dict[str, Any]) -> tuple[TrainConfig, dict[str, str]]:
    """The settings of a run to go on with, and what was typed on top of them."""
    folders = latest_runs(Path(RUNS), *STATES, FOLDS) if run == "latest" else [Path(run)]
    if not folders:
        raise UsageError(f"--resume latest: there is no run in {RUNS}/; name a run folder")
    folder = folders[0]
    for name in ("overwrite", "output", "name", "split"):
        if typed.get(name):
            raise UsageError(
                f"--resume goes on with a run in its own folder, on its own split; leave out "
                f"{option_name(name)}"
            )
    description = read_description(folder)
    stored = description["settings"]
    _refuse_without_weights(stored.get("weights"), typed)
    _make_absolute(typed)
    for name in BEGINNINGS:
        if name in typed and plain(typed[name]) != stored.get(name):
            raise UsageError(
                f"{option_name(name)} has its effect when a run begins; leave it out, or begin "
                "another run"
            )
    settings = stored | typed | {"output": folder, "overwrite": False}
    if not (settings.get("folds") or settings.get("repeats")):
        settings["split"] = folder / SPLIT
    told = description.get("sources")
    told = told if isinstance(told, dict) else {}
    for name, inputs in RULED.items():
        changed = any(plain(typed[each]) != stored.get(each) for each in inputs & typed.keys())
        if changed and name not in typed and str(told.get(name)).startswith("rule"):
            settings[name] = None  # by the rule, from what was typed now
    sources = dict.fromkeys(stored, "the run") | told
    sources |= dict.fromkeys(typed, "option")
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
    _refuse_without_weights(weights, typed)
    if weights is None:
        return resolve(recipe, typed)
    _make_absolute(typed)
    resolve(recipe, typed)  # what is wrong with the options comes before what is with the file
    from inceptcli.engine.finetune import read_source, suggestions

    return resolve(recipe, typed, suggestions(read_source(typed["weights"])))


def _refuse_without_weights(weights: str | None, typed: Mapping[str, Any]) -> None:
    for name in ("freeze_epochs", "layer_lr_decay"):
        if weights is None and name in typed:
            raise UsageError(f"{option_name(name)} is for layers that --weights brings")


def _make_absolute(typed: dict[str, Any]) -> None:
    """The weights file that was typed, as ``config.json`` names it."""
    if typed.get("weights") == "":
        raise UsageError("--weights: which? give a file, or imagenet")
    if typed.get("weights", IMAGENET) != IMAGENET:
        typed["weights"] = str(Path(typed["weights"]).absolute())


@contextmanager
def _listening(config: TrainConfig, *, tensorboard: bool, as_json: bool) -> Iterator[Emit]:
    """What shows a training's events and, where it is asked for, writes them for TensorBoard.

    Raises:
        UsageError: The tensorboard package is not installed; nothing was begun.
    """
    script_lines = config.recipe == "tutorial"
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
    keep_outside(config.root, folder)
    with console.Listener(rows_to_stdout=False) as listener:
        found = find_lr(config, emit=listener)
    show.range_test(found, write_range_test(folder, found), as_json=as_json)


def _forecast(config: TrainConfig, sources: dict[str, str], emit: Emit, *, as_json: bool) -> None:
    from inceptcli.engine.device import is_first_process
    from inceptcli.engine.forecast import forecast

    expected = forecast(config, sources=sources, emit=emit)
    if is_first_process():
        show.forecast(expected, as_json=as_json)


def _train(
    config: TrainConfig,
    sources: dict[str, str],
    emit: Emit,
    *,
    resuming: bool,
    allow_change: bool,
    as_json: bool,
) -> None:
    from inceptcli.engine.device import is_first_process
    from inceptcli.engine.run import run

    result = run(config, sources=sources, resuming=resuming, allow_change=allow_change, emit=emit)
    if is_first_process():
        _report(result, emit)
        show.training(result, as_json=as_json)


def _train_folds(
    config: TrainConfig, sources: dict[str, str], emit: Emit, *, resuming: bool, as_json: bool
) -> None:
    from inceptcli.engine.folds import run_folds

    def report(result: TrainResult) -> None:
        _report(result, emit)

    result = run_folds(
        config,
        sources=sources,
        resuming=resuming,
        after=report,
        finished=is_complete,
        emit=emit,
    )
    show.folds(result, as_json=as_json)


def _report(result: TrainResult, emit: Emit) -> None:
    """The plots and the page of a run; the page is the last that is written."""
    from inceptcli.report.page import write_run_report
    from inceptcli.report.pictures import write_run

    with result.photos.store:
        write_run(result, emit)
        write_run_report(result, emit)
