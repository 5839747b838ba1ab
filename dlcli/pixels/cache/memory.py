"""How much memory decoded pixels may take."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

CacheMode = Literal["auto", "ram", "disk", "none"]
_AUTO_SHARE = 0.4  # of the free memory


def memory_budget(cache: CacheMode) -> int:
    """The maximum size of pixels in memory, in bytes: "auto" is 40 % of what is free."""
    if cache in ("disk", "none"):
        return 0
    if cache == "ram":
        return sys.maxsize
    return int(_AUTO_SHARE * free_memory())


def free_memory() -> int:
    """Free bytes of the machine, within the limit of a container."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limit = container_free()
    return free if limit is None else min(free, limit)


def container_free(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Free bytes under the memory limit of a container (cgroup v2), which psutil ignores; else None."""
    try:
        limit = (root / "memory.max").read_text().strip()
        used = int((root / "memory.current").read_text())
        stat = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        if limit == "max":
            return None
        # The page cache counts as used, but is reclaimed on demand.
        return max(0, int(limit) - used + int(stat["inactive_file"]))
    except (OSError, ValueError, KeyError):
        return None
