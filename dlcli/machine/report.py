"""The state of this machine: what it has, what is installed, and whether it really computes.

Whatever may hang or crash (importing torch, asking a driver, running a kernel) happens in
`dlcli.machine.probe`, in a child process with a time limit. Here the facts are put together and judged.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Any

from dlcli import __version__
from dlcli.machine import hardware
from dlcli.machine import installed as inst
from dlcli.machine.child import NOT_TRIED, START, Outcome, run_probe
from dlcli.machine.installed import Problem
from dlcli.machine.probe import (
    FIND_DEVICES,
    IMPORT_ONNXRUNTIME,
    IMPORT_TORCH,
    IMPORT_TORCHVISION,
    RUN_ONNX,
    use_step,
)

DEVICE_KINDS = ("cpu", "cuda", "mps", "xpu")


@dataclass(frozen=True)
class Machine:
    """The report; sizes are bytes, times ms. ``usable``: torch, torchvision and the CPU all work."""

    usable: bool
    problems: list[Problem]
    notes: list[str]
    dlcli: str
    python: dict[str, Any]
    system: dict[str, Any]
    cpu: dict[str, Any]
    memory: dict[str, Any]
    packages: dict[str, str | None]
    torch: dict[str, Any]
    torchvision: dict[str, Any]
    devices: list[dict[str, Any]]
    onnxruntime: dict[str, Any]
    traces: dict[str, str] = field(default_factory=dict)  # step to stderr, where the child crashed

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the ``--json`` output, without schema and command."""
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        return out | {"problems": [problem.to_dict() for problem in self.problems]}

    def missing(self, wanted: str) -> str | None:
        """Why no device of a kind ("cuda"), or not this one ("cuda:1"), works; None when it does."""
        devices = [d for d in self.devices if wanted in (d["kind"], d["device"])]
        if any(d["ok"] for d in devices):
            return None
        if devices:
            return "; ".join(f"{d['device']}: {d['reason']}" for d in devices)
        if not self.torch["ok"]:
            return "torch does not work, so there is none"
        why = self.torch["no_cuda"] if wanted.startswith("cuda") else None
        return why or f"torch finds no such device, only {', '.join(d['device'] for d in self.devices)}"


def inspect_machine(*, timeout_s: float = 120.0) -> Machine:
    """Read the facts, run the probes (at most ``timeout_s`` in all) and judge. Takes seconds."""
    with ThreadPoolExecutor(2) as pool:  # torch's import is slow; ONNX Runtime's check hides behind it
        torch_steps = pool.submit(run_probe, "torch", timeout_s=timeout_s)
        onnx_steps = pool.submit(run_probe, "onnx", timeout_s=timeout_s)
        cpu, memory, driver = hardware.cpu(), hardware.memory(), hardware.nvidia_driver()
        packages = {name: inst.version_of(name) for name in inst.PACKAGES}
        steps = torch_steps.result() | onnx_steps.result()
    torch = _library(steps, IMPORT_TORCH, "torch")
    torchvision = _library(steps, IMPORT_TORCHVISION, "torchvision")
    onnxruntime = _onnxruntime(steps)
    notes = inst.version_warnings(pair=torchvision["ok"])
    listing = steps.get(FIND_DEVICES, Outcome())
    torch["arch_list"] = (listing.value or {}).get("arch_list", [])
    torch["no_cuda"] = _why_no_cuda((listing.value or {}).get("no_cuda"), torch["built_for"], driver)
    if torch["no_cuda"]:
        notes.append(torch["no_cuda"])
    elif torch["ok"] and torch["built_for"] == "CPU" and driver:
        notes.append(f"NVIDIA driver {driver} is here, but this torch is built for the CPU alone")
    devices = _devices(steps, torch, cpu, memory, driver)
    problems = _problems(torch, torchvision, devices, onnxruntime, listing)
    return Machine(
        usable=torch["ok"]
        and torchvision["ok"]
        and any(d["device"] == "cpu" and d["ok"] for d in devices),
        problems=problems,
        notes=notes,
        dlcli=__version__,
        python={"version": platform.python_version(), "executable": sys.executable},
        system={"name": hardware.os_name(), "machine": platform.machine(), "kernel": platform.release()},
        cpu=cpu,
        memory=memory,
        packages=packages,
        torch=torch,
        torchvision=torchvision,
        devices=devices,
        onnxruntime=onnxruntime,
        traces={name: step.trace for name, step in steps.items() if step.trace},
    )


def _library(steps: dict[str, Outcome], step: str, module: str) -> dict[str, Any]:
    """What is known of torch or torchvision: from its files, and from its import where that worked."""
    build = inst.build_of(module)
    outcome = steps.get(step) or steps.get(START["torch"]) or Outcome(error=NOT_TRIED)
    out: dict[str, Any] = {
        "ok": outcome.error is None,
        "error": outcome.error,
        "version": (build.version if build else None) or inst.version_of(module),
        "built_for": build.kind if build else None,
        "folder": build.folder if build else None,
    }
    if module == "torch":
        keys = ("cuda", "hip", "cudnn", "cpu_capability", "threads", "interop_threads")
        out |= dict.fromkeys(keys)
    return out | (outcome.value or {})


def _onnxruntime(steps: dict[str, Outcome]) -> dict[str, Any]:
    """Version, providers, and how the inference went."""
    imported = steps.get(IMPORT_ONNXRUNTIME) or steps.get(START["onnx"])
    imported = imported or Outcome(error=NOT_TRIED)
    ran = steps.get(RUN_ONNX, imported)
    out: dict[str, Any] = {"ok": ran.error is None, "error": ran.error}
    out |= {"version": inst.version_of("onnxruntime"), "providers": [], "ms": None, "max_error": None}
    return out | (imported.value or {}) | (ran.value or {})


def _devices(
    steps: dict[str, Outcome],
    torch: dict[str, Any],
    cpu: dict[str, Any],
    memory: dict[str, Any],
    driver: str | None,
) -> list[dict[str, Any]]:
    """One record a device: what it is, how each operation went, and ``ok`` when all went well."""
    listing = steps.get(FIND_DEVICES, Outcome()).value or {}
    names = ["cpu", *listing.get("devices", [])] if torch["ok"] else []
    out = []
    for name in names:
        step = steps.get(use_step(name), Outcome(error=NOT_TRIED))
        kind = name.partition(":")[0]
        record: dict[str, Any] = {"device": name, "kind": kind, "operations": [], "capability": None}
        record |= {"name": None, "driver": None, "total_bytes": None, "free_bytes": None}
        record |= step.value or {}
        if kind == "cpu":
            record |= {"name": cpu["model"], "capability": torch["cpu_capability"]}
            record |= {"total_bytes": memory["total_bytes"], "free_bytes": memory["available_bytes"]}
        elif kind == "cuda" and not torch["hip"]:
            record["driver"] = driver
        failed = [op for op in record["operations"] if not op["ok"]]
        reason = step.error or "; ".join(f"{op['name']}: {op['reason']}" for op in failed) or None
        if reason and "no kernel image" in reason:
            reason += f" (this torch has kernels for {', '.join(torch['arch_list'])})"
        out.append(record | {"ok": reason is None, "reason": reason})
    return out


def _why_no_cuda(reason: str | None, built_for: str | None, driver: str | None) -> str | None:
    """A sentence on why a torch built for CUDA or ROCm sees no device; None when it does, or is not."""
    if reason is None:
        return None
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        value = os.environ.get(variable)
        if value is not None and value.strip() in ("", "-1"):
            return f"{variable}={value!r} hides every GPU: unset it to use them"
    too_old = re.search(r"too old \(found version (\d+)\)", reason)
    if too_old:
        number = int(too_old[1])
        reads = f"CUDA {number // 1000}.{number % 1000 // 10}"
        which = f"NVIDIA driver {driver}" if driver else "the NVIDIA driver"
        return f"{which} is too old: it runs up to {reads}, and this torch needs {built_for}"
    if "no nvidia driver" in reason.lower():
        return f"no NVIDIA driver on this machine: torch (a {built_for} build) uses the CPU"
    return f"torch (a {built_for} build) uses the CPU: {' '.join(reason.split())}"


def _problems(
    torch: dict[str, Any],
    torchvision: dict[str, Any],
    devices: list[dict[str, Any]],
    onnxruntime: dict[str, Any],
    listing: Outcome,
) -> list[Problem]:
    """What is broken, the most important first."""
    out = []
    explain: list[tuple[dict[str, Any], Callable[[str], Problem]]]
    explain = [(torch, inst.explain_torch), (torchvision, inst.explain_torchvision)]
    for library, why in explain:
        if library["error"] and (torch["ok"] or library is torch):
            out.append(why(f"cannot be imported: {library['error']}"))
    if listing.error:
        out.append(Problem("devices", f"looking for GPUs: {listing.error}", "check the GPU's driver"))
    out += [
        Problem(d["device"], f"{d['device']} ({d['name'] or 'unknown'}): {d['reason']}")
        for d in devices
        if not d["ok"]
    ]
    if onnxruntime["error"]:
        version = onnxruntime["version"] or ""
        message = f"onnxruntime {version}".strip() + f" does not work: {onnxruntime['error']}"
        hint = 'python -m pip install --force-reinstall "onnxruntime" "onnx"'
        out.append(Problem("onnxruntime", message, hint))
    return out
