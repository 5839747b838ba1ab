"""Machines that are not here, at the boundary of files and processes: which causes are named."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_machines import FakeMachine, good_steps, operation, without_gpu

from dlcli.machine.causes.base import CAUSES, find_causes
from dlcli.machine.causes.cuda import has_kernels
from dlcli.machine.child import Outcome
from dlcli.machine.deep import all_reduce_step, compile_step
from dlcli.machine.facts import Facts
from dlcli.machine.probe import FIND_DEVICES, IMPORT_TORCH, autocast_step, use_step
from dlcli.machine.requirements import missing

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the fake programs are shell scripts")

CPU_ONLY = {FIND_DEVICES: Outcome({"devices": [], "no_cuda": None, "arch_list": []})}
NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"
NO_GPU = "No CUDA GPUs are available"


def libraries(machine: FakeMachine) -> None:
    """torch, torchvision and ONNX Runtime that fit each other."""
    machine.torch()
    machine.torchvision()
    machine.onnxruntime("1.31.1", "13.0", "CUDAExecutionProvider")


def healthy(machine: FakeMachine) -> None:
    libraries(machine)
    machine.nvidia(gpus=["NVIDIA H100 80GB HBM3, 9.0"])
    machine.disks |= {"shm": (64 << 30, 64 << 30), "runs": (1 << 40, 1 << 39)}


def no_gpu_at_all(machine: FakeMachine) -> None:
    libraries(machine)
    machine.steps |= without_gpu(NO_DRIVER)


def cpu_torch(machine: FakeMachine) -> None:
    machine.nvidia(gpus=["NVIDIA GeForce RTX 4070, 8.9", "NVIDIA GeForce RTX 4070, 8.9"])
    machine.steps = without_gpu(NO_DRIVER) | CPU_ONLY
    machine.torch("2.15.0+cpu", cuda=None)
    machine.torchvision("0.29.2+cpu")


def cpu_torch_amd(machine: FakeMachine) -> None:
    machine.steps = without_gpu(NO_DRIVER) | CPU_ONLY
    machine.torch("2.15.0+cpu", cuda=None)
    machine.torchvision("0.29.2+cpu")
    node = "/sys/class/kfd/kfd/topology/nodes"
    machine.write(f"{node}/0/properties", "cpu_cores_count 64\nsimd_count 0\ngfx_target_version 0\n")
    machine.write(
        f"{node}/1/properties", "cpu_cores_count 0\nsimd_count 304\ngfx_target_version 90402\n"
    )


def old_driver(machine: FakeMachine) -> None:
    machine.nvidia("550.54.15", "12.4", ["NVIDIA A100-SXM4-80GB, 8.0"])
    words = "The NVIDIA driver on your system is too old (found version 12040). Please update"
    machine.steps = without_gpu(words)
    libraries(machine)


def old_gpu(machine: FakeMachine) -> None:
    machine.nvidia(gpus=["NVIDIA GeForce GTX 1080, 6.1"])
    libraries(machine)
    gpu = machine.steps[use_step("cuda:0")].value
    assert gpu is not None
    gpu |= {"name": "NVIDIA GeForce GTX 1080", "capability": "6.1"}
    reason = "RuntimeError: CUDA error: no kernel image is available for execution on the device"
    gpu["operations"] = [operation("matmul", ok=False, reason=reason)]


def hidden(machine: FakeMachine) -> None:
    machine.nvidia(gpus=["NVIDIA H100 80GB HBM3, 9.0"])
    machine.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    machine.steps = without_gpu(NO_GPU)
    libraries(machine)


def wrong_index(machine: FakeMachine) -> None:
    hidden(machine)
    machine.environ["CUDA_VISIBLE_DEVICES"] = "1,2"


def container(machine: FakeMachine) -> None:
    machine.write("/proc/driver/nvidia/version", "NVRM version: x Kernel Module  580.65.06  Tue Jun 6\n")
    machine.write("/.dockerenv")
    machine.steps = without_gpu(NO_DRIVER)
    libraries(machine)


def nouveau(machine: FakeMachine) -> None:
    device = "/sys/bus/pci/devices/0000:01:00.0"
    machine.write(f"{device}/vendor", "0x10de\n")
    machine.write(f"{device}/class", "0x030000\n")
    machine.write("/sys/bus/pci/drivers/nouveau/bind")
    (machine.folder / "root" / device[1:] / "driver").symlink_to("../../drivers/nouveau")
    machine.steps = without_gpu(NO_DRIVER)
    libraries(machine)


def upgraded_driver(machine: FakeMachine) -> None:
    container(machine)
    (machine.folder / "root" / ".dockerenv").unlink()
    for node in ("nvidia0", "nvidiactl", "nvidia-uvm"):
        machine.write(f"/dev/{node}")
    words = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n"
    machine.program("nvidia-smi", {"*": words}, code=18)


def other_pair(machine: FakeMachine) -> None:
    healthy(machine)
    machine.torchvision("0.26.0+cu132", requires="torch==2.11.0")


def other_kind(machine: FakeMachine) -> None:
    healthy(machine)
    machine.torchvision("0.29.2+cpu")


def other_cuda(machine: FakeMachine) -> None:
    healthy(machine)
    machine.onnxruntime("1.26.0", "12.8", "CUDAExecutionProvider")


def two_runtimes(machine: FakeMachine) -> None:
    healthy(machine)
    machine.onnxruntime("1.31.1")  # the CPU's, over the GPU's


def several_torches(machine: FakeMachine) -> None:
    healthy(machine)
    machine.torch("2.13.0+cu130", "13.0", site="user-site")


def small_shm(machine: FakeMachine) -> None:
    healthy(machine)
    machine.nvidia(gpus=["NVIDIA H100, 9.0", "NVIDIA H100, 9.0"])
    machine.write("/.dockerenv")
    machine.disks["shm"] = (64 << 20, 64 << 20)


def full_disk(machine: FakeMachine) -> None:
    healthy(machine)
    machine.disks["runs"] = (1 << 40, 300_000_000)


def mac(machine: FakeMachine) -> None:
    machine.platform, machine.machine = "darwin", "arm64"
    machine.program("sysctl", {"-n vm.loadavg": "{ 1,52 1,60 1,71 }", "*": "Apple M4 Pro"})
    machine.torch("2.15.0", cuda=None)
    machine.torchvision("0.29.2")
    why = "The MPS backend is supported on MacOS 14.0+. Current OS version can be queried"
    listing = {"devices": [], "no_cuda": None, "no_mps": why, "arch_list": []}
    machine.steps |= without_gpu("") | {FIND_DEVICES: Outcome(listing)}
    machine.steps[IMPORT_TORCH] = Outcome({"version": "2.15.0", "mps_built": True, "threads": 1})


def rosetta(machine: FakeMachine) -> None:
    mac(machine)
    machine.machine = "x86_64"


def windows(machine: FakeMachine) -> None:
    machine.platform = "win32"
    machine.torch("2.15.0+cpu", cuda=None)
    machine.torchvision("0.29.2+cpu")
    machine.steps |= without_gpu("") | CPU_ONLY
    machine.steps[IMPORT_TORCH] = Outcome({"version": "2.15.0", "libuv": False, "threads": 1})


def many_threads(machine: FakeMachine) -> None:
    healthy(machine)
    machine.write("/proc/self/cgroup", "0::/job\n")
    machine.write("/sys/fs/cgroup/job/cpu.max", "200000 100000\n")
    machine.write("/proc/loadavg", "3000.51 10.2 3.3 5/800 12345\n")
    machine.environ["OMP_NUM_THREADS"] = "16,1"


def old_cgroup(machine: FakeMachine) -> None:
    many_threads(machine)
    (machine.folder / "root/sys/fs/cgroup/job/cpu.max").unlink()
    machine.write("/proc/self/cgroup", "5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n")
    machine.write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000\n")
    machine.write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    machine.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", f"{1 << 28}\n")


def amx(machine: FakeMachine) -> None:
    healthy(machine)
    machine.write(
        "/proc/cpuinfo", "model name\t: Intel Xeon\nflags\t\t: avx2 avx512f amx_bf16 amx_int8\n"
    )
    machine.crashed = (autocast_step("cpu"), signal.SIGILL)


def failed_deep(machine: FakeMachine) -> None:
    healthy(machine)


SETUPS: dict[Callable[[FakeMachine], None], dict[str, str]] = {
    healthy: {},
    no_gpu_at_all: {"no-gpu": "no GPU on this machine: torch, a CUDA 13.2 build"},
    cpu_torch: {"cpu-build": r"RTX 4070 and 1 more, driver 580\.65\.06.*--index-url \S+/cu130"},
    cpu_torch_amd: {"cpu-build": r"an AMD GPU.*gfx942.*rocm"},
    old_driver: {"driver-too-old": r"driver 550\.54\.15 runs up to CUDA 12\.4.*/cu126.*580\.65"},
    old_gpu: {"architecture": r"GTX 1080.*capability is 6\.1; torch has sm_75.*/cu126"},
    hidden: {"gpu-hidden": r"CUDA_VISIBLE_DEVICES='-1', and there is 1 GPU.*unset CUDA_VISIBLE"},
    wrong_index: {"gpu-hidden": r"not there.*CUDA_VISIBLE_DEVICES='1,2'"},
    container: {"device-files": r"Docker container.*580\.65\.06.*no /dev/nvidia0.*--gpus all"},
    nouveau: {"driver-missing": r"0000:01:00\.0.*kernel module nouveau"},
    upgraded_driver: {"driver-mismatch": r"old kernel module.*version mismatch.*sudo reboot"},
    other_pair: {"torch-pair": r"requires torch==2\.11\.0; torch 2\.15\.0\+cu132 is installed"},
    other_kind: {"torch-pair": r"cu132 is a CUDA 13\.2 build, torchvision \S+ a CPU build"},
    other_cuda: {"onnxruntime-cuda": r"1\.26\.0 needs CUDA 12\.8, torch brings 13\.2.*>=1\.27"},
    two_runtimes: {
        "onnxruntime-cpu": r"torch uses cuda:0.*onnxruntime-gpu>=1\.27",
        "onnxruntime-twice": r"onnxruntime and onnxruntime-gpu are installed",
    },
    several_torches: {"several-torches": r"site/torch is imported, and hides \S+user-site/torch"},
    small_shm: {"shared-memory": r"holds 67\.1 MB.*docker run --shm-size"},
    full_disk: {"disk": r"runs \(\S+/runs\).*300 MB of 1100 GB are free"},
    mac: {"mps": r"MacOS 14\.0\+"},
    rosetta: {"mps": r"Rosetta.*x86_64 on Apple M4 Pro.*arm64"},
    windows: {"libuv": r"several processes.*without libuv.*wsl"},
    many_threads: {"threads": r"=16,.*2 cores by the cgroup's quota.*OMP_NUM_THREADS=2", "busy": "3e"},
    old_cgroup: {"threads": r"=16,.*1 core by the cgroup's quota.*OMP_NUM_THREADS=1", "busy": "3e"},
    amx: {"amx": r"AMX-INT8, AMX-BF16: .*SIGILL.*ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16"},
}


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.__name__)
def test_each_setup_has_its_causes_and_no_other(
    setup: Callable[[FakeMachine], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = FakeMachine(tmp_path)
    setup(machine)
    causes = find_causes(machine.facts(monkeypatch))
    lines = {c.code: f"{c.what} | {c.evidence} | {c.hint}" for c in causes}
    assert set(lines) == set(SETUPS[setup]), lines
    for code, pattern in SETUPS[setup].items():
        assert re.search(pattern, lines[code]), lines[code]


def test_every_registered_cause_has_a_setup_or_a_test_of_its_own() -> None:
    elsewhere = {"torch-import", "torchvision-import", "mixed-files", "versions"}  # test_machine.py
    elsewhere |= {"onnxruntime", "device", "deep"}
    named = {code for causes in SETUPS.values() for code in causes}
    assert set(CAUSES.names()) == named | elsewhere


def facts_of(
    setup: Callable[[FakeMachine], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Facts:
    machine = FakeMachine(folder)
    setup(machine)
    return machine.facts(monkeypatch)


def test_an_amx_that_dies_leaves_float32_and_the_rest_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = facts_of(amx, tmp_path, monkeypatch)
    assert facts.usable
    assert facts.best == "cuda:0"
    assert [d.ok for d in facts.devices] == [False, True]
    assert missing(facts, find_causes(facts), "amx") is None  # announced
    assert missing(facts, find_causes(facts), "bf16") is None  # the GPU's


def test_nvidia_smi_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia = facts_of(healthy, tmp_path, monkeypatch).nvidia
    (gpu,) = nvidia.gpus
    assert (nvidia.driver, nvidia.cuda, nvidia.source) == ("580.65.06", "13.0", "nvidia-smi")
    assert (gpu.name, gpu.capability, gpu.uuid) == ("NVIDIA H100 80GB HBM3", "9.0", "GPU-0")
    assert (gpu.total_bytes, gpu.used_bytes) == (81559 << 20, 1559 << 20)
    assert (gpu.utilization_percent, gpu.temperature_c) == (7, 41)
    assert (gpu.mig, gpu.mig_devices, gpu.nvlinks) == (False, 0, 1)


def test_a_cpu_build_is_why_cuda_is_required_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = facts_of(cpu_torch, tmp_path, monkeypatch)
    why = missing(facts, find_causes(facts), "cuda")
    assert why is not None
    assert "torch 2.15.0+cpu is built for the CPU alone" in why.reason
    assert str(why.hint).startswith("python -m pip install --force-reinstall")


def test_limits_of_an_old_cgroup_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = facts_of(old_cgroup, tmp_path, monkeypatch)
    assert facts.cpu["quota_cores"] == 1
    assert facts.memory["limit_bytes"] == 1 << 28
    assert facts.cores == 1


def test_only_known_variables_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FakeMachine(tmp_path)
    healthy(machine)
    machine.environ |= {"HF_TOKEN": "secret", "OMP_NUM_THREADS": "1"}
    facts = machine.facts(monkeypatch)
    assert facts.environ == {"OMP_NUM_THREADS": "1"}
    assert "secret" not in str(facts)


@pytest.mark.parametrize(
    ("capability", "archs", "runs"),
    [
        ("8.0", "sm_80", True),
        ("8.9", "sm_80", True),
        ("8.6", "sm_89", False),
        ("9.0", "sm_80 sm_86", False),
        ("9.0", "sm_80 compute_80", True),
        ("7.5", "compute_80", False),
        ("9.0", "sm_90a", True),
        ("10.3", "sm_100f", True),
        ("10.3", "sm_100a", False),
        ("12.0", "sm_90 sm_100 sm_120", True),
        ("12.1", "sm_120", True),
    ],
)
def test_kernels_run_as_cuda_promises(capability: str, archs: str, runs: bool) -> None:
    assert has_kernels(capability, tuple(archs.split())) is runs


def test_a_failed_deep_step_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    facts = facts_of(healthy, tmp_path, monkeypatch)
    deep = {
        compile_step("cuda"): Outcome(error="InvalidCxxCompiler: No working C++ compiler found"),
        all_reduce_step("gloo"): Outcome({"seconds": 2.0}),
    }
    facts = replace(facts, deep=deep)
    (cause,) = find_causes(facts)
    assert (cause.code, cause.command) == ("deep", "sudo apt install g++")
    why = missing(facts, (cause,), "compile")
    assert why is not None
    assert "No working C++ compiler" in why.reason
    assert "nothing to try" in str(missing(facts, (), "all-reduce"))  # NCCL, with one GPU


def test_a_hanging_nvidia_smi_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlcli.machine import host

    monkeypatch.setattr(host, "PROGRAM_LIMIT_S", 0.2)
    machine = FakeMachine(tmp_path)
    container(machine)
    machine.write("/dev/nvidia0")
    machine.write("/dev/nvidia-uvm")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\nexec /bin/sleep 30\n")
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    (cause,) = find_causes(machine.facts(monkeypatch))
    assert (cause.code, "did not end within 0.2 s" in cause.evidence) == ("driver-mismatch", True)


def test_the_steps_of_a_good_machine_are_all_read() -> None:
    assert autocast_step("cuda:0") in good_steps()
