"""All that is known of this machine, gathered once; what judges it (`causes`) is a function of `Facts`.

Whatever may hang or crash (importing torch, asking a driver, running a kernel) happens in
`dlcli.machine.probe`, in a child process with a time limit.
"""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dlcli import __version__
from dlcli.machine import hardware
from dlcli.machine.child import NOT_TRIED, START, Outcome, run_probe
from dlcli.machine.hardware import Disk
from dlcli.machine.host import PROGRAM_LIMIT_S, Host
from dlcli.machine.installed import Build, Package, read_packages
from dlcli.machine.nvidia import Nvidia, read_nvidia
from dlcli.machine.probe import (
    ASK_NVML,
    FIND_DEEP,
    FIND_DEVICES,
    IMPORT_ONNXRUNTIME,
    IMPORT_TORCH,
    IMPORT_TORCHVISION,
    RUN_ONNX,
    autocast_step,
    use_step,
)

# Variables that change where and how torch runs; no others are read, since they may hold secrets.
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HSA_OVERRIDE_GFX_VERSION",
    "ZE_AFFINITY_MASK",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "PYTORCH_ENABLE_MPS_FALLBACK",
    "USE_LIBUV",
)
_DEEP_LIMIT_S = 300.0


@dataclass(frozen=True)
class Library:
    """torch, torchvision or ONNX Runtime: its files, and how its import and first use went.

    ``tried``: whether the probe came to it. ``details`` are facts of the import (cudnn, threads ...).
    """

    package: Package
    tried: bool = False
    error: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.tried and self.error is None

    @property
    def build(self) -> Build | None:
        return self.package.build

    @property
    def version(self) -> str | None:
        return self.details.get("version") or self.package.actual

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        build = self.build
        return {
            "ok": self.ok,
            "error": self.error if self.tried else NOT_TRIED,
            "version": self.version,
            "built_for": build.kind if build else None,
            "folder": build.folder if build else None,
            **{name: value for name, value in self.details.items() if name != "version"},
        }


@dataclass(frozen=True)
class Device:
    """A device that torch lists, with what was tried on it; ``reason`` is why it does not work."""

    device: str
    name: str | None = None
    capability: str | None = None
    driver: str | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    uuid: str | None = None
    operations: tuple[Mapping[str, Any], ...] = ()
    error: str | None = None
    autocast_error: str | None = None

    @property
    def kind(self) -> str:
        return self.device.partition(":")[0]

    @property
    def reason(self) -> str | None:
        failed = [f"{op['name']}: {op['reason']}" for op in self.operations if not op["ok"]]
        if self.autocast_error:
            failed.append(f"autocast: {self.autocast_error}")
        return self.error or "; ".join(failed) or None

    @property
    def ok(self) -> bool:
        return self.reason is None

    @property
    def trains(self) -> bool:
        """Whether float32 works: without autocast there are still runs."""
        return self.error is None and all(op["ok"] for op in self.operations if op["name"] != "autocast")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"kind": self.kind, **asdict(self), "ok": self.ok, "reason": self.reason}


@dataclass(frozen=True)
class Facts:
    """The machine; sizes are bytes, times ms. ``probed``: whether the libraries were tried."""

    python: Mapping[str, str]
    system: Mapping[str, str]
    platform: str  # of sys.platform
    cpu: Mapping[str, Any]
    memory: Mapping[str, Any]
    container: str | None
    load: float | None
    disks: tuple[Disk, ...]
    environ: Mapping[str, str]
    nvidia: Nvidia
    amd: tuple[str, ...]
    packages: Mapping[str, Package]
    probed: bool
    torch: Library
    torchvision: Library
    onnxruntime: Library
    devices: tuple[Device, ...] = ()
    arch_list: tuple[str, ...] = ()
    no_cuda: str | None = None  # torch's own words
    no_mps: str | None = None
    find_error: str | None = None
    deep: Mapping[str, Outcome] = field(default_factory=dict)
    traces: Mapping[str, str] = field(default_factory=dict)  # step to stderr, where a child crashed

    @property
    def usable(self) -> bool:
        """Whether torch, torchvision and the CPU all work."""
        cpu = any(d.device == "cpu" and d.trains for d in self.devices)
        return self.torch.ok and self.torchvision.ok and cpu

    @property
    def cores(self) -> int:
        """The cores that this process may use, at least 1."""
        usable, quota = self.cpu["usable_cores"] or 1, self.cpu["quota_cores"]
        return max(1, usable if quota is None else min(usable, int(quota)))

    @property
    def best(self) -> str:
        """The device that ``--device auto`` takes, of those that work."""
        working = {device.device for device in self.devices if device.trains}
        order = ("cuda", "xpu", "mps")
        return next((d for kind in order for d in sorted(working) if d.startswith(kind)), "cpu")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the ``--json`` output, without schema, command and causes."""
        return {
            "usable": self.usable,
            "dlcli": __version__,
            "python": self.python,
            "system": self.system,
            "cpu": self.cpu,
            "memory": self.memory,
            "container": self.container,
            "load": self.load,
            "disks": [asdict(disk) for disk in self.disks],
            "environment": self.environ,
            "packages": {name: p.version for name, p in self.packages.items() if name != "dlcli"},
            "torch": self.torch.to_dict() | {"arch_list": list(self.arch_list), "no_cuda": self.no_cuda},
            "torchvision": self.torchvision.to_dict(),
            "onnxruntime": self.onnxruntime.to_dict(),
            "nvidia": asdict(self.nvidia),
            "amd": list(self.amd),
            "devices": [device.to_dict() for device in self.devices],
            "deep": {
                name: {"ok": step.error is None, "error": step.error, **(step.value or {})}
                for name, step in self.deep.items()
            },
            "traces": self.traces,
        }


def read_facts(
    host: Host | None = None,
    disks: Mapping[str, Path] | None = None,
    *,
    nvml: Mapping[str, Any] | None = None,
) -> Facts:
    """Return what can be read without importing a library or starting Python; nothing is tested.

    ``nvml`` is a reply of NVML; without it nvidia-smi is asked.
    """
    host = host or Host()
    packages = read_packages(host.packages)
    return Facts(
        python={"version": platform.python_version(), "executable": sys.executable},
        system={
            "name": hardware.os_name(),
            "machine": host.machine,
            "kernel": platform.release(),
        },
        platform=host.platform,
        cpu=hardware.cpu(host),
        memory=hardware.memory(host),
        container=hardware.container(host),
        load=hardware.load(host),
        disks=hardware.disks(host, disks or {}),
        environ={name: host.environ[name] for name in VARIABLES if name in host.environ},
        nvidia=read_nvidia(host, nvml),
        amd=hardware.amd_gpus(host),
        packages=packages,
        probed=False,
        torch=Library(packages["torch"]),
        torchvision=Library(packages["torchvision"]),
        onnxruntime=Library(packages["onnxruntime"]),
    )


def probe_facts(
    host: Host | None = None,
    disks: Mapping[str, Path] | None = None,
    *,
    timeout_s: float = 120.0,
    deep: bool = False,
) -> Facts:
    """Read the facts and try the libraries and devices, each part at most ``timeout_s``. Takes seconds.

    ``deep`` also compiles a small model and sums over two processes.
    """
    host = host or Host()
    with ThreadPoolExecutor(3) as pool:  # torch's import is slow; the other parts hide behind it
        parts = [pool.submit(run_probe, part, timeout_s=timeout_s) for part in ("torch", "onnx")]
        facts = read_facts(host, disks, nvml=_ask_nvml(host, timeout_s))
        steps = {name: outcome for part in parts for name, outcome in part.result().items()}
    facts = with_probe(facts, steps)
    if deep and facts.torch.ok:
        steps = run_probe("deep", timeout_s=max(timeout_s, _DEEP_LIMIT_S))
        facts = replace(facts, deep={name: step for name, step in steps.items() if name != FIND_DEEP})
    return facts


def _ask_nvml(host: Host, timeout_s: float) -> dict[str, Any] | None:
    """Return NVML's reply; None without the library, a driver, or a reply in time."""
    driver = any(map(host.exists, ("/proc/driver/nvidia/version", "/dev/dxg")))  # dxg: WSL's
    if importlib.util.find_spec("pynvml") is None or not (driver or host.platform == "win32"):
        return None
    outcome = run_probe("nvml", timeout_s=min(timeout_s, PROGRAM_LIMIT_S)).get(ASK_NVML)
    return outcome.value if outcome else None


def with_probe(facts: Facts, steps: Mapping[str, Outcome]) -> Facts:
    """Return the facts with what the probe's steps said of the libraries and devices."""
    finding = steps.get(FIND_DEVICES, Outcome())
    listing = finding.value or {}
    torch = _library(facts.torch, steps, IMPORT_TORCH, START["torch"])
    names = ["cpu", *listing.get("devices", ())] if torch.ok else []
    runtime = _library(facts.onnxruntime, steps, IMPORT_ONNXRUNTIME, START["onnx"])
    if (ran := steps.get(RUN_ONNX)) is not None:
        runtime = replace(runtime, error=ran.error, details={**runtime.details, **(ran.value or {})})
    return replace(
        facts,
        probed=True,
        torch=torch,
        torchvision=_library(facts.torchvision, steps, IMPORT_TORCHVISION, ""),
        onnxruntime=runtime,
        devices=tuple(_device(facts, torch, name, steps) for name in names),
        arch_list=tuple(listing.get("arch_list", ())),
        no_cuda=listing.get("no_cuda"),
        no_mps=listing.get("no_mps"),
        find_error=finding.error,
        traces={name: step.trace for name, step in steps.items() if step.trace},
    )


def _library(library: Library, steps: Mapping[str, Outcome], step: str, start: str) -> Library:
    outcome = steps.get(step) or steps.get(start)
    if outcome is None:
        return library
    return replace(library, tried=True, error=outcome.error, details=outcome.value or {})


def _device(facts: Facts, torch: Library, name: str, steps: Mapping[str, Outcome]) -> Device:
    """Put together what the probe and the driver say of a device."""
    used = steps.get(use_step(name), Outcome(error=NOT_TRIED))
    half = steps.get(autocast_step(name), Outcome(error=NOT_TRIED))
    value = dict(used.value or {})
    operations = (*value.pop("operations", ()), *(half.value or {}).get("operations", ()))
    known = {
        key: value.get(key) for key in ("name", "capability", "driver", "total_bytes", "free_bytes")
    }
    if name == "cpu":
        known |= {"name": facts.cpu["model"], "capability": torch.details.get("cpu_capability")}
        known |= {"total_bytes": facts.memory["total_bytes"]}
        known |= {"free_bytes": facts.memory["available_bytes"]}
    elif name.startswith("cuda") and not torch.details.get("hip"):
        known["driver"] = facts.nvidia.driver
    return Device(
        name,
        **known,
        uuid=value.get("uuid") or None,
        operations=operations,
        error=used.error,
        autocast_error=None if used.error else half.error,
    )
