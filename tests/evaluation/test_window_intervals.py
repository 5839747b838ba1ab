"""Intervals of forecasts that are as wide as their window is varied, and where they are drawn."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import tiny
from tiny_data import write_csv
from training_runs import train_run

import dlcli
from dlcli.cli import main
from dlcli.evaluation.conformal import best_intervals, coverage_rows, window_std
from dlcli.evaluation.metrics.base import Floats
from dlcli.ui.plots.forecast import save_forecasts

COVERAGE = Fraction(9, 10)
TASK = tiny.make_task(tiny.series(), "forecast", targets=("u",), horizon=2)


def windows(seed: int, *, loud: bool, count: int = 4000) -> tuple[np.ndarray, Floats]:
    """Windows (n, 8, C) whose stds differ by up to 30, and errors (n, 2, 1); ``loud``: by as much."""
    rng = np.random.default_rng(seed)
    std = 10 ** rng.uniform(-1, 0.5, (count, 1, 1))
    values = std * rng.normal(size=(count, 8, len(TASK.input.channels)))
    errors = np.abs(rng.normal(size=(count, 2, 1))) * (std if loud else 1)
    return values.astype(np.float32), errors


@pytest.mark.parametrize("loud", [True, False])
def test_errors_that_grow_with_the_window_have_intervals_that_do(loud: bool) -> None:
    values, errors = windows(0, loud=loud)
    fitted = best_intervals(errors, window_std((values,), TASK), COVERAGE)
    assert fitted.by_window.tolist() == [loud]
    values, errors = windows(1, loud=loud)
    (row,) = coverage_rows([(errors, (values,))], fitted, TASK)
    assert row.by_window is loud
    assert row.covered == pytest.approx(0.9, abs=0.01)
    inside = (errors <= fitted.around((values,), TASK)).mean(axis=(1, 2))
    calm = window_std((values,), TASK)[:, 0, 0] < 1
    # Of few rows each, yet of calm windows as often as of others.
    assert inside[calm].mean() == pytest.approx(inside[~calm].mean(), abs=0.04)


def test_a_constant_window_has_a_std() -> None:
    values = np.ones((3, 8, len(TASK.input.channels)), np.float32)
    assert (window_std((values,), TASK) > 0).all()


def test_the_intervals_of_a_forecast_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(size=(400, 1)).cumsum(axis=0)
    rows = [[f"{cell:.6f}" for cell in row] for row in values]
    settings = {
        "data": {"data": str(write_csv(tmp_path / "walk.csv", ("a",), rows)), "window": 8, "horizon": 3},
        "model": {"name": "linear"},
        "fit": {"epochs": 1, "log_every": 0, "device": "cpu"},
    }
    train_run(tmp_path / "runs", "walk", settings)
    result = dlcli.evaluate("walk", intervals="90%")
    (line,) = result.forecasts
    ends = zip(line.low, line.predicted, line.high, strict=True)
    assert all(low < value < high for low, value, high in ends)
    with_band = save_forecasts(tmp_path / "with.png", result).read_bytes()
    (line,) = dlcli.evaluate("walk").forecasts
    assert (line.low, line.high) == ((), ())
    assert with_band != save_forecasts(tmp_path / "without.png", dlcli.evaluate("walk")).read_bytes()

    page = tmp_path / "runs/walk/report.html"
    for options, drawn in (([], False), (["--intervals", "90%"], True)):
        assert main(["eval", "walk", *options]) == 0
        assert ('class="band"' in page.read_text()) is drawn
        assert ("90 % interval" in page.read_text()) is drawn
    capsys.readouterr()
