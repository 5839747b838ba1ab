"""`eval` and `predict` with several artifacts: of other sizes, class orders and formats."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from dlcli.card import CARD_KEY, Card, DataRecord, ModelSpec
from dlcli.cli import main
from dlcli.config import DataConfig
from dlcli.data.sources import open_source
from dlcli.data.splits import write_splits
from dlcli.evaluation.probabilities import softmax
from dlcli.formats.base import open_artifact
from dlcli.formats.checkpoint import save_model
from dlcli.runs.folder import RunFolder
from dlcli.task import (
    SPECIAL_TOKENS,
    CategoryColumn,
    ImageInput,
    NumberColumn,
    TabularInput,
    TargetNumber,
    TaskSpec,
    TextInput,
)
from dlcli.zoo.base import build_model


def images(size: int, *names: str) -> TaskSpec:
    half = (0.5,) * 3
    spec = ImageInput(channels=3, height=size, width=size, resize_size=size, mean=half, std=half)
    return TaskSpec(input=spec, class_names=names)


def save(path: Path, task: TaskSpec, model: str = "linear", data: DataRecord | None = None) -> None:
    torch.manual_seed(len(str(path)))
    card = Card(model=ModelSpec(name=model), task=task, data=data)
    save_model(path, build_model(card.model, task), card)


@pytest.fixture
def here(tmp_path: Path, photo_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photos of three classes, and runs: ``one``, ``two``, and ``other`` of other classes."""
    photos = photo_folder()
    (photos / "red" / "broken.jpg").write_bytes((photos / "red" / "0.jpg").read_bytes()[:200])
    tasks = {
        "one": images(8, "blue", "green", "red"),
        "two": images(12, "red", "blue", "green"),
        "other": images(8, "blue", "green", "dog"),
    }
    for seed, (name, task) in enumerate(tasks.items()):
        run = RunFolder(tmp_path / "runs" / name)
        run.path.mkdir(parents=True)
        run.write_record({"started_at": f"202{seed}"})
        source = open_source(DataConfig(data=str(photos)), seed=seed)
        write_splits(run.splits, source)
        save(run.best, task, data=DataRecord(data=str(photos), fingerprint=source.fingerprint))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def out_of(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> tuple[Any, str]:
    got = main([*args, "--json"])
    result = capsys.readouterr()
    assert got == code, result.err
    return json.loads(result.out) if result.out else None, result.err


def test_predict_averages_models_in_front_or_by_option(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = [f"photos/{c}/{i}.jpg" for c in ("green", "red") for i in range(3)]
    out, _ = out_of(capsys, "predict", "one", "runs/two", *photos)
    assert "artifact" not in out
    assert out["artifacts"] == ["runs/one/best.safetensors", "runs/two/best.safetensors"]
    alone = [out_of(capsys, "predict", name, *photos)[0] for name in ("one", "two")]
    assert alone[0]["artifact"] == "runs/one/best.safetensors"
    assert alone[0]["artifacts"] == ["runs/one/best.safetensors"]
    for number, row in enumerate(out["predictions"]):
        shares = [
            {item["label"]: item["probability"] for item in one["predictions"][number]["top_k"]}
            for one in alone
        ]
        for item in row["top_k"]:
            mean = sum(share[item["label"]] for share in shares) / 2
            assert item["probability"] == pytest.approx(mean, abs=1e-6)
    by_option, _ = out_of(capsys, "predict", "-a", "one", "-a", "two", *photos)
    assert by_option == out
    swapped, _ = out_of(capsys, "predict", "two", "one", *photos, "-b", "2")
    assert [row["label"] for row in swapped["predictions"]] == [r["label"] for r in out["predictions"]]


def test_what_one_model_cannot_read_fails(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = out_of(capsys, "predict", "one", "two", "photos/red", code=1)
    assert len(out["predictions"]) == 6
    assert [row["input"] for row in out["failed"]] == ["photos/red/broken.jpg"]
    assert "1 of 7 inputs could not be read" in err


def test_eval_measures_the_mean_and_each_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = out_of(capsys, "eval", "one", "two", "--ensemble", "--data", "photos")
    assert "artifact" not in out
    assert out["artifacts"] == ["runs/one/best.safetensors", "runs/two/best.safetensors"]
    assert out["samples"] == 18
    assert list(out["bad_samples"]) == ["red/broken.jpg"]
    assert out["plots"] == []
    alone = [out_of(capsys, "eval", name, "--data", "photos")[0] for name in ("one", "two")]
    assert [row["artifact"] for row in out["members"]] == out["artifacts"]
    for row, one in zip(out["members"], alone, strict=True):
        assert row["metrics"] == one["metrics"]
        assert one["members"] == []
        assert row["difference"] == out["metrics"]["accuracy"] - one["metrics"]["accuracy"]
    members = [open_artifact(Path(path), device="cpu") for path in out["artifacts"]]
    # By hand, from the pixels on.
    from dlcli.pixels.decode import decode

    losses = []
    for true, name in enumerate(("blue", "green", "red")):
        for number in range(6):
            shares = []
            for model in members:
                spec = model.card.task.input
                assert isinstance(spec, ImageInput)
                pixels = decode(Path(f"photos/{name}/{number}.jpg"), spec)[None]
                share = softmax(model.predict((pixels,)))[0]
                order = [model.card.task.class_names.index(c) for c in ("blue", "green", "red")]
                shares.append(share[order])
            losses.append(-np.log(np.mean(shares, axis=0)[true]))
    assert out["metrics"]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    main(["eval", "one", "two", "--ensemble", "--data", "photos", "--quiet"])
    screen = capsys.readouterr().out
    assert "the mean prediction of 2 models" in screen
    rows = [line.split() for line in screen.splitlines()]
    assert ["1", "runs/one/best.safetensors"] in rows
    assert any(row[:2] == ["2", f"{alone[1]['metrics']['accuracy']:.4f}"] for row in rows)


def test_eval_compares_models_on_the_same_samples(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = out_of(capsys, "eval", "one", "two", "--data", "photos")
    assert out["samples"] == 18
    assert list(out["bad_samples"]) == ["red/broken.jpg"]
    alone = [out_of(capsys, "eval", name, "--data", "photos")[0] for name in ("one", "two")]
    assert [row["artifact"] for row in out["models"]] == out["artifacts"]
    assert [row["metrics"] for row in out["models"]] == [one["metrics"] for one in alone]
    first, second = out["models"]
    assert (first["difference"], first["better"]) == (0.0, None)
    difference = alone[1]["metrics"]["accuracy"] - alone[0]["metrics"]["accuracy"]
    assert second["difference"] == difference
    assert second["low"] <= difference <= second["high"]
    swapped, _ = out_of(capsys, "eval", "two", "one", "--data", "photos")
    assert swapped["models"][1]["difference"] == -difference
    assert (swapped["models"][1]["low"], swapped["models"][1]["high"]) == pytest.approx(
        (-second["high"], -second["low"]), abs=0.02
    )
    main(["eval", "one", "two", "--data", "photos", "--quiet"])
    screen = capsys.readouterr().out
    assert "models compared on the same samples" in screen
    assert "difference in accuracy from model 1" in screen


def test_a_model_beside_itself_does_not_differ(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = out_of(capsys, "eval", "one", "one", "--data", "photos")
    row = out["models"][1]
    assert (row["difference"], row["better"]) == (0.0, None)
    assert row["low"] <= 0 <= row["high"]  # 18 samples without a difference prove none


def test_bounds_are_of_each_model_that_is_compared(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bound = ["--min", "loss=1e-9"]
    out, _ = out_of(capsys, "eval", "one", "two", "--data", "photos", *bound, code=3)
    assert [text.split(":")[0] for text in out["missed"]] == out["artifacts"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["one", "--ensemble"], "--ensemble averages several models"),
        (["one", "two", "--worst", "3"], "--worst is for one model or an ensemble"),
        (["one", "two", "--baselines"], "--baselines is for one model or an ensemble"),
        (["one", "--output", "w.csv"], "--output is for the samples of --worst"),
    ],
)
def test_options_without_effect_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    _, err = out_of(capsys, "eval", *args, "--data", "photos", code=2)
    assert message in err


def test_the_worst_samples_are_listed_and_written(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = out_of(capsys, "eval", "one", "--data", "photos", "--worst", "4")
    rows = out["worst"]
    losses = [row["loss"] for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert out["worst_csv"] == "runs/one/worst.csv"
    whole, _ = out_of(capsys, "eval", "one", "--data", "photos", "--worst", "99", "-o", "w.csv")
    assert len(whole["worst"]) == 18
    mean = sum(row["loss"] for row in whole["worst"]) / 18
    assert mean == pytest.approx(whole["metrics"]["loss"], rel=1e-6)
    assert whole["worst"][:4] == rows
    lines = Path("w.csv").read_text().splitlines()
    assert lines[0] == "input,loss,target,prediction,probability"
    assert len(lines) == 19
    for row in rows:
        assert row["input"].split("/")[0] == row["target"]
        said, _ = out_of(capsys, "predict", "-a", "one", f"photos/{row['input']}")
        top = said["predictions"][0]
        assert (row["prediction"], row["probability"]) == (
            top["label"],
            pytest.approx(top["probability"], abs=1e-6),
        )
    main(["eval", "one", "--data", "photos", "--worst", "2", "--quiet"])
    assert "worst 2 samples: the largest loss first" in capsys.readouterr().out


def test_runs_list_what_eval_measured_on_test(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other data and other files of a run say nothing about its best model's test split."""
    out_of(capsys, "eval", "one", "--data", "photos")
    assert out_of(capsys, "runs")[0]["runs"][0]["test"] == {}
    measured, _ = out_of(capsys, "eval", "one")
    runs = {run["name"]: run for run in out_of(capsys, "runs")[0]["runs"]}
    assert runs["one"]["test"] == measured["metrics"]
    assert runs["two"]["test"] == {}
    path = Path("runs/one/measured/eval-test.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "model": {"accuracy": 0.123}}))
    assert out_of(capsys, "runs")[0]["runs"][0]["test"] == {}  # of a model that is not there any more


def test_samples_that_another_run_was_trained_on_are_reported(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seeds divide the photos in other ways, so the second model has learnt some of the first's test."""
    test = set(json.loads(Path("runs/one/splits.json").read_text())["splits"]["test"])
    learnt = set(json.loads(Path("runs/two/splits.json").read_text())["splits"]["train"])
    assert test & learnt, "the fixture's seeds agree by chance"
    out, err = out_of(capsys, "eval", "one", "two", "--ensemble")
    assert out["split"] == "test"
    said = f"runs/two/best.safetensors was trained on {len(test & learnt)} of these {len(test)} samples"
    assert said in " ".join(err.split())
    assert "baselines" in out
    for args in (["one"], ["one", "one"]):
        assert "was trained on" not in out_of(capsys, "eval", *args)[1]


def test_other_questions_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["eval", "one", "other"], ["predict", "one", "other", "photos/red/0.jpg"]):
        _, err = out_of(capsys, *args, code=2)
        assert "do different tasks: only the first knows the class red" in " ".join(err.split())


def test_only_models_were_given(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = out_of(capsys, "predict", "one", "two", code=2)
    assert "one, two are models; nothing was given to predict" in err


def test_mirrored_views_are_for_every_member(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = out_of(capsys, "eval", "one", "two", "--ensemble", "--data", "photos", "--tta", "flip")
    assert "mirror image" in out["note"]
    alone, _ = out_of(capsys, "eval", "two", "--data", "photos", "--tta", "flip")
    assert out["members"][1]["metrics"] == alone["metrics"]


def test_bounds_are_of_the_mean(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = out_of(
        capsys, "eval", "one", "two", "--ensemble", "--data", "photos", "--min", "loss=1e-9", code=3
    )
    assert "loss is" in out["missed"][0]


def write_graph(path: Path, task: TaskSpec) -> None:
    """A linear model of images as an ONNX file, made by hand: the exporter takes seconds."""
    wide = int(np.prod(task.input.shape))
    weights = np.random.default_rng(5).normal(size=(wide, task.num_classes)).astype(np.float32) / 20
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["input"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        ],
        "g",
        [helper.make_tensor_value_info("input", floats, ["batch", *task.input.shape])],
        [helper.make_tensor_value_info("logits", floats, ["batch", task.num_classes])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    card = Card(model=ModelSpec(name="linear"), task=task)
    helper.set_model_props(model, {CARD_KEY: card.to_json()})
    onnx.save(model, str(path))


def test_mixed_precision_is_said_and_no_figure_of_the_run(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlcli.zoo.precision._try_bf16_on_cpu", lambda: None)  # of this machine
    photo = "photos/green/0.jpg"
    single, mixed = (
        out_of(capsys, "predict", "one", photo, "--amp", amp)[0] for amp in ("none", "bf16")
    )
    assert "amp" not in single
    assert mixed["amp"] == "bf16"
    p, q = (out["predictions"][0]["probability"] for out in (single, mixed))
    assert p != q
    assert p == pytest.approx(q, abs=0.02)
    assert out_of(capsys, "eval", "one", "--amp", "bf16")[0]["note"].endswith("; computed in bf16")
    assert not RunFolder(here / "runs" / "one").measured.exists()
    out_of(capsys, "eval", "one")
    assert RunFolder(here / "runs" / "one").measured.exists()
    assert main(["predict", "one", photo, "--amp", "fp16"]) == 1
    assert "not for CPUs" in capsys.readouterr().err
    write_graph(here / "x.onnx", images(8, "blue", "green", "red"))
    for command in (["predict", "x.onnx", photo], ["eval", "one", "x.onnx"]):
        assert main([*command, "--amp", "bf16"]) == 2
        assert "for models that torch runs, and x.onnx" in capsys.readouterr().err


def test_an_onnx_file_and_a_torch_model_are_one_ensemble(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_graph(here / "made.onnx", images(9, "green", "red", "blue"))
    models = ["made.onnx", "runs/two/best.safetensors"]
    out, _ = out_of(capsys, "predict", *models, "photos/green")
    alone = [out_of(capsys, "predict", model, "photos/green")[0]["predictions"] for model in models]
    for row, *others in zip(out["predictions"], *alone, strict=True):
        shares = [{item["label"]: item["probability"] for item in one["top_k"]} for one in others]
        mean = {item["label"]: item["probability"] for item in row["top_k"]}
        assert mean == pytest.approx({c: (shares[0][c] + shares[1][c]) / 2 for c in mean}, abs=1e-6)
    assert shares[0] != pytest.approx(shares[1], abs=0.01)
    measured, _ = out_of(capsys, "eval", *models, "--ensemble", "--data", "photos")
    assert [row["artifact"] for row in measured["members"]] == models


def test_tables_are_read_by_the_columns_of_each_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first = TabularInput(numbers=(NumberColumn(name="x"), NumberColumn(name="width", mean=2.0)))
    second = TabularInput(
        numbers=(NumberColumn(name="z"),), categories=(CategoryColumn(name="c", values=("u", "v")),)
    )
    scales = (TargetNumber(name="price", mean=100.0, std=10.0), TargetNumber(name="price", mean=-5.0))
    for name, spec, target in (("a", first, scales[0]), ("b", second, scales[1])):
        save(Path(f"{name}.safetensors"), TaskSpec(kind="regression", input=spec, targets=(target,)))
    Path("t.csv").write_text("x,width,z,c,price\n1,2,3,u,90\n4,5,6,v,80\n7,8,9,w,10\n2,1,0,u,50\n")
    models = ["a.safetensors", "b.safetensors"]
    out, err = out_of(capsys, "predict", *models, "t.csv")
    alone = [out_of(capsys, "predict", model, "t.csv")[0]["predictions"] for model in models]
    for row, *others in zip(out["predictions"], *alone, strict=True):
        assert row["value"] == pytest.approx(sum(one["value"] for one in others) / 2, rel=1e-5)
    assert "b.safetensors: " in err  # w was not seen in training, by this model
    measured, _ = out_of(capsys, "eval", *models, "--ensemble", "--data", "t.csv")
    means, true = [row["value"] for row in out["predictions"]], [90, 80, 10, 50]
    assert measured["metrics"]["mae"] == pytest.approx(np.abs(np.subtract(means, true)).mean(), rel=1e-5)


def test_texts_of_stdin_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, words in (("a", ("who", "is")), ("b", ("is", "it", "who"))):
        spec = TextInput(vocabulary=(*SPECIAL_TOKENS, *words), max_length=5)
        save(Path(f"{name}.safetensors"), TaskSpec(input=spec, class_names=("no", "yes")))
    stdin = io.TextIOWrapper(io.BytesIO(b"who is it\nit is\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    out, _ = out_of(capsys, "predict", "-a", "a.safetensors", "-a", "b.safetensors", "-")
    assert [row["input"] for row in out["predictions"]] == ["stdin:0", "stdin:1"]
