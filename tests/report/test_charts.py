"""Pictures: every value is where it belongs, and extremes stay small and finite."""

from __future__ import annotations

import math
import re

import pytest
from html_pages import Page
from hypothesis import given
from hypothesis import strategies as st

from dlcli.evaluation.metrics import ClassRow
from dlcli.evaluation.metrics.base import ForecastLine
from dlcli.evaluation.metrics.reliability import ReliabilityBin
from dlcli.report import charts, class_charts, svg
from dlcli.report.charts import Line, Mark

NUMBERS = st.floats(-1e12, 1e12, allow_nan=False)
ANY = st.floats(allow_nan=True, allow_infinity=True)


def coordinates(drawing: str) -> list[float]:
    numbers = re.findall(r'(?:\bd|x|y)="([^"]*)"', drawing)
    return [float(n) for text in numbers for n in re.findall(r"-?\d+(?:\.\d+)?", text)]


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.booleans())
def test_a_scale_holds_its_values_and_round_ticks(values: list[float], log: bool) -> None:
    scale = svg.scale(values, 200, 10, log=log)
    for value in values:
        assert 10 - 1e-6 <= scale(value) <= 200 + 1e-6
    ticks = scale.ticks()
    assert ticks == sorted(ticks)
    assert 1 <= len(ticks) <= 25
    for tick in ticks:
        assert 10 - 1e-6 <= scale(tick) <= 200 + 1e-6


def test_ticks_are_round() -> None:
    assert svg.Scale(0, 1, 0, 1).ticks() == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert svg.Scale(0.98, 3.02, 0, 1).ticks() == [1, 1.5, 2, 2.5, 3]
    assert svg.Scale(0.009, 2.4, 0, 1, log=True).ticks() == [0.01, 0.1, 1]


@given(st.lists(st.tuples(NUMBERS, ANY), max_size=40), st.booleans())
def test_a_line_of_any_values_is_a_picture_or_nothing(
    points: list[tuple[float, float]], log: bool
) -> None:
    drawn = charts.line_chart("x", [Line("a", points, 0)], "epoch", log=log, mark=Mark(1, math.nan, "m"))
    if not any(svg.drawable(y) for _, y in points):
        assert drawn is None
        return
    assert drawn is not None
    assert not Page(str(drawn.svg)).problems
    assert all(map(math.isfinite, coordinates(str(drawn.svg))))


def test_thinned_points_keep_the_peaks() -> None:
    points = [(float(i), math.sin(i / 50)) for i in range(10_000)]
    points[5000] = (5000.0, 99.0)
    points[7000] = (7000.0, math.nan)
    kept = svg.thinned(points, 600)
    assert len(kept) <= 602
    assert (5000.0, 99.0) in kept
    assert kept == sorted(kept)
    assert svg.thinned(points[:10], 600) == points[:10]


def test_gaps_break_a_line() -> None:
    drawn = str(svg.path([(0, 1), (1, math.nan), (2, 3), (3, 4)], "line"))
    assert re.search('d="([^"]*)"', drawn)[1] == "M0 1M2 3L3 4"  # type: ignore[index]


@pytest.mark.parametrize("classes", [2, 10, 77, 200])
def test_a_confusion_matrix_stays_small(classes: int) -> None:
    counts = [[(i * 7 + j * 3) % 11 + 50 * (i == j) for j in range(classes)] for i in range(classes)]
    names = [f"<class> number {i}" for i in range(classes)]
    drawn = class_charts.confusion("c", counts, names)
    assert drawn is not None
    page = Page(str(drawn.svg))
    assert not page.problems
    assert len(drawn.svg) < 700_000
    assert "<class>" not in drawn.svg
    if classes <= class_charts.COUNTED:
        total = sum(int(text) for text in re.findall(r'"count mid"[^>]*>(\d+)<', drawn.svg))
        assert total == sum(map(sum, counts))


def test_no_matrix_of_one_class_or_of_thousands() -> None:
    assert class_charts.confusion("c", [[3]], ["a"]) is None
    assert class_charts.confusion("c", [[0] * 201] * 201, ["a"] * 201) is None
    assert class_charts.confusion("c", [[1, 2], [3]], ["a", "b"]) is None  # not square


def test_classes_have_wilson_intervals_and_absent_ones_dashes() -> None:
    rows = [ClassRow("a", 10, 8, 1.0, 0.8, 0.89), ClassRow("b", 0, 0, 0.0, 0.0, 0.0)]
    table, rest = class_charts.class_table(rows, "class")
    assert rest is None
    first, second = table.rows
    assert first[:5] == ["a", "10", "8", "0.8000", "0.490 to 0.943"]
    assert second[3] == "–"
    many = [ClassRow(str(i), 10, 8, 1.0, i / 100, i / 100) for i in range(77)]
    table, rest = class_charts.class_table(many, "class")
    assert [row[0] for row in table.rows] == [str(i) for i in range(20)]
    assert rest is not None
    assert len(rest.rows) == 77


def test_reliability_names_every_bin() -> None:
    bins = (ReliabilityBin(0.8, 0.866, 4, 0.85, 0.75), ReliabilityBin(0.93, 1.0, 96, 0.99, 1.0))
    drawn = class_charts.reliability("r", bins)
    assert drawn is not None
    assert "0.85: 0.75 of 4; 0.99: 1.00 of 96" in drawn.label
    assert class_charts.reliability("r", ()) is None


def test_forecasts_of_odd_windows() -> None:
    good = ForecastLine("a", ("1", "2", "3"), (1.0, math.nan, 3.0), (2.0,))
    drawn = charts.forecast(good)
    assert drawn is not None
    assert "forecast from 3" in [name for _, name in drawn.legend]
    assert charts.forecast(ForecastLine("a", (), (), (1.0,))) is None
    assert charts.forecast(ForecastLine("a", ("1",), (1.0,), ())) is None
