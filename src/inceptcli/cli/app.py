"""The door: the commands by name, and every error to its exit code.

Nothing heavy is imported until a command needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from inceptcli import __version__, console
from inceptcli.cli.cache import cache
from inceptcli.cli.evaluate import evaluate
from inceptcli.cli.export import export
from inceptcli.cli.predict import predict
from inceptcli.cli.runs import runs
from inceptcli.cli.sample import sample
from inceptcli.cli.split import split
from inceptcli.cli.summary import summary
from inceptcli.cli.train import train
from inceptcli.data.machine import process_count
from inceptcli.engine.signals import Interrupted, interruptible
from inceptcli.errors import InceptcliError, UsageError, is_out_of_memory

SHARED = ("train", "evaluate", "predict")  # what torchrun's processes do together

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
for command in (summary, split, train, evaluate, predict, export, runs, sample, cache):
    app.command()(command)


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


def _show_version(wanted: bool) -> None:
    if wanted:
        console.result(f"inceptcli {__version__}")
        raise typer.Exit


@app.callback()
def common(
    ctx: typer.Context,
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
    name = ctx.invoked_subcommand
    if process_count() > 1 and name not in SHARED:
        raise UsageError(f"{name} runs in one process; start it without torchrun")
