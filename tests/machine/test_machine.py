"""Facts, the child process and the judgement, with broken libraries made in temporary folders."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_machines import GOOD_OPERATIONS, LIGHT_TORCH, good_steps, machine_of, make_package

from dlcli.machine import hardware, installed, probe, threads
from dlcli.machine.child import Outcome, run_probe
from dlcli.machine.probe import (
    FIND_DEVICES,
    IMPORT_ONNXRUNTIME,
    IMPORT_TORCH,
    IMPORT_TORCHVISION,
    RUN_ONNX,
    use_step,
)
from dlcli.subprocesses import describe_exit


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is looked into before the installed packages."""
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return tmp_path


# hardware


@pytest.mark.parametrize(
    ("text", "cores"),
    [("200000 100000\n", 2.0), ("150000 100000", 1.5), ("max 100000\n", None), ("", None)],
)
def test_a_container_quota_is_read_in_cores(text: str, cores: float | None, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert threads.cpu_quota(tmp_path, tmp_path / "none") == cores


def test_the_lowest_quota_on_the_way_to_the_root_counts(tmp_path: Path) -> None:
    root, own = tmp_path / "cgroup", tmp_path / "self"
    inner = root / "user.slice" / "job.scope"
    inner.mkdir(parents=True)
    own.write_text("4:memory:/elsewhere\n0::/user.slice/job.scope\n")
    assert threads.cpu_quota(root, own) is None
    (inner / "cpu.max").write_text("max 100000")
    (root / "user.slice" / "cpu.max").write_text("300000 100000")
    (tmp_path / "cpu.max").write_text("100000 100000")  # not of the hierarchy
    assert threads.cpu_quota(root, own) == 3
    (inner / "cpu.max").write_text("150000 100000")
    assert threads.cpu_quota(root, own) == 1.5


@pytest.mark.parametrize(
    ("quota", "processes", "cores"),
    [(None, 1, 8), (None, 3, 2), (2.5, 1, 2), (0.5, 1, 1), (64.0, 2, 4), (None, 16, 1)],
)
def test_cores_are_those_of_affinity_and_quota_shared_by_processes(
    quota: float | None, processes: int, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    assert threads.usable_cores(processes) == cores


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, threads.SPIN_COUNT), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_openmp_threads_sleep_soon_unless_the_user_says_how_they_wait(
    given: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    threads.limit_spinning()
    assert os.environ.get("GOMP_SPINCOUNT") == spins


def test_the_program_limits_spinning_before_torch_is_loaded() -> None:
    code = (
        "import os, sys\nfrom dlcli.cli import main\n"
        "main(['--version'])\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(os.environ.get('GOMP_SPINCOUNT') != '1000')"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("requested", "environment", "threads_then"),
    [(None, "", 2), (3, "", 3), (None, "4", 4), (3, "4", 3)],
)
def test_torch_has_as_many_threads_as_requested_or_cores(
    requested: int | None, environment: str, threads_then: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from dlcli.zoo import device

    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", environment)
    monkeypatch.setattr(device, "usable_cores", lambda processes: 4 // processes)
    try:
        torch.set_num_threads(4)
        device.set_threads(requested, processes=2)
        assert torch.get_num_threads() == threads_then
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun 6\n", "535.54.03"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65  Release\n", "580.65"),
        ("", None),
    ],
)
def test_the_nvidia_driver_is_read_from_the_kernel(
    said: str, version: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_read", lambda path: said)
    monkeypatch.setenv("PATH", "")
    assert hardware.nvidia_driver() == version


def test_instruction_sets_come_from_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = (
        "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512_vnni amx_tile amx_bf16\n"
    )
    monkeypatch.setattr(hardware, "_read", lambda path: cpuinfo if path == "/proc/cpuinfo" else "")
    cpu = hardware.cpu()
    assert cpu["model"] == "Some CPU"
    assert cpu["instruction_sets"] == ["AVX2", "AVX512-VNNI", "AMX-BF16"]
    assert cpu["usable_cores"] >= 1


def test_a_system_without_proc_still_gives_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_read", lambda path: "")
    assert hardware.cpu()["model"]
    assert hardware.memory()["total_bytes"] > hardware.memory()["available_bytes"] > 0


# installed


def test_a_missing_package_has_no_version() -> None:
    assert installed.version_of("no-such-package-at-all") is None


def test_a_gpu_build_of_onnxruntime_counts_as_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_package(tmp_path, "onnxruntime_gpu", version="1.30.0")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert installed.version_of("onnxruntime") == "1.30.0"


@pytest.mark.parametrize(
    ("torch", "requirement", "fits"),
    [
        ("2.15.0", "torch (>=2.14.0)", True),
        ("2.15.0+cu132", "torch==2.15.0", True),
        ("2.15.0", "torch==2.11.0", False),
        ("2.13.1", "torch>=2.14.0", False),
        ("2.16.0.dev20261101", "torch>=2.14.0", True),
        ("2.10.0", "torch==2.15.0; extra == 'old'", True),
        ("2.10.0", "torch==2.15.0; python_version < '3'", True),
    ],
)
def test_the_wheel_itself_says_which_torch_it_needs(
    fakes: Path, torch: str, requirement: str, fits: bool
) -> None:
    make_package(fakes, "torch", version=torch)
    make_package(fakes, "torchvision", version="0.29.0", requires=(requirement, "numpy"))
    assert [found for _, found in installed.unmet("torchvision")] == ([] if fits else [torch])


@pytest.mark.parametrize(
    ("module", "version", "says", "kind"),
    [
        ("torch", "2.15.0+cu132", "cuda: str | None = '13.2'\nhip = None", "CUDA 13.2"),
        ("torch", "2.15.0+rocm6.4", "cuda = None\nhip = '6.4.1'", "ROCm 6.4.1"),
        ("torch", "2.15.0+cpu", "cuda = None\nhip = None", "CPU"),
        ("torch", "2.15.0", "cuda = None", "CPU"),
        ("torchvision", "0.29.0+cu132", "", "CUDA 13.2"),
        ("torchvision", "0.29.0+cpu", "", "CPU"),
        ("torchvision", "0.29.0", "", None),
    ],
)
def test_the_build_is_read_without_importing(
    fakes: Path, module: str, version: str, says: str, kind: str | None
) -> None:
    make_package(fakes, module, code="raise SystemExit('imported')", version=version, says=says)
    build = installed.build_of(module)
    assert build is not None
    assert (build.version, build.kind) == (version, kind)


def test_a_torchvision_for_another_torch_is_explained(fakes: Path) -> None:
    make_package(fakes, "torch", version="2.15.0")
    make_package(fakes, "torchvision", version="0.26.0", requires=("torch==2.11.0",))
    problem = installed.explain_torchvision("cannot be imported: RuntimeError: no operator")
    assert "torchvision 0.26.0 needs torch==2.11.0, but torch 2.15.0 is installed" in problem.message
    assert "no operator" in problem.message
    assert problem.hint is not None
    assert problem.hint.startswith("python -m pip install")


def test_a_cpu_torch_with_a_cuda_torchvision_is_explained(fakes: Path) -> None:
    make_package(fakes, "torch", version="2.15.0", file_version="2.15.0+cpu", says="cuda = None")
    make_package(fakes, "torchvision", version="0.29.0+cu132", requires=("torch==2.15.0",))
    problem = installed.explain_torchvision("cannot be imported: RuntimeError")
    assert "torch 2.15.0+cpu is a CPU build and torchvision 0.29.0+cu132 a CUDA 13.2" in problem.message


def test_a_module_that_hides_torch_is_named(fakes: Path) -> None:
    (fakes / "torch.py").write_text("raise ImportError('mine')")
    problem = installed.explain_torch("cannot be imported: ImportError: mine")
    assert problem.hint is not None
    assert str(fakes / "torch.py") in problem.hint


def test_missing_libraries_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert installed.explain_torch("...").message == "torch is not installed"
    assert installed.explain_torchvision("...").message == "torchvision is not installed"
    assert installed.pip_line() == "python -m pip install torch torchvision"


def test_two_versions_over_each_other_are_noticed(fakes: Path) -> None:
    make_package(fakes, "torch", version="2.15.0", file_version="2.13.0+cpu")
    (warning,) = [
        line for line in installed.version_warnings(pair=False) if line.startswith("torch's files")
    ]
    assert "2.13.0+cpu" in warning
    assert "2.15.0" in warning


# child


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "raise ImportError('libcudart.so.13: cannot open\\nshared object file')",
            "ImportError: libcudart",
        ),
        ("raise OSError('a DLL')", "OSError: a DLL"),
        ("print('noise'); import os; os.write(1, b'noise'); raise KeyError('k')", "KeyError: 'k'"),
        ("raise SystemExit(3)", "it crashed with exit code 3"),
        ("import os; os._exit(7)", "it crashed with exit code 7"),
    ],
)
def test_a_torch_that_fails_is_reported(fakes: Path, code: str, said: str) -> None:
    make_package(fakes, "torch", code=code)
    steps = run_probe("torch", timeout_s=60)
    error = steps[IMPORT_TORCH].error
    assert error is not None
    assert said in error
    assert "\n" not in error
    assert set(steps) == {IMPORT_TORCH}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_a_segmentation_fault_is_reported_with_its_place(fakes: Path) -> None:
    crash = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"
    package = make_package(fakes, "torch", code=crash)
    outcome = run_probe("torch", timeout_s=60)[IMPORT_TORCH]
    assert outcome.error == "it crashed with SIGSEGV (segmentation fault)"
    assert str(package / "__init__.py") in str(outcome.trace)


def test_a_hang_ends_at_the_limit_and_keeps_what_was_learnt(fakes: Path) -> None:
    make_package(fakes, "torch", code=LIGHT_TORCH)
    make_package(fakes, "torchvision", code="import time; time.sleep(600)")
    steps = run_probe("torch", timeout_s=3)
    assert steps[IMPORT_TORCH].value is not None
    assert steps[IMPORT_TORCH].value["cudnn"] == 92600
    assert steps[IMPORT_TORCHVISION].error == "it did not end within 3 s"
    assert set(steps) == {IMPORT_TORCH, IMPORT_TORCHVISION}


def test_the_steps_after_a_crash_are_still_done(fakes: Path) -> None:
    make_package(fakes, "torch", code=LIGHT_TORCH)
    make_package(fakes, "torchvision", code="import os; os._exit(9)")
    steps = run_probe("torch", timeout_s=60)
    assert steps[IMPORT_TORCHVISION].error == "it crashed with exit code 9"
    assert steps[IMPORT_TORCH].error is None
    assert {use_step("cpu"), FIND_DEVICES} <= set(steps)


@pytest.mark.parametrize(
    ("code", "words"),
    [(3, "exit code 3"), (0xC0000005, "0xC0000005 (access violation)"), (-200, "signal 200")],
)
def test_endings_are_put_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words


# probe


def test_the_cpu_computes_what_float64_says() -> None:
    facts = probe.use_device("cpu")
    assert [(op["name"], op["ok"]) for op in facts["operations"]] == [("matmul", True), ("conv2d", True)]
    assert all(0 < op["ms"] < 10_000 for op in facts["operations"])
    assert all(0 <= op["max_error"] < 1e-4 for op in facts["operations"])


@pytest.mark.parametrize("factor", [1.02, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["matmul", "conv2d"])
def test_a_wrong_result_fails(name: str, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(probe, f"_{name}")

    def wrong(device: str, dtype: str) -> Any:
        tensors, elapsed_s = right(device, dtype)
        if dtype == "float32":  # in one result of several, as a broken gradient would be
            tensors[-1] = tensors[-1] * factor
        return tensors, elapsed_s

    monkeypatch.setattr(probe, f"_{name}", wrong)
    operation = probe._operation(name, "cpu")
    assert not operation["ok"]
    assert "the result is off by" in operation["reason"]


def test_an_operation_that_raises_says_why() -> None:
    operation = probe._operation("matmul", "meta:7x")
    assert not operation["ok"]
    assert operation["reason"].startswith("RuntimeError: ")


def test_onnxruntime_runs_a_graph() -> None:
    assert probe.run_onnx()["max_error"] < 1e-4


def test_the_child_module_imports_nothing_heavy() -> None:
    code = "import dlcli.machine.report, sys; assert not {'torch', 'numpy', 'onnx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# report


def test_a_good_machine_has_no_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = machine_of(good_steps(), monkeypatch)
    assert machine.usable
    assert machine.problems == []
    assert machine.missing("cuda") is None
    assert machine.missing("cuda:0") is None
    assert machine.missing("cpu") is None
    assert machine.devices[1]["driver"] == "580.65"
    assert "cuda:1" not in str(machine.missing("mps"))
    assert "only cpu, cuda:0" in str(machine.missing("cuda:1"))


def test_a_gpu_without_kernels_fails_and_says_what_torch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "RuntimeError: CUDA error: no kernel image is available for execution on the device"
    bad = [{**GOOD_OPERATIONS[0], "ok": False, "reason": reason}, GOOD_OPERATIONS[1]]
    steps = good_steps() | {use_step("cuda:0"): Outcome({"name": "Old GPU", "operations": bad})}
    machine = machine_of(steps, monkeypatch)
    assert machine.usable  # the CPU is there
    assert "this torch has kernels for sm_90" in str(machine.missing("cuda"))
    assert machine.problems[0].message.startswith("cuda:0 (Old GPU): matmul: RuntimeError")


def test_a_gpu_that_crashes_leaves_the_cpu_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    crash = Outcome(error="it crashed with SIGSEGV (segmentation fault)", trace="frames")
    machine = machine_of(good_steps() | {use_step("cuda:0"): crash}, monkeypatch)
    assert machine.usable
    assert machine.missing("cuda") == "cuda:0: it crashed with SIGSEGV (segmentation fault)"
    assert machine.traces == {use_step("cuda:0"): "frames"}


@pytest.mark.parametrize("step", [IMPORT_TORCH, IMPORT_TORCHVISION, use_step("cpu")])
def test_the_machine_is_unusable_when_a_part_is_broken(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = machine_of(good_steps() | {step: Outcome(error="OSError: broken")}, monkeypatch)
    assert not machine.usable
    assert len(machine.problems) == 1
    assert "OSError: broken" in machine.problems[0].message


@pytest.mark.parametrize("step", [IMPORT_ONNXRUNTIME, RUN_ONNX])
def test_a_broken_onnxruntime_is_a_problem_but_training_works(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = good_steps()
    del steps[RUN_ONNX]
    machine = machine_of(steps | {step: Outcome(error="OSError: broken")}, monkeypatch)
    assert machine.usable
    assert [problem.part for problem in machine.problems] == ["onnxruntime"]
    assert not machine.onnxruntime["ok"]


@pytest.mark.parametrize(
    ("environment", "reason", "said"),
    [
        ({}, "Found no NVIDIA driver on your system. Please check", "no NVIDIA driver on this machine"),
        (
            {},
            "The NVIDIA driver ... is too old (found version 12040). Please",
            "it runs up to CUDA 12.4",
        ),
        ({"CUDA_VISIBLE_DEVICES": ""}, "No CUDA GPUs are available", "CUDA_VISIBLE_DEVICES='' hides"),
        (
            {"CUDA_VISIBLE_DEVICES": "-1"},
            "No CUDA GPUs are available",
            "CUDA_VISIBLE_DEVICES='-1' hides",
        ),
        ({"CUDA_VISIBLE_DEVICES": "0"}, "No CUDA GPUs are available", "No CUDA GPUs are available"),
    ],
)
def test_why_there_is_no_gpu_is_a_note(
    environment: dict[str, str], reason: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    none = Outcome({"devices": [], "no_cuda": reason, "arch_list": []})
    machine = machine_of(good_steps() | {FIND_DEVICES: none}, monkeypatch)
    assert machine.usable
    assert machine.problems == []
    assert any(said in note for note in machine.notes)
    assert said in str(machine.missing("cuda"))
