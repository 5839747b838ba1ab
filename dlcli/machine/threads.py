"""How many threads this process may use, and how OpenMP's wait for each other."""

from __future__ import annotations

import os

from dlcli.machine.cgroups import cpu_quota

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
