"""``dlcli prune`` as it is typed: what it prints, writes and refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from html_pages import check_page
from PIL import Image

from dlcli.cli import main

QUICK = ("--no-latency", "--device", "cpu", "--epochs", "0")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run in it, in which all tests of this file work."""
    folder = tmp_path_factory.mktemp("work")
    before = Path.cwd()
    os.chdir(folder)
    try:
        args = [
            "train",
            "-m",
            "cnn",
            "-d",
            "digits",
            "-e",
            "2",
            "--device",
            "cpu",
            "-q",
            "--name",
            "net",
        ]
        assert main([*args, "--set", "model.args.widths=[8,16]", "--set", "model.args.hidden=32"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(autouse=True)
def work(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)


def call(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> Any:
    capsys.readouterr()
    got = main([*args, "--json"])
    out = capsys.readouterr()
    assert got == code, out.err
    return json.loads(out.out)


def refuse(capsys: pytest.CaptureFixture[str], *args: str, code: int) -> str:
    capsys.readouterr()
    assert main(["prune", *args]) == code
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.startswith("error: ")
    return out.err


def test_channels_are_removed_and_the_result_is_used_by_the_other_commands(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = Path("runs/net/best.safetensors").read_bytes()
    found = call(capsys, "prune", "net", "--amount", "0.5", "--no-latency", "--epochs", "1")
    assert found["command"] == "prune"
    assert found["artifact"] == str(Path("runs/net/best.safetensors"))
    assert found["run"] == str(Path("runs/net-channel50"))
    assert found["missed"] is None
    for side in ("before", "after"):
        assert {"size_bytes", "params", "latency_ms", "metrics"} <= set(found[side])
    assert found["after"]["params"] < 0.5 * found["before"]["params"]
    assert found["macs"]["after"] < found["macs"]["before"]
    assert (8, 16) in {(row["kept"], row["of"]) for row in found["layers"]}
    assert 0 <= found["agreement"] <= 1
    measured = call(capsys, "eval", found["output"], "--split", "val")
    assert measured["metrics"] == pytest.approx(found["after"]["metrics"])
    card = call(capsys, "info", found["output"])["card"]
    assert card["parent"] == found["artifact"]
    with Image.open(found["plots"][0]) as picture:
        assert picture.size[0] > 500
    assert Path("runs/net/best.safetensors").read_bytes() == before
    for name in ("net", "net-channel50"):  # either folder tells all of it
        page = check_page(Path("runs", name, "report.html"))
        assert "prune, channel: net-channel50/best.safetensors" in page.text
        assert all(line in page.text for line in found["verdict"])


def test_masks_say_that_they_change_no_speed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "net", "--method", "l1", "--amount", "0.8", *QUICK]) == 0
    said = capsys.readouterr().out
    assert "masks do not change speed" in said
    assert "times smaller" in said
    assert "(80.0%)" in said
    found = call(capsys, "prune", "net", "--method", "semi-structured", *QUICK)
    assert found["sparsity"] == pytest.approx(0.5)
    assert any("2:4" in text for text in found["verdict"])


def test_a_missed_bound_is_exit_3_and_the_model_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    args = ("--method", "random", "--amount", "0.95", "--max-drop", "1%", "--name", "poor")
    found = call(capsys, "prune", "net", *args, *QUICK, code=3)
    assert "--max-drop 1%" in found["missed"]
    assert Path(found["output"]).is_file()
    assert call(capsys, "eval", found["output"], "--split", "val")["metrics"] == pytest.approx(
        found["after"]["metrics"]
    )


def test_what_cannot_be_pruned_is_refused_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = sorted(path.name for path in Path("runs").iterdir())
    assert "--max-drop 0.01: then the largest" in refuse(capsys, "net", code=2)
    for amount in ("0", "1.0", "1.5", "-1"):
        assert "--amount" in refuse(capsys, "net", "--amount", amount, code=2)
    assert "'features.0'" in refuse(
        capsys, "net", "--amount", ".5", "--skip", "feature.0", *QUICK, code=2
    )
    assert "is not a bound" in refuse(capsys, "net", "--max-drop", "much", *QUICK, code=2)
    Path("empty.safetensors").touch()
    assert "0 bytes" in refuse(capsys, "empty.safetensors", "--amount", ".5", *QUICK, code=1)
    assert sorted(path.name for path in Path("runs").iterdir()) == runs


def test_fine_tuning_that_was_killed_is_named_with_the_command_that_resumes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dlcli.training.run.fit", killed)
    root = str(tmp_path / "my runs")
    prune = ("prune", "runs/net/best.safetensors", "--amount", "0.5", "--epochs", "1", "-q")
    prune += ("--no-latency", "--runs-dir", root)
    resume = f"dlcli train --resume net-channel50 --runs-dir '{root}'"
    assert main([*prune]) == 130
    capsys.readouterr()
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["runs", "--runs-dir", root]) == 0
    assert resume in capsys.readouterr().out
    assert main([*prune, "--name", "other"]) == 130
    assert "an earlier fine-tuning has not ended: run net-channel50" in (err := capsys.readouterr().err)
    assert resume in err
