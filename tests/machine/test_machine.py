"""Facts, the child process and the judgement, with broken libraries made in temporary folders."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_machines import GOOD_OPERATIONS, LIGHT_TORCH, facts_of, good_steps, make_package

from dlcli.machine import cgroups, hardware, operations, probe, threads
from dlcli.machine.causes.base import Cause, find_causes
from dlcli.machine.child import Outcome, run_probe
from dlcli.machine.facts import Facts, read_facts
from dlcli.machine.host import Host
from dlcli.machine.nvidia import read_nvidia
from dlcli.machine.probe import (
    FIND_DEVICES,
    IMPORT_ONNXRUNTIME,
    IMPORT_TORCH,
    IMPORT_TORCHVISION,
    RUN_ONNX,
    autocast_step,
    use_step,
)
from dlcli.machine.requirements import missing
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
    assert cgroups.cpu_quota(tmp_path, tmp_path / "none") == cores


def test_the_lowest_quota_on_the_way_to_the_root_counts(tmp_path: Path) -> None:
    root, own = tmp_path / "cgroup", tmp_path / "self"
    inner = root / "user.slice" / "job.scope"
    inner.mkdir(parents=True)
    own.write_text("4:memory:/elsewhere\n0::/user.slice/job.scope\n")
    assert cgroups.cpu_quota(root, own) is None
    (inner / "cpu.max").write_text("max 100000")
    (root / "user.slice" / "cpu.max").write_text("300000 100000")
    (tmp_path / "cpu.max").write_text("100000 100000")  # not of the hierarchy
    assert cgroups.cpu_quota(root, own) == 3
    (inner / "cpu.max").write_text("150000 100000")
    assert cgroups.cpu_quota(root, own) == 1.5


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
        torch.set_num_threads(2)
        with device.training_threads(1, processes=2):
            assert torch.get_num_threads() == 1
        with device.training_threads(64, processes=2):  # of a run that came from another machine
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 2  # the next run in this process has its own number
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun 6\n", "535.54.03"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65  Release\n", "580.65"),
        ("", None),
    ],
)
def test_the_nvidia_driver_is_read_from_the_kernel(
    text: str, version: str | None, tmp_path: Path
) -> None:
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(text)
    assert read_nvidia(Host(root=tmp_path, environ={"PATH": ""})).driver == version


def test_instruction_sets_come_from_the_flags(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512_vnni amx_tile amx_bf16\n"
    )
    cpu = hardware.cpu(Host(root=tmp_path))
    assert cpu["model"] == "Some CPU"
    assert cpu["instruction_sets"] == ["AVX2", "AVX512-VNNI", "AMX-BF16"]
    assert cpu["usable_cores"] >= 1


def test_a_system_without_proc_still_gives_facts(tmp_path: Path) -> None:
    facts = read_facts(Host(root=tmp_path, environ={}))
    assert facts.cpu["model"]
    assert facts.memory["total_bytes"] > facts.memory["available_bytes"] > 0
    assert facts.load is None
    assert not facts.probed


@pytest.mark.parametrize(
    ("files", "environ", "name"),
    [
        ({}, {}, None),
        ({".dockerenv": ""}, {}, "Docker"),
        ({"run/.containerenv": ""}, {}, "Podman"),
        ({".dockerenv": ""}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "Kubernetes"),
        ({}, {"APPTAINER_NAME": "torch.sif"}, "Apptainer"),
        ({"proc/version": "Linux version 6.6 (Microsoft@Microsoft.com)"}, {}, "WSL"),
        ({}, {"container": "lxc"}, "lxc"),
    ],
)
def test_containers_are_recognised(
    files: dict[str, str], environ: dict[str, str], name: str | None, tmp_path: Path
) -> None:
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    assert hardware.container(Host(root=tmp_path, environ=environ)) == name


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
    tried = probe.use_device("cpu")["operations"] + probe.use_autocast("cpu")["operations"]
    assert [op["name"] for op in tried] == ["matmul", "conv2d", "training", "autocast"]
    assert all(op["ok"] and 0 < op["ms"] < 10_000 for op in tried)
    *exact, half = (op["max_error"] for op in tried)
    assert all(0 <= error < 1e-4 for error in exact)
    assert 1e-4 < half < operations.HALF_TOLERANCE  # it was bfloat16


@pytest.mark.parametrize("factor", [1.05, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["matmul", "conv2d", "training", "autocast"])
def test_a_wrong_result_fails(name: str, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    right = operations.OPERATIONS[name]

    def wrong(device: str, dtype: str) -> Any:
        tensors, elapsed_s = right(device, dtype)
        if dtype != "float64":  # in one result of several, as a broken gradient would be
            tensors[-1] = tensors[-1] * factor
        return tensors, elapsed_s

    monkeypatch.setitem(operations.OPERATIONS, name, wrong)
    operation = operations.try_operation(name, "cpu")
    assert not operation["ok"]
    assert "the result is off by" in operation["reason"]


@pytest.mark.gpu
def test_a_gpu_computes_what_float64_says() -> None:
    tried = probe.use_device("cuda:0")["operations"] + probe.use_autocast("cuda:0")["operations"]
    assert [op["reason"] for op in tried] == [None] * 4


def test_an_operation_that_raises_says_why() -> None:
    operation = operations.try_operation("matmul", "meta:7x")
    assert not operation["ok"]
    assert operation["reason"].startswith("RuntimeError: ")


def test_onnxruntime_runs_a_graph() -> None:
    assert probe.run_onnx()["max_error"] < 1e-4


def test_the_child_module_imports_nothing_heavy() -> None:
    code = (
        "import sys; from dlcli.machine.causes.base import CAUSES; CAUSES.names(); "
        "assert not {'torch', 'numpy', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_deep_steps_compile_and_sum_over_two_processes() -> None:
    steps = run_probe("deep", timeout_s=500)
    del steps[probe.FIND_DEEP]
    assert {"compile on cpu", "all-reduce with gloo"} <= set(steps)
    assert {name: step.error for name, step in steps.items() if step.error} == {}


# facts


def why(facts: Facts, wanted: str) -> str | None:
    unmet = missing(facts, find_causes(facts), wanted)
    return unmet and unmet.reason


def errors(facts: Facts) -> list[Cause]:
    return [cause for cause in find_causes(facts) if cause.level == "error"]


def test_a_good_machine_has_no_problems() -> None:
    facts = facts_of(good_steps())
    assert facts.usable
    assert facts.best == "cuda:0"
    assert errors(facts) == []
    assert [why(facts, name) for name in ("cuda", "cuda:0", "cpu", "bf16", "gloo", "nccl")] == [None] * 6
    assert "cuda:1" not in str(why(facts, "mps"))
    assert "only cpu, cuda:0" in str(why(facts, "cuda:1"))


def test_a_gpu_that_crashes_leaves_the_cpu_usable() -> None:
    crash = Outcome(error="it crashed with SIGSEGV (segmentation fault)", trace="frames")
    facts = facts_of(good_steps() | {use_step("cuda:0"): crash})
    assert (facts.usable, facts.best) == (True, "cpu")
    assert why(facts, "cuda") == "cuda:0: it crashed with SIGSEGV (segmentation fault)"
    assert facts.traces == {use_step("cuda:0"): "frames"}


@pytest.mark.parametrize("step", [IMPORT_TORCH, IMPORT_TORCHVISION, use_step("cpu")])
def test_the_machine_is_unusable_when_a_part_is_broken(step: str) -> None:
    facts = facts_of(good_steps() | {step: Outcome(error="OSError: broken")})
    assert not facts.usable
    (cause,) = errors(facts)
    assert "OSError: broken" in cause.evidence


@pytest.mark.parametrize("step", [IMPORT_ONNXRUNTIME, RUN_ONNX])
def test_a_broken_onnxruntime_is_a_problem_but_training_works(step: str) -> None:
    steps = good_steps()
    del steps[RUN_ONNX]
    facts = facts_of(steps | {step: Outcome(error="OSError: broken")})
    assert facts.usable
    assert [cause.part for cause in errors(facts)] == ["onnxruntime"]
    assert not facts.onnxruntime.ok


@pytest.mark.parametrize(
    ("half", "sets", "reason"),
    [
        ("bfloat16", ["AVX512-BF16"], None),
        ("bfloat16", ["AVX2"], "no instructions for bfloat16"),
        ("float16", ["AVX512-BF16"], "no bfloat16, only float16"),
    ],
)
def test_bf16_is_what_the_best_device_has(half: str, sets: list[str], reason: str | None) -> None:
    from dataclasses import replace

    steps = good_steps() | {FIND_DEVICES: Outcome({"devices": [], "no_cuda": None, "arch_list": []})}
    steps[autocast_step("cpu")] = Outcome(
        {"operations": [GOOD_OPERATIONS[0] | {"name": "autocast", "dtype": half}]}
    )
    facts = facts_of(steps)
    facts = replace(facts, cpu=facts.cpu | {"instruction_sets": sets})
    unmet = why(facts, "bf16")
    assert unmet is None if reason is None else reason in str(unmet)


# NVML


def test_nvml_has_all_functions_that_are_called() -> None:
    nvml = pytest.importorskip("pynvml")
    source = Path(importlib.import_module("dlcli.machine.nvidia").__file__ or "").read_text()
    import re

    names = set(re.findall(r"\b(?:nvml[A-Z]\w+|NVML\w+)", source)) - {"NVML"}
    assert len(names) > 12
    assert [name for name in sorted(names) if not hasattr(nvml, name)] == []


def test_nvml_is_asked_in_a_child_and_its_reply_is_what_nvidia_smi_would_say(fakes: Path) -> None:
    (fakes / "pynvml.py").write_text(FAKE_NVML)
    outcome = run_probe("nvml", timeout_s=60)[probe.ASK_NVML]
    assert outcome.error is None
    nvidia = read_nvidia(Host(root=fakes, environ={}), outcome.value)
    assert (nvidia.driver, nvidia.cuda, nvidia.source) == ("580.65", "13.0", "NVML")
    first, second = nvidia.gpus
    assert (first.name, first.capability, first.total_bytes) == ("GPU 0", "9.0", 80 << 30)
    assert (first.mig, first.mig_devices, first.nvlinks) == (True, 2, 2)
    assert (second.mig, second.nvlinks, second.temperature_c) == (None, None, 41)


FAKE_NVML = """
from types import SimpleNamespace as S
NVML_NVLINK_MAX_LINKS, NVML_TEMPERATURE_GPU = 4, 0
class NVMLError(Exception): pass
def nvmlInit(): pass
nvmlShutdown = nvmlInit
nvmlSystemGetCudaDriverVersion_v2 = lambda: 13000
nvmlSystemGetDriverVersion = lambda: b"580.65"
nvmlDeviceGetCount = lambda: 2
nvmlDeviceGetHandleByIndex = lambda index: index
nvmlDeviceGetName = lambda gpu: f"GPU {gpu}".encode()
nvmlDeviceGetUUID = lambda gpu: f"GPU-{gpu}"
nvmlDeviceGetMemoryInfo = lambda gpu: S(total=80 << 30, used=1 << 30)
nvmlDeviceGetUtilizationRates = lambda gpu: S(gpu=7)
nvmlDeviceGetCudaComputeCapability = lambda gpu: (9, 0)
nvmlDeviceGetTemperature = lambda gpu, sensor: 41
nvmlDeviceGetMaxMigDeviceCount = lambda gpu: 7
def only_first(value):
    def ask(gpu, index=0):
        if gpu or index > 2:
            raise NVMLError("not supported")
        return value(index)
    return ask
nvmlDeviceGetMigMode = only_first(lambda index: (1, 1))
nvmlDeviceGetNvLinkState = only_first(lambda link: link < 2)
def nvmlDeviceGetMigDeviceHandleByIndex(gpu, index):
    if index > 1:
        raise NVMLError("not found")
    return index
"""
