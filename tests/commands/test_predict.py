"""`predict`: every format parses back, order is the inputs', bad inputs are named and the rest go on."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dlcli.card import Card, ModelSpec
from dlcli.cli import main
from dlcli.data.images.inputs import find_images, image_inputs
from dlcli.data.images.reader import PixelReader
from dlcli.evaluation.predict import predict
from dlcli.formats.base import open_artifact
from dlcli.formats.checkpoint import save_model
from dlcli.runs.folder import RunFolder
from dlcli.task import ImageInput, TaskSpec
from dlcli.zoo.base import build_model

TASK = TaskSpec(
    input=ImageInput(channels=3, height=8, width=8, resize_size=8, mean=(0.5,) * 3, std=(0.5,) * 3),
    class_names=("a", "b, with comma", "[red]c[/]"),
)


@pytest.fixture
def here(tmp_path: Path, photo_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``photos/{blue,green,red}/0..5.jpg`` and one run, ``runs/r``."""
    photo_folder()
    run = RunFolder(tmp_path / "runs" / "r")
    run.path.mkdir(parents=True)
    run.write_record({"started_at": "2026"})
    card = Card(model=ModelSpec(name="cnn", args={"widths": [4]}), task=TASK)
    torch.manual_seed(0)
    save_model(run.best, build_model(card.model, TASK), card)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def out_of(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> str:
    got = main(["predict", *args])
    result = capsys.readouterr()
    assert got == code, result.err
    return result.out


def test_formats_say_the_same(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    envelope = json.loads(out_of(capsys, "photos", "--json"))
    assert envelope["schema"] == 1
    assert envelope["command"] == "predict"
    assert envelope["failed"] == []
    rows = envelope["predictions"]
    assert len(rows) == 18
    assert rows == [json.loads(line) for line in out_of(capsys, "photos", "-f", "jsonl").splitlines()]
    table = list(csv.DictReader(io.StringIO(out_of(capsys, "photos", "-f", "csv"))))
    assert [(r["input"], r["label"], r["label_3"]) for r in table] == [
        (r["input"], r["label"], r["top_k"][2]["label"]) for r in rows
    ]
    screen = out_of(capsys, "photos", "-f", "table")
    assert all(row["input"] in screen and row["label"] in screen for row in rows)
    for row in rows:
        ranked = [item["probability"] for item in row["top_k"]]
        assert ranked == sorted(ranked, reverse=True)
        assert sum(ranked) == pytest.approx(1.0)
        assert row["probability"] == ranked[0]


@pytest.mark.parametrize("name", ["out.csv", "out.json", "out.jsonl"])
def test_a_file_gets_what_the_screen_gets(
    here: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["predict", "photos", "--output", name]) == 0
    result = capsys.readouterr()
    assert result.out == ""
    assert f"predictions of 18 inputs are in {name}\n" in result.err
    kind = name.split(".")[1]
    assert (here / name).read_text() == out_of(capsys, "photos", "-f", kind)


@pytest.mark.parametrize(
    ("args", "form"),
    [
        (["-o", "out.csv"], "csv"),
        (["-o", "out.txt", "-f", "jsonl"], "jsonl"),
        (["-o", "o.json"], "json"),
    ],
)
def test_json_says_what_was_written_where(
    here: Path, capsys: pytest.CaptureFixture[str], args: list[str], form: str
) -> None:
    assert main(["predict", "photos/red", "gone.jpg", *args, "--json"]) == 1
    result = capsys.readouterr()
    said = json.loads(result.out)
    assert said["command"] == "predict"
    assert (said["output"], said["format"], said["predicted"]) == (args[1], form, 6)
    assert [f["input"] for f in said["failed"]] == ["gone.jpg"]
    assert "predictions of" not in result.err
    assert main(["predict", "photos/red", "gone.jpg", "-f", form]) == 1
    assert (here / args[1]).read_text() == capsys.readouterr().out


def test_quiet_says_nothing_of_the_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "photos/red", "-o", "out.csv", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert (here / "out.csv").read_text().startswith("input,label,probability,label_2,")


def test_order_and_labels_do_not_depend_on_the_batch(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["photos/red/3.jpg", "photos/blue/1.jpg", "photos/red/3.jpg", "photos/green/0.jpg"]
    found = [json.loads(out_of(capsys, *names, "--json", "-b", size))["predictions"] for size in "1234"]
    assert [row["input"] for row in found[0]] == names
    for other in found[1:]:
        assert [r["label"] for r in other] == [r["label"] for r in found[0]]
        assert [r["probability"] for r in other] == pytest.approx(
            [r["probability"] for r in found[0]], abs=1e-6
        )


def test_bad_inputs_are_named_and_the_rest_go_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "notes.txt").write_text("no image")
    assert (
        main(["predict", "photos/red/0.jpg", "notes.txt", "gone.jpg", "photos/red/1.jpg", "--json"]) == 1
    )
    result = capsys.readouterr()
    out = json.loads(result.out)
    assert [r["input"] for r in out["predictions"]] == ["photos/red/0.jpg", "photos/red/1.jpg"]
    assert [r["input"] for r in out["failed"]] == ["notes.txt", "gone.jpg"]
    assert "warning: notes.txt: " in result.err
    assert "warning: gone.jpg: " in result.err
    assert "error: 2 of 4 inputs could not be read" in result.err


def test_inputs_are_files_folders_and_globs(here: Path) -> None:
    assert find_images(["photos/red/0.jpg"]) == ["photos/red/0.jpg"]
    assert len(find_images(["photos"])) == 18
    assert find_images(["photos/*/1.jpg"]) == [f"photos/{c}/1.jpg" for c in ("blue", "green", "red")]
    assert len(find_images(["photos/**/*.jpg"])) == 18
    odd = here / "a[1].jpg"
    odd.write_bytes((here / "photos/red/0.jpg").read_bytes())
    assert find_images(["a[1].jpg"]) == ["a[1].jpg"]


@pytest.mark.parametrize("model", ["r", "runs/r", "runs/r/best.safetensors"])
def test_the_first_argument_may_be_the_model(
    here: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    out = json.loads(out_of(capsys, model, "photos/red/0.jpg", "--json"))
    assert out["artifact"].endswith("best.safetensors")
    assert len(out["predictions"]) == 1


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["r"], 2, "nothing was given to predict"),
        (["photos", "--output", "x.txt"], 2, "does not say which format"),
        (["photos", "--output", "x.csv", "-f", "table"], 2, "a table is for the screen"),
        (["photos", "--json", "-f", "csv"], 2, "exclude each other"),
        (["photos", "--top-k", "0"], 2, "--top-k"),
        (["nothing/*.jpg"], 1, "holds no images"),
        (["runs"], 1, "holds no images"),
    ],
)
def test_refusals(
    here: Path, capsys: pytest.CaptureFixture[str], args: list[str], code: int, message: str
) -> None:
    assert out_of(capsys, *args, code=code) == ""
    assert main(["predict", *args]) == code
    assert message in capsys.readouterr().err


def test_memory_is_bounded_by_the_batch(here: Path) -> None:
    """A hundred thousand inputs: only as many pixels as a few batches are alive at a time."""
    artifact = open_artifact(here / "runs/r/best.safetensors", device="cpu")
    files = [f"photos/red/{i % 6}.jpg" for i in range(100_000)]
    assert isinstance(TASK.input, ImageInput)
    reader = PixelReader(image_inputs(files), TASK.input, workers=1, cache_bytes=0)

    import tracemalloc

    tracemalloc.start()
    found = predict(artifact.predict, reader, TASK, top_k=1, batch_size=32)
    next(found)
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(640):
        next(found)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    found.close()  # type: ignore[attr-defined]
    assert after - before < 1_000_000


@pytest.mark.parametrize("model", ["gone.onnx", "empty.onnx", "runs/r/bets.safetensors"])
def test_no_other_model_replaces_one_that_is_missing_or_damaged(
    here: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    (here / "empty.onnx").touch()
    assert main(["predict", model, "photos/red/0.jpg"]) == 1
    result = capsys.readouterr()
    assert result.out == ""
    assert f"error: {model}" in result.err


def test_the_model_can_be_an_option(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["-a", "r", "photos/red"], ["last", "photos/red"]):
        assert len(json.loads(out_of(capsys, *args, "--json"))["predictions"]) == 6


def test_an_empty_folder_does_not_stop_the_others(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "empty").mkdir()
    assert main(["predict", "empty", "nothing/*.jpg", "photos/red", "--json"]) == 1
    result = capsys.readouterr()
    out = json.loads(result.out)
    assert len(out["predictions"]) == 6
    assert [f["input"] for f in out["failed"]] == ["empty", "nothing/*.jpg"]
    assert "the folder holds no images" in result.err
    assert "no image matches the pattern" in result.err


@pytest.mark.skipif(os.name == "nt", reason="file names are bytes on POSIX only")
def test_names_that_are_no_utf8_survive(here: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    name = os.fsdecode(b"b\xff.jpg")
    try:
        (here / name).write_bytes((here / "photos/red/0.jpg").read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert main(["predict", name, "--output", "o.csv"]) == 0
    assert (here / "o.csv").read_bytes().splitlines()[1].startswith(b"b\xff.jpg,")
    assert main(["predict", name, "-f", "csv"]) == 0
    assert b"b\xff.jpg," in capsysbinary.readouterr().out
    assert main(["predict", name]) == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_not_waited_for(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(here / "pipe.jpg")
    assert main(["predict", "pipe.jpg"]) == 1
    assert "not a regular file" in capsys.readouterr().err
