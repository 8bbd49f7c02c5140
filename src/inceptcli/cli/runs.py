"""``inceptcli runs``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inceptcli import show
from inceptcli.cli.options import Json, keep_outside
from inceptcli.errors import DataError, UsageError
from inceptcli.files import printable
from inceptcli.runfolder import RUNS, check_target, read_settings


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
        if folder != Path(RUNS) and not folder.is_dir():
            raise DataError(f"no folder {printable(str(folder))}; give the one that runs lie in")
        show.runs(report.list_runs(folder), folder, as_json=as_json)
        return
    paths = [report.find_run(folder, name) for name in compare]
    pair = report.compare_runs(*paths)
    if output is None:
        names = (_below(folder, path) for path in paths)
        output = folder / f"{'-and-'.join(names)}.png"
    check_target(output, (".png",))
    for path in paths:
        if root := read_settings(path).get("root"):
            keep_outside(Path(str(root)), output)
    from inceptcli.report.pictures import write_comparison

    write_comparison(output, pair)
    show.run_pair(pair, output, as_json=as_json)


def _below(folder: Path, run: Path) -> str:
    """A run's name as a part of a file's: of one training of several with the whole's."""
    path, place = run.resolve(), folder.resolve()
    inside = path.is_relative_to(place)
    return (path.relative_to(place).as_posix() if inside else path.name).replace("/", "-")
