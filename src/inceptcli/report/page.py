"""The report as one file: ``content`` put into ``page.html``. The only file with Jinja2.

The page holds no address, no ``style`` attribute and no script but its own: its
Content-Security-Policy allows the two by their digests, and pictures as data. What comes from
outside is escaped by Jinja2, after ``printable`` has made controls and marks that change the
writing direction visible.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from inceptcli.engine.conclude import TrainResult
from inceptcli.engine.infer import load_network
from inceptcli.events import Emit, Warned
from inceptcli.files import printable, write_text
from inceptcli.report.charts import Chart
from inceptcli.report.content import Subject, content
from inceptcli.runfolder import BEST, REPORT

MAX_BYTES = 5_000_000
_SHARES = (1.0, 0.5, 0.25, 0.1, 0.0)  # of pictures and lists, tried until the page is small enough
_HERE = Path(__file__).parent


def write_run_report(result: TrainResult, emit: Emit) -> None:
    """Write ``report.html`` into a run folder; that it cannot be written is a warning.

    The training is finished and its results are on the disk: whatever goes wrong here must not
    make it look otherwise.
    """
    try:
        evaluations = {"val": result.val} | ({"test": result.test} if result.test else {})
        loaded = load_network(result.run / BEST)
        write_report(result.run / REPORT, Subject(evaluations, result.photos, loaded))
    except Exception as error:
        why = str(error) or type(error).__name__
        emit(Warned(f"no {REPORT}, the training's results are complete: {why}"))


def _one_line(path: str) -> Markup:
    """A path for the clipboard; a line end in it would start a command where it is pasted."""
    return escape(printable(path))


def write_report(path: Path, subject: Subject) -> None:
    """Write the report of an evaluation.

    Raises:
        OutputError: It could not be written.
    """
    write_text(path, render(content(subject)))


def render(values: dict[str, Any]) -> str:
    """The page, of at most ``MAX_BYTES``: of very many or very long names fewer are listed."""
    text = ""
    for share in _SHARES:
        text = _render(_fewer(values, share))
        if len(text.encode("utf-8", "backslashreplace")) <= MAX_BYTES:
            break
    return text


def _render(values: dict[str, Any]) -> str:
    style, script = (_HERE.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"exact": _exact, "as_typed": _one_line, "share": _share, "span": _span}
    template = environment.from_string(_HERE.joinpath("page.html").read_text("utf-8"))
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )
    return template.render(policy=policy, style=Markup(style), script=Markup(script), **values)  # noqa: S704


def _fewer(values: dict[str, Any], share: float) -> dict[str, Any]:
    if share == 1.0:
        return values

    def part(items: list[Any]) -> list[Any]:
        return items[: int(len(items) * share)]

    data, mistakes = values["data"], values["mistakes"]
    return values | {
        "gallery": part(values["gallery"]),
        "mistakes": mistakes | {"cards": part(mistakes["cards"])},
        "classes": values["classes"] | {"rows": part(values["classes"]["rows"])},
        "data": data
        | {
            "counts": part(data["counts"]),
            "sheet": part(data["sheet"]),
            "rejected": part(list(data["rejected"])),
        },
    }


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _shown(value: object) -> object:
    """What every expression of the template goes through before it is escaped."""
    if isinstance(value, Chart):
        return Markup(value.svg())  # noqa: S704 - which escapes what it is given
    return printable(value) if type(value) is str else value


def _exact(value: float | None) -> str:
    """A figure in full precision, as ``metrics.json`` has it."""
    return "" if value is None else repr(value)


def _share(value: float | None) -> str:
    """0.68125 -> 68.1 %."""
    return "-" if value is None else f"{100 * value:.1f} %"


def _span(interval: tuple[float, float]) -> dict[str, str]:
    """An interval of shares on a scale of 100 units."""
    low, high = interval
    return {"x": f"{100 * low:.1f}", "width": f"{100 * (high - low):.1f}"}
