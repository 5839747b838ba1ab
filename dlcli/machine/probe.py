"""Import and really use torch, torchvision and ONNX Runtime, in a process that may hang or die.

`is_available()` only says what a library hopes for. Here matrix products, convolutions, mixed
precision and a tiny training run on every device and are compared with float64 on the CPU.

`dlcli.machine.child` starts this in a child process. Each step writes one JSON line when it starts
and one when it ends, so that the parent knows what was learnt before a crash, and where it crashed::

    {"step": "import torch", "state": "started"}
    {"step": "import torch", "state": "done", "value": {...}}
    {"step": "import torchvision", "state": "failed", "error": "OSError: ..."}
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, TextIO

from dlcli.machine import deep
from dlcli.machine.nvidia import read_nvml
from dlcli.machine.operations import TOLERANCE, plain, try_operation

if TYPE_CHECKING:
    pass

IMPORT_TORCH = "import torch"
IMPORT_TORCHVISION = "import torchvision"
FIND_DEVICES = "find devices"
IMPORT_ONNXRUNTIME = "import onnxruntime"
RUN_ONNX = "run an ONNX graph"
ASK_NVML = "ask NVML"
FIND_DEEP = "find devices and backends"


def use_step(device: str) -> str:
    """The name of the step that uses a device."""
    return f"use {device}"


def autocast_step(device: str) -> str:
    """The name of the step that computes in mixed precision; apart, as AMX may be an illegal one."""
    return f"autocast on {device}"


class Steps:
    """Runs steps one after the other and reports each on ``out``."""

    def __init__(self, out: TextIO, skip: Collection[str] = ()) -> None:
        self.out = out
        self.skip = skip

    def run(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """What ``work`` returned, or None when it failed or is to be skipped."""
        if name in self.skip:
            return None
        self._say(step=name, state="started")
        try:
            value = work()
        except Exception as exc:  # whatever a broken library raises is the finding, and is reported
            self._say(step=name, state="failed", error=f"{type(exc).__name__}: {exc}")
            return None
        self._say(step=name, state="done", value=value)
        return value

    def _say(self, **record: Any) -> None:
        self.out.write(json.dumps(record) + "\n")
        self.out.flush()


def main(argv: list[str]) -> None:
    """Run the steps of one part (``argv[0]``: "torch", "onnx" ...) but those named after it.

    The records go to the process's stdout.
    """
    part, *skip = argv
    # Libraries print to stdout, some from C: keep the pipe for the records and send the rest to stderr.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        warnings.simplefilter("ignore")
        PARTS[part](Steps(out, skip))


def probe_torch(steps: Steps) -> None:
    """torch, torchvision, then every device, the CPU before what needs a driver."""
    if steps.run(IMPORT_TORCH, _import_torch) is None:
        return
    steps.run(IMPORT_TORCHVISION, _import_torchvision)
    _use(steps, "cpu")
    listing = steps.run(FIND_DEVICES, _find_devices)
    for device in listing["devices"] if listing else ():
        _use(steps, device)


def _use(steps: Steps, device: str) -> None:
    steps.run(use_step(device), lambda: use_device(device))
    steps.run(autocast_step(device), lambda: use_autocast(device))


def probe_onnx(steps: Steps) -> None:
    """ONNX Runtime, then one inference."""
    if steps.run(IMPORT_ONNXRUNTIME, _import_onnxruntime) is not None:
        steps.run(RUN_ONNX, run_onnx)


def probe_nvml(steps: Steps) -> None:
    """NVIDIA's management library, whose driver may hang."""
    steps.run(ASK_NVML, read_nvml)


def probe_deep(steps: Steps) -> None:
    """torch.compile on the CPU and the accelerator, all-reduce with the backends that are there."""
    listing = steps.run(FIND_DEEP, lambda: {"devices": deep.deep_devices(), "backends": deep.backends()})
    for device in listing["devices"] if listing else ():
        steps.run(deep.compile_step(device), lambda device=device: deep.compile_on(device))  # type: ignore[misc]
    for backend in listing["backends"] if listing else ():
        name = deep.all_reduce_step(backend)
        steps.run(name, lambda backend=backend: deep.sum_over_processes(backend))  # type: ignore[misc]


PARTS: dict[str, Callable[[Steps], None]] = {
    "torch": probe_torch,
    "onnx": probe_onnx,
    "nvml": probe_nvml,
    "deep": probe_deep,
}


def _import_torch() -> dict[str, Any]:
    torch: Any = importlib.import_module("torch")
    cudnn, distributed = torch.backends.cudnn, torch.distributed
    backends = distributed.is_available()
    nccl = backends and distributed.is_nccl_available()
    return {
        "version": str(torch.__version__),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cudnn": cudnn.version() if torch.version.cuda and cudnn.is_available() else None,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if nccl else None,
        "gloo": backends and distributed.is_gloo_available(),
        "mps_built": torch.backends.mps.is_built(),
        "libuv": _has_libuv(torch) if sys.platform == "win32" and backends else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
    }


def _has_libuv(torch: Any) -> bool:
    """Whether torch's TCP store was built with libuv, which torchelastic asks for."""
    try:
        torch.distributed.TCPStore("127.0.0.1", 0, 1, True, use_libuv=True)
    except RuntimeError:
        return False
    return True


def _import_torchvision() -> dict[str, Any]:
    import torch
    import torchvision

    # The Python half can import while the compiled half is missing; one operator tells.
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 8.5], [20.0, 20.0, 29.0, 29.0]])
    indices = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
    if indices != [0, 2]:
        raise RuntimeError(f"torchvision.ops.nms selected the boxes {indices} where [0, 2] is right")
    return {"version": str(torchvision.__version__)}


def _find_devices() -> dict[str, Any]:
    """Accelerators that torch lists, and why there is no CUDA device where torch was built for CUDA."""
    torch: Any = importlib.import_module("torch")
    devices: list[str] = []
    reason = None
    if torch.cuda.is_available():
        devices += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    elif torch.version.cuda or torch.version.hip:
        try:
            torch.cuda.init()
            reason = "torch sees no device"
        except (RuntimeError, AssertionError) as exc:
            reason = str(exc).strip()
    if torch.backends.mps.is_available():
        devices.append("mps")
    no_mps = None
    if torch.backends.mps.is_built() and not torch.backends.mps.is_available():
        try:
            torch.ones(1, device="mps")
        except RuntimeError as exc:
            no_mps = " ".join(str(exc).split())
    if torch.xpu.is_available():
        devices += [f"xpu:{i}" for i in range(torch.xpu.device_count())]
    # Compiled kernels: a device outside this list has none ("no kernel image is available").
    arch_list = torch.cuda.get_arch_list() if torch.version.cuda or torch.version.hip else []
    return {"devices": devices, "no_cuda": reason, "no_mps": no_mps, "arch_list": arch_list}


def use_device(device: str) -> dict[str, Any]:
    """What the device is, and how a matrix product and a convolution with its gradients went there."""
    facts = _describe(device)
    return facts | {
        "operations": [try_operation(name, device) for name in ("matmul", "conv2d", "training")]
    }


def use_autocast(device: str) -> dict[str, Any]:
    """How a matrix product went under autocast, in the device's 16-bit type."""
    return {"operations": [try_operation("autocast", device)]}


def _describe(device: str) -> dict[str, Any]:
    import torch

    kind = device.partition(":")[0]
    keys = ("name", "capability", "driver", "total_bytes", "free_bytes")
    facts: dict[str, Any] = dict.fromkeys(keys)
    if kind == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        free, total = torch.cuda.mem_get_info(device)
        facts |= {"name": torch.cuda.get_device_name(device), "capability": f"{major}.{minor}"}
        facts |= {"total_bytes": total, "free_bytes": free}
        facts |= {"uuid": str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))}
    elif kind == "xpu":
        properties = torch.xpu.get_device_properties(device)
        facts |= {"name": properties.name, "driver": properties.driver_version}
        facts |= {"total_bytes": properties.total_memory}
    elif kind == "mps":
        total = torch.mps.recommended_max_memory()
        used = torch.mps.driver_allocated_memory()
        facts |= {"name": "Apple GPU", "total_bytes": total, "free_bytes": max(0, total - used)}
    return facts


def _import_onnxruntime() -> dict[str, Any]:
    import onnxruntime

    return {
        "version": str(onnxruntime.__version__),
        "providers": list(onnxruntime.get_available_providers()),
    }


def run_onnx() -> dict[str, Any]:
    """Run relu(x @ w) through a graph built in memory. Raises: RuntimeError when the output is wrong."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, checker, helper, numpy_helper

    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 64), dtype=np.float32)
    w = rng.standard_normal((64, 32), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 32])],
        [numpy_helper.from_array(w, "w")],
    )
    # Old on purpose: every ONNX Runtime that dlcli admits reads it, so a failure is the library's.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    session.run(None, {"x": x})
    t0 = time.perf_counter()
    (got,) = session.run(None, {"x": x})
    elapsed_s = time.perf_counter() - t0
    expected = np.maximum(x.astype(np.float64) @ w, 0)
    error = float(np.abs(got - expected).max() / np.abs(expected).max())
    if not error <= TOLERANCE:  # written so that NaN fails
        raise RuntimeError(f"the result is off by {error:.2g} of its size; {TOLERANCE:g} is allowed")
    return {"ms": round(elapsed_s * 1e3, 3), "max_error": plain(error)}
