"""ONNX Runtime's providers: those of the session are compared with those that were asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from dlcli.cli import main
from dlcli.errors import DlcliError
from dlcli.formats.base import open_artifact
from dlcli.machine.causes import why
from dlcli.machine.causes.base import Cause

CUDA = "CUDAExecutionProvider"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of a small run."""
    folder = tmp_path_factory.mktemp("provider")
    lines = ["a,b,label", *(f"{i},{i % 7},{'yes' if i % 2 else 'no'}" for i in range(60))]
    (folder / "data.csv").write_text("\n".join(lines))
    root = ["--runs-dir", str(folder / "runs"), "-q"]
    assert main(["train", "-m", "mlp", "-d", str(folder / "data.csv"), "--epochs", "1", *root]) == 0
    assert main(["export", "--onnx", *root]) == 0
    (path,) = (folder / "runs").glob("*/best.onnx")
    return path


@pytest.fixture
def dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ONNX Runtime that lists CUDA and opens its sessions without it, as where cuBLAS is missing."""
    names = onnxruntime.get_available_providers()
    if CUDA in names:
        pytest.skip("this ONNX Runtime has CUDA")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, *names])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcublasLt.so.13"))
    cause = Cause("onnxruntime", "warning", "other CUDA", "needs 12, torch brings 13", "pip install x")
    monkeypatch.setattr(why, "why_not", lambda *parts: cause)


pytestmark = pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider'")


@pytest.mark.usefixtures("dropped")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_an_explicit_device_that_was_dropped_is_an_error_with_the_cause(
    device: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DlcliError) as caught:
        open_artifact(model, device=device)
    assert caught.value.message == (
        f"--device {device}: ONNX Runtime opens {model} without {CUDA}: "
        "other CUDA (needs 12, torch brings 13)"
    )
    assert caught.value.hint == "pip install x"
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("dropped")
def test_an_automatic_device_gives_one_note(
    model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    artifact = open_artifact(model, device="auto")
    assert artifact.provider == "CPUExecutionProvider"
    (note,) = artifact.notes
    assert note.startswith(
        f"best.onnx runs on the CPU, since ONNX Runtime has dropped {CUDA}: other CUDA"
    )
    capsys.readouterr()
    assert main(["eval", str(model), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["command"] == "eval"
    assert err.count("has dropped") == 1


def test_a_cpu_build_runs_on_the_cpu_without_a_note(model: Path) -> None:
    artifact = open_artifact(model, device="cpu")
    assert (artifact.provider, artifact.notes) == ("CPUExecutionProvider", ())


def test_a_session_does_not_move_to_the_cpu_later(model: Path) -> None:
    artifact: Any = open_artifact(model, device="cpu")
    assert artifact.session._enable_fallback is False


@pytest.mark.slow
def test_rows_of_a_benchmark_carry_the_provider_that_ran(
    model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    capsys.readouterr()
    sizes = ["--batch-sizes", "1", "--seconds", "0.05", "--rounds", "2"]
    files = [str(model), str(model.with_name("best.safetensors"))]
    csv = tmp_path / "rows.csv"
    assert main(["benchmark", *files, "--json", "--csv", str(csv), *sizes]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["provider"] for row in rows] == ["CPUExecutionProvider", None]
    assert "provider" in csv.read_text().splitlines()[0].split(",")


def test_why_not_names_the_first_cause_that_is_no_note(monkeypatch: pytest.MonkeyPatch) -> None:
    causes = (
        Cause("onnxruntime", "note", "a note"),
        Cause("cuda", "warning", "a warning"),
        Cause("system", "warning", "another"),
    )
    monkeypatch.setattr(why, "find_causes", lambda facts: causes)
    assert why.why_not("onnxruntime", "cuda") == causes[1]
    assert why.why_not("mps") is None


def test_a_device_of_torch_that_is_not_there_has_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from dlcli.zoo import device

    if torch.cuda.is_available():
        pytest.skip("there is CUDA")
    cause = Cause(
        "cuda", "warning", "torch is built for the CPU alone", "driver 580.65", "pip install y"
    )
    monkeypatch.setattr(device, "why_not", lambda *parts: cause)
    with pytest.raises(DlcliError, match=r"0 cuda devices.*built for the CPU alone \(driver") as caught:
        device.resolve_device("cuda")
    assert caught.value.hint == "pip install y"


@pytest.mark.gpu
def test_cuda_runs_a_file_and_its_outputs_are_the_cpus(model: Path) -> None:
    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu")
    artifact = open_artifact(model, device="cuda")
    assert artifact.provider == CUDA
    inputs = (np.ones((3, 2), np.float32),)
    on_cpu = open_artifact(model, device="cpu").predict(inputs)
    assert np.abs(artifact.predict(inputs) - on_cpu).max() < 1e-4
