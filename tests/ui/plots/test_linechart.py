"""Curves drawn with characters."""

from __future__ import annotations

import pytest

from dlcli.ui.plots.linechart import line_chart


def draw(
    points: list[tuple[float, float]], *, width: int = 40, height: int = 5, **more: object
) -> list[str]:
    return line_chart(
        points,
        width=width,
        height=height,
        label=lambda y: f"{y:g}",
        x_label=lambda x: f"{x:g}",
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("width", [20, 41, 80, 140])
def test_no_line_is_wider_than_requested(width: int, ascii_only: bool) -> None:
    lines = draw([(i, i % 7) for i in range(100)], width=width, ascii_only=ascii_only, marks=[3, 99])
    assert max(map(len, lines)) <= width
    assert all(line.isascii() for line in lines) == ascii_only


def test_a_straight_line_goes_from_corner_to_corner() -> None:
    lines = draw([(i, i) for i in range(101)], ascii_only=True)
    rows = lines[:5]
    assert rows[0].endswith("*")
    assert rows[0].startswith("100 +")
    assert rows[-1].startswith("  0 +*")
    starts = [row[5:].index("*") for row in rows]
    assert starts == sorted(starts, reverse=True)
    assert lines[-1].split() == ["0", "50", "100"]


def test_a_jump_is_a_vertical_line() -> None:
    lines = draw([(0, 1.0), (50, 0.0), (100, 0.0)], ascii_only=True)
    at = [{i for i, c in enumerate(row) if c == "*"} for row in lines[:5]]
    assert at[0]
    assert all(len(column) == 1 for column in at[1:-1])
    assert at[1] == at[2] == at[3] == {min(at[-1])}


def test_marks_stand_below_their_place() -> None:
    *_, marks, _ = draw([(0, 1.0), (100, 1.0)], ascii_only=True, marks=[0, 100])
    axis = draw([(0, 1.0), (100, 1.0)], ascii_only=True)[5]
    assert (marks.index("^"), marks.rindex("^")) == (axis.index("-"), len(axis) - 1)


@pytest.mark.parametrize("points", [[(0.0, 0.0)], [(0.0, 1.0)], [(0.0, 0.0), (9.0, 0.0)], []])
def test_next_to_nothing_is_drawn_too(points: list[tuple[float, float]]) -> None:
    assert len(draw(points)) == 7
