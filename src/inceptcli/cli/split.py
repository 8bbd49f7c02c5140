"""``inceptcli split``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from inceptcli import console, show
from inceptcli.cli.options import (
    LINKS,
    TABLES,
    AllowEmpty,
    Cache,
    DataRoot,
    FollowLinks,
    Group,
    GroupFile,
    ImageSize,
    Json,
    Labels,
    MaxBad,
    MaxMegapixels,
    Ratio,
    ResizeBy,
    Seed,
    Split,
    Stratify,
    Workers,
    keep_outside,
    refuse_typed,
    settings,
)
from inceptcli.config import DataConfig, one_of
from inceptcli.errors import DataError, UsageError
from inceptcli.runfolder import check_target

if TYPE_CHECKING:
    from inceptcli.data.layout import Link


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
        refuse_typed(ctx, "is how --layout places files; give that as well", "link")
    config = DataConfig(**settings(ctx, DataConfig))
    keep_outside(config.root, output, layout, preview, suspects)
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
