"""How busy the machine is: cores that other programs use, and how long a process waits for one."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

BUSY_CORES = 0.5  # used by other programs; fewer do not matter
MAX_WAIT = 0.05  # of the time of a turn, spent in the scheduler's queue; idle machines show below 0.01


def busy_cores(interval_s: float = 0.2) -> float:
    """Return how many of the usable cores are busy while this process waits."""
    import psutil

    shares = psutil.cpu_percent(interval_s, percpu=True)
    if hasattr(os, "sched_getaffinity"):
        shares = [shares[core] for core in os.sched_getaffinity(0) if core < len(shares)]
    return float(sum(shares)) / 100


def cores_taken(busy: float, threads: int, cores: int) -> bool:
    """Whether ``threads`` find fewer free cores than they need while others keep ``busy`` cores."""
    return busy > BUSY_CORES and busy + threads > cores + BUSY_CORES


def queue_wait_s(*, main_only: bool = False) -> float | None:
    """Return how long this process's threads were ready to run and had no core, in s, since their start.

    With ``main_only`` that of the main thread. From the kernel's scheduling statistics, so None on other
    systems than Linux.
    """
    total, known = 0, False
    with suppress(OSError):
        for task in Path("/proc/self/task").iterdir():
            if main_only and task.name != str(os.getpid()):
                continue
            with suppress(OSError, ValueError, IndexError):  # a thread may end meanwhile
                total += int((task / "schedstat").read_text().split()[1])
                known = True
    return total / 1e9 if known else None
