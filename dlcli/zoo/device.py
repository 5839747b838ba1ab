"""Devices: resolving ``--device``, naming one, its peak memory and the CPU's allocator."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from dlcli.config.devices import parse_device
from dlcli.errors import DlcliError, UsageError
from dlcli.machine.causes.why import why_not
from dlcli.machine.threads import requested_threads, usable_cores


def resolve_device(name: str) -> torch.device:
    """The device of ``--device``; "auto" is the first of cuda, xpu, mps and cpu that is there.

    Raises: UsageError for a name that is none, DlcliError for a device that is not there.
    """
    if name == "auto":
        return next((torch.device(kind) for kind in ("cuda", "xpu", "mps") if _count(kind)), _CPU)
    kind, index = parse_device(name)
    if kind == "tensorrt":
        raise UsageError(
            f"--device {name} is for ONNX files, and torch runs this",
            hint="dlcli export --onnx writes one; --device cuda is for torch",
        )
    if kind != "cpu" and index >= _count(kind):
        cause = why_not(kind) if not _count(kind) else None
        why = f": {cause.what} ({cause.evidence})" if cause else ""
        raise DlcliError(
            f"--device {name}: this machine has {_count(kind)} {kind} devices that torch can use{why}",
            hint=(cause.hint if cause else None) or "dlcli info shows what torch sees and why",
        )
    return torch.device(name)


def set_threads(requested: int | None = None, *, processes: int = 1) -> None:
    """Set torch's threads within an operator: as requested, else by OMP_NUM_THREADS, else by the cores.

    torch's own number is one per physical core and knows no quota of a container; ``processes`` share
    the cores.
    """
    if requested is not None:
        torch.set_num_threads(requested)
    elif requested_threads() is None:
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores(processes)))


@contextmanager
def training_threads(requested: int | None, processes: int) -> Iterator[None]:
    """Context with a run's number of threads, at most a process's share of the cores.

    Settings of a run come from other machines too, and more threads than cores wait for each other.
    """
    set_threads(processes=processes)
    before = torch.get_num_threads()
    if requested is not None:
        torch.set_num_threads(min(requested, usable_cores(processes)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe_device(device: torch.device) -> str:
    """The device's name for people: "cuda:0 (NVIDIA H200)", "cpu (2 threads)"."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu ({threads} thread{'' if threads == 1 else 's'})"
    return str(device)


def peak_memory_mib(device: torch.device) -> float | None:
    """Peak memory that torch has allocated on the device since the start, in MiB; None on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return None


@cache
def keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks instead of giving them back to the system.

    Every step frees its activations and asks for them again; by default each large one is unmapped
    and its pages are zeroed again. Keeping them made a ResNet-18 step at 224 px 10 to 23 % faster for
    13 % more memory (2 cores). Other C libraries have no such switch and are left alone.
    """
    if not sys.platform.startswith("linux") or "glibc" not in platform.libc_ver()[0]:
        return
    libc = ctypes.CDLL(None)
    mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)


def _count(kind: str) -> int:
    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "xpu":
        return torch.xpu.device_count() if torch.xpu.is_available() else 0
    return int(torch.backends.mps.is_available())


_CPU = torch.device("cpu")
