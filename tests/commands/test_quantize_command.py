"""`dlcli quantize` as it is typed: one JSON object, tables, exit codes, the plot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from html_pages import check_page

from dlcli.cli import main
from dlcli.deploy.reference import MetricDelta, ReferenceEvaluator
from dlcli.formats.base import Artifact, open_artifact


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run, "net"."""
    root = tmp_path_factory.mktemp("runs")
    typed = "train --model mlp --data digits --epochs 2 --device cpu --name net --quiet"
    assert main([*typed.split(), "--runs-dir", str(root), "--set", "fit.tensorboard=false"]) == 0
    return root


def call(capsys: pytest.CaptureFixture[str], runs: Path, *args: str, code: int = 0) -> Any:
    capsys.readouterr()
    got = main(["quantize", "net", "--runs-dir", str(runs), "--no-latency", "--json", *args])
    out = capsys.readouterr()
    assert got == code, out.err
    return json.loads(out.out)


def test_one_json_object_says_all(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = call(capsys, runs, "--method", "weight-only", "--backend", "torch", "--report", "sensitivity")
    assert {"schema", "command", "artifact", "output", "method", "backend"} <= set(said)
    for side in (said["before"], said["after"]):
        assert {"size_bytes", "params", "latency_ms", "metrics"} <= set(side)
    assert said["after"]["size_bytes"] < 0.4 * said["before"]["size_bytes"]
    assert said["agreement"] > 0.97
    assert [c["method"] for c in said["candidates"]] == ["weight-only"]
    assert said["missed"] is None
    errors = [one["error"] for one in said["sensitivity"]]
    assert len(errors) == 3
    assert errors == sorted(errors, reverse=True)
    (plot,) = said["plots"]
    assert Path(plot) == runs / "net" / "plots" / "sensitivity.png"
    assert Path(plot).read_bytes().startswith(b"\x89PNG")
    assert open_artifact(Path(said["output"])).card.parent is None
    page = check_page(runs / "net" / "report.html")
    assert "quantize, weight-only: net/" in page.text
    assert all(line in page.text for line in said["verdict"])


def test_people_get_a_table_and_a_verdict(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # a folder of any length
    typed = ["quantize", "net", "--runs-dir", str(runs), "--no-latency", "--method", "bf16", "-q"]
    assert main(typed) == 0
    out = capsys.readouterr().out
    for text in (
        "best.bf16.safetensors",
        "accuracy",
        "agreement",
        "the file is smaller",
        "samples of val",
    ):
        assert text in out


def test_a_missed_bound_is_exit_code_3_and_the_best_file_is_kept(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, drops = ReferenceEvaluator.evaluate, iter([0.5, 0.2, 0.4])

    def worse(self: ReferenceEvaluator, after: Artifact) -> MetricDelta:
        return replace(hold(self, after), drop=next(drops))

    monkeypatch.setattr(ReferenceEvaluator, "evaluate", worse)
    args = ("--method", "weight-only", "--backend", "torch", "--bits", "4", "--max-drop", "1%")
    said = call(capsys, runs, *args, code=3)
    assert [c["drop"] for c in said["candidates"]] == [0.5, 0.2]
    assert "got worse by 0.2000, where --max-drop 1% allows" in said["missed"]
    assert said["layers_in_float"] == said["candidates"][1]["layers_in_float"] != []
    assert Path(said["output"]).name == "best.int4-weight.safetensors"
    assert Path(said["output"]).is_file()


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["--max-drop", "-1"], "--max-drop '-1' is not a bound"),
        (["--method", "dynamic", "--backend", "torch"], "does not exist"),
        (["--calibration-samples", "1"], "--calibration-samples 1"),
        (["--method", "bf16", "--bits", "4"], "--bits is for --method weight-only, not bf16"),
        (["--method", "bf16", "--epochs", "4"], "--epochs is for training"),
        (["--set", "tune.lr=0.1"], "--lr is for training"),
        (["--set", "finetune.lr=0.1"], "--lr is for training"),
        (["--method", "weight-only", "--backend", "torch", "--skip", "hed"], "no layer has that name"),
    ],
)
def test_what_means_nothing_is_a_usage_error(
    runs: Path, capsys: pytest.CaptureFixture[str], args: list[str], error: str
) -> None:
    before = sorted((runs / "net").iterdir())
    assert main(["quantize", "net", "--runs-dir", str(runs), *args, "-q"]) == 2
    out = capsys.readouterr()
    assert error in out.err
    assert "hint: " in out.err
    assert out.out == ""
    assert sorted((runs / "net").iterdir()) == before


@pytest.mark.parametrize("group", ["tune", "finetune"])
def test_a_config_file_may_name_finetune_as_older_versions_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], group: str
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(f"quantize: {{method: qat}}\n{group}: {{lr: -1}}\n", encoding="utf-8")
    assert main(["quantize", "net", "--runs-dir", str(tmp_path), "--config", str(file)]) == 2
    assert "finetune.lr (--lr) = -1" in capsys.readouterr().err
