"""``dlcli ship`` as it is typed: the folder, its verdicts, and what a second call does not do again."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_pages import check_page
from PIL import Image

from dlcli.cli import main
from dlcli.config import parse_bytes, parse_milliseconds
from dlcli.deploy.ship import ship
from dlcli.errors import UsageError
from dlcli.formats.base import FORMATS, Format
from dlcli.runs.folder import RunFolder

QUICK = ("--no-latency", "--device", "cpu", "--epochs", "1")
KILLED_AT = Path(__file__).parent.parent / "helpers" / "killed_at.py"
SMALL = ("--set", "model.args.widths=[8,16]", "--set", "model.args.hidden=32")
TRAIN = ("train", "-m", "cnn", "-d", "digits", "-e", "2", "--device", "cpu", "-q", "--name", "net")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run in it."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*TRAIN, *SMALL]) == 0
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> Any:
    capsys.readouterr()
    got = main(["ship", "net", *QUICK, *args, "--json"])
    out = capsys.readouterr()
    assert got == code, out.err
    return json.loads(out.out)


def refuse(capsys: pytest.CaptureFixture[str], *args: str, code: int) -> str:
    capsys.readouterr()
    assert main(["ship", *args]) == code
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.startswith("error: ")
    return out.err


def with_faulty_program(old: str, new: str) -> Format:
    """ONNX, with a program whose text has ``new`` where it should have ``old``."""
    onnx = FORMATS.get("onnx")
    program = onnx.examples["python"]
    faulty = replace(program, write=lambda path, card: program.write(path, card).replace(old, new))
    return replace(onnx, examples={"python": faulty})


def check_sums(folder: Path) -> None:
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    sums = dict(reversed(line.split("  ")) for line in lines)
    assert set(sums) == {path.name for path in folder.iterdir()} - {"SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_the_first_attempt_that_keeps_all_bounds_is_shipped_and_told_on_test(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bounds = ("--max-drop", "0.5", "--max-size", "25kB")
    result = call(capsys, *bounds)
    assert (result["chosen"], result["missed"]) == ("original-static", [])
    assert [one["label"] for one in result["attempts"]] == ["original-float", "original-static"]
    folder = here / "runs/net/ship/cpu-x86"
    assert result["output"] == str(folder.relative_to(here))
    names = {"model.onnx", "model.onnx.json", "predict_onnx.py", "checks.json", "report.html"}
    assert {path.name for path in folder.iterdir()} == {*names, "SHA256SUMS"}
    check_sums(folder)
    check_page(folder / "report.html")
    checks = json.loads((folder / "checks.json").read_text())
    assert checks["sha256"]["model"] == hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    assert {one["check"]: one["passed"] for one in checks["checks"]}["size"] is True
    assert checks["weights"]["licence"].startswith("none of others")
    # What is told of the test split is what `eval` measures of the shipped file.
    assert main(["eval", str(folder / "model.onnx"), "-d", "digits", "--split", "test", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["metrics"]["accuracy"]
    assert measured == pytest.approx(result["test"]["after"], abs=1e-12)
    # What its program says is what `predict` says.
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 3).save("image.png")
    program = [sys.executable, "-P", str(folder / "predict_onnx.py"), "image.png"]
    said = json.loads(subprocess.run(program, capture_output=True, check=True).stdout)
    assert main(["predict", "-a", str(folder / "model.onnx"), "image.png", "--json"]) == 0
    (predicted,) = json.loads(capsys.readouterr().out)["predictions"]
    assert said["label"] == predicted["label"]
    assert said["probability"] == pytest.approx(predicted["probability"], abs=2e-3)
    # A second call measures nothing again.
    before = {path: path.stat().st_mtime_ns for path in here.glob("runs/net/ship/attempts-*/*")}
    assert call(capsys, *bounds)["attempts"] == result["attempts"]
    # What is finished serves other bounds that it keeps, takes no time and takes part in every plan.
    assert call(capsys, *bounds[2:], "--max-drop", "0.4")["attempts"] == result["attempts"]
    for max_drop in ("0.5", "0"):
        planned = call(capsys, "--max-drop", max_drop, "--max-time", "0.01s", "--dry-run")
        labels = [one["label"] for one in planned["attempts"] if one["finished"]]
        assert (labels, planned["seconds"]) == (["original-float", "original-static"], 0.0)
        assert len(planned["attempts"]) == 2
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before


@pytest.mark.slow
def test_another_target_uses_what_is_there_and_a_program_that_fails_is_not_shipped(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bounds = ("--max-drop", "0.5", "--max-size", "25kB")
    call(capsys, *bounds)
    before = {path: path.stat().st_mtime_ns for path in here.glob("runs/net/ship/attempts-*/*")}
    call(capsys, *bounds, "--target", "arm", "--max-size", "1MB", "--output", "board")
    check_sums(here / "board")
    # A program that fails, or answers otherwise than `predict`, is not shipped.
    for old, new, why in (
        ("x.argmax()", "x.argmin()", "where predict says"),
        ("dlcli.card", "x", "KeyEr"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(FORMATS._entries, "onnx", with_faulty_program(old, new))
            (note,) = call(capsys, *bounds, "--output", "faulty")["notes"]
        assert why in note
        assert "dlcli predict -a model.onnx" in note
        assert not list((here / "faulty").glob("*.py"))
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_times_that_were_estimated_on_a_busy_machine_are_shown_so(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = iter((1.0, 1.0, 1.0, 1000.0))
    monkeypatch.setattr(ship, "queue_wait_s", lambda *, main_only: next(waited))
    for busy in (False, True):
        assert main(["ship", "net", *QUICK, "--dry-run", "-q"]) == 0
        assert ("other programs were busy" in capsys.readouterr().out) == busy


def test_a_plan_is_shown_and_writes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = call(capsys, "--dry-run", "--target", "arm", "--max-time", "1h")
    assert result["seconds"] < 3600
    labels = [one["label"] for one in result["attempts"]]
    assert labels[:2] == ["original-float", "original-static"]
    assert not any(one["finished"] for one in result["attempts"])
    assert not (here / "runs/net/ship").exists()


def test_what_has_no_meaning_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for bad in ("3", "MB", "-3MB", "0MB", "3TBs", "nan MB", ""):
        with pytest.raises(UsageError, match="is not a size"):
            parse_bytes(bad)
    for bad in ("2", "0ms", "-2ms", "2h", "inf ms"):
        with pytest.raises(UsageError, match="is not a latency"):
            parse_milliseconds(bad)
    sizes = {"3MB": 3_000_000, " 1.5 kib": 1536, "12B": 12}
    assert {text: parse_bytes(text) for text in sizes} == sizes
    assert parse_milliseconds("500us") == pytest.approx(0.5)
    assert "is not a bound" in refuse(capsys, "net", "--max-drop", "much", code=2)
    assert "--judge-here is for" in refuse(capsys, "net", "--judge-here", code=2)
    assert "--no-latency" in refuse(capsys, "net", "--max-latency", "1ms", "--no-latency", code=2)
    assert "--epochs 0" in refuse(capsys, "net", "--epochs", "0", code=2)
    assert "takes about" in refuse(capsys, "net", "--max-time", "0.01s", *QUICK[:3], code=2)
    (here / "mine").mkdir()
    (here / "mine/notes.txt").write_text("mine")
    assert "'mine' exists and was not written by dlcli ship" in refuse(
        capsys, "net", "--output", "mine", code=2
    )
    assert [path.name for path in (here / "mine").iterdir()] == ["notes.txt"]
    gone = refuse(capsys, "net", "--data", "nowhere", *QUICK, code=1)
    assert "nowhere" in gone


@pytest.mark.slow
def test_where_no_attempt_keeps_the_bounds_the_best_is_there_with_exit_code_3(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = call(capsys, "--max-size", "1kB", "--max-drop", "99%", code=3)
    sizes = {one["label"]: one["size_bytes"] for one in result["attempts"]}
    assert "pruned50-static" in sizes
    assert sizes[result["chosen"]] == min(sizes.values()) < 0.8 * sizes["original-static"]
    assert "--max-size 1kB was allowed" in result["missed"][0]
    checks = json.loads((here / "runs/net/ship/cpu-x86/checks.json").read_text())
    assert {one["check"]: one["passed"] for one in checks["checks"]}["size"] is False


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["state:1", "state:3"])
def test_what_is_killed_goes_on_and_is_the_same_as_without(
    here: Path, capsys: pytest.CaptureFixture[str], moment: str
) -> None:
    bounds = ("--max-size", "1kB", "--max-drop", "99%", "--epochs", "2")
    shutil.copytree(here, here / "whole")
    command = [sys.executable, str(KILLED_AT), moment, "ship", "net", *QUICK[:3], *bounds, "--quiet"]
    assert subprocess.run(command, cwd=here, check=False, capture_output=True).returncode == -9
    attempts = next(here.glob("runs/net/ship/attempts-*"))
    finished = {path: path.stat().st_mtime_ns for path in attempts.glob("*.json")}
    result = call(capsys, *bounds, code=3)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    runs = [RunFolder(path.parent) for path in attempts.glob("*/run.json")]
    assert len([run for run in runs if "resumed" in run.read_record()]) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here / "whole")
        whole = call(capsys, *bounds, code=3)
    facts = [
        {one["label"]: (one["size_bytes"], one["delta"]["drop"]) for one in each["attempts"]}
        for each in (result, whole)
    ]
    assert facts[0] == facts[1]
    assert not list(attempts.glob(".tmp*"))
