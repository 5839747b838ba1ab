"""A curve drawn with characters: braille dots, or asterisks where a stream is ASCII."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

_BRAILLE = 0x2800
# The bits of a cell's dots, by column and row from the top.
_BITS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


def line_chart(
    points: Sequence[tuple[float, float]],
    *,
    width: int,
    height: int,
    label: Callable[[float], str],
    x_label: Callable[[float], str],
    marks: Sequence[float] = (),
    ascii_only: bool = False,
) -> list[str]:
    """The lines of a chart at most ``width`` wide: a curve over ``height`` rows, both axes with labels.

    ``points`` are (x, y) by rising x, y from 0 on; ``label`` and ``x_label`` spell them. At each column
    stands the last point that was reached. ``marks`` are values of x that get a triangle below the axis.
    """
    top = max((y for _, y in points), default=0.0) or 1.0
    first, last = (points[0][0], points[-1][0]) if points else (0.0, 0.0)
    span = (last - first) or 1.0
    labels = {
        0: label(top),
        height // 2: label(top * (1 - (height // 2) / (height - 1))),
        height - 1: label(0.0),
    }
    margin = max(map(len, labels.values()))
    cells = max(width - margin - 2, 10)
    across, down = (1, 1) if ascii_only else (2, 4)
    columns, rows = cells * across, height * down
    levels = [_level(points, first + span * i / max(columns - 1, 1), top, rows) for i in range(columns)]
    dots = _connected(levels)
    axis, corner, tick, below = ("|", "+", "+", "-") if ascii_only else ("│", "└", "┤", "─")
    lines = []
    for row in range(height):
        name = labels.get(row, "")
        curve = "".join(_cell(dots, column, row, across, down, ascii_only) for column in range(cells))
        lines.append(f"{name.rjust(margin)} {tick if name else axis}{curve}".rstrip())
    lines.append(f"{' ' * margin} {corner}{below * cells}")
    if marks:
        sign = "^" if ascii_only else "▲"
        at = {min(cells - 1, round((mark - first) / span * (cells - 1))) for mark in marks}
        lines.append(
            " " * (margin + 2) + "".join(sign if i in at else " " for i in range(cells)).rstrip()
        )
    ends = [x_label(x) for x in (first, (first + last) / 2, last)]
    lines.append(" " * (margin + 2) + _justify(ends, cells))
    return lines


def _level(points: Sequence[tuple[float, float]], x: float, top: float, rows: int) -> int:
    """The row of dots, from above, of the last point at or before ``x``."""
    at = max(bisect_right(points, x + 1e-9, key=lambda point: point[0]) - 1, 0)
    return round((1 - points[at][1] / top) * (rows - 1)) if points else rows - 1


def _connected(levels: Sequence[int]) -> list[range]:
    """The dots of each column: its level, and what joins it to the column before."""
    joined = []
    before = levels[0] if levels else 0
    for level in levels:
        # A drop is a vertical line, but a slope has no dot twice.
        first, last = (level, level)
        if level > before + 1:
            first = before + 1
        elif level < before - 1:
            last = before - 1
        joined.append(range(first, last + 1))
        before = level
    return joined


def _cell(dots: Sequence[range], column: int, row: int, across: int, down: int, ascii_only: bool) -> str:
    bits = 0
    for i in range(across):
        for j in range(down):
            if row * down + j in dots[column * across + i]:
                bits |= _BITS[i][j]
    if ascii_only:
        return "*" if bits else " "
    return chr(_BRAILLE + bits) if bits else " "


def _justify(words: Sequence[str], width: int) -> str:
    """The first word left, the second in the middle, the third right."""
    left, middle, right = words
    line = left.ljust(max((width - len(middle)) // 2, len(left) + 1)) + middle
    return line.ljust(max(width - len(right), len(line) + 1)) + right
