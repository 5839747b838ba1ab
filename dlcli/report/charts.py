"""Pictures of a run: lines over epochs, predicted against true numbers, forecasts, intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dlcli.evaluation.metrics.base import BaselineRow, ForecastLine
from dlcli.report import svg
from dlcli.report.blocks import Figure
from dlcli.ui.text import figure

COLOURS = 8  # classes c0 to c7 of the style sheet
MOST_POINTS = 600  # of a line
MARKED = 30  # up to here every point of a line has a mark
NUMBER = 12  # the least width of a picture of one series, in units


@dataclass(frozen=True)
class Line:
    """A line of a chart; ``colour`` is one of `COLOURS`. ``around``: the ends of intervals."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    around: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Mark:
    """A vertical line at ``x``, with a star on a value ``y``."""

    x: float
    y: float
    name: str


def line_chart(
    caption: str,
    lines: Sequence[Line],
    x_label: str,
    *,
    log: bool = False,
    whole: bool = True,
    mark: Mark | None = None,
) -> Figure | None:
    """Return lines over x, with a legend where there are several; None where nothing is finite."""
    known = [point for one in lines for point in one.points if svg.drawable(point[1])]
    if not known:
        return None
    x = _x_scale([point[0] for point in known])
    ends = [end for one in lines for pair in one.around for end in pair]
    y = svg.scale([*(point[1] for point in known), *ends], svg.HEIGHT - svg.BOTTOM, svg.TOP, log=log)
    parts = [svg.axes(x, y, x_label, whole=whole and x.high - x.low >= 1)]
    if mark is not None:
        parts.append(svg.line(x(mark.x), y.start, x(mark.x), y.end, "mark"))
    for one in lines:
        if one.around and all(_drawable(end, y) for pair in one.around for end in pair):
            corners = zip(one.points, one.around, strict=True)
            area = [(x(at), y(low), y(high)) for (at, _), (low, high) in corners]
            parts.append(svg.area(area, "band"))
        points = [
            (x(at), y(value) if _drawable(value, y) else math.nan)
            for at, value in svg.thinned(one.points, MOST_POINTS)
        ]
        parts.append(svg.path(points, f"line c{one.colour % COLOURS}"))
        if len(points) <= MARKED:
            finite = [point for point in points if math.isfinite(point[1])]
            parts.append(svg.dots(finite, f"c{one.colour % COLOURS}"))
    if mark is not None and _drawable(mark.y, y):
        parts.append(svg.dots([(x(mark.x), y(mark.y))], "best"))
    legend = [(f"c{one.colour % COLOURS}", one.name) for one in lines if one.name]
    if mark is not None:
        legend.append(("best", mark.name))
    label = f"{caption} over {x_label}: {'; '.join(map(_described, lines))}"
    return Figure(caption, svg.drawing(parts, label), label, legend)


def scatter(
    caption: str, points: Sequence[tuple[float, float]], *, true: str = "true", guess: str = "predicted"
) -> Figure | None:
    """Return predicted against true numbers: on the diagonal they are equal."""
    points = [point for point in points if all(map(svg.drawable, point))]
    if not points:
        return None
    values = [value for point in points for value in point]
    side = 260
    x = svg.scale(values, svg.LEFT, svg.LEFT + side)
    y = svg.Scale(x.low, x.high, svg.TOP + side, svg.TOP)
    parts = [
        svg.axes(x, y, true, x_ticks=x.ticks(4)),
        svg.line(x(x.low), y(x.low), x(x.high), y(x.high), "mark"),
        svg.dots([(x(a), y(b)) for a, b in points], "c0 faint" if len(points) > 200 else "c0"),
    ]
    label = f"{caption}: {len(points):,} samples, {guess} against {true} values"
    height = svg.TOP + side + svg.BOTTOM
    width = svg.LEFT + side + svg.RIGHT
    return Figure(caption, svg.drawing(parts, label, width=width, height=height), label)


def forecast(line: ForecastLine, coverage: float = math.nan) -> Figure | None:
    """Return a window of a series: what was before, what came and what was predicted.

    ``coverage`` is that of its intervals, where it has some.
    """
    steps = len(line.true)
    first = steps - len(line.predicted)
    if not line.predicted or first < 0:
        return None
    true = Line("true", [(float(i - first + 1), value) for i, value in enumerate(line.true)], 4)
    guess = [(float(i + 1), value) for i, value in enumerate(line.predicted)]
    mark = Mark(0.5, math.nan, f"forecast from {line.times[first]}" if len(line.times) == steps else "")
    predicted = Line("predicted", guess, 1, tuple(zip(line.low, line.high, strict=True)))
    drawn = line_chart(line.name, [true, predicted], "step", mark=mark)
    if drawn is None:
        return None
    legend = [(name, text) for name, text in drawn.legend if text and name != "best"]
    legend += [("band", f"{100 * coverage:g} % interval")] if line.low else []
    legend += [("mark", mark.name)] if mark.name else []
    return Figure(drawn.caption, drawn.svg, drawn.label, legend)


def curves(named: Sequence[tuple[str, Sequence[float]]]) -> Figure | None:
    """Return the channels of a series, scaled as the model sees them."""
    lines = [
        Line(name, [(float(i), value) for i, value in enumerate(values)], i)
        for i, (name, values) in enumerate(named)
    ]
    return line_chart("", lines, "step")


def interval(row: BaselineRow, reach: float) -> Markup:
    """Return the 95 % interval of a difference around 0, on an axis up to ``reach`` on both sides."""
    width, middle = 150, 75
    at = svg.Scale(-reach, reach, 4, width - 4)
    kind = {True: "good", False: "bad", None: "neutral"}[row.better]
    parts = [svg.line(middle, 1, middle, 17, "axis")]
    if math.isfinite(row.low) and math.isfinite(row.high):
        parts.append(svg.line(at(row.low), 9, at(row.high), 9, f"whisker {kind}"))
    if math.isfinite(row.difference):
        parts.append(svg.dots([(at(row.difference), 9)], kind))
    return bar_drawing(parts, width)


def bar(value: float, low: float, high: float) -> Markup:
    """Return a share, 0 to 1, as a bar with its interval."""
    width = 150
    at = svg.Scale(0, 1, 2, width - 2)
    parts = [
        svg.rect(2, 4, width - 4, 10, "track"),
        svg.rect(2, 4, at(value) - 2, 10, "bar"),
        svg.line(at(low), 9, at(high), 9, "whisker strong"),
    ]
    return bar_drawing(parts, width)


def share(value: float) -> Markup:
    """Return a share, 0 to 1, as a bar."""
    width = 150
    parts = [
        svg.rect(2, 4, width - 4, 10, "track"),
        svg.rect(2, 4, value * (width - 4), 10, "bar"),
    ]
    return bar_drawing(parts, width)


def bar_drawing(parts: Sequence[Markup], width: int) -> Markup:
    """Return a picture in a cell, whose numbers are in the cell next to it."""
    opened = Markup('<svg class="cell" viewBox="0 0 {} 18" aria-hidden="true">').format(width)
    return opened + Markup("").join(parts) + Markup("</svg>")


def _x_scale(values: Sequence[float]) -> svg.Scale:
    low, high = min(values), max(values)
    room = 0.02 * (high - low) or 0.5
    return svg.Scale(low - room, high + room, svg.LEFT, svg.WIDTH - svg.RIGHT)


def _drawable(value: float, y: svg.Scale) -> bool:
    return svg.drawable(value) and (not y.log or value > 0)


def _described(line: Line) -> str:
    """First and last value in words, for those who do not see the line."""
    values = [value for _, value in line.points if math.isfinite(value)]
    if not values:
        return f"{line.name} has no values"
    name = f"{line.name} " if line.name else ""
    return f"{name}from {figure(values[0])} to {figure(values[-1])}"
