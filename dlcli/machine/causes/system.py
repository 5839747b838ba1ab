"""Limits of the system: shared memory, threads, other programs, disks, instructions that do not run."""

from __future__ import annotations

from collections.abc import Iterator

from dlcli.machine.causes.base import Cause, register_cause
from dlcli.machine.facts import Facts
from dlcli.wording import plural, size

_SMALL_SHM = 1 << 30  # NCCL takes tens of MB for each pair of GPUs, a DataLoader's workers a batch each
_FULL_DISK = 1_000_000_000  # a ResNet-50 with Adam is 0.3 GB a state, and two are kept
SHARED_MEMORY = "shared memory"


@register_cause("shared-memory")
def shared_memory(facts: Facts) -> Iterator[Cause]:
    """A small /dev/shm: Docker gives 64 MB, too little for processes that exchange tensors."""
    disk = next((disk for disk in facts.disks if disk.use == SHARED_MEMORY), None)
    if disk is None or disk.total_bytes >= _SMALL_SHM:
        return
    command, advice = f"sudo mount -o remount,size=2g {disk.path}", ""
    if facts.container in ("Docker", "Podman"):
        command, advice = f"{facts.container.lower()} run --shm-size=2g ...", "or with --ipc=host"
    elif facts.container == "Kubernetes":
        command, advice = "", "mount an emptyDir with medium: Memory at /dev/shm"
    yield Cause(
        "system",
        "warning" if len(facts.nvidia.gpus) > 1 else "note",
        "shared memory is small: several GPUs, and workers of a DataLoader, may end with a bus error",
        f"{disk.path} holds {size(disk.total_bytes)}",
        command or None,
        advice,
    )


@register_cause("threads")
def threads(facts: Facts) -> Iterator[Cause]:
    """More OpenMP threads than cores that this process may use: they wait for each other."""
    allowed = plural(facts.cores, "core")
    limit = facts.cpu["quota_cores"]
    by = "by the cgroup's quota" if limit is not None and limit <= facts.cores else "by its affinity"
    if facts.cpu["usable_cores"] == facts.cpu["logical_cores"] and limit is None:
        by = "of this machine"
    setter = "set" if facts.platform == "win32" else "export"
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        first = facts.environ.get(variable, "").split(",")[0].strip()
        if first.isdigit() and int(first) > facts.cores:
            yield Cause(
                "system",
                "warning",
                f"{variable} asks for more threads than there are cores",
                f"{variable}={first}, and this process may use {allowed} {by}",
                f"{setter} {variable}={facts.cores}",
            )
    own = facts.torch.details.get("threads")
    if own and own > facts.cores and "OMP_NUM_THREADS" not in facts.environ:
        yield Cause(
            "system",
            "note",
            "torch itself would start more threads than there are cores; dlcli sets their number",
            f"torch starts {own}, and this process may use {allowed} {by}",
            f"{setter} OMP_NUM_THREADS={facts.cores}",
            "for other programs",
        )


@register_cause("busy")
def busy(facts: Facts) -> Iterator[Cause]:
    """Other programs want the cores too."""
    cores = facts.cpu["logical_cores"] or facts.cores
    if facts.load is not None and facts.load > cores + 0.5:
        yield Cause(
            "system",
            "note",
            "the machine is busy: training is slower, and times say little",
            f"{facts.load:.3g} processes wanted one of {plural(cores, 'core')} over the last minute",
            "tasklist" if facts.platform == "win32" else "ps -eo pcpu,user,args --sort=-pcpu | head",
        )


@register_cause("disk")
def full_disk(facts: Facts) -> Iterator[Cause]:
    """Little room for runs or caches; each disk is named once."""
    seen: dict[tuple[int, int], list[str]] = {}
    for disk in facts.disks:
        if disk.use != SHARED_MEMORY and disk.free_bytes < _FULL_DISK:
            seen.setdefault((disk.total_bytes, disk.free_bytes), []).append(f"{disk.use} ({disk.path})")
    for (total, free), uses in seen.items():
        clear = any(use.startswith("cache") for use in uses)
        yield Cause(
            "system",
            "warning",
            f"the disk of {' and '.join(uses)} is nearly full",
            f"{size(free)} of {size(total)} are free",
            "dlcli data --clear-cache" if clear else "dlcli runs --delete RUN",
            "" if clear else "or write elsewhere: --runs-dir FOLDER",
        )


@register_cause("amx")
def amx(facts: Facts) -> Iterator[Cause]:
    """Some virtual machines announce AMX and then die of an illegal instruction."""
    cpu = next((device for device in facts.devices if device.device == "cpu"), None)
    crash = (cpu.error or cpu.autocast_error or "") if cpu else ""
    if "illegal instruction" not in crash:
        return
    announced = [name for name in facts.cpu["instruction_sets"] if name.startswith("AMX")]
    what = "the CPU does not have instructions that this torch uses"
    command = None
    if announced:
        what = "the CPU announces AMX and cannot execute it, as some virtual machines do"
        setter = "set" if facts.platform == "win32" else "export"
        command = f"{setter} ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16"
    yield Cause("cpu", "error", what, f"{', '.join(announced) or facts.cpu['model']}: {crash}", command)


@register_cause("device")
def device(facts: Facts) -> Iterator[Cause]:
    """A device that torch lists computes wrong or not at all, for no reason that others explain."""
    if facts.find_error:
        what = "looking for GPUs fails"
        yield Cause("devices", "error", what, facts.find_error, "nvidia-smi")
    for entry in facts.devices:
        illegal = entry.device == "cpu" and "illegal instruction" in (entry.reason or "")
        kernels = "no kernel image" in (entry.reason or "")
        if entry.reason is None or illegal or kernels:
            continue
        name = f"{entry.device} ({entry.name or 'unknown'})"
        yield Cause(entry.device, "error", f"{name} does not compute as it should", entry.reason)
