"""Write docs/commands.md from the program itself; with --check only say whether it is true."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

from typer.main import get_command

from inceptcli.cli import app

PAGE = Path(__file__).with_name("commands.md")
INTRO = """# Commands

Made by `make docs` from the program's own help; a test keeps it true.

Results go to stdout, everything else to stderr. `--debug`, anywhere on the line, shows the
traceback of an error. Exit codes: 0 done, 1 bug, 2 usage, 3 data, 4 model file, 5 output,
6 diverged, 7 resources, 8 some inputs failed, 128+n stopped by signal n.
"""


def page() -> str:
    """The whole page."""
    commands = getattr(get_command(app), "commands")  # noqa: B009 - a group's, unknown to types
    return INTRO + "".join(_section(name, command) for name, command in commands.items())


def _section(name: str, command: Any) -> str:
    text = inspect.cleandoc(command.help or "").replace("Example: ", "    ")
    lines = [f"\n## {name}\n", text, "", "| option | meaning |", "|---|---|"]
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            names = parameter.metavar or parameter.name
        else:
            names = ", ".join([*parameter.opts, *parameter.secondary_opts])
            if parameter.metavar:
                names += f" {parameter.metavar}"
        meaning = " ".join((parameter.help or "").split())
        if parameter.show_default and parameter.default not in (None, False):
            meaning += f" (default: {parameter.default})"
        lines.append(f"| `{names.replace('|', chr(92) + '|')}` | {meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
