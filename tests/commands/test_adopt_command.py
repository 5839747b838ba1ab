"""Files of other programs in commands: with --data as they are, else by a copy that `adopt` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
from foreign import CLASSES, classifier_file, image_file, save, value
from onnx import TensorProto, helper
from PIL import Image

from dlcli.cli import main
from dlcli.commands.adopting import adopted_for
from dlcli.config import DataConfig, EvalConfig, FitConfig
from dlcli.data.sources import open_source
from dlcli.evaluation.eval_data import eval_data
from dlcli.formats.base import recognize


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


def test_eval_of_a_table_takes_the_target_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = classifier_file(tmp_path / "m.onnx")
    rows = np.random.default_rng(3).normal(size=(40, 2)).astype(np.float32)
    labels, _ = onnxruntime.InferenceSession(str(path)).run(None, {"X": rows})
    true = np.roll(labels, 1)
    pl.DataFrame({"size": true, "width": rows[:, 0], "height": rows[:, 1]}).write_csv(tmp_path / "t.csv")
    table = ("--data", tmp_path / "t.csv")
    result, messages = call(capsys, "eval", path, *table, "--target", "size")
    assert result["metrics"]["accuracy"] == pytest.approx(np.mean(labels == true))
    call(capsys, "adopt", path, *table, "--target", "size")
    _, messages = call(capsys, "eval", tmp_path / "m-adopted.onnx", *table, "-t", "size", code=2)
    assert "has a card, which says what it predicts" in messages
    _, messages = call(capsys, "eval", path, "-t", "size", code=2)
    assert "add --data TABLE" in messages


def test_quantize_divides_data_without_splits_as_train_does(
    tmp_path: Path, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = image_file(tmp_path / "m.onnx")
    options = ("--data", data, "--method", "static", "--no-latency")
    result, messages = call(capsys, "quantize", path, *options)
    splits = open_source(DataConfig(data=data), seed=FitConfig().seed).splits
    sizes = ", ".join(f"{len(part)} {name}" for name, part in splits.items())
    assert messages.count(f"divided as `dlcli train` divides it, {sizes}") == 1
    assert (result["split"], result["samples"]) == ("val", len(splits["val"]))
    with adopted_for([recognize(path)], data) as ((file,), _):
        settings = EvalConfig(data=data, split="train")
        reader = eval_data(file.card, file.path, settings, divide=True).reader
    assert reader.samples.ids == splits["train"].ids


def test_info_shows_the_graph_and_what_adopt_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = image_file(tmp_path / "m.onnx", side="side")
    shown, _ = call(capsys, "info", path)
    session = onnxruntime.InferenceSession(str(path))
    for key, values in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
        assert [entry["name"] for entry in shown[key]] == [value.name for value in values]
        assert [entry["dims"] for entry in shown[key]] == [value.shape for value in values]
    assert shown["operators"] == {"Cast": 1, "ReduceMean": 1, "Reshape": 1, "MatMul": 1}
    assert (shown["producer"], shown["size_bytes"]) == ("other", path.stat().st_size)
    assert [need.partition(" ")[0] for need in shown["needs"]] == ["the", "--img-size,", "--mean"]
    assert main(["info", str(path)]) == 0
    screen = " ".join(capsys.readouterr().out.replace("\\\n", "").split())  # long paths are wrapped
    assert "logits float32 (N, 3, side, side)" in screen
    assert f"dlcli adopt {path} --data DIR" in screen


def test_info_says_why_there_is_no_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = value("input_ids", "N", 7, kind=TensorProto.INT64)
    nodes = [helper.make_node("Identity", ["input_ids"], ["out"])]
    path = save(tmp_path / "m.onnx", nodes, [ids], [value("out", "N", 7, kind=TensorProto.INT64)])
    shown, _ = call(capsys, "info", path)
    assert "token ids" in shown["refused"]
    assert shown["next_command"] == f"dlcli benchmark {path}"
