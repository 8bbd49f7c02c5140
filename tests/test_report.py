"""The report page: parsed, compared with metrics.json, and used in a real browser.

One run serves all: its classes and files have the worst names that a table of labels can give.
"""

from __future__ import annotations

import importlib.util
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import draw
from inceptcli.files import printable, write_csv
from inceptcli.report import page
from inceptcli.report.charts import Chart, Series, ticks
from test_commands import SMALL, call

CLASSES = ('</script><script>alert(1)</script>"', "猴痘 {{7*7}}", "\u202ern'&" + "x" * 150)
FILES = ('"><img src=x onerror=alert(1)>', "{{7*7}}", "\u202egnp.exe", "猴痘", "n" * 200)
VOID = {"meta", "link", "img"}
KNOWN = {
    *("meta", "link", "img", "html", "head", "title", "style", "script", "body", "header", "main"),
    *("footer", "nav", "section", "h1", "h2", "h3", "h4", "p", "ul", "li", "a", "em", "span"),
    *("div", "table", "thead", "tbody", "tr", "th", "td", "button", "select", "option", "label"),
    *("output", "code", "figure", "figcaption", "svg", "polyline", "text", "circle", "rect"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report")
    rows = []
    for label, name in enumerate(CLASSES):
        for index in range(12):
            stem = FILES[index] if index < len(FILES) else str(index)
            path = draw(place / "data" / f"{label}{stem}.png", seed=60 * label + index, label=label)
            rows.append((path.name, name))
    (place / "data" / "broken.png").write_bytes(b"<script>alert(1)</script>")
    write_csv(place / "labels.csv", ("path", "class"), [*rows, ("broken.png", CLASSES[0])])
    words = ("train", place / "data", "--labels", place / "labels.csv", "--epochs", 2, *SMALL)
    ratio = ("--ratio", "0.4,0.3,0.3", "--max-bad", "0.1")
    assert call(*words, *ratio, "--cache", "ram", "-o", place / "run") == 0
    return place / "run"


class Parsed(HTMLParser):
    """Every element's name and attributes, and the text of tables' cells by their row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: dict[str, list[str]] = {}
        self.data = ""
        self.declared: list[str] = []
        self._key = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.elements.append((tag, values))
        if tag == "tr":
            self._key = values.get("data-key", "")
        if self._key and "data-value" in values:
            self.rows.setdefault(self._key, []).append(values["data-value"])
        if tag not in VOID and not self.get_starttag_text().endswith("/>"):  # type: ignore[union-attr]
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, "elements are closed in their order"

    def handle_decl(self, decl: str) -> None:
        self.declared.append(decl)

    def handle_data(self, data: str) -> None:
        self.data += data


@pytest.fixture(scope="module")
def parsed(run: Path) -> Parsed:
    return Parsed((run / "report.html").read_text("utf-8"))


def test_hostile_names_are_text(parsed: Parsed) -> None:
    """O1: nothing in a name becomes an element, an attribute or a template's expression."""
    assert parsed.declared == ["DOCTYPE html"]
    assert {tag for tag, _ in parsed.elements} <= KNOWN
    for tag, attributes in parsed.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
    assert [a.get("type", "") for tag, a in parsed.elements if tag == "script"] == [
        "application/json",
        "",
    ]
    for name in CLASSES:
        assert printable(name) in parsed.data
    assert "49" not in re.findall(r"猴痘 (\S+)", parsed.data)
    assert "\u202e" not in parsed.data  # would turn the text around it


def test_the_policy_allows_its_own_style_and_script_alone(run: Path, parsed: Parsed) -> None:
    policy = next(
        a["content"] for _, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; img-src data:;")
    text = (run / "report.html").read_text("utf-8")
    for kind, tag in (("style", "style"), ("script", "script")):
        body = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert len(body) == 1
        assert f"{kind}-src '{page._digest(body[0])}'" in policy
    assert "unsafe" not in policy


def test_nothing_is_fetched(parsed: Parsed) -> None:
    addresses = [
        value
        for _, attributes in parsed.elements
        for name, value in attributes.items()
        if name in ("src", "href", "action", "srcset", "poster", "data")
    ]
    assert addresses
    assert {re.split(r"[:,;]", value)[0] for value in addresses if value[0] != "#"} == {"data"}
    for text in ("page.css", "page.js"):
        body = files("inceptcli").joinpath("report", text).read_text("utf-8")
        assert not re.search(r"url\(|@import|https?:|fetch\(|XMLHttp|innerHTML", body), text


def test_figures_are_those_of_metrics_json(run: Path, parsed: Parsed) -> None:
    """To the last digit, for val and test."""
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    for name in ("accuracy", "balanced_accuracy", "loss", "macro_f1", "auc"):
        assert [float(x) for x in parsed.rows[name]] == [metrics[r][name] for r in ("val", "test")]
    for name in ("ece", "brier"):
        for when in ("before", "after"):
            shown = [float(x) for x in parsed.rows[f"{name}_{when}"]]
            assert shown == [metrics[r]["calibration"][when][name] for r in ("val", "test")]


def test_a_page_of_very_much_stays_below_the_limit(run: Path) -> None:
    """Pictures and lists get fewer until it fits; what is left is still a whole page."""
    text = (run / "report.html").read_text("utf-8")
    photos = json.loads(re.findall(r'id="photos">(.*?)</script>', text, re.DOTALL)[0])["photos"]
    many = [photos[0] | {"path": "p" * 250, "src": "data:," + "A" * 4000}] * 4000
    values = _values(gallery=many)
    small = page.render(values)
    assert len(small.encode()) <= page.MAX_BYTES
    assert len(small) < len(page._render(values))
    Parsed(small)


def test_photographs_that_no_matrix_could_show_are_left_out(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inceptcli.report.content.MATRIX_CLASSES", 2)
    assert call("evaluate", "-m", run, "--report", run.parent / "many.html", "-j", 0) == 0
    text = (run.parent / "many.html").read_text("utf-8")
    stored = re.findall(r'id="photos">(.*?)</script>', text, re.DOTALL)[0]
    assert json.loads(stored) == {"names": [], "photos": [], "matrix": []}
    assert 'id="matrix"' not in text


def test_a_page_shows_a_mean_once(run: Path) -> None:
    words = ("evaluate", "-m", run, "--tta", "flips", "--report", run.parent / "mean.html")
    assert call(*words, "-j", 0) == 0
    page = Parsed((run.parent / "mean.html").read_text("utf-8"))
    assert "ece_after" in page.rows
    assert "ece_before" not in page.rows


def test_a_fault_in_the_report_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training is finished: its results stay, and it ends with 0."""

    def fail(*_: object) -> None:
        raise RuntimeError("the ink has dried")

    monkeypatch.setattr("inceptcli.report.page.content", fail)
    for label in range(2):
        for index in range(8):
            draw(tmp_path / "d" / f"c{label}" / f"{index}.png", seed=9 * label + index, label=label)
    words = ("train", tmp_path / "d", "--epochs", 1, *SMALL, "--cache", "ram")
    assert call(*words, "-o", tmp_path / "run") == 0
    output = capsys.readouterr()
    assert "warning: no report.html" in output.err
    assert "the ink has dried" in output.err
    assert {"best_model.pth", "metrics.json", "curves.png"} <= {
        p.name for p in (tmp_path / "run").iterdir()
    }


def test_evaluate_writes_the_page_of_a_comparison(run: Path, tmp_path: Path) -> None:
    """Its table has what --json gives."""
    weights = run / "best_model.pth"
    words = ("evaluate", "-m", weights, "--against", weights, "--report", tmp_path / "page.html")
    assert call(*words, "-j", 0) == 0
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "The other less this".casefold() in Parsed(text).data.casefold()
    inside = run.parent / "data" / "page.html"
    assert call("evaluate", "-m", weights, "--report", inside) != 0  # the data are read-only
    assert not inside.exists()


def test_ticks_are_round_and_span_the_range() -> None:
    random = np.random.default_rng(1)
    for low, width in zip(
        random.normal(0, 100, 200), 10 ** random.uniform(-4, 5, 200), strict=True
    ):
        found = ticks(low, low + width)
        assert found[0] <= low + 1e-9 * width
        assert found[-1] >= low + width - 1e-9 * width
        assert 2 <= len(found) <= 10
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(1, 3, whole=True) == [1, 2, 3]


def test_a_chart_of_nothing_and_of_nan_is_a_chart() -> None:
    for points in ([], [(1.0, float("nan"))], [(1.0, 0.5)]):
        chart = Chart(title="t", x="x", y="y", series=[Series("<b>", points)])
        assert "nan" not in chart.svg()
        Parsed(chart.svg())


# ---- in a browser


class Opened:
    """The page in the browser, with all it said and asked for."""

    def __init__(self, browser: Any, path: Path, *, width: int = 1400, scheme: str = "light"):
        size = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=size, color_scheme=scheme)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(f"dialog {dialog.message}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1400])
def test_it_opens_quietly_and_fits(browser: Any, run: Path, width: int, scheme: str) -> None:
    """No message, no request, no overflow, and no serious finding of axe-core."""
    with Opened(browser, run / "report.html", width=width, scheme=scheme) as opened:
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        images = "[...document.images].every((image) => image.complete && image.naturalWidth)"
        assert opened.page.evaluate(images)
        assert opened.said == []
        outside = [url for url in opened.asked if not url.startswith(("file:", "data:"))]
        assert outside == []
        assert sum(url.startswith("file:") for url in opened.asked) == 1
        if importlib.util.find_spec("axe_playwright_python"):
            axe = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
            opened.page.evaluate(axe)
            found = opened.page.evaluate("axe.run()")
            assert found["passes"]
            bad = [
                (each["id"], each["nodes"][0]["html"][:200])
                for each in found["violations"]
                if each["impact"] in ("serious", "critical")
            ]
            assert bad == []


def test_a_head_sorts_its_column_both_ways(browser: Any, run: Path) -> None:
    with Opened(browser, run / "report.html") as opened:
        column = (
            "[...document.querySelectorAll('#classes tbody tr')].map(r => r.cells[4].dataset.value)"
        )
        head = opened.page.locator("#classes thead button", has_text="recall")
        before = opened.page.evaluate(column)
        for direction, wanted in (
            ("ascending", sorted(before, key=float)),
            ("descending", sorted(before, key=float, reverse=True)),
        ):
            head.click()
            assert opened.page.evaluate(column) == wanted
            sort = opened.page.locator("#classes th[aria-sort]")
            assert sort.count() == 1
            assert sort.get_attribute("aria-sort") == direction


def test_a_cell_shows_its_photographs(browser: Any, run: Path) -> None:
    """By click and by key; as many as the cell counts, each with its path as text."""
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))["test"]
    with Opened(browser, run / "report.html") as opened:
        for button in opened.page.locator("#matrix td button").all():
            label = int(button.get_attribute("data-true"))
            answer = int(button.get_attribute("data-predicted"))
            if button.get_attribute("aria-pressed") == "true":
                button.press("Enter")  # closes it
                assert opened.page.locator("#cell").is_hidden()
            button.press("Enter")
            assert opened.page.locator("#matrix [aria-pressed=true]").count() == 1
            shown = opened.page.locator("#cell-photos img")
            assert shown.count() == metrics["confusion"][label][answer]
            title = opened.page.locator("#cell-title").inner_text()
            assert title.startswith(printable(metrics["outputs"][label]))
        assert opened.said == []


def test_mistakes_are_filtered_by_their_classes(browser: Any, run: Path) -> None:
    with Opened(browser, run / "report.html") as opened:
        cards = opened.page.locator("#cards .card")
        all_cards = cards.count()
        assert all_cards
        wanted = cards.first.get_attribute("data-predicted")
        opened.page.select_option("#filter-predicted", wanted)
        visible = [card for card in cards.all() if card.is_visible()]
        assert {card.get_attribute("data-predicted") for card in visible} == {wanted}
        assert opened.page.locator("#filter-count").inner_text() == f"{len(visible)} shown"
        opened.page.select_option("#filter-predicted", "")
        assert sum(card.is_visible() for card in cards.all()) == all_cards


def test_a_path_is_copied_as_it_is_named(browser: Any, run: Path) -> None:
    with Opened(browser, run / "report.html") as opened:
        opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
        button = opened.page.locator(".copy").first
        button.click()
        opened.page.wait_for_function("document.getElementById('copied').textContent")
        copied = opened.page.evaluate("navigator.clipboard.readText()")
        assert Path(copied).is_file()


def _values(**other: Any) -> dict[str, Any]:
    """The least that a page shows, with what a test puts in its place."""
    rate = {"accuracy": 0.5, "intervals": {"accuracy": [0.4, 0.6]}, "balanced_accuracy": 0.5}
    values: dict[str, Any] = {
        "version": "0",
        "made": "now",
        "folder": "f",
        "title": "t",
        "role": "test",
        "roles": ["test"],
        "outputs": ["a"],
        "metrics": rate | {"images": 2, "classes": [{}], "confusion": [[2]]},
        "headline": {"notes": [], "best": None, "epochs": 0},
        "figures": [],
        "classes": {"rows": [], "all": 0},
        "confusion": {"rows": [], "outputs": ["a"], "pairs": [], "all": 0},
        "charts": [],
        "gallery": [],
        "mistakes": {"cards": [], "all": 0},
        "comparison": None,
        "training": None,
        "data": {
            "root": "r",
            "roles": ["test"],
            "counts": [],
            "sums": [2],
            "images": 2,
            "groups": 2,
            "fingerprint": "0",
            "reasons": [],
            "rejected": [],
            "rejected_all": 0,
            "sheet": [],
            "classes": 1,
        },
        "made_by": {"settings": [], "facts": []},
    }
    return values | other
