"""Samples next to their predictions: forecasts in the data's units and times, translations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dlcli.data.base import Samples
from dlcli.data.series.windows import ForecastReader, LongSeries, Windows
from dlcli.evaluation.evaluate import evaluate
from dlcli.evaluation.examples import HISTORY, LINES, add_examples
from dlcli.evaluation.metrics import EvalResult
from dlcli.evaluation.metrics.base import ForecastLine, TranslationRow
from dlcli.task import SeriesInput, TargetNumber, TaskSpec
from dlcli.ui.plots.run import save_result
from dlcli.ui.translations import cut, print_translations

NAMES = ("a", "b", "c", "d", "e")
TASK = TaskSpec(
    kind="forecast",
    input=SeriesInput(channels=NAMES, mean=(0.0,) * 5, std=(10.0,) * 5, length=8),
    targets=tuple(TargetNumber(name=name, std=10.0) for name in NAMES),
    horizon=4,
)


def reader_of(ids: tuple[str, ...]) -> ForecastReader:
    """Series of 40 days whose values count up by 1, each target 100 above the one before it."""
    days = np.arange(np.datetime64("2026-01-01"), np.datetime64("2026-02-10"))
    values = np.arange(40.0)[:, None] + 100 * np.arange(5)
    series = tuple(
        LongSeries(values, values, NAMES, times=tuple(days.astype(str)), id=id_) for id_ in ids
    )
    which = np.repeat(np.arange(len(ids)), 3)
    starts = np.tile([10, 20, 30], len(ids))
    names = tuple(f"{w}-{s}" for w, s in zip(which, starts, strict=True))
    return ForecastReader(Samples(names, np.zeros(0), Windows(series, which, starts)), TASK)


def last_value(inputs: tuple[np.ndarray, ...]) -> np.ndarray:
    """The naive forecast, scaled."""
    return np.repeat(inputs[0][:, -1:], 4, axis=1)


@pytest.mark.parametrize(("ids", "names"), [(("",), NAMES[:LINES]), (("p", "q"), ("p: a", "q: a"))])
def test_a_forecast_is_the_last_window_in_the_units_of_the_data(
    ids: tuple[str, ...], names: tuple[str, ...], tmp_path: Path
) -> None:
    reader = reader_of(ids)
    result = add_examples(evaluate(last_value, reader, TASK, split="val"), last_value, reader, TASK)
    assert tuple(line.name for line in result.forecasts) == names
    first = result.forecasts[0]
    assert first.true == tuple(np.arange(30.0 - HISTORY * 4, 34))
    assert first.predicted == pytest.approx([29.0] * 4)
    assert (first.times[0], first.times[-1]) == ("2026-01-19", "2026-02-03")
    saved = [path.name for path in save_result(tmp_path, result, "run")]
    assert saved == ["forecast.png", "scatter.png"]
    assert (tmp_path / "forecast.png").stat().st_size > 10_000


@pytest.mark.parametrize("times", [("1", "2", "3"), ("x", "y", "z"), ()])
def test_any_times_can_be_drawn(times: tuple[str, ...], tmp_path: Path) -> None:
    line = ForecastLine("$a", times, (1.0, float("nan"), 2.0), (2.5,))
    result = EvalResult("val", 1, {}, task="forecast", forecasts=(line,))
    assert [path.name for path in save_result(tmp_path, result)] == ["forecast.png"]


def test_long_texts_end_after_a_word() -> None:
    text = "the quick brown fox jumps over the lazy dog"
    assert cut(text, 20) == "the quick brown …"
    assert cut(text, 100) == text
    assert cut("", 20) == "-"
    assert cut("x" * 50, 10) == "x" * 9 + "…"
    assert cut("\x1b[31mred\nline", 40) == "\\x1b[31mred line"


@pytest.mark.parametrize("width", ["80", "140"])
def test_translations_fit_the_screen(
    width: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    row = TranslationRow("val/3", "word " * 200, "mot " * 9, "")
    print_translations([row], "val")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= int(width)
    assert lines[1] == "translation of val sample val/3"
    assert [line.split()[0] for line in lines[2:] if line[2] != " "] == [
        "source",
        "target",
        "prediction",
    ]
    assert lines[-1].split() == ["prediction", "-"]
    assert len(lines) == 6  # two lines of the source
