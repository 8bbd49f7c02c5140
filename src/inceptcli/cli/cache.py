"""``inceptcli cache``."""

from __future__ import annotations

from typing import Annotated

import typer

from inceptcli import console, show
from inceptcli.cli.options import Json
from inceptcli.config import one_of


def cache(
    action: Annotated[
        str, typer.Argument(metavar="size|list|clear", help="What to do with it.")
    ] = "list",
    as_json: Json = False,
) -> None:
    """Show or clear the cache of decoded pixels; not folders given as --cache DIR.

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
