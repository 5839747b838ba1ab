"""How many threads this process may use, and how OpenMP's wait for each other."""

from __future__ import annotations

import os
from pathlib import Path

# libgomp's own number where there are more threads than cores: some tens of microseconds.
SPIN_COUNT = "1000"


def limit_spinning() -> None:
    """Let OpenMP's threads sleep soon where they wait, unless the environment says how they wait.

    By default libgomp's spin for milliseconds at the end of each parallel loop. On a core that another
    program wants, the thread which they wait for has none meanwhile, and each of the hundreds of loops
    of a step takes a time slice. With 2 threads on 2 cores and a load of 15, a step of a small CNN took
    656 to 1312 ms, and 16 ms with this number (0: 68 ms). Call it before torch is imported; processes
    that are started later inherit it.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


def usable_cores(processes: int = 1) -> int:
    """Return the cores that each of some processes may use: the affinity's, at most the quota's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return max(1, (cores if quota is None else min(cores, int(quota))) // processes)


def requested_threads() -> int | None:
    """Return the threads that OMP_NUM_THREADS asks for ("4", or "4,2" for nested regions), or None."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def cpu_quota(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> float | None:
    """Return the CPU time that this process's cgroup (v2) may use, in cores; None without a limit.

    Each folder on the way from the process's group to the root may hold a limit, and the lowest counts.
    """
    groups = [line.partition("::")[2] for line in _read(own).splitlines() if line.startswith("0::")]
    folder = root / (groups[0] if groups else "").strip("/")
    quotas = [
        _quota(_read(group / "cpu.max"))
        for group in (folder, *folder.parents)
        if group.is_relative_to(root)
    ]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(text: str) -> float | None:
    """Return the cores of "QUOTA PERIOD" in microseconds; None: no limit."""
    quota, _, period = text.strip().partition(" ")
    if not (quota.isdigit() and period.isdigit() and int(period)):
        return None
    return round(int(quota) / int(period), 2)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system, or no such limit
        return ""
