"""`dlcli info` as its users meet it: screens, JSON and exit codes, on good and on broken machines."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_machines import LIGHT_TORCH, facts_of, good_steps, make_package, operation, without_gpu
from safetensors.numpy import save_file

from dlcli.card import CARD_KEY, Card, DataRecord, ModelSpec, TransformRecord
from dlcli.cli import main
from dlcli.formats.checkpoint import write_tensors
from dlcli.machine import facts as machine_facts
from dlcli.machine.child import Outcome
from dlcli.machine.probe import IMPORT_TORCH, use_step
from dlcli.task import ImageInput, TaskSpec

REPORT_KEYS = {
    *("schema", "command", "usable", "causes", "required", "dlcli", "python", "system", "cpu", "memory"),
    *("container", "load", "disks", "environment", "packages", "image_cache", "newest_run", "torch"),
    *("bench", "torchvision", "onnxruntime", "nvidia", "amd", "devices", "deep", "traces"),
}


def run_info(
    *arguments: str, first_on_path: Path | None = None, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """`dlcli info` in a process of its own, with a folder before the installed packages."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1", **env}
    if first_on_path is not None:
        others = [path for path in sys.path if path]  # the tested package, wherever it is
        environment["PYTHONPATH"] = os.pathsep.join([str(first_on_path), *others])
    command = [sys.executable, "-m", "dlcli", "info", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=120)


def show(steps: dict[str, Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `dlcli info` see this machine with other results of the probe."""
    facts = facts_of(steps)
    monkeypatch.setattr(machine_facts, "probe_facts", lambda **options: facts)


# the machine


def test_the_real_machine_works() -> None:
    done = run_info("--json", "--require", "cpu")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == REPORT_KEYS
    assert (found["schema"], found["command"]) == (1, "info")
    assert found["usable"]
    assert found["required"] == [{"name": "cpu", "ok": True, "reason": None}]
    assert found["packages"]["torch"].split("+")[0] == found["torch"]["version"].split("+")[0]
    cpu = found["devices"][0]
    assert (cpu["device"], cpu["ok"]) == ("cpu", True)
    tested = {op["name"]: op["ok"] for op in cpu["operations"]}
    assert tested == dict.fromkeys(("matmul", "conv2d", "training", "autocast"), True)
    assert found["onnxruntime"]["ok"]
    assert "CPUExecutionProvider" in found["onnxruntime"]["providers"]
    assert done.stderr == ""


CRASH = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ImportError('undefined symbol: cuda')", "ImportError: undefined symbol: cuda"),
        ("raise OSError('libcudnn.so.9: cannot open shared object file')", "OSError: libcudnn.so.9"),
        pytest.param(CRASH, "SIGSEGV", marks=pytest.mark.skipif(os.name == "nt", reason="no signals")),
    ],
)
def test_a_broken_torch_does_not_take_info_down(tmp_path: Path, code: str, said: str) -> None:
    make_package(tmp_path, "torch", code=code, version="2.15.0")
    done = run_info(first_on_path=tmp_path, COLUMNS="200")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    error, blank, hint = done.stderr.splitlines()
    assert error.startswith("error: torch 2.15.0 cannot be imported: ")
    assert said in error
    assert (blank, hint.startswith("hint: python -m pip install ")) == ("", True)
    assert "torch        failed  2.15.0" in done.stdout
    assert "not ready: torch does not work" in done.stdout
    assert "Packages" in done.stdout


def test_a_broken_torch_is_in_the_json_and_misses_every_requirement(tmp_path: Path) -> None:
    make_package(tmp_path, "torch", code="raise ImportError('no')", version="2.15.0")
    done = run_info("--json", "--require", "cuda", first_on_path=tmp_path)
    assert done.returncode == 3
    found = json.loads(done.stdout)
    assert set(found) == REPORT_KEYS
    assert not found["usable"]
    assert found["torch"]["error"] == "ImportError: no"
    assert [c["part"] for c in found["causes"] if c["level"] == "error"] == ["torch"]
    assert found["required"][0]["ok"] is False
    assert done.stderr.startswith("error: --require cuda: torch does not work")


def test_a_torchvision_for_another_torch_is_one_line_and_a_way_out(tmp_path: Path) -> None:
    make_package(tmp_path, "torch", code=LIGHT_TORCH, version="2.15.0")
    nms = "raise RuntimeError('operator torchvision::nms does not exist')"
    make_package(tmp_path, "torchvision", code=nms, version="0.26.0", requires=("torch==2.11.0",))
    done = run_info(first_on_path=tmp_path)
    assert done.returncode == 1
    error, _, hint = done.stderr.splitlines()
    assert "torchvision 0.26.0 was built for another torch: it requires torch==2.11.0" in error
    assert "operator torchvision::nms does not exist" in error
    assert "pip install" in hint


def test_a_cpu_torch_with_a_cuda_torchvision_is_named(tmp_path: Path) -> None:
    code = LIGHT_TORCH.replace("+cu132", "+cpu")
    make_package(tmp_path, "torch", code=code, version="2.15.0+cpu", says="cuda = None")
    nms = "raise RuntimeError('operator torchvision::nms does not exist')"
    make_package(tmp_path, "torchvision", code=nms, version="0.29.0+cu132", requires=("torch>=2.14.0",))
    done = run_info(first_on_path=tmp_path)
    assert done.returncode == 1
    assert "torch 2.15.0+cpu is a CPU build, torchvision 0.29.0+cu132 a CUDA 13.2 build" in done.stderr


def test_a_torch_that_hangs_ends_at_the_limit(tmp_path: Path) -> None:
    make_package(tmp_path, "torch", code="import time; time.sleep(600)", version="2.15.0")
    done = run_info("--timeout", "1", first_on_path=tmp_path)
    assert done.returncode == 1
    assert "it did not end within 1 s" in done.stderr


def test_a_missing_device_exits_with_3_and_says_so_in_the_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show(without_gpu("Found no NVIDIA driver on your system."), monkeypatch)
    assert main(["info", "--json", "--require", "cuda", "--require", "cpu"]) == 3
    out, err = capsys.readouterr()
    required = {entry["name"]: entry["ok"] for entry in json.loads(out)["required"]}
    assert required == {"cuda": False, "cpu": True}
    assert err.startswith("error: --require cuda: no GPU on this machine")


def test_a_device_whose_operation_fails_exits_with_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = operation("matmul", ok=False, max_error=0.3, reason="the result is off by 0.3")
    show(good_steps() | {use_step("cuda:0"): Outcome({"operations": [bad]})}, monkeypatch)
    assert main(["info"]) == 0
    assert "but cuda:0 does not work" in capsys.readouterr().out
    assert main(["info", "--require", "cuda"]) == 3
    assert "cuda:0: matmul: the result is off by 0.3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--require", "cuba"], "did you mean 'cuda'?"),
        (["--require", "cuda:x"], "no such device"),
        (["--require", "compile"], "add --deep"),
        (["--quick", "--require", "cpu"], "leave --quick out"),
        (["--quick", "--deep"], "leave --quick out"),
        (["--json", "--markdown"], "exclude each other"),
        (["x.safetensors", "--require", "cpu"], "--require"),
        (["x.safetensors", "--markdown"], "--markdown"),
    ],
)
def test_a_wrong_request_exits_with_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("columns", ["60", "80", "140"])
@pytest.mark.parametrize("broken", [False, True])
def test_the_screen_fits_and_is_clean(
    columns: str, broken: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = good_steps()
    if broken:
        steps |= {IMPORT_TORCH: Outcome(error="OSError: " + "libfoo.so.1 is missing; " * 12)}
    show(steps, monkeypatch)
    monkeypatch.setenv("COLUMNS", columns)
    main(["info"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= int(columns)
    assert all(line == line.rstrip() for line in lines)
    assert "\x1b" not in "".join(lines)
    assert lines[-1].startswith("not ready" if broken else "ready: dlcli can train here, on cuda:0")


def test_quick_imports_nothing_and_starts_no_process(tmp_path: Path) -> None:
    make_package(tmp_path, "torch", code="raise SystemExit('imported')", version="2.15.0")
    code = (
        "import subprocess, sys\n"
        "subprocess.Popen = None\n"
        "from dlcli.cli import main\n"
        "code = main(['info', '--quick'])\n"
        "assert not {'torch', 'onnxruntime'} & set(sys.modules)\n"
        "sys.exit(code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "torch        2.15.0" in done.stdout
    assert done.stdout.splitlines()[-1] == "nothing was tested (--quick)"


def test_the_newest_run_and_its_metric_are_shown(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show(good_steps(), monkeypatch)
    assert main(["info", "--runs-dir", str(run_folder.parent)]) == 0
    out = "".join(capsys.readouterr().out.split())  # a long path is wrapped
    assert f"newestrun{run_folder}," in out


def test_markdown_tells_neither_who_nor_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home" / "jane.doe"
    (home / "runs").mkdir(parents=True)
    variables = {"HOME": home, "USERPROFILE": home, "USER": "jane.doe", "LOGNAME": "jane.doe"}
    variables |= {"HF_TOKEN": "hf_secret", "DLCLI_CACHE": home / "cache", "OMP_NUM_THREADS": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(sys, "executable", str(home / "venv/bin/python"))
    monkeypatch.setattr("platform.node", lambda: "ws-17.lab.example")
    failed = {"error": f"OSError: /srv/jane.doe/lib on jane.doe@ws-17: {home}/lib is missing | damaged"}
    show(good_steps() | {IMPORT_TORCH: Outcome(**failed)}, monkeypatch)
    assert main(["info", "--markdown", "--runs-dir", str(home / "runs")]) == 1
    out = capsys.readouterr().out
    for secret in ("jane", "hf_secret", "ws-17", str(tmp_path)):
        assert secret not in out
    assert "~/venv/bin/python" in out
    assert "~/lib is missing \\| damaged" in out
    assert "/srv/USER/lib on USER@HOST" in out
    tables = [line for line in out.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in tables} == {4}


# an artifact


def make_card(**changes: Any) -> Card:
    spec = ImageInput(channels=1, height=8, width=8, resize_size=8, mean=(0.5,), std=(0.25,))
    values: dict[str, Any] = {
        "model": ModelSpec(name="cnn", args={"dropout": 0.1}),
        "task": TaskSpec(input=spec, class_names=("cat", "dog", "[red]fox[/]\x1b[31m")),
        "transforms": (TransformRecord(kind="prune", args={"amount": 0.5}),),
        "metrics": {"val": {"accuracy": 0.91, "loss": 0.25}, "test": {"accuracy": 0.875}},
        "data": DataRecord(data="digits", fingerprint="abc"),
        "parent": "runs/a/best.safetensors",
        "params": 98_666,
        "epoch": 7,
        "versions": {"dlcli": "0.1.0", "torch": "2.15.0"},
    }
    return Card(**(values | changes))


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run with a model file; the file holds a card and one small tensor."""
    run = tmp_path / "runs" / "cnn-digits"
    run.mkdir(parents=True)
    (run / "run.json").write_text('{"started_at": "2026-01-01T00:00:00+00:00"}')
    write_tensors(run / "best.safetensors", {"w": torch.arange(6.0)}, {CARD_KEY: make_card().to_json()})
    return run


def test_a_file_a_folder_and_a_name_show_the_same_card(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_folder / "best.safetensors"
    root = ["--runs-dir", str(run_folder.parent)]
    found = []
    for name in (str(file), str(run_folder), run_folder.name, "last"):
        assert main(["info", name, "--json", *root]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert all(one == found[0] for one in found)
    assert found[0]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert found[0]["size_bytes"] == file.stat().st_size
    assert (found[0]["schema"], found[0]["command"]) == (1, "info")
    assert (found[0]["format"], found[0]["artifact"]) == ("safetensors", str(file))
    assert found[0]["run"] == str(run_folder)
    assert found[0]["metrics"] == make_card().metrics
    assert Card.model_validate(found[0]["card"]) == make_card()


@pytest.mark.parametrize("columns", ["80", "140"])
def test_the_card_is_readable(
    run_folder: Path,
    columns: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["info", str(run_folder / "best.safetensors")]) == 0
    out = capsys.readouterr().out
    for part in ("cnn", "98,666", "dropout=0.1", "prune amount=0.5", "1 x 8 x 8", "0.9100", "0.8750"):
        assert part in out
    for part in ("digits", "runs/a/best.safetensors", "torch 2.15.0", "safetensors", "sha256"):
        assert part in out
    assert "cat, dog, [red]fox[/]" in out  # printed as it is, not as markup ...
    assert "\x1b" not in out  # ... and not as an escape sequence
    assert all(len(line) <= int(columns) and line == line.rstrip() for line in out.splitlines())


def test_many_classes_are_counted_on_the_screen_and_whole_in_the_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make_card().task.input
    names = tuple(f"class{i}" for i in range(1000))
    path = tmp_path / "m.safetensors"
    card = make_card(task=TaskSpec(input=spec, class_names=names))
    write_tensors(path, {"w": torch.zeros(1)}, {CARD_KEY: card.to_json()})
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert "and 960 more" in out
    assert "class40" not in out
    assert main(["info", str(path), "--json"]) == 0
    assert tuple(json.loads(capsys.readouterr().out)["card"]["task"]["class_names"]) == names


def make_onnx(path: Path) -> None:
    """An ONNX file with a card."""
    from onnx import TensorProto, helper, save

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {CARD_KEY: make_card().to_json()})
    save(model, path)


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_a_card_is_shown_without_importing_torch(run_folder: Path, kind: str) -> None:
    path = run_folder / f"best.{kind}"
    if kind == "onnx":
        make_onnx(path)
    code = (
        "import sys\n"
        "from dlcli.cli import main\n"
        "code = main(['info', sys.argv[1], '--json']) or main(['info', sys.argv[1]])\n"
        "assert not {'torch', 'torchvision'} & set(sys.modules), 'torch was imported'\n"
        "sys.exit(code)"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["format"] == kind


def test_a_card_is_shown_where_torch_is_broken(run_folder: Path, tmp_path: Path) -> None:
    make_package(tmp_path / "fake", "torch", code="raise ImportError('broken')")
    done = run_info(str(run_folder), first_on_path=tmp_path / "fake")
    assert done.returncode == 0, done.stderr
    assert "98,666" in done.stdout


def test_files_that_hold_no_card_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, empty, text = tmp_path / "plain.safetensors", tmp_path / "empty.onnx", tmp_path / "a.bin"
    save_file({"w": np.zeros(1, np.float32)}, plain)
    empty.write_bytes(b"")
    text.write_text("no model at all, only words")
    for path, said in ((plain, "without a dlcli card"), (empty, "is empty"), (text, "not a model file")):
        assert main(["info", str(path)]) == 1
        err = capsys.readouterr().err
        assert said in err
        assert str(path) in err
    assert main(["info", str(tmp_path / "missing.onnx")]) == 1
    assert "does not exist" in capsys.readouterr().err
