"""CPU, memory, container, disks and operating system, as the system reports them."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcli.machine.cgroups import OWN, ROOT, cpu_quota, memory_limit
from dlcli.machine.host import Host

# Flags of /proc/cpuinfo that decide how fast networks run, weakest first: x86, then ARM.
_INSTRUCTION_SETS = {
    "avx2": "AVX2",
    "fma": "FMA",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512-VNNI",
    "avx512_bf16": "AVX512-BF16",
    "avx512_fp16": "AVX512-FP16",
    "amx_int8": "AMX-INT8",
    "amx_bf16": "AMX-BF16",
    "amx_fp16": "AMX-FP16",
    "asimd": "NEON",
    "asimddp": "DOTPROD",
    "i8mm": "I8MM",
    "bf16": "BF16",
    "sve": "SVE",
    "sve2": "SVE2",
    "sme": "SME",
}
# Environment variables that tell a container; files that do are in `container`.
_CONTAINER_VARIABLES = {
    "KUBERNETES_SERVICE_HOST": "Kubernetes",
    "APPTAINER_NAME": "Apptainer",
    "SINGULARITY_NAME": "Singularity",
}


@dataclass(frozen=True)
class Disk:
    """A file system: what of dlcli's is on it, where, and its size and free space in bytes."""

    use: str
    path: str
    total_bytes: int
    free_bytes: int


def os_name() -> str:
    """The system as its users call it: "Debian GNU/Linux 12 (bookworm)", "macOS 15.1", "Windows 11"."""
    if platform.system() == "Linux":
        try:
            return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
        except OSError:
            return "Linux"
    if platform.system() == "Darwin":
        return f"macOS {platform.mac_ver()[0]}"
    return f"{platform.system()} {platform.release()}".strip()


def cpu(host: Host | None = None) -> dict[str, Any]:
    """Model name, cores (physical, logical, and what this process may use) and instruction sets."""
    import psutil

    host = host or Host()
    info = host.read("/proc/cpuinfo")
    flags = set(_field(info, "flags|Features").split())
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "model": _field(info, "model name") or _cpu_name(host),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "usable_cores": usable,
        "quota_cores": cpu_quota(host.path(str(ROOT)), host.path(str(OWN))),
        "instruction_sets": [name for flag, name in _INSTRUCTION_SETS.items() if flag in flags],
    }


def memory(host: Host | None = None) -> dict[str, Any]:
    """Bytes of RAM, in all and available, and the container's limit where it is lower."""
    import psutil

    host = host or Host()
    ram = psutil.virtual_memory()
    limit = memory_limit(host.path(str(ROOT)), host.path(str(OWN)))
    capped = limit if limit is not None and limit < ram.total else None
    return {"total_bytes": ram.total, "available_bytes": ram.available, "limit_bytes": capped}


def container(host: Host) -> str | None:
    """What this process is confined to: Docker, Podman, Kubernetes, WSL ...; None on a plain system."""
    for variable, name in _CONTAINER_VARIABLES.items():
        if variable in host.environ:
            return name
    if host.exists("/.dockerenv"):
        return "Docker"
    if host.exists("/run/.containerenv"):
        return "Podman"
    if "microsoft" in host.read("/proc/version").lower():
        return "WSL"
    return host.environ.get("container")  # of systemd-nspawn and LXC, in small letters


def load(host: Host) -> float | None:
    """How many processes want a core, on average over the last minute; None where nothing says so."""
    first = host.read("/proc/loadavg").partition(" ")[0]
    if first:
        return float(first)
    reply = host.run("sysctl", "-n", "vm.loadavg") if host.platform == "darwin" else None
    match = re.search(r"\d+[.,]\d+", reply.stdout) if reply and reply.ok else None  # { 1.52 1.60 1.71 }
    return float(match[0].replace(",", ".")) if match else None


def disks(host: Host, uses: Mapping[str, Path]) -> tuple[Disk, ...]:
    """The file systems of some folders (missing ones: of the nearest that exists), by their use."""
    out = []
    for use, path in uses.items():
        folder = next((p for p in (path.absolute(), *path.absolute().parents) if p.exists()), None)
        if folder is not None:
            total, _, free = host.disk_usage(folder)
            out.append(Disk(use, str(path), total, free))
    return tuple(out)


def _cpu_name(host: Host) -> str:
    if host.platform == "darwin":
        reply = host.run("sysctl", "-n", "machdep.cpu.brand_string")
        return (reply.stdout.strip() if reply and reply.ok else "") or host.machine
    return platform.processor() or host.machine or "unknown"


def _field(text: str, names: str) -> str:
    """The first value of a ``name : value`` line."""
    match = re.search(rf"^(?:{names})\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def amd_gpus(host: Host) -> tuple[str, ...]:
    """The targets ("gfx942") of AMD's GPUs that its driver lists; CPUs are nodes without SIMD units."""
    out = []
    for node in host.glob("/sys/class/kfd/kfd/topology/nodes/*/properties"):
        pairs = (line.split() for line in host.read(str(node.relative_to(host.root))).splitlines())
        values = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
        number = values.get("gfx_target_version", "0")
        if values.get("simd_count", "0") != "0" and number.isdigit() and int(number):
            major, minor, step = int(number) // 10_000, int(number) // 100 % 100, int(number) % 100
            out.append(f"gfx{major}{minor:x}{step:x}")
    return tuple(out)
