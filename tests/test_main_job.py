"""The main job on a folder of photos, from train to export; and what can be wrong with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dlcli.cli import main

PhotoFolder = Callable[..., Path]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def call(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> Any:
    """Run a command with --json and give its object."""
    got = main([*args, "--json"])
    out = capsys.readouterr()
    assert got == code, out.err
    return json.loads(out.out)


def refuse(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run a command that must fail as expected; its error and hint."""
    capsys.readouterr()
    assert main(list(args)) in (1, 2)
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.startswith("error: ")
    assert "Traceback" not in out.err
    return out.err


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


TRAIN = ("train", "--model", "cnn", "--img-size", "16", "--epochs", "3", "--device", "cpu")


def test_a_folder_becomes_a_model_that_is_used_and_shipped(
    here: Path, photo_folder: PhotoFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = photo_folder(per_class=12)
    (photos / "red" / "broken.jpg").write_bytes((photos / "red" / "0.jpg").read_bytes()[:300])
    (photos / "red" / "empty.jpg").touch()
    before = contents(photos)
    trained = call(capsys, *TRAIN, "--data", str(photos), "--batch-size", "8")
    assert set(trained["bad_samples"]) <= {"red/broken.jpg", "red/empty.jpg"}
    record = json.loads(Path(trained["run"], "run.json").read_text())
    assert record["bad_samples"] == trained["bad_samples"]

    test = call(capsys, "eval")
    assert test["split"] == "test"
    assert test["metrics"]["accuracy"] == 1.0
    assert test["class_names"] == ["blue", "green", "red"]

    photo = str(photos / "green" / "3.jpg")
    labels = call(capsys, "predict", photo)
    assert [p["label"] for p in labels["predictions"]] == ["green"]

    exported = call(capsys, "export", "--onnx", "--no-latency")
    assert Path(exported["output"]).name == "best.onnx"

    onnx = call(capsys, "eval", exported["output"])
    assert onnx["metrics"] == pytest.approx(test["metrics"], abs=1e-6)
    assert onnx["confusion"] == test["confusion"]
    again = call(capsys, "predict", exported["output"], photo)
    probability = labels["predictions"][0]["probability"]
    assert again["predictions"][0]["probability"] == pytest.approx(probability, abs=1e-5)

    for artifact in (trained["artifact"], exported["output"]):
        card = call(capsys, "info", artifact)["card"]
        assert card["task"]["class_names"] == ["blue", "green", "red"]

    assert contents(photos) == before


def test_evaluating_onnx_imports_no_torch(
    here: Path, photo_folder: PhotoFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = photo_folder(per_class=8)
    call(capsys, *TRAIN, "--data", str(photos), "--epochs", "1")
    onnx = call(capsys, "export", "--onnx", "--no-latency")["output"]
    for args in (["eval", onnx, "--quiet"], ["predict", onnx, str(photos / "red")], ["info", onnx]):
        code = (
            "import sys\nfrom dlcli.cli import main\n"
            f"assert main({args!r}) == 0\nsys.exit('torch' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, (args, done.stderr)


def test_given_splits_are_kept_and_test_chooses_nothing(
    here: Path, photo_folder: PhotoFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = photo_folder(per_class=4, splits=("train", "valid", "test"))
    trained = call(capsys, *TRAIN, "--data", str(photos), "--epochs", "1")
    splits = json.loads(Path(trained["run"], "splits.json").read_text())["splits"]
    assert {name: len(ids) for name, ids in splits.items()} == {"train": 12, "val": 12, "test": 12}
    assert all(i.startswith("test/") for i in splits["test"])


def test_other_data_is_matched_by_class_name(
    here: Path, photo_folder: PhotoFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, *TRAIN, "--data", str(photo_folder(per_class=12)))
    # Without "blue" the folder's own numbering would be off by one.
    part = photo_folder(("green", "red"), per_class=4, name="part")
    for path in (part / "red").iterdir():  # photo_folder paints by position: swap the colours
        path.rename(part / "green" / f"g{path.name}")
    target = part / "red" / "x.jpg"
    red = np.zeros((40, 48, 3), dtype=np.uint8)
    red[..., 2] = 120
    Image.fromarray(red).save(target)
    result = call(capsys, "eval", "--data", str(part))
    assert result["split"] == "all"
    assert result["class_names"] == ["blue", "green", "red"]
    assert result["per_class"][0]["samples"] == 0
    assert result["per_class"][2]["recall"] == 1.0
    (part / "purple").mkdir()
    (part / "red" / "x.jpg").rename(part / "purple" / "x.jpg")
    assert "purple" in refuse(capsys, "eval", "--data", str(part))


def test_eval_says_when_the_data_has_changed(
    here: Path, photo_folder: PhotoFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = photo_folder(per_class=10)
    trained = call(capsys, *TRAIN, "--data", str(photos), "--epochs", "1")
    test_ids = json.loads(Path(trained["run"], "splits.json").read_text())["splits"]["test"]
    (photos / test_ids[0]).unlink()
    assert main(["eval", "--json"]) == 0
    out = capsys.readouterr()
    assert "warning: 1 sample of the run's splits no longer in" in out.err
    assert json.loads(out.out)["samples"] == len(test_ids) - 1
    assert "cannot be resumed" in refuse(capsys, "train", "--resume", "last", "--epochs", "2")


def test_training_data_that_is_unfit_is_refused(
    here: Path, photo_folder: PhotoFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nothing").mkdir()
    one = photo_folder(("only",), name="one")
    unknown = photo_folder(splits=("train", "val"), name="unknown")
    (unknown / "val" / "violet").mkdir()
    (unknown / "train" / "red" / "0.jpg").rename(unknown / "val" / "violet" / "0.jpg")
    cases = {
        str(tmp_path / "missing"): "does not exist",
        "digit": "digits",
        str(tmp_path / "nothing"): "has no photos",
        str(one): "one class",
        str(unknown): "violet",
    }
    for data, message in cases.items():
        assert message in refuse(capsys, *TRAIN, "--data", data)
    assert list(here.iterdir()) == []


def test_a_bad_sample_can_stop_the_run(
    here: Path, photo_folder: PhotoFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = photo_folder()
    for label in ("red", "green", "blue"):
        for path in (photos / label).iterdir():
            path.write_bytes(path.read_bytes()[:200])
    assert "can be read" in refuse(
        capsys, *TRAIN, "--data", str(photos), "--on-bad-sample", "fail", "-q"
    )


def test_pretrained_that_cannot_be_had_is_a_warning_or_an_error(
    here: Path,
    photo_folder: PhotoFolder,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no-weights"))
    photos = photo_folder(per_class=4)
    args = ("train", "--model", "mobilenet_v3_small", "--img-size", "32", "--data", str(photos),
            "--offline", "--epochs", "1", "--device", "cpu")  # fmt: skip
    assert "--pretrained: " in refuse(capsys, *args, "--pretrained")
    assert main([*args, "--json"]) == 0
    out = capsys.readouterr()
    assert "warning: TRAINING FROM SCRATCH" in out.err
    run = Path(json.loads(out.out)["run"])
    assert "TRAINING FROM SCRATCH" in json.loads((run / "run.json").read_text())["warnings"][0]
    assert main([*args, "--no-pretrained", "--json"]) == 0
    assert "SCRATCH" not in capsys.readouterr().err


def test_weights_of_a_run_start_another(
    here: Path, photo_folder: PhotoFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    first = call(capsys, *TRAIN, "--data", str(photo_folder(per_class=12)))
    other = photo_folder(("a", "b"), per_class=12, name="other")
    second = call(
        capsys, *TRAIN, "--data", str(other), "--weights", first["artifact"], "--freeze", "backbone"
    )
    card = call(capsys, "info", second["artifact"])["card"]
    assert card["weights_from"] == first["artifact"]


def test_few_samples_and_odd_batches_train(
    here: Path, photo_folder: PhotoFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = photo_folder(("a", "b"), per_class=3)
    for batch in ("1", "2", "64"):
        call(capsys, *TRAIN, "--data", str(photos), "--batch-size", batch, "--epochs", "1")
    message = refuse(capsys, "train", "--model", "mlp", "--data", str(photos), "--batch-size", "1", "-q")
    assert "batch normalisation cannot train on a batch of one" in message


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals to a process of its own")
def test_ctrl_c_ends_with_130_and_the_resume_command(here: Path) -> None:
    import signal

    argv = [sys.executable, "-m", "dlcli", "train", "--model", "cnn", "--data", "digits",
            "--epochs", "1000", "--device", "cpu"]  # fmt: skip
    seen = []
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, cwd=here) as process:
        assert process.stderr is not None
        for line in process.stderr:
            seen.append(line)
            if line.startswith("epoch "):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "hint: resume with: dlcli train --resume cnn-digits" in rest
    assert "Traceback" not in rest
