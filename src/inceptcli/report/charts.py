"""The report's charts: small SVG of our own, styled by class so that they follow the page's theme.

A series is told apart by colour and by dashes; what a chart shows stands in words beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from inceptcli.files import printable

WIDTH, HEIGHT = 420, 270  # in the chart's own units; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 66.0, 12.0, 22.0, 44.0
MAX_SERIES = 8  # colours and dashes that the page's style has
MAX_POINTS = 150  # of one line
MAX_DOTS = 60  # points up to which each is drawn and says its value


@dataclass(frozen=True, slots=True)
class Series:
    """One line: a name and its points, (x, y) each; ``notes`` says more of each point."""

    name: str
    points: Sequence[tuple[float, float]]
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A line chart.

    Attributes:
        title: What it shows, a heading.
        x, y: Names of the axes, units included.
        series: At most ``MAX_SERIES`` lines; points that are not finite are left out.
        x_range, y_range: Ends of the axes; None: as the points lie.
        diagonal: Whether x = y is drawn, and what to call it.
        mark: An x to mark with a line, and what to call it.
    """

    title: str
    x: str
    y: str
    series: Sequence[Series]
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    diagonal: str = ""
    mark: tuple[float, str] | None = None

    def legend(self) -> list[tuple[str, str]]:
        """Style class and name of every line."""
        rows = [(f"s{i}", series.name) for i, series in enumerate(self.series)]
        return rows + [("diagonal", self.diagonal)] * bool(self.diagonal)

    def words(self) -> str:
        """What a reader who cannot see the chart is told."""
        lines = []
        for series in self.series:
            points = _finite(series.points)
            if points:
                (x0, y0), (x1, y1) = points[0], points[-1]
                ends = f"{y0:.4g} at {x0:.4g}, {y1:.4g} at {x1:.4g}"
                lines.append(f"{printable(series.name)}: {ends}")
        marked = f" {self.mark[1]}." if self.mark else ""
        return f"{self.title}: {self.y} against {self.x}. {'; '.join(lines)}.{marked}"

    def svg(self) -> str:
        """The chart as an SVG element that holds no script, no style and no address."""
        xs, ys = self._ticks()
        frame = _Frame((xs[0], xs[-1]), (ys[0], ys[-1]))
        parts = [_grid(frame, xs, ys), _axis_names(self.x, self.y)]
        if self.diagonal:
            low, high = max(xs[0], ys[0]), min(xs[-1], ys[-1])
            parts.append(_line("diagonal", [frame.at(low, low), frame.at(high, high)]))
        if self.mark is not None:
            parts.append(_mark(frame, *self.mark))
        for index, series in enumerate(self.series[:MAX_SERIES]):
            parts.append(_drawn(frame, f"s{index}", series))
        label = escape(self.words(), quote=True)
        return (
            f'<svg class="chart" role="img" aria-label="{label}" '
            f'viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}</svg>'
        )

    def _ticks(self) -> tuple[list[float], list[float]]:
        points = [point for series in self.series for point in _finite(series.points)]
        points = points or [(0.0, 0.0), (1.0, 1.0)]
        xs = self.x_range or (min(x for x, _ in points), max(x for x, _ in points))
        ys = self.y_range or (0.0, max(y for _, y in points))
        whole = all(float(x).is_integer() for x, _ in points) and self.x_range is None
        return ticks(*xs, whole=whole), ticks(*ys)


def ticks(low: float, high: float, *, most: int = 6, whole: bool = False) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``, ``most`` + 1 or so of them.

    Steps are 1, 2 or 5 times a power of ten; ``whole`` numbers only where asked.
    """
    if not high > low:
        low, high = (low - 1, low + 1) if whole else (min(low, 0.0), max(high, 1.0))
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(1.0, step)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most ``MAX_POINTS`` of the points, evenly by their order, both ends among them."""
    if len(points) <= MAX_POINTS:
        return list(points)
    last = len(points) - 1
    return [points[round(i * last / (MAX_POINTS - 1))] for i in range(MAX_POINTS)]


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where values lie on the drawing."""

    xs: tuple[float, float]
    ys: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.xs[0]) / (self.xs[1] - self.xs[0])
        up = (y - self.ys[0]) / (self.ys[1] - self.ys[0])
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
        )


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _line(kind: str, places: Sequence[tuple[float, float]]) -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline class="line {kind}" points="{joined}"/>'


def _text(kind: str, x: float, y: float, text: str, *, turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{turn}>{escape(printable(text))}</text>'


def _grid(frame: _Frame, xs: Sequence[float], ys: Sequence[float]) -> str:
    parts = []
    for x in xs:
        place = frame.at(x, ys[0])[0]
        ends = [(place, TOP), (place, HEIGHT - BOTTOM)]
        parts += [_line("grid", ends), _text("tick middle", place, HEIGHT - BOTTOM + 17, _short(x))]
    for y in ys:
        place = frame.at(xs[0], y)[1]
        ends = [(LEFT, place), (WIDTH - RIGHT, place)]
        parts += [_line("grid", ends), _text("tick end", LEFT - 7, place + 4, _short(y))]
    return "".join(parts)


def _axis_names(x: str, y: str) -> str:
    middle = (LEFT + WIDTH - RIGHT) / 2
    height = (TOP + HEIGHT - BOTTOM) / 2
    across = _text("axis middle", middle, HEIGHT - 6, x)
    return across + _text("axis middle", 12, height, y, turned=True)


def _mark(frame: _Frame, x: float, name: str) -> str:
    place = frame.at(x, frame.ys[0])[0]
    right = place > WIDTH / 2
    text = _text("marked end" if right else "marked", place + (6 if right else -6), TOP - 7, name)
    return _line("mark", [(place, TOP), (place, HEIGHT - BOTTOM)]) + text


def _drawn(frame: _Frame, kind: str, series: Series) -> str:
    points = _finite(series.points)
    if not points:
        return ""
    line = _line(kind, [frame.at(x, y) for x, y in thinned(points)])
    if len(points) > MAX_DOTS:
        return line
    notes = series.notes or [""] * len(points)
    dots = []
    for (x, y), note in zip(points, notes, strict=True):
        across, up = frame.at(x, y)
        said = escape(f"{printable(series.name)}: {y:.4f} at {x:.4g}{note}")
        dots.append(
            f'<circle class="dot {kind}" cx="{across:.1f}" cy="{up:.1f}" r="3">'
            f"<title>{said}</title></circle>"
        )
    return line + "".join(dots)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 and value == round(value) else f"{value:.4g}"
