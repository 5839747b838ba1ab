"""``dlcli export``: what lies beside the file, several formats, and the exit code."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dlcli.cli import main

PHOTO = ("red", "0.png")


def call(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> Any:
    got = main([*args, "--json"])
    out = capsys.readouterr()
    assert got == code, out.err
    return json.loads(out.out)


def failed(capsys: pytest.CaptureFixture[str], *args: str, code: int) -> str:
    capsys.readouterr()
    assert main(list(args)) == code
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos of several sizes and a run on it, made once."""
    root = tmp_path_factory.mktemp("export")
    rng = np.random.default_rng(0)
    for c, label in enumerate(("blue", "green", "red")):
        (root / "photos" / label).mkdir(parents=True)
        for i in range(8):
            base = np.zeros((30 + i, 44 - i, 3))
            base[..., 2 - c] = 150
            pixels = np.clip(base + rng.normal(0, 25, base.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "photos" / label / f"{i}.png")
    said = ["train", "--model", "cnn", "--data", str(root / "photos"), "--img-size", "13"]
    said += ["--epochs", "3", "--device", "cpu", "--quiet", "--runs-dir", str(root / "runs")]
    said += ["--name", "r"]
    assert main(said) == 0
    return root


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, in an empty folder to work in."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "r"


EXPORT = ("export", "--onnx", "--no-latency")


@pytest.mark.parametrize("raw", [[], ["--embed-preprocessing"]])
def test_the_example_predicts_as_predict_does(
    run: Path, trained: Path, raw: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    told = call(capsys, *EXPORT, *raw, "--with-example", "--sidecar")
    assert {Path(p).name for p in told["exports"][0]["beside"]} == {"best.onnx.json", "predict_onnx.py"}
    script = run / "predict_onnx.py"
    text = script.read_text()
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module or "")])
    }
    assert imported <= {*sys.stdlib_module_names, "numpy", "PIL", "onnxruntime"}
    assert len(text.splitlines()) < 65
    photos = [str(trained / "photos" / label / "7.png") for label in ("blue", "green", "red")]
    done = subprocess.run(
        [sys.executable, "-P", str(script), *photos], capture_output=True, text=True, check=True
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    wanted = call(capsys, "predict", *photos)["predictions"]
    assert [row["input"] for row in rows] == photos
    for row, want in zip(rows, wanted, strict=True):
        assert row["label"] == want["label"]
        assert row["probability"] == pytest.approx(want["probability"], abs=2e-3)
    facts = json.loads((run / "best.onnx.json").read_text())
    assert facts["classes"] == ["blue", "green", "red"]
    assert facts["preprocessing"]["height"] == 13
    assert told["before"]["metrics"] == pytest.approx(told["after"]["metrics"], abs=1e-5)
    if raw:
        assert told["parity"]["raw"]["agreement"] == 1.0
    figures = [call(capsys, "eval", str(run / f))["metrics"] for f in ("best.onnx", "best.safetensors")]
    assert figures[0] == pytest.approx(figures[1], abs=1e-5)


def test_raw_samples_are_tried_in_a_static_file_too(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = call(capsys, *EXPORT, "--embed-preprocessing", "--static", "--batch-size", "5")
    assert told["parity"]["raw"]["agreement"] == 1.0
    assert told["parity"]["raw"]["samples"] == told["parity"]["samples"]


def test_an_older_export_is_reported(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "export", "--format", "plain-safetensors", "--no-verify")
    (written,) = [file for file in run.glob("best.*") if file.name != "best.safetensors"]
    from dlcli.formats.base import open_artifact
    from dlcli.formats.checkpoint import save_model

    best = open_artifact(run / "best.safetensors", device="cpu")
    module = best.module()
    next(module.parameters()).data += 0.01
    save_model(run / "best.safetensors", module, best.card)
    capsys.readouterr()
    assert main(["eval", str(written), "--quiet"]) == 0
    assert "made from an older best.safetensors" in capsys.readouterr().err


def test_nothing_of_somebody_elses_is_written_over(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "predict_onnx.py").write_text("import dlcli  # my own\n")
    said = failed(capsys, *EXPORT, "--with-example", code=2)
    assert "was not written by dlcli export" in said
    assert not (run / "best.onnx").exists()
    assert (run / "predict_onnx.py").read_text() == "import dlcli  # my own\n"
    (run / "best.onnx.json").mkdir()
    assert "was not written by dlcli export" in failed(capsys, *EXPORT, "--sidecar", code=2)


def test_an_example_that_none_of_the_formats_has_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = failed(capsys, "export", "--format", "pt2,torchscript", "--with-example", code=2)
    assert "there is no example for" in said


def test_programs_are_written_for_the_formats_that_have_them(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = call(capsys, "export", "--format", "onnx,pth", "--example", "python,cpp", "--no-verify")
    written = [{Path(path).name for path in row["beside"]} for row in told["exports"]]
    assert written == [{"predict_onnx.py", "predict_onnx.cpp"}, {"predict_pth.py"}]
    for names, said in (
        ("cpp,rust", "--example rust: "),
        ("cpp", "there is no example for torchscript"),
    ):
        assert said in failed(capsys, "export", "--format", "torchscript", "--example", names, code=2)
    told = call(capsys, "export", "--example", "web", "--no-verify")
    assert (told["format"], Path(told["output"]).name) == ("web", "best.web")


def test_one_format_that_fails_is_reported_and_the_others_are_written(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from dlcli.deploy import export as exporting
    from dlcli.errors import DlcliError

    def write(source: Any, path: Path, config: Any) -> None:
        raise DlcliError("no such operator")

    fast = "plain-safetensors"
    entry = replace(exporting.FORMATS.get("onnx"), write=write)
    monkeypatch.setitem(exporting.FORMATS._entries, "onnx", entry)
    assert main(["export", "--format", f"onnx,{fast}", "--no-latency", "--json"]) == 1
    out = capsys.readouterr()
    told = json.loads(out.out)
    assert [row["format"] for row in told["exports"]] == ["onnx", fast]
    assert told["exports"][0]["error"] == "no such operator"
    assert told["exports"][1]["parity"]["ok"]
    assert "no such operator" in out.err


def test_bad_requests_are_refused_before_anything_is_written(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.iterdir())
    for args, message in [
        ([], "no format is given"),
        (["--format", "onx"], "onx is not an export format"),
        (["--format", "onnx,pt2", "--output", "x.onnx"], "--output names one file"),
        (["--onnx", "--batch-size", "4"], "--batch-size"),
        (["--onnx", "--opset", "9"], "opset"),
        (["--onnx", "--split", "test", "--data", "nowhere"], "nowhere"),
    ]:
        assert message in failed(capsys, "export", *args, code=1 if "nowhere" in args else 2), args
    assert sorted(run.iterdir()) == before


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    lines = ["rooms,age,built,area,place,price"]
    for i in range(60):
        age = "" if i % 9 == 0 else str(rng.integers(1, 60))
        built = f"{rng.integers(1, 29)}/{rng.integers(1, 13):02}/{2000 + i % 7}"
        area = f'"{rng.integers(1, 9)}.{rng.integers(100, 999)},{rng.integers(1, 9)}"'
        place = ("sea", "hill")[i % 2]
        lines.append(f"{rng.integers(1, 9)},{age},{built},{area},{place},{1000 * (i % 2) + i}.5")
    (tmp_path / "houses.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "houses.csv"


def test_the_example_of_a_table_predicts_as_predict_does(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, "train", "--model", "mlp", "--data", str(rows), "--epochs", "1", "--device", "cpu")
    wanted = [row["value"] for row in call(capsys, "predict", str(rows))["predictions"]]
    for options in (["--no-verify"], ["--embed-preprocessing"]):
        told = call(capsys, *EXPORT, "--with-example", *options)
        script = Path(told["output"]).parent / "predict_onnx.py"
        done = subprocess.run(
            [sys.executable, "-P", str(script), str(rows)], capture_output=True, text=True, check=True
        )
        values = [json.loads(line)["price"] for line in done.stdout.splitlines()]
        assert values == pytest.approx(wanted, rel=1e-5)
    assert told["parity"]["raw"]["max_abs_diff"] < 1e-4


def test_programs_are_all_checked_before_a_file_is_written(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the error names those that the model can have; --embed-preprocessing is implied in web."""
    call(capsys, "train", "--model", "mlp", "--data", str(rows), "--epochs", "1", "--device", "cpu")
    (run,) = Path("runs").iterdir()
    before = sorted(run.iterdir())
    said = failed(capsys, *EXPORT, "--example", "python,cpp,web,android,ios", code=2)
    assert "--example web: column 'built' is written as %d/%m/%Y" in said
    assert "--example android is for" in said
    said = " ".join(said.split())
    assert "(add --embed-preprocessing)" in said
    assert "hint: --example python,cpp is possible" in said
    said = failed(capsys, "export", "--example", "cpp,ios", "--format", "torchscript", code=2)
    assert "none of these is possible" in said
    assert sorted(run.iterdir()) == before
    rows.write_text("rooms,place,price\n" + "".join(f"{i % 7},{'ab'[i % 2]},{i}.5\n" for i in range(60)))
    call(capsys, "train", "--model", "mlp", "--data", str(rows), "--epochs", "1", "--device", "cpu")
    told = call(
        *(capsys, *EXPORT, "--no-verify", "--embed-preprocessing", "--example", "python,cpp,web,android")
    )
    assert [row["format"] for row in told["exports"]] == ["onnx", "web"]
    names = {Path(path).name for path in told["exports"][0]["beside"]}
    assert names == {"predict_onnx.py", "predict_onnx.cpp", "predict_onnx.kt"}


def test_help_names_every_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["export", "--help-all"]) == 0
    said = capsys.readouterr().out
    for flag in ("--opset", "--dynamic", "--static", "--batch-size", "--half", "--embed-preprocessing",
                 "--softmax", "--simplify", "--all", "--sidecar", "--with-example", "--trust", "--data",
                 "--split", "--samples", "--no-latency", "--tolerance"):  # fmt: skip
        assert flag in said, flag
