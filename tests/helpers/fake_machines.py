"""Broken libraries in temporary folders, and reports of machines that are not here."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from dlcli.machine import hardware, report
from dlcli.machine.child import Outcome
from dlcli.machine.probe import (
    FIND_DEVICES,
    IMPORT_ONNXRUNTIME,
    IMPORT_TORCH,
    IMPORT_TORCHVISION,
    RUN_ONNX,
    use_step,
)


def make_package(
    root: Path,
    name: str,
    *,
    code: str = "",
    version: str = "1.0",
    file_version: str | None = None,
    requires: tuple[str, ...] = (),
    says: str = "",
) -> Path:
    """A package and its metadata in ``root``; ``says`` is more of its version.py."""
    package = root / name
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(textwrap.dedent(code))
    (package / "version.py").write_text(f"__version__ = {file_version or version!r}\n{says}")
    info = root / f"{name}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    lines = [f"Requires-Dist: {line}" for line in requires]
    head = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    (info / "METADATA").write_text("\n".join([*head, *lines]) + "\n")
    return package


# Enough of torch for the first step of the probe.
LIGHT_TORCH = """
    from types import SimpleNamespace as S
    __version__ = "2.15.0+cu132"
    version = S(cuda="13.2", hip=None)
    backends = S(
        cudnn=S(version=lambda: 92600, is_available=lambda: True),
        cpu=S(get_cpu_capability=lambda: "AVX2"),
    )
    get_num_threads = get_num_interop_threads = lambda: 2
"""


GOOD_OPERATIONS = [
    {"name": "matmul", "ok": True, "ms": 0.1, "max_error": 3e-7, "reason": None},
    {"name": "conv2d", "ok": True, "ms": 0.2, "max_error": 3e-7, "reason": None},
]
TORCH = {"version": "2.15.0+cu132", "cuda": "13.2", "hip": None, "cudnn": 92600}
TORCH |= {"cpu_capability": "AVX512", "threads": 2, "interop_threads": 2}


def good_steps() -> dict[str, Outcome]:
    """A machine with one GPU, where everything works."""
    gpu = {"name": "Some GPU", "capability": "9.0", "total_bytes": 80 << 30, "free_bytes": 79 << 30}
    return {
        IMPORT_TORCH: Outcome(dict(TORCH)),
        IMPORT_TORCHVISION: Outcome({"version": "0.29.0+cu132"}),
        use_step("cpu"): Outcome({"operations": GOOD_OPERATIONS}),
        FIND_DEVICES: Outcome({"devices": ["cuda:0"], "no_cuda": None, "arch_list": ["sm_90"]}),
        use_step("cuda:0"): Outcome({**gpu, "operations": GOOD_OPERATIONS}),
        IMPORT_ONNXRUNTIME: Outcome({"version": "1.31.1", "providers": ["CPUExecutionProvider"]}),
        RUN_ONNX: Outcome({"ms": 0.05, "max_error": 2e-7}),
    }


def machine_of(steps: dict[str, Outcome], monkeypatch: pytest.MonkeyPatch) -> report.Machine:
    parts = {"torch": steps, "onnx": {}}
    monkeypatch.setattr(report, "run_probe", lambda part, timeout_s: parts[part])
    monkeypatch.setattr(hardware, "nvidia_driver", lambda: "580.65")
    return report.inspect_machine()
