"""CPU, memory, operating system and NVIDIA driver, as the system reports them, without any library."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from dlcli.machine.threads import cpu_quota

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


def cpu() -> dict[str, Any]:
    """Model name, cores (physical, logical, and what this process may use) and instruction sets."""
    import psutil

    info = _read("/proc/cpuinfo")
    flags = set(_field(info, "flags|Features").split())
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "model": _field(info, "model name") or _cpu_name(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "usable_cores": usable,
        "quota_cores": cpu_quota(),
        "instruction_sets": [name for flag, name in _INSTRUCTION_SETS.items() if flag in flags],
    }


def memory() -> dict[str, Any]:
    """Bytes of RAM, in all and available, and the container's limit where it is lower."""
    import psutil

    ram = psutil.virtual_memory()
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    capped = int(limit) if limit.isdigit() and int(limit) < ram.total else None
    return {"total_bytes": ram.total, "available_bytes": ram.available, "limit_bytes": capped}


def nvidia_driver() -> str | None:
    """The NVIDIA driver's version, or None when there is none."""
    text = _read("/proc/driver/nvidia/version")
    match = re.search(r"Module.*?\s(\d+\.\d[\d.]*)\s", text)
    if match:
        return match[1]
    if shutil.which("nvidia-smi") is None:
        return None
    lines = _ask("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()
    return lines[0].strip() if lines and re.fullmatch(r"[\d.]+", lines[0].strip()) else None


def _cpu_name() -> str:
    if platform.system() == "Darwin":
        return _ask("sysctl", "-n", "machdep.cpu.brand_string").strip() or platform.machine()
    return platform.processor() or platform.machine() or "unknown"


def _field(text: str, names: str) -> str:
    """The first value of a ``name : value`` line."""
    match = re.search(rf"^(?:{names})\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def _read(path: str) -> str:
    """A file of the system, or nothing where the system has none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _ask(*command: str) -> str:
    """What a program of the system prints, or nothing when it is missing, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
