"""Limits of the control group that this process is in: CPU time and memory, of version 2 and of 1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_UNLIMITED = 1 << 60  # version 1 writes the largest page-aligned number where there is no limit


def cpu_quota(root: Path = ROOT, own: Path = OWN) -> float | None:
    """Return the CPU time that this process's cgroup may use, in cores; None without a limit.

    Each folder on the way from the process's group to the root may hold a limit, and the lowest counts.
    """
    quotas = [_quota(_read(group / "cpu.max")) for group in _groups(root, own, "")]
    for group in _groups(root / "cpu", own, "cpu"):
        quota, period = (_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        quotas.append(_quota(f"{quota} {period}"))
    return min((quota for quota in quotas if quota is not None), default=None)


def memory_limit(root: Path = ROOT, own: Path = OWN) -> int | None:
    """Return the memory that this process's cgroup may use, in bytes; None without a limit."""
    texts = [_read(group / "memory.max") for group in _groups(root, own, "")]
    texts += [
        _read(group / "memory.limit_in_bytes") for group in _groups(root / "memory", own, "memory")
    ]
    limits = (int(text) for text in map(str.strip, texts) if text.isdigit())
    return min((limit for limit in limits if limit < _UNLIMITED), default=None)


def _groups(root: Path, own: Path, controller: str) -> Iterator[Path]:
    """Yield the folders from this process's group up to ``root``; ``controller`` "" is version 2."""
    group = ""
    for line in _read(own).splitlines():
        _, names, path = [*line.split(":", 2), "", ""][:3]
        if (controller in names.split(",")) if controller else line.startswith("0::"):
            group = path
            break
    folder = root / group.strip("/")
    yield from (path for path in (folder, *folder.parents) if path.is_relative_to(root))


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
