"""The parts of a picture as SVG. Colours are classes of the style sheet, so that a page may be dark.

A picture is as wide as a phone (360 units), and grows with its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dlcli.wording import printable

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 12, 38
LARGEST = 1.3  # a picture on a wide screen, over its size on a phone
LOG_RANGE = 20.0  # values that differ by more than this factor may get a logarithmic axis


@dataclass(frozen=True)
class Scale:
    """From values to positions between ``start`` and ``end``, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = map(self._at, (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def _at(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self, most: int = 5) -> list[float]:
        """At most about ``most`` round values within the scale, in ascending order."""
        return _log_ticks(self.low, self.high) if self.log else _ticks(self.low, self.high, most)


def scale(values: Iterable[float], start: float, end: float, *, log: bool = False) -> Scale:
    """Return a scale for all finite values, with some room; of none, and of one, still a range."""
    known = [value for value in values if drawable(value)]
    if log and known and min(known) > 0 and max(known) > LOG_RANGE * min(known):
        return Scale(min(known) / 1.2, max(known) * 1.2, start, end, log=True)
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    room = 0.05 * (high - low) or 0.5 * abs(high) or 0.5
    # Of what is never below 0 the axis does not begin below 0 either.
    return Scale(max(0.0, low - room) if low >= 0 else low - room, high + room, start, end)


def drawable(value: float) -> bool:
    """Whether a value has a place: a number, and none that overflows when it is scaled."""
    return math.isfinite(value) and abs(value) < 1e100


def axes(
    x: Scale,
    y: Scale,
    x_label: str,
    y_label: str = "",
    *,
    whole: bool = False,
    x_ticks: Sequence[float] | None = None,
    y_ticks: Sequence[float] | None = None,
) -> Markup:
    """Return grid, ticks and labels; with ``whole`` ticks of x are whole numbers."""
    parts = []
    bottom, left = y.start, x.start
    for value in y.ticks() if y_ticks is None else y_ticks:
        at = y(value)
        parts.append(line(left, at, x.end, at, "grid"))
        parts.append(text(left - 5, at + 3.5, number(value), "tick end"))
    for value in x.ticks(6) if x_ticks is None else x_ticks:
        if whole and value != round(value):
            continue
        parts.append(line(x(value), bottom, x(value), bottom + 3, "axis"))
        parts.append(text(x(value), bottom + 14, number(value), "tick mid"))
    parts.append(line(left, bottom, x.end, bottom, "axis"))
    parts.append(text((left + x.end) / 2, bottom + 29, x_label, "label mid"))
    if y_label:
        turned = Markup('<text class="label mid" transform="translate(11 {}) rotate(-90)">{}</text>')
        parts.append(turned.format(position((y.start + y.end) / 2), printable(y_label)))
    return Markup("").join(parts)


def drawing(parts: Iterable[Markup], label: str, *, width: int = WIDTH, height: int = HEIGHT) -> Markup:
    """Return a picture; ``label`` is what screen readers say of it."""
    opened = Markup('<svg viewBox="0 0 {} {}" style="max-width:{}px" role="img" aria-label="{}">')
    return (
        opened.format(width, height, round(LARGEST * width), printable(label))
        + Markup("").join(parts)
        + Markup("</svg>")
    )


def path(points: Iterable[tuple[float, float]], classes: str) -> Markup:
    """Return a line through points; one that is not finite leaves a gap."""
    steps, broken = [], True
    for at_x, at_y in points:
        if not (math.isfinite(at_x) and math.isfinite(at_y)):
            broken = True
            continue
        steps.append(f"{'M' if broken else 'L'}{position(at_x)} {position(at_y)}")
        broken = False
    return Markup('<path class="{}" d="{}"/>').format(classes, "".join(steps))


def area(points: Sequence[tuple[float, float, float]], classes: str) -> Markup:
    """Return the area between two lines, of points (x, y, other y)."""
    there = [(x, y) for x, y, _ in points]
    back = [(x, other) for x, _, other in reversed(points)]
    steps = "L".join(f"{position(x)} {position(y)}" for x, y in there + back)
    return Markup('<path class="{}" d="M{}Z"/>').format(classes, steps)


def dots(points: Iterable[tuple[float, float]], classes: str) -> Markup:
    """Return dots in one path: strokes without a length, with round ends."""
    steps = "".join(f"M{position(x)} {position(y)}h0" for x, y in points)
    return Markup('<path class="{} dots" d="{}"/>').format(classes, steps)


def line(x1: float, y1: float, x2: float, y2: float, classes: str) -> Markup:
    """Return a straight line."""
    shape = Markup('<path class="{}" d="M{} {}L{} {}"/>')
    return shape.format(classes, *map(position, (x1, y1, x2, y2)))


def rect(x: float, y: float, width: float, height: float, classes: str) -> Markup:
    """Return a rectangle."""
    shape = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>')
    return shape.format(classes, *map(position, (x, y, max(width, 0.0), max(height, 0.0))))


def text(x: float, y: float, content: str, classes: str) -> Markup:
    """Return a text; "mid" among the classes centres it at ``x``, "end" ends it there."""
    shape = Markup('<text class="{}" x="{}" y="{}">{}</text>')
    return shape.format(classes, position(x), position(y), printable(content))


def position(value: float) -> str:
    """Return a coordinate with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def number(value: float) -> str:
    """Return the number of a tick: ``0.25``, ``48000``, ``2e-05``."""
    if 1e4 <= abs(value) < 1e7 and value == round(value):
        return f"{value:.0f}"
    return f"{value:.4g}"


def thinned(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Return about ``most`` points: of each stretch the lowest and the highest, so that peaks stay."""
    if len(points) <= most:
        return list(points)
    chosen = {0, len(points) - 1}
    stretches = most // 2
    for number_ in range(stretches):
        start, end = (k * len(points) // stretches for k in (number_, number_ + 1))
        part = [i for i in range(start, end) if math.isfinite(points[i][1])] or [start]
        chosen |= {min(part, key=lambda i: points[i][1]), max(part, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(chosen)]


def _ticks(low: float, high: float, most: int) -> list[float]:
    raw = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + i) * step, 12 - math.floor(math.log10(step))) for i in range(count)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(decades) <= 3 else (1,)
    every = max(1, len(decades) // 6)
    values = [f * 10.0**d for d in decades if (d - decades[0]) % every == 0 for f in factors]
    return [value for value in values if low <= value <= high]
