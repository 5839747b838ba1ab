"""Files of other programs in commands: with --data as they are, else by a copy that `adopt` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign import CLASSES, classifier_file, image_file
from PIL import Image

from dlcli.cli import main


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Class folders of photos."""
    rng = np.random.default_rng(0)
    for number in range(24):
        file = tmp_path / "photos" / CLASSES[number % 4] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(file)
    return str(tmp_path / "photos")


def call(capsys: pytest.CaptureFixture[str], *args: object, code: int = 0) -> tuple[Any, str]:
    """The JSON object that a command prints, and its messages."""
    capsys.readouterr()
    assert main([*map(str, args), "--json"]) == code, capsys.readouterr().err
    out = capsys.readouterr()
    return json.loads(out.out) if out.out else None, out.err


def test_eval_with_data_needs_no_copy(
    tmp_path: Path, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = image_file(tmp_path / "m.onnx", batch=1)
    files = sorted(tmp_path.iterdir())
    direct, messages = call(capsys, "eval", path, "--data", data)
    assert "normalised as ImageNet" in messages
    assert "sorted order" in messages
    assert direct["artifact"] == str(path)
    assert sorted(tmp_path.iterdir()) == files
    call(capsys, "adopt", path, "--data", data)
    copied, _ = call(capsys, "eval", tmp_path / "m-adopted.onnx", "--data", data)
    assert copied["metrics"] == direct["metrics"]
    rows, _ = call(capsys, "predict", tmp_path / "m-adopted.onnx", data)
    correct = [Path(row["input"]).parent.name == row["label"] for row in rows["predictions"]]
    assert np.mean(correct) == pytest.approx(direct["metrics"]["accuracy"])


def test_predict_names_the_way_out(
    tmp_path: Path, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = image_file(tmp_path / "m.onnx")
    _, messages = call(capsys, "predict", path, data, code=1)
    assert "without a dlcli card" in messages
    assert f"dlcli adopt {path} --data DATA (or --classes FILE)" in messages


def test_quantize_with_data_writes_a_file_that_has_a_card(
    tmp_path: Path, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = image_file(tmp_path / "m.onnx")
    options = ("--data", data, "--method", "dynamic", "--no-latency")
    result, _ = call(capsys, "quantize", path, *options)
    assert Path(result["output"]).parent == tmp_path
    assert result["artifact"] == str(path)
    evaluated, _ = call(capsys, "eval", result["output"], "--data", data)
    assert evaluated["metrics"]["accuracy"] == pytest.approx(result["after"]["metrics"]["accuracy"])


def test_benchmark_needs_no_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fixed = image_file(tmp_path / "fixed.onnx", batch=1)
    table = classifier_file(tmp_path / "table.onnx")
    options = ("--seconds", "0.05", "--rounds", "2", "--batch-sizes", "1,3")
    result, messages = call(capsys, "benchmark", fixed, table, *options)
    assert [len(row["latency_ms"]) for row in result["rows"]] == [2, 2]
    assert "random logits float32 (1, 3, 8, 8); it takes batches of 1 only" in messages
    assert "random X float32 (batch, 2)" in messages
    assert [row["metric"] for row in result["rows"]] == [None, None]
