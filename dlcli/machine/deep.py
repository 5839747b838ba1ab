"""The probe's slow steps: torch.compile on each device, and an all-reduce over two processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from dlcli.subprocesses import child_command, describe_exit

if TYPE_CHECKING:
    import torch

COMPILE_TOLERANCE = 5e-3
_RANKS = 2
_SUM_LIMIT_S = 60.0
_SIZE = 1 << 20  # float32 values, 4 MB


def compile_step(device: str) -> str:
    """The name of the step that compiles on a device."""
    return f"compile on {device}"


def all_reduce_step(backend: str) -> str:
    """The name of the step that sums over two processes."""
    return f"all-reduce with {backend}"


def deep_devices() -> list[str]:
    """The CPU, and the accelerator that ``--device auto`` takes."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return ["cpu"] if accelerator is None else ["cpu", accelerator.type]


def backends() -> list[str]:
    """The backends of torch.distributed that this machine can use with two processes."""
    import torch

    distributed = torch.distributed
    if not distributed.is_available():
        return []
    names = ["gloo"] if distributed.is_gloo_available() else []
    if distributed.is_nccl_available() and torch.cuda.is_available() and torch.cuda.device_count() > 1:
        names.append("nccl")
    return names


def compile_on(device: str) -> dict[str, Any]:
    """Compile a small network, forward and backward, and compare it with eager. Raises: RuntimeError."""
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 8)).to(
        device
    )
    x = torch.randn(16, 32).to(device)
    t0 = time.perf_counter()
    results = []
    for call in (model, torch.compile(model)):
        model.zero_grad()
        outputs = call(x)
        outputs.square().mean().backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        results.append([outputs.detach(), *gradients])
    errors = [_relative_error(a, b) for a, b in zip(*results, strict=True)]
    if not max(errors) <= COMPILE_TOLERANCE:
        raise RuntimeError(f"the compiled result is off by {max(errors):.2g} of its size")
    return {"seconds": round(time.perf_counter() - t0, 2), "max_error": float(f"{max(errors):.1e}")}


def sum_over_processes(backend: str) -> dict[str, Any]:
    """Start two processes that sum a tensor. Raises: RuntimeError with the end of what they wrote."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    t0 = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        ranks = [
            subprocess.Popen(
                child_command("dlcli.machine.deep", backend, str(rank), str(port)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for rank in range(_RANKS)
        ]
        end = time.monotonic() + _SUM_LIMIT_S
        try:
            codes = [rank.wait(max(0.1, end - time.monotonic())) for rank in ranks]
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"two processes did not meet within {_SUM_LIMIT_S:g} s") from None
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        log.seek(0)
        lines = log.read().decode("utf-8", "replace").strip().splitlines()
    failed = next((code for code in codes if code), None)
    if failed is not None:
        last = lines[-1] if lines else describe_exit(failed)
        raise RuntimeError(f"a process of two failed: {last}")
    return {"seconds": round(time.perf_counter() - t0, 2)}


def main(argv: list[str]) -> None:
    """Be one rank of the sum: ``BACKEND RANK PORT``. Exits with 1 where the sum is wrong."""
    import torch
    import torch.distributed as dist

    backend, rank, port = argv[0], int(argv[1]), argv[2]
    device = torch.device(f"cuda:{rank}") if backend == "nccl" else torch.device("cpu")
    # As a run does it: by a TCP store, which a firewall or a missing libuv stops too.
    dist.init_process_group(backend, init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=_RANKS)
    values = torch.full((_SIZE,), float(rank + 1), device=device)
    dist.all_reduce(values)
    right = bool((values == sum(range(1, _RANKS + 1))).all())
    dist.destroy_process_group()
    if not right:
        sys.exit("the sum over the processes is wrong")


def _relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())
