"""Mixed precision: the dtype of autocast in a step, and the scaler that fp16 needs.

Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740. Evaluation is float32 unless `eval` or
`predict` are given another precision, so that the figures of a run are those of its artifact.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch

from dlcli.errors import DlcliError
from dlcli.subprocesses import describe_exit


@dataclass(frozen=True)
class Precision:
    """``name`` is none, bf16 or fp16, resolved."""

    name: str
    device: torch.device

    @property
    def dtype(self) -> torch.dtype | None:
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.name)

    def autocast(self) -> AbstractContextManager[object]:
        """The autocast context of a forward pass; losses are computed in float32, outside of it."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """The gradient scaler, disabled unless the dtype is fp16."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")


def resolve_precision(requested: str, device: torch.device) -> Precision:
    """The precision that ``--amp`` means on this device.

    "auto" is bf16 on CUDA from compute capability 8, fp16 on older CUDA devices, else none: on a CPU
    bf16 can be twice as fast, but must be requested, since some virtual machines announce
    its instructions and then kill the process that uses them. Raises: DlcliError for fp16 on a CPU,
    which computes it slower than float32, and for bf16 where a trial of it fails.
    """
    if device.type == "cpu":
        if requested == "fp16":
            raise DlcliError("--amp fp16 is not for CPUs", hint="use --amp bf16 or none")
        if requested == "bf16":
            _try_bf16_on_cpu()
        return Precision("bf16" if requested == "bf16" else "none", device)
    if requested != "auto":
        return Precision(requested, device)
    if device.type == "cuda":
        return Precision("bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16", device)
    return Precision("none", device)


def cpu_has_bf16_kernels() -> bool:
    """Whether oneDNN computes convolutions and products in bf16 on this CPU.

    Where it does not, as on x86 CPUs without AVX512, torch takes kernels of its own that are up to a
    hundred times as slow as those of float32. This is the question that torch's own compiler asks.
    """
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


_TRIAL = """
import torch
with torch.autocast("cpu", dtype=torch.bfloat16):
    w = torch.ones(64, 64, requires_grad=True)
    (torch.ones(64, 64) @ w).sum().backward()
    torch.nn.functional.conv2d(torch.ones(2, 3, 32, 32), torch.ones(16, 3, 3, 3))
"""


@cache
def _try_bf16_on_cpu() -> None:
    """Multiply in bf16 in a process of its own: an illegal instruction cannot be caught in this one."""
    result = subprocess.run([sys.executable, "-c", _TRIAL], capture_output=True, check=False)
    if result.returncode:
        raise DlcliError(
            f"--amp bf16 fails on this CPU: a trial ended with {describe_exit(result.returncode)}",
            hint="use --amp none; where only AMX fails, set ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16",
        )
