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
from tiny_data import write_csv
from training_runs import train_run

from dlcli.cli import main
from dlcli.config.bounds import parse_coverage
from dlcli.errors import DlcliError, UsageError
from dlcli.evaluation.conformal import half_widths
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
