"""`dlcli benchmark` on a real run: one pass over its files, good, unsuitable and damaged ones."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from html_pages import check_page

from dlcli.benchmark.backends import make_runner
from dlcli.benchmark.run import artifacts_of
from dlcli.cli import main
from dlcli.config import ExportConfig
from dlcli.data.prepare import random_inputs
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import FORMATS, Artifact, open_artifact, read_card
from dlcli.runs.folder import RunFolder
from dlcli.ui.text import milliseconds

FEW = ("--threads", "1", "--seconds", "0.02", "--rounds", "2", "--batch-sizes", "1,5")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an MLP with an ONNX file, and what does not belong or cannot be read."""
    root = tmp_path_factory.mktemp("runs")
    train = ("train", "--model", "mlp", "--data", "digits", "--epochs", "1", "--device", "cpu")
    assert main([*train, "--name", "small", "--runs-dir", str(root), "-q"]) == 0
    folder = root / "small"
    source = open_artifact(folder / "best.safetensors", device="cpu")
    write = FORMATS.get("onnx").write
    assert write is not None
    write(source, folder / "best.onnx", ExportConfig())
    (folder / "best.empty.onnx").touch()
    shutil.copy(folder / "best.onnx", folder / "best.wrong.onnx.failed")
    (folder / "best.json").write_text("{}")
    return folder


def test_a_runs_files_are_its_models_the_original_first(run: Path) -> None:
    names = [path.name for path in artifacts_of(RunFolder(run))]
    assert names == ["best.safetensors", "best.empty.onnx", "best.onnx"]


def test_a_run_is_measured_whole_though_some_rows_fail(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    table = tmp_path / "out.csv"
    asked = ("benchmark", str(run), *FEW, "--backends", "eager,channels-last", "--csv", str(table))
    code = main([*asked, "--json"])
    out = capsys.readouterr()
    assert code == 1
    assert "2 of 4 rows failed" in out.err
    found: dict[str, Any] = json.loads(out.out)
    assert (found["schema"], found["command"], found["failed"]) == (1, "benchmark", 2)
    assert (found["threads"], found["split"], found["inputs"]) == (1, "test", "real")
    eager, channels_last, empty, onnx = found["rows"]
    assert "no convolution" in channels_last["error"]
    assert "0 bytes" in empty["error"]
    for row in (eager, onnx):
        assert row["error"] is None
        assert row["device"] == "cpu (1 thread)"
        assert set(row["latency_ms"]) == {"1", "5"}
        assert row["latency"]["5"]["calls"] >= 6
        assert len(row["latency"]["5"]["rounds_ms"]) == 2
        assert row["samples"] == 179
        assert row["startup_s"] > 0
        assert row["size_bytes"] > 0
    assert eager["metrics"]["accuracy"] == pytest.approx(onnx["metrics"]["accuracy"])
    assert onnx["agreement"] == 1
    assert eager["params"] == onnx["params"] > 0
    assert eager["macs"] == onnx["macs"] > 0
    assert any("latency" in row["front"] for row in (eager, onnx))
    # A file that needs no torch is not charged for it.
    assert onnx["peak_mib"] < 0.7 * eager["peak_mib"]
    assert Path(found["plot"]) == run / "plots" / "benchmark.png"
    assert Path(found["plot"]).is_file()
    with table.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["batch_size"] for line in lines] == ["1", "5", "", "", "1", "5"]
    page = check_page(run / "report.html")
    rows = [row for row in page.rows() if row[0] == "best.onnx"]
    assert [milliseconds(onnx["latency_ms"]["1"]) in row for row in rows] == [True]
    assert "0 bytes" in page.text


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--backends", "eagre"), 2, "eager, channels-last"),
        (("--batch-sizes", "0"), 2, "a batch size is at least 1"),
        (("--batch-sizes", "x"), 2, "is not a list of numbers"),
        (("--split", "val", "--data", "nowhere"), 1, "nowhere"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(
    run: Path, args: tuple[str, ...], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["benchmark", str(run / "best.safetensors"), *args]) == code
    out = capsys.readouterr()
    assert said in out.err
    assert out.out == ""


def test_a_file_that_is_not_there_is_a_row_that_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["benchmark", str(tmp_path / "gone.onnx"), "--json"]) == 1
    out = capsys.readouterr()
    (row,) = json.loads(out.out)["rows"]
    assert "cannot read" in row["error"]
    assert "1 of 1 rows failed" in out.err


def opened(run: Path) -> Artifact:
    return open_artifact(run / "best.safetensors", device="cpu", threads=1)


def test_a_model_that_is_a_folder_is_a_file_of_its_own(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "best.triton"
    assert (
        main(["export", str(run / "best.safetensors"), "--format", "triton", "-o", str(target), "-q"])
        == 0
    )
    capsys.readouterr()
    assert main(["benchmark", str(target), str(run / "best.onnx"), *FEW, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["artifact"] for row in rows} == {str(target), str(run / "best.onnx")}
    assert not any(row["error"] for row in rows)


def test_the_timed_call_gives_the_outputs_of_predict(run: Path) -> None:
    inputs = random_inputs(read_card(run / "best.onnx").task, 7)
    for name in ("best.safetensors", "best.onnx"):
        artifact = open_artifact(run / name, device="cpu", threads=1)
        answer: Any = artifact.prepare_call(inputs)()
        timed = answer.numpy() if isinstance(answer, torch.Tensor) else answer[0]
        assert np.array_equal(timed, artifact.predict(inputs))


def test_a_backend_that_cannot_be_is_refused_with_the_reason(run: Path) -> None:
    with pytest.raises(DlcliError, match="cuda-graph needs a CUDA device, and this is cpu"):
        make_runner(lambda: opened(run), backend="cuda-graph", device="cpu", amp="none")
    with pytest.raises(UsageError, match="none of eager"):
        make_runner(lambda: opened(run), backend="fast", device="cpu", amp="none")
    onnx = open_artifact(run / "best.onnx", device="cpu")
    with pytest.raises(DlcliError, match="are for torch models"):
        make_runner(lambda: onnx, backend="compile", device="cpu", amp="none")


def test_a_layout_changes_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train = ("train", "--model", "cnn", "--data", "digits", "--epochs", "1", "--device", "cpu", "-q")
    assert main([*train, "--name", "cnn"]) == 0
    best = Path("runs/cnn/best.safetensors")
    inputs = random_inputs(read_card(best).task, 6)
    wanted = open_artifact(best, device="cpu").predict(inputs)
    for backend in ("channels-last", "contiguous"):
        runner = make_runner(
            lambda: open_artifact(best, device="cpu"), backend=backend, device="cpu", amp="none"
        )
        assert np.allclose(runner.predict(inputs), wanted, atol=1e-5)
        assert runner.prepare(inputs).run()[0] > 0


@pytest.mark.slow
def test_a_compiled_model_gives_the_same_outputs(run: Path) -> None:
    inputs = random_inputs(read_card(run / "best.safetensors").task, 6)
    runner = make_runner(lambda: opened(run), backend="compile", device="cpu", amp="none")
    assert runner.prepare(inputs).run()[0] > 0
    assert np.allclose(runner.predict(inputs), opened(run).predict(inputs), atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["eager", "compile", "cuda-graph"])
@pytest.mark.parametrize("amp", ["none", "fp16", "bf16"])
def test_cuda_backends_predict_alike_and_are_timed_on_the_device(
    run: Path, backend: str, amp: str
) -> None:
    inputs = random_inputs(read_card(run / "best.safetensors").task, 32)

    def on_cuda() -> Artifact:
        return open_artifact(run / "best.safetensors", device="cuda")

    runner = make_runner(on_cuda, backend=backend, device="cuda", amp=amp)
    call = runner.prepare(inputs)
    assert all(0 < call.run()[0] < 10 for _ in range(5))
    assert "cuda" in runner.device(1)
    assert runner.peak_mib() > 0
    wanted = opened(run).predict(inputs)
    tolerance = 2e-3 if amp == "none" else 5e-2
    assert np.allclose(runner.predict(inputs), wanted, atol=tolerance * max(1, np.abs(wanted).max()))


@pytest.mark.slow
def test_models_of_other_data_are_not_compared_in_speed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "t.csv"
    table.write_text(
        "a,b,y\n" + "".join(f"{i % 7},{i % 5},{'u' if i % 7 > 3 else 'v'}\n" for i in range(90))
    )
    train = ("train", "--model", "mlp", "--data", str(table), "--target", "y", "--epochs", "1", "-q")
    assert main([*train, "--device", "cpu", "--name", "table", "--runs-dir", str(tmp_path)]) == 0
    capsys.readouterr()
    files = (str(run / "best.onnx"), str(tmp_path / "table" / "best.safetensors"))
    assert main(["benchmark", *files, *FEW, "--json"]) == 0
    first, other = json.loads(capsys.readouterr().out)["rows"]
    assert set(first["speedup"]) == {"1", "5"}
    assert other["speedup"] == {}
    assert other["agreement"] is None
    assert other["front"] == []
    assert set(other["latency_ms"]) == {"1", "5"}
