"""Why torch does not use an NVIDIA GPU that is there, or an AMD one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dlcli.machine.causes.base import Cause, Level, register_cause
from dlcli.machine.facts import Facts
from dlcli.machine.installed import CUDA_INDEXES, pip_line

# The oldest driver for each CUDA: docs.nvidia.com/deploy/cuda-compatibility, minor versions.
_OLDEST_DRIVER = {11: "450.80", 12: "525.60", 13: "580.65"}
_HIDERS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_GPU_IN_CONTAINER = {
    "Docker": "docker run --gpus all ...",
    "Podman": "podman run --device nvidia.com/gpu=all ...",
    "Kubernetes": "kubectl set resources deployment NAME --limits=nvidia.com/gpu=1",
    "Apptainer": "apptainer exec --nv ...",
    "Singularity": "singularity exec --nv ...",
}


@register_cause("cpu-build")
def cpu_build(facts: Facts) -> Iterator[Cause]:
    """A torch for the CPU alone next to a GPU: the first question of every tutorial."""
    torch = facts.torch.package
    if torch.build is None or torch.build.kind != "CPU":
        return
    what = f"torch {torch.actual} is built for the CPU alone, and there is {{}} GPU"
    if facts.nvidia.present:
        index = CUDA_INDEXES.get(_major(facts.nvidia.cuda) or 13, CUDA_INDEXES[13])
        command = pip_line(facts.packages.get("dlcli"), "--force-reinstall", index=index)
        yield Cause("cuda", "warning", what.format("an NVIDIA"), _gpus(facts), command)
    elif facts.amd:
        evidence = f"the driver lists {', '.join(facts.amd)}"
        command = pip_line(facts.packages.get("dlcli"), "--force-reinstall", index="rocmX.Y")
        advice = "X.Y: the newest ROCm that pytorch.org/get-started/locally names"
        yield Cause("cuda", "warning", what.format("an AMD"), evidence, command, advice)


@register_cause("driver-missing")
def driver_missing(facts: Facts) -> Iterator[Cause]:
    """A GPU on the bus that no NVIDIA driver has."""
    nvidia = facts.nvidia
    if not nvidia.pci or nvidia.driver or nvidia.gpus or facts.platform != "linux":
        return
    evidence = f"PCI device {nvidia.pci[0]} is NVIDIA's, and /proc/driver/nvidia is missing"
    if nvidia.module:
        evidence += f"; the kernel module {nvidia.module} has it"
    what, advice = (
        "an NVIDIA GPU has no driver",
        "then reboot; on Debian: sudo apt install nvidia-driver",
    )
    yield Cause("cuda", "warning", what, evidence, "sudo ubuntu-drivers install", advice)


@register_cause("driver-mismatch")
def driver_mismatch(facts: Facts) -> Iterator[Cause]:
    """nvidia-smi fails: most often the driver was upgraded and the old module is still loaded."""
    nvidia = facts.nvidia
    if nvidia.error is None or not (nvidia.driver or nvidia.pci or nvidia.nodes):
        return
    if "mismatch" in nvidia.error.lower():
        what = "the NVIDIA driver was upgraded, and its old kernel module is still loaded"
        yield Cause("cuda", "warning", what, f"nvidia-smi: {nvidia.error}", "sudo reboot")
        return
    what = "the NVIDIA driver does not reply"
    yield Cause("cuda", "warning", what, f"nvidia-smi: {nvidia.error}", "sudo dmesg | grep -i nvrm")


@register_cause("driver-too-old")
def driver_too_old(facts: Facts) -> Iterator[Cause]:
    """A driver for an older CUDA than torch was built for."""
    build = facts.torch.build
    needs = _major(build.cuda if build else None)
    runs = facts.nvidia.cuda
    number = re.search(r"too old \(found version (\d+)\)", facts.no_cuda or "")
    if number:
        runs = f"{int(number[1]) // 1000}.{int(number[1]) % 1000 // 10}"
    if needs is None or build is None or runs is None or (_major(runs) or 0) >= needs:
        return
    driver = f"driver {facts.nvidia.driver}" if facts.nvidia.driver else "the driver"
    index = CUDA_INDEXES.get(_major(runs) or 0)
    command = pip_line(facts.packages.get("dlcli"), "--force-reinstall", index=index) if index else None
    oldest = _OLDEST_DRIVER.get(needs)
    advice = (
        f"or install {f'driver {oldest} or later' if oldest else 'a newer driver'}: nvidia.com/drivers"
    )
    what = f"the NVIDIA driver is too old for this torch, a CUDA {build.cuda} build"
    yield Cause("cuda", "warning", what, f"{driver} runs up to CUDA {runs}", command, advice)


@register_cause("gpu-hidden")
def gpu_hidden(facts: Facts) -> Iterator[Cause]:
    """An environment variable hides every GPU, or names one that is not there."""
    for variable in _HIDERS:
        value = facts.environ.get(variable)
        if value is None or not (facts.nvidia.present or facts.amd or value.strip() in ("", "-1")):
            continue
        first = value.split(",")[0].strip()
        count = len(facts.nvidia.gpus)
        if first in ("", "-1"):
            what = f"{variable} hides every GPU"
        elif first.isdigit() and count and int(first) >= count and variable == "CUDA_VISIBLE_DEVICES":
            what = f"{variable} begins with a GPU that is not there, so none is seen"
        else:
            continue
        level: Level = "warning" if facts.nvidia.present or facts.amd else "note"
        clear = f"set {variable}=" if facts.platform == "win32" else f"unset {variable}"
        there = f", and there {'is 1 GPU' if count == 1 else f'are {count} GPUs'}" if count else ""
        yield Cause("cuda", level, what, f"{variable}={value!r}{there}", clear)


@register_cause("device-files")
def device_files(facts: Facts) -> Iterator[Cause]:
    """A driver whose device files are missing, as in a container that was started without the GPUs."""
    nvidia = facts.nvidia
    if nvidia.driver is None or facts.platform != "linux" or facts.container == "WSL":
        return
    numbered = [node for node in nvidia.nodes if re.fullmatch(r"/dev/nvidia\d+", node)]
    if not numbered and not nvidia.gpus:
        where = f"this {facts.container} container" if facts.container else "this system"
        evidence = f"the kernel has driver {nvidia.driver}, and there is no /dev/nvidia0"
        command = _GPU_IN_CONTAINER.get(facts.container or "", "sudo nvidia-modprobe -c 0 -u")
        advice = "the host needs the NVIDIA Container Toolkit" if facts.container else ""
        yield Cause("cuda", "warning", f"{where} was not given the GPUs", evidence, command, advice)
    elif numbered and "/dev/nvidia-uvm" not in nvidia.nodes:
        what = "CUDA's memory manager has no device file"
        evidence = f"there is {numbered[0]}, and no /dev/nvidia-uvm"
        yield Cause("cuda", "warning", what, evidence, "sudo nvidia-modprobe -c 0 -u")


@register_cause("architecture")
def architecture(facts: Facts) -> Iterator[Cause]:
    """A GPU for which this torch has no kernels."""
    capabilities = {d.device: (d.name or "", d.capability) for d in facts.devices if d.kind == "cuda"}
    if not capabilities:
        capabilities = {f"GPU {gpu.index}": (gpu.name, gpu.capability) for gpu in facts.nvidia.gpus}
    if not any(arch.startswith("sm_") for arch in facts.arch_list):
        return  # ROCm, or not known
    for device, (name, capability) in sorted(capabilities.items()):
        if capability is None or has_kernels(capability, facts.arch_list):
            continue
        oldest = min(int(re.sub(r"\D", "", a)) for a in facts.arch_list if a.startswith("sm_"))
        dlcli = facts.packages.get("dlcli")
        command, advice = pip_line(dlcli, "--upgrade"), ""
        if int(capability.replace(".", "")) < oldest:
            command = pip_line(dlcli, "--force-reinstall", index=CUDA_INDEXES[12])
            advice = "builds for CUDA 12.6 have kernels from sm_50 on"
        yield Cause(
            device,
            "error",
            f"this torch has no kernels for {device} ({name})",
            f"its compute capability is {capability}; torch has {', '.join(facts.arch_list)}",
            command,
            advice,
        )


@register_cause("no-gpu")
def no_gpu(facts: Facts) -> Iterator[Cause]:
    """torch is built for a GPU and sees none, for a reason that no other cause explains."""
    if facts.no_cuda is None:
        return
    others = (cpu_build, driver_missing, driver_mismatch, driver_too_old, gpu_hidden, device_files)
    if any(cause for finder in others for cause in finder(facts)):
        return
    build = facts.torch.build
    kind = build.kind if build else None
    if facts.nvidia.present or facts.amd:
        what = f"torch, a {kind} build, does not use the GPU"
        yield Cause("cuda", "warning", what, f"torch says: {' '.join(facts.no_cuda.split())}")
        return
    what = f"no GPU on this machine: torch, a {kind} build, uses the CPU"
    evidence = "no NVIDIA or AMD device on the bus, no driver"
    yield Cause("cuda", "note", what, evidence)


def has_kernels(capability: str, arch_list: tuple[str, ...]) -> bool:
    """Whether a build for ``arch_list`` runs on a GPU of ``capability`` ("8.9").

    Binary code (sm_80) runs on later minors of its major, unless it is of one architecture ("sm_90a") or
    family ("sm_100f"); intermediate code (compute_90) on everything later.
    """
    major, minor = map(int, capability.split("."))
    for arch in arch_list:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch)
        if match is None:
            continue
        kind, built = match[1], (int(match[2]), int(match[3]))
        if match[4] == "a":
            fits = built == (major, minor)
        elif kind == "sm":
            fits = built[0] == major and built[1] <= minor
        else:
            fits = built <= (major, minor)
        if fits:
            return True
    return False


def _major(version: str | None) -> int | None:
    first = (version or "").partition(".")[0]
    return int(first) if first.isdigit() else None


def _gpus(facts: Facts) -> str:
    """Evidence that there is an NVIDIA GPU."""
    nvidia = facts.nvidia
    driver = f"driver {nvidia.driver}" if nvidia.driver else "no driver"
    if nvidia.gpus:
        more = f" and {len(nvidia.gpus) - 1} more" if len(nvidia.gpus) > 1 else ""
        return f"{nvidia.gpus[0].name}{more}, {driver}, by {nvidia.source}"
    if nvidia.pci:
        return f"PCI device {nvidia.pci[0]}, {driver}"
    return f"{driver}, {', '.join(nvidia.nodes) or 'no device files'}"
