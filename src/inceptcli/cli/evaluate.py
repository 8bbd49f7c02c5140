"""``inceptcli evaluate``."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from inceptcli import console, show
from inceptcli.cli.networks import (
    averaged,
    classes_of,
    members_of,
    network_of,
    one_of_them,
    speaks,
    weights_of,
)
from inceptcli.cli.options import (
    Cache,
    ClassesFrom,
    ClassNames,
    DeviceOption,
    FollowLinks,
    Group,
    GroupFile,
    Json,
    Labels,
    MaxBad,
    MaxMegapixels,
    Models,
    PrecisionOption,
    Raw,
    Split,
    TtaOption,
    Workers,
    keep_outside,
    settings,
)
from inceptcli.config import ROLES, DataConfig, Tta, one_of
from inceptcli.errors import PartialError, UsageError
from inceptcli.events import Emit, silent
from inceptcli.files import counted, printable
from inceptcli.runfolder import REPORT, check_target, find_weights, is_run

if TYPE_CHECKING:
    from inceptcli.data.prepare import Photos
    from inceptcli.engine.comparison import Comparison
    from inceptcli.engine.device import Device
    from inceptcli.engine.evaluate import Evaluation
    from inceptcli.engine.predict import Network
    from inceptcli.report.content import Subject


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
            help="The class of the sensitivity, specificity and predictive values. Without it, of "
            "two classes, the second by name.",
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
    group: Group = None,
    group_file: GroupFile = None,
    raw: Raw = False,
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
        typer.Option(
            metavar="OTHER", help="Compare with these weights or this run, on the same photographs."
        ),
    ] = None,
    min_precision: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1.0,
            help="Find on val the smallest probability from which on at least this part (0 to 1) "
            "of the answers is right.",
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
    chosen = classes_of(class_names, classes_from)
    class_map = _class_map(mapped or [])
    given = settings(ctx, DataConfig)
    from inceptcli.engine import evaluate as engine
    from inceptcli.engine.predict import describe

    members, on = members_of(model, device, precision, classes=chosen, raw=raw)
    page = report is not None or open_page
    _check_averaged(len(members), tta, save=save, named=root is not None, report=page)
    _check_saving(members[0].path, min_precision, save=save, raw=raw)
    drawn = weights_of(members[0], "--report") if page else None
    loaded = averaged(members, tta)
    rival, there = _rival(against, tta, device, precision, classes=chosen, raw=raw)
    config = engine.photos_config(loaded, given, own=len(members) == 1)
    keep_outside(config.root, output, report)
    _check_targets(output, report)
    with console.Listener() as listener:
        emit: Emit = listener if speaks(on) else silent
        exam = _Exam(config, class_map, positive, on, emit)
        photos = exam.photos(loaded)
        role = role or engine.default_role(photos)
        result = exam.measure(loaded, photos, role)
        result = replace(result, weights=describe(members, cast("Tta", tta)))
        compared = None if rival is None else exam.compare(result, rival, there)
        threshold = None
        if min_precision is not None:
            engine.check_choice(photos, role, emit)
            val = exam.measure(loaded, photos, "val")
            threshold = engine.choose_threshold(val, min_precision=min_precision)
            if save and speaks(on):
                engine.save_threshold(members[0].path, threshold)
    if not speaks(on):
        return
    with ExitStack() as after:  # the figures first; files also where their reader went early
        if drawn is not None:
            from inceptcli.report.content import Subject

            subject = Subject({result.role: result}, photos, drawn, compared)
            after.callback(_write_report, report, subject, opened=open_page)
        if output is not None:
            from inceptcli.report.pictures import write_evaluation

            after.callback(write_evaluation, output, result)
        show.evaluation(
            result,
            abstention=None if threshold is None else result.abstention(threshold),
            against=None if compared is None else compared[1],
            as_json=as_json,
        )
    if strict and result.rejected:
        raise PartialError(f"{counted(result.rejected, 'photograph')} could not be read")


@dataclass(frozen=True)
class _Exam:
    """How photographs are measured: the same for every network of one command."""

    config: DataConfig
    class_map: dict[str, str]
    positive: str | None
    on: Device | None
    emit: Emit

    def photos(self, network: Network) -> Photos:
        """The photographs as the network sees them."""
        from inceptcli.data.prepare import prepare

        spec, divide = network.spec, self.config.split is not None
        config = replace(self.config, image_size=spec.image_size, resize=spec.resize)
        with nullcontext() if self.on is None else self.on.first_goes_first():
            return prepare(config, to_learn=False, divide=divide, emit=self.emit)

    def measure(self, network: Network, photos: Photos, role: str) -> Evaluation:
        """The network's figures on one role."""
        from inceptcli.engine.evaluate import evaluate as measured

        return measured(
            network,
            photos,
            role,
            self.on,
            class_map=self.class_map,
            positive=self.positive,
            emit=self.emit,
        )

    def compare(
        self, result: Evaluation, rival: Network, there: Device | None
    ) -> tuple[Evaluation, Comparison]:
        """What another network, on its own device, answers for the same photographs."""
        from inceptcli.engine.evaluate import compare_models

        photos = replace(self, emit=silent).photos(rival)
        other = replace(self, on=there).measure(rival, photos, result.role)
        return other, compare_models(result, other, self.emit)


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


def _check_targets(output: Path | None, report: Path | None) -> None:
    """Refuse to write an evaluation over a run's own results or another file."""
    if output is not None and is_run(output):
        raise UsageError(
            f"{printable(str(output))} is a run, whose results would be replaced; choose another -o"
        )
    if report is not None:
        check_target(report, (".html", ".htm"))


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
    one = one_of_them(find_weights([path]), "--against")
    network, on = network_of(one, device, precision, classes=classes, raw=raw)
    return averaged([network], tta), on


def _class_map(words: list[str]) -> dict[str, str]:
    pairs = [_pair("--map", text) for text in words]
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UsageError("--map names a class of the data twice; give each one counterpart")
    return found


def _pair(option: str, text: str) -> tuple[str, str]:
    left, equals, right = text.partition("=")
    if not (left and equals and right):
        raise UsageError(f"{option}: '{text}' is not A=B")
    return left, right


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
