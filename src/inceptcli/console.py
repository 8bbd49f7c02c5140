"""The face: tables, progress and messages. The only file that imports Rich.

Results go to stdout, everything else to stderr. On a terminal there are boxes, colours and a
moving bar; in a pipe plain lines, one thing a line. Every name from outside goes through
``printable`` and enters Rich as plain text, never as markup.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from inceptcli.events import (
    BatchDone,
    EpochDone,
    Event,
    Notice,
    RolesReady,
    TrainingStarted,
    Warned,
)
from inceptcli.events import Progress as ProgressEvent
from inceptcli.files import finite, printable

Cell = str | int | float | None


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # called where it is caught; Rich would end the process with 1


def stdout() -> Console:
    """The console for results."""
    return _Console(file=sys.stdout, highlight=False, emoji=False, soft_wrap=True)


def stderr() -> Console:
    """The console for everything else."""
    return _Console(file=sys.stderr, highlight=False, emoji=False, soft_wrap=True)


def say(text: str) -> None:
    """A line on stderr."""
    _tell(Text(printable(text)))


def warn(text: str) -> None:
    """A warning on stderr."""
    _tell(Text.assemble(("warning: ", "bold yellow"), printable(text)))


def fail(text: str) -> None:
    """An error on stderr: what, where, what to do next. Line ends in the text are kept."""
    lines = "\n".join(printable(line) for line in text.split("\n"))
    _tell(Text.assemble(("error: ", "bold red"), lines))


def _tell(text: Text) -> None:
    with suppress(OSError):  # work does not fail because nobody can be told of it
        stderr().print(text)


def result(text: str) -> None:
    """A line on stdout."""
    stdout().print(Text(printable(text)))


def result_block(text: str) -> None:
    """Several lines on stdout."""
    for line in text.split("\n"):
        result(line)


def print_json(value: object, *, indent: int | None = 2) -> None:
    """A JSON document on stdout, in ASCII; a float that is not finite is null."""
    sys.stdout.write(json.dumps(finite(value), indent=indent, allow_nan=False) + "\n")
    sys.stdout.flush()


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell | Text]],
    *,
    title: str = "",
    left: int = 1,
    markdown: bool = False,
    console: Console | None = None,
) -> None:
    """A table on stdout: drawn on a terminal, aligned plain columns in a pipe.

    Args:
        columns: The heads.
        rows: The cells; None is shown as a dash.
        title: A line above.
        left: How many columns, from the first, are aligned to the left.
        markdown: Print a Markdown table instead.
        console: Where to print; stdout by default.
    """
    console = console or stdout()
    body = [[_text(cell) for cell in row] for row in rows]
    if markdown:
        rule = [Text(":--" if index < left else "--:") for index in range(len(columns))]
        for row in [[Text(name) for name in columns], rule, *body]:
            cells = (cell.plain.replace("|", r"\|") for cell in row)
            console.print(Text(f"| {' | '.join(cells)} |"))
        return
    heads = [Text(name) for name in columns]
    widths = [max(cell.cell_len for cell in column) for column in zip(heads, *body, strict=True)]
    if console.is_terminal:
        for number, part in enumerate(_parts(widths, left, console.width)):
            chosen = [[row[index] for index in part] for row in [heads, *body]]
            texts = sum(index < left for index in part)
            console.print(_drawn(chosen, texts, "" if number else title))
        return
    if title:
        console.print(Text(title))
    for row in [heads, *body]:
        console.print(_plain_row(row, widths, left))


_GAP = 3  # what Rich puts between two columns
_LEAST_TEXT = 12  # of a column of texts, which may be folded; a number is never cut or broken


def _parts(widths: Sequence[int], left: int, room: int) -> list[list[int]]:
    """Which columns stand together where not all have room: the first one in each part."""
    least = [min(width, _LEAST_TEXT) if i < left else width for i, width in enumerate(widths)]
    parts: list[list[int]] = [[0]]
    for index in range(1, len(widths)):
        taken = sum(least[i] + _GAP for i in parts[-1])
        if taken + least[index] > room and len(parts[-1]) > 1:
            parts.append([0])
        parts[-1].append(index)
    return parts


def _drawn(rows: Sequence[Sequence[Text]], left: int, title: str) -> Table:
    """The heads and then the rows as a table with lines."""
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title=Text(title, style="bold") if title else None,
    )
    table.title_justify = "left"
    for index, head in enumerate(rows[0]):
        table.add_column(
            head,
            justify="left" if index < left else "right",
            overflow="fold",
            no_wrap=index >= left,
        )
    for row in rows[1:]:
        table.add_row(*row)
    return table


SPARKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 24  # epochs, at most


def sparkline(values: Sequence[float], *, width: int = SPARK_WIDTH) -> str:
    """The last ``width`` values from 0 to 1 as small bars, between their least and greatest.

    A value that is not finite is a space; where the terminal cannot show bars there are none.
    """
    if not stdout().encoding.startswith("utf"):
        return ""
    values = list(values)[-width:]
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    step = (high - low) / (len(SPARKS) - 1) or 1.0
    return "".join(
        SPARKS[round((value - low) / step)] if math.isfinite(value) else " " for value in values
    )


def print_confusion(
    matrix: Sequence[Sequence[int]], rows: Sequence[str], columns: Sequence[str]
) -> None:
    """The confusion matrix: rows true, columns predicted, shaded by the part of each row."""
    body: list[list[Cell | Text]] = []
    for name, counts in zip(rows, matrix, strict=True):
        total = max(1, sum(counts))
        body.append([name, *(_shaded(count, count / total) for count in counts)])
    print_table(("true \\ predicted", *(printable(name) for name in columns)), body)


def _shaded(count: int, share: float) -> Text:
    blue = round(255 - 160 * share)
    style = f"black on rgb({blue},{blue},255)" if share else "dim"
    return Text(f"{count:,}", style=style)


def print_prediction(
    path: str, top: Sequence[tuple[str, float]], error: str | None, *, uncertain: bool
) -> None:
    """One row on stdout: the path, then classes and probabilities, or what was wrong.

    Columns are separated by a tab in a pipe and by two spaces on a terminal.
    """
    out = stdout()
    if error is not None:
        row = [Text(printable(path)), Text("error", style="red"), Text(printable(error))]
    else:
        row = [Text(printable(path))]
        for name, probability in top:
            row += [Text(printable(name), style="bold"), Text(f"{probability:.4f}")]
        row += [Text("uncertain", style="yellow")] * uncertain
    if out.is_terminal:
        out.print(Text("  ").join(row))
    else:  # not through Rich, which makes spaces of tabs
        sys.stdout.write("\t".join(cell.plain for cell in row) + "\n")
        sys.stdout.flush()


def _text(cell: Cell | Text) -> Text:
    if isinstance(cell, Text):
        return cell
    if cell is None:
        return Text("-")
    if isinstance(cell, float):
        return Text(f"{cell:.4f}")
    return Text(f"{cell:,}" if isinstance(cell, int) else printable(cell))


def _plain_row(row: list[Text], widths: list[int], left: int) -> Text:
    parts = []
    for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
        space = " " * (width - cell.cell_len)
        parts.append(cell.plain + space if index < left else space + cell.plain)
    return Text("  ".join(parts).rstrip())


class Listener:
    """Shows what a command's engine emits, as it happens.

    Args:
        rows_to_stdout: Whether a training's table of epochs is a result on stdout; with
            ``--json`` it is not, and goes to stderr.
        script_lines: Print the tutorial script's own line an epoch where stdout is no terminal.
        show_roles: Print how many photographs have which role.
    """

    def __init__(
        self, *, rows_to_stdout: bool = True, script_lines: bool = False, show_roles: bool = True
    ) -> None:
        self._err = stderr()
        self._out = stdout() if rows_to_stdout else self._err
        if self._out.is_terminal and self._err.is_terminal:
            self._out = self._err  # one console, so that the bar and the rows do not mix
        self._show_roles = show_roles
        self._script_lines = script_lines and not self._out.is_terminal
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._job = ""
        self._said_at = 0.0
        self._epochs = 0
        self._accuracies: list[float] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._end_bar()

    def __call__(self, event: Event) -> None:
        """Show one event; a full disk or a closed pipe behind the log stops no training."""
        with suppress(OSError):
            self._show(event)

    def _show(self, event: Event) -> None:
        if isinstance(event, Notice):
            self._line(Text(printable(event.text)))
        elif isinstance(event, Warned):
            self._line(Text.assemble(("warning: ", "bold yellow"), printable(event.text)))
        elif isinstance(event, ProgressEvent):
            self._move(event.task, event.done, event.total, "")
        elif isinstance(event, BatchDone):
            self._batch(event)
        elif isinstance(event, EpochDone):
            self._epoch(event)
        elif isinstance(event, RolesReady) and self._show_roles:
            print_roles(event.counts, console=self._err)
        elif isinstance(event, TrainingStarted):
            self._started(event)

    def _line(self, text: Text) -> None:
        self._err.print(text)

    def _move(self, task: str, done: int, total: int | None, note: str) -> None:
        """Move the bar on a terminal; in a pipe say so at most every 30 seconds."""
        if self._err.is_terminal:
            if self._bar is None or self._task is None or task != self._job:
                self._end_bar()
                self._bar = _progress_bar(self._err)
                self._bar.start()
                self._task = self._bar.add_task(task, total=total, note=note)
            self._bar.update(self._task, completed=done, total=total, note=note)
            if done == total:
                self._end_bar()
        elif task != self._job:
            self._said_at = time.monotonic()
        elif time.monotonic() - self._said_at > 30 and done != total:
            self._said_at = time.monotonic()
            self._line(Text(f"{task}: {done:,} of {total:,}{note}" if total else f"{task}: {done}"))
        self._job = "" if done == total else task

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._task = None, None

    def _batch(self, event: BatchDone) -> None:
        doing = "training" if event.role == "train" else "validating"
        task = f"epoch {event.epoch}/{self._epochs} {doing}" if self._epochs else doing
        wait = f", waiting for data {event.wait_share:.0%}" if event.role == "train" else ""
        note = f"  {event.images_per_second:.1f} images/s{wait}"
        self._move(task, event.done, event.total, note)

    def _started(self, event: TrainingStarted) -> None:
        self._epochs = event.epochs
        rows = [(name, *pair) for name, pair in event.settings.items()]
        print_table(("setting", "value", "from"), rows, left=3, console=self._err)
        self._line(Text(f"run folder: {printable(event.run)}"))
        self._accuracies.clear()
        if not self._script_lines:
            self._out.print(Text(EPOCH_HEAD, style="bold"))

    def _epoch(self, event: EpochDone) -> None:
        if self._script_lines:
            self._out.print(Text(script_line(event)))
        else:
            style = "green" if event.best else ""
            line = epoch_line(event, self._epochs)
            if self._out.is_terminal:
                self._accuracies.append(event.val_accuracy)
                line = f"{line:<{EPOCH_WIDTH}}  {sparkline(self._accuracies)}"
            self._out.print(Text(line, style=style))


EPOCH_HEAD = (
    f"{'epoch':>9}  {'train loss':>10}  {'train acc':>9}  {'val loss':>8}  {'val acc':>7}"
    f"  {'lr':>8}  {'seconds':>7}"
)

EPOCH_WIDTH = len(EPOCH_HEAD) + len("  best")


def epoch_line(row: EpochDone, epochs: int) -> str:
    """One row of the table of epochs; the best so far is marked."""
    return (
        f"{f'{row.epoch}/{epochs}':>9}  {row.train_loss:10.4f}  {row.train_accuracy:9.4f}"
        f"  {row.val_loss:8.4f}  {row.val_accuracy:7.4f}  {row.learning_rate:8.2e}"
        f"  {row.seconds:7.1f}{'  best' if row.best else ''}"
    )


def script_line(row: EpochDone) -> str:
    """The line that the tutorial's script prints after an epoch."""
    return (
        f"Epoch: {row.epoch:2d}. Train_acc: {row.train_accuracy * 100:.1f}%, "
        f"Train_loss: {row.train_loss:.3f}, Test_acc:{row.val_accuracy * 100:.1f}%, "
        f"Test_loss:{row.val_loss:.3f}, Lr: {row.learning_rate:.2E}"
    )


def print_roles(counts: Mapping[str, Mapping[str, int]], *, console: Console | None = None) -> None:
    """Photographs by class and role, with their sums."""
    roles = [role for role in ("train", "val", "test") if any(role in c for c in counts.values())]
    rows: list[list[Cell]] = [
        [name, *(count.get(role, 0) for role in roles), sum(count.values())]
        for name, count in counts.items()
    ]
    sums = [sum(count.get(role, 0) for count in counts.values()) for role in roles]
    rows.append(["all", *sums, sum(sums)])
    print_table(("class", *roles, "all"), rows, console=console)


def _progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}", markup=False),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        transient=True,
    )
