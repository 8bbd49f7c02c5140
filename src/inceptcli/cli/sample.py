"""``inceptcli sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inceptcli import console


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
