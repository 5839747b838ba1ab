"""Conformal intervals: their finite-sample quantile, their coverage, and how files show them."""

from __future__ import annotations

import csv
import io
import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from tiny_data import write_csv
from training_runs import train_run

import dlcli
from dlcli.cli import main
from dlcli.config.bounds import parse_coverage
from dlcli.data.base import SeriesRows
from dlcli.errors import DlcliError, UsageError
from dlcli.evaluation.conformal import half_widths
from dlcli.evaluation.predict import row_function
from dlcli.runs.folder import RunFolder

COLUMNS = ("x", "z", "price", "weight")


def rows(count: int, seed: int) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=(2, count))
    price = 3 * x - z + rng.normal(size=count)
    weight = 100 * z + 20 * rng.normal(size=count)
    return [[f"{value:.6f}" for value in row] for row in zip(x, z, price, weight, strict=True)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one target, "one", and of two, "two", on a table."""
    here = tmp_path_factory.mktemp("here")
    table = write_csv(here / "sales.csv", COLUMNS, rows(1500, 0))
    for name, targets in (("one", "price"), ("two", "price,weight")):
        settings = {
            "data": {"data": str(table), "target": targets},
            "model": {"name": "linear"},
            "fit": {"epochs": 2, "log_every": 0, "device": "cpu"},
        }
        train_run(here / "runs", name, settings)
    write_csv(here / "new.csv", COLUMNS, rows(7, 1))
    return here


def write_hours(path: Path, test_rows: float = 1.0) -> Path:
    """Two autoregressive channels of 600 hours; those of the test split, the last 60, times a factor."""
    rng = np.random.default_rng(2)
    values = np.zeros((600, 2))
    for row in range(1, 600):
        values[row] = 0.9 * values[row - 1] + rng.normal(0, (1, 5))
    values[540:] *= test_rows
    hours = np.datetime_as_string(np.datetime64("2024-01-01T00") + np.arange(600))
    cells = [[hour, *(f"{one:.6f}" for one in row)] for hour, row in zip(hours, values, strict=True)]
    return write_csv(path, ("date", "a", "b"), cells)


@pytest.fixture(scope="module")
def hours(trained: Path) -> Path:
    """A run "hours", a forecast of three steps of two channels."""
    settings = {
        "data": {"data": str(write_hours(trained / "hours.csv")), "window": 8, "horizon": 3},
        "model": {"name": "linear"},
        "fit": {"epochs": 4, "log_every": 0, "device": "cpu"},
    }
    train_run(trained / "runs", "hours", settings)
    return trained


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def printed(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> tuple[str, str]:
    got = main(list(args))
    result = capsys.readouterr()
    assert got == code, result.err
    return result.out, " ".join(result.err.split())


@pytest.mark.parametrize("coverage", ["50%", "80%", "90%", "95%"])
@pytest.mark.parametrize("samples", [19, 20, 39, 60])
def test_the_quantile_is_that_of_one_sample_more(coverage: str, samples: int) -> None:
    share = parse_coverage(coverage)
    errors = np.random.default_rng(0).permutation(samples).astype(np.float64)[:, None] + 1
    (width,) = half_widths(errors, share)
    # The errors are 1 to n, so the width is its own rank: the smallest k with k / (n + 1) >= coverage.
    assert Fraction(width) / (samples + 1) >= share > Fraction(width - 1) / (samples + 1)


def test_the_coverage_of_new_samples_is_that_of_the_rank_in_the_mean() -> None:
    rng = np.random.default_rng(0)
    share, samples = Fraction(9, 10), 19  # rank 18 of 19: 18 / 20
    errors = rng.exponential(size=(20_000, samples + 1))
    covered = [
        new <= half_widths(old[:, None], share)[0]
        for *old, new in map(list, errors)
        for old in [np.array(old)]
    ]
    assert np.mean(covered) == pytest.approx(0.9, abs=0.01)


def test_too_few_samples_have_no_interval_with_an_end() -> None:
    with pytest.raises(DlcliError, match="90% needs 9 or more val samples; there are 8"):
        half_widths(np.ones((8, 1)), Fraction(9, 10))
    assert half_widths(np.ones((9, 1)), Fraction(9, 10)) == 1
    for text in ("90", "0", "100%", "x", "-0.1", "1/0", "nan"):
        with pytest.raises(UsageError, match="no share of samples"):
            parse_coverage(text)
    assert parse_coverage("90%") == parse_coverage("0.9") == Fraction(9, 10)


@pytest.mark.parametrize("name", ["one", "two"])
def test_eval_counts_what_they_contain_and_predict_gives_their_ends(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = printed(capsys, "eval", name, "--intervals", "90%", "--json")
    measured: list[dict[str, Any]] = json.loads(out)["intervals"]
    for row in measured:
        assert row["low"] <= 0.9 <= row["high"]
        assert row["low"] <= row["covered"] <= row["high"]
    widths = {row["name"]: row["half_width"] for row in measured}
    screen, _ = printed(capsys, "eval", name, "--intervals", "0.9")
    assert all(f"{row['covered']:.4f}" in screen for row in measured)

    out, _ = printed(capsys, "predict", name, "new.csv", "--intervals", "90%", "--json")
    result = json.loads(out)
    assert result["intervals"]["half_widths"] == pytest.approx(widths)
    text, _ = printed(capsys, "predict", name, "new.csv", "--intervals", "90%", "-f", "csv", "--quiet")
    table = list(csv.DictReader(io.StringIO(text)))
    assert len(table) == 7
    plain, _ = printed(capsys, "predict", name, "new.csv", "-f", "csv", "--quiet")
    for row, cells, same in zip(
        result["predictions"], table, csv.DictReader(io.StringIO(plain)), strict=True
    ):
        assert same.items() <= cells.items()  # the predictions stay
        for target, width in widths.items():
            several = len(widths) > 1
            value, low, high = (
                (row["values"][target], row["low"][target], row["high"][target])
                if several
                else (row["value"], row["low"], row["high"])
            )
            assert (value - low, high - value) == pytest.approx((width, width))
            assert float(cells[f"low_{target}"]) == pytest.approx(low)
            assert float(cells[f"high_{target}"]) == pytest.approx(high)
    screen, err = printed(capsys, "predict", name, "new.csv", "--intervals", "90%")
    assert "come from the same distribution as val" in err
    assert "low" in screen.splitlines()[0]


def test_steps_of_a_forecast_have_intervals_of_their_own(
    hours: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = printed(capsys, "eval", "hours", "--intervals", "90%", "--json")
    measured = {row["name"]: row for row in json.loads(out)["intervals"]}
    assert [step["step"] for step in measured["a"]["steps"]] == [1, 2, 3]
    for row in measured.values():
        widths = [step["half_width"] for step in row["steps"]]
        assert widths == sorted(widths)  # a step further is less certain
        assert row["half_width"] == pytest.approx(np.mean(widths))
        assert row["covered"] == pytest.approx(np.mean([step["covered"] for step in row["steps"]]))
        assert row["low"] <= row["covered"] <= row["high"]
        assert 0.7 < row["covered"] <= 1
    screen, _ = printed(capsys, "eval", "hours", "--intervals", "90%")
    assert "step 3" in screen
    assert "step 2" not in screen

    out, _ = printed(capsys, "predict", "hours", "hours.csv", "--intervals", "90%", "--json")
    result = json.loads(out)
    assert "nothing guarantees it" in result["intervals"]["note"]
    text, _ = printed(
        capsys, "predict", "hours", "hours.csv", "--intervals", "90%", "-f", "csv", "--quiet"
    )
    table = list(csv.DictReader(io.StringIO(text)))
    for row, cells in zip(result["predictions"], table, strict=True):
        for name, known in measured.items():
            width = known["steps"][row["step"] - 1]["half_width"]
            assert result["intervals"]["half_widths"][name][row["step"] - 1] == pytest.approx(width)
            low, value, high = (row[key][name] for key in ("low", "values", "high"))
            assert (value - low, high - value) == pytest.approx((width, width))
            assert (float(cells[f"low_{name}"]), float(cells[f"high_{name}"])) == pytest.approx(
                (low, high), rel=1e-6
            )


def test_no_row_of_test_has_a_part_in_the_intervals_of_a_forecast(
    hours: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def widths() -> Any:
        out, _ = printed(capsys, "predict", "hours", "hours.csv", "--intervals", "90%", "--json")
        return json.loads(out)["intervals"]["half_widths"]

    before = widths()
    write_hours(here / "hours.csv", test_rows=100.0)
    try:
        assert widths() == before
    finally:
        write_hours(here / "hours.csv")


def test_series_with_a_scale_each_have_intervals_in_their_own_units() -> None:
    task = tiny.make_task(tiny.series(), "forecast", targets=("u",), horizon=2)
    scale = SeriesRows(("x", "y"), np.array([0, 1]), np.zeros((2, 1)), np.array([[1.0], [100.0]]))
    widths = np.array([[1.0], [2.0]])
    outputs = np.zeros((2, 2, 1), np.float32)
    steps = row_function(lambda inputs: outputs, task, 1, 1, lambda inputs: widths)((), scale)
    ends = [[row["high"] - row["value"] for row in rows] for rows in steps]
    assert ends == [[1, 2], [100, 200]]


def test_python_measures_intervals_too(hours: Path, here: Path) -> None:
    (row, _) = dlcli.evaluate("hours", intervals="80%").intervals
    assert row.coverage == 0.8
    with pytest.raises(UsageError, match="calibrate is what the command"):
        dlcli.evaluate("hours", calibrate=True)


def test_an_export_in_the_run_has_the_same_intervals(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "one", "--onnx", "--no-verify"]) == 0
    capsys.readouterr()
    both = [
        json.loads(printed(capsys, "eval", name, "--intervals", "90%", "--json")[0])["intervals"]
        for name in ("one", "runs/one/best.onnx")
    ]
    (model,), (export,) = both
    assert export["half_width"] == pytest.approx(model["half_width"], rel=1e-4)
    assert export["covered"] == pytest.approx(model["covered"], abs=0.01)


def test_what_has_no_intervals_is_refused(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*args: str, code: int = 2) -> str:
        return printed(capsys, *args, "--intervals", "90%", code=code)[1]

    assert "for one model" in refused("predict", "one", "one", "new.csv")
    assert "for one model" in refused("eval", "one", "one")
    assert "fitted to the errors on val" in refused("eval", "one", "--split", "val")
    shutil.copy(RunFolder(here / "runs" / "one").best, tmp_path / "alone.safetensors")
    assert "lies in no run" in refused("predict", str(tmp_path / "alone.safetensors"), "new.csv")
    _, err = printed(capsys, "predict", "one", "new.csv", "--intervals", "99.999%", code=1)
    assert "99.999% needs 99999 or more val samples" in err
