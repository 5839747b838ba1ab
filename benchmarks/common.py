"""What the programs share: interleaved runs, and a line that says on what they ran."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path


def machine() -> str:
    """CPU, cores and versions, for the line under every figure."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":")[1] for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0].strip() if names else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [f"{name} {version(name)}" for name in ("dlcli", "torch", "torchvision")]
    return f"{cpu}, {cores} cores, Python {platform.python_version()}, {', '.join(parts)}"


def interleave(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each run in turn, ``rounds`` times: a slow minute of the machine meets all of them alike."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            found[name].append(run())
            print(f"  round {number + 1}/{rounds}  {name}: {found[name][-1]:.4g}", flush=True)
    return found


def ratios(a: Sequence[float], b: Sequence[float]) -> str:
    """Pairwise a/b as median, minimum and maximum."""
    pairs = [x / y for x, y in zip(a, b, strict=True)]
    return f"{statistics.median(pairs):.2f} (min {min(pairs):.2f}, max {max(pairs):.2f}, n={len(pairs)})"


def spread(values: Sequence[float]) -> str:
    """Median, minimum and maximum."""
    return f"{statistics.median(values):.4g} (min {min(values):.4g}, max {max(values):.4g})"
