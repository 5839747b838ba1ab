"""The processes of a run: who they are and how they agree. One process alone is the simplest world.

A world of several has two process groups: the device's own (nccl, gloo) for gradients, and a gloo group
for host numbers, so that agreeing on something never waits for a GPU. `World.wrap` is the only place
that knows how gradients are shared.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from dlcli.config import LaunchConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.training.distributed.heartbeat import Roll
from dlcli.wording import first_line
from dlcli.zoo.device import resolve_device

T = TypeVar("T")
# The device's group waits longer than the host's, so that a rank that hangs is named by the latter;
# when nccl itself gives up, it ends the process without a word.
_DEVICE_MARGIN_S = 60.0


class Lost(DlcliError):
    """Another process of the group hangs or is gone. ``speaker``: this one is to tell it."""

    def __init__(self, message: str, *, hint: str | None = None, speaker: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.speaker = speaker


@dataclass(frozen=True)
class Bonds:
    """What holds several processes together."""

    host: dist.ProcessGroup
    roll: Roll
    timeout_s: float


@dataclass(frozen=True)
class World:
    """``rank`` of ``size`` processes; ``local_rank`` of ``local_size`` on this machine.

    ``devices`` are the indices of this machine's devices that were chosen, one a local rank; empty: the
    first ones. ``restarted_after`` says what ended an earlier life of the group; "" at the first start.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    devices: tuple[int, ...] = ()
    restarted_after: str = ""
    bonds: Bonds | None = field(default=None, repr=False, compare=False)

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes files and tells the user."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """This process's device, where ``name`` is ``--device``. Raises: UsageError, DlcliError."""
        device = resolve_device(name)
        if self.bonds is None or device.type == "cpu" or ":" in name:
            return device
        count = torch.accelerator.device_count()
        # One visible device a process is what Slurm's --gpus-per-task gives.
        index = self.devices[self.local_rank] if self.devices else self.local_rank % max(count, 1)
        return torch.device(device.type, index)

    def note(self, step: int) -> None:
        """Remember where this process is, to be told when it hangs. Costs nothing."""
        if self.bonds is not None:
            self.bonds.roll.step = step

    def sum(self, *numbers: float) -> list[float]:
        """The sums of host numbers over all processes, in float64; every process must ask."""
        if self.bonds is None:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total, group=self.bonds.host)
        return cast(list[float], total.tolist())

    def broadcast(self, value: T) -> T:
        """The main process's value, in every process."""
        if self.bonds is None:
            return value
        box = [value if self.main else None]
        dist.broadcast_object_list(box, src=0, group=self.bonds.host)
        return cast(T, box[0])

    def gather(self, value: T) -> list[T]:
        """The values of all processes by rank, in the main process; elsewhere an empty list."""
        if self.bonds is None:
            return [value]
        values: list[Any] | None = [None] * self.size if self.main else None
        dist.gather_object(value, values, dst=0, group=self.bonds.host)
        return values or []

    def lead(self, work: Callable[[], T]) -> T:
        """What ``work`` gives in the main process, in every process. Its DlcliError is raised in all."""
        if self.bonds is None:
            return work()
        value: T | None = None
        error: DlcliError | None = None
        if self.main:
            try:
                value = work()
            except DlcliError as exc:
                error = exc
        said = self.broadcast((value, error and (error.message, error.hint, error.exit_code)))
        if error is not None:
            raise error
        if said[1]:
            there = DlcliError(said[1][0], hint=said[1][1])
            there.exit_code = said[1][2]
            raise there
        return cast(T, said[0])

    def share_buffers(self, module: nn.Module) -> None:
        """Set every floating-point buffer to its mean over the processes: batch statistics, above all.

        Equal ones stay as they are, bit for bit: the mean is taken in float64.
        """
        if self.bonds is None:
            return
        buffers = [b for b in module.buffers() if b.is_floating_point() and b.numel()]
        if not buffers:
            return
        with torch.no_grad():
            flat = torch.cat([b.detach().reshape(-1).double() for b in buffers])
            dist.all_reduce(flat)
            flat /= self.size
            sizes = [b.numel() for b in buffers]
            for buffer, mean in zip(buffers, torch.split(flat, sizes), strict=True):
                buffer.copy_(mean.view_as(buffer))

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose backward pass averages gradients over the processes.

        Wrap anew when other parameters train. All start from the main process's weights and buffers.
        """
        if self.bonds is None or not any(p.requires_grad for p in module.parameters()):
            return module
        device = next(module.parameters()).device
        # Not before each forward pass: `share_buffers` and synchronised batch norms do what is needed.
        # Up to torch 2.14 the option is called broadcast_buffers.
        known = inspect.signature(DistributedDataParallel).parameters
        new = "forward_sync_buffers" in known
        options: dict[str, Any] = {"forward_sync_buffers" if new else "broadcast_buffers": False}
        return DistributedDataParallel(
            module,
            device_ids=None if device.type == "cpu" else [device.index],
            gradient_as_bucket_view=True,
            **options,
        )

    def no_sync(self, module: object) -> AbstractContextManager[object]:
        """Inside, backward passes of a wrapped module only add up gradients, without averaging them."""
        no_sync = getattr(module, "no_sync", None) if self.bonds is not None else None
        return nullcontext() if no_sync is None else cast(AbstractContextManager[object], no_sync())

    def leave(self) -> None:
        """End the process groups; the other processes need not be there any more."""
        if self.bonds is not None:
            self.bonds.roll.close()
            dist.destroy_process_group()


ALONE = World()


def join(launch: LaunchConfig, device: str) -> World:
    """Join the processes that the environment names (RANK, WORLD_SIZE, MASTER_ADDR ...).

    ``device`` is ``--device``. Returns when all of them are there. Raises: Lost when they are not
    within ``launch.timeout_s``.
    """
    env = {key: int(os.environ[key]) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    world = World(env["RANK"], env["WORLD_SIZE"], env["LOCAL_RANK"], local_size, chosen(launch.devices))
    kind = resolve_device(device).type
    if kind == "mps":
        raise UsageError("--device mps cannot be shared by processes", hint="use --device cpu")
    if kind == "cpu":
        _share_cores(local_size)
    wait = timedelta(seconds=launch.timeout_s)
    margin = timedelta(seconds=0 if kind == "cpu" else _DEVICE_MARGIN_S)
    try:
        store, _, _ = next(rendezvous("env://", timeout=wait))
        roll = Roll(store, world.rank, world.size)
        if kind != "cpu":
            there = replace(world, bonds=Bonds(cast(dist.ProcessGroup, None), roll, launch.timeout_s))
            torch.accelerator.set_device_index(there.device(device).index)
        dist.init_process_group(
            dist.get_default_backend_for_device(kind),
            store=PrefixStore("dlcli", store),
            rank=world.rank,
            world_size=world.size,
            timeout=wait + margin,
        )
        host = dist.new_group(backend="gloo", timeout=wait)
        roll.start()
    except (dist.DistError, RuntimeError, ValueError) as exc:
        raise Lost(
            f"the {world.size} processes of the run did not meet within {launch.timeout_s:g} s: "
            f"{first_line(exc)}",
            hint="MASTER_ADDR and MASTER_PORT must be reachable from every machine; with several "
            "network cards GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the one to use",
        ) from exc
    return replace(world, bonds=Bonds(cast(dist.ProcessGroup, host), roll, launch.timeout_s))


def chosen(devices: str) -> tuple[int, ...]:
    """The indices in "0,1"; empty for a count or "auto"."""
    return tuple(int(part) for part in devices.split(",") if part.strip()) if "," in devices else ()


def is_lost(exc: BaseException) -> bool:
    """Whether an error says that another process is gone or did not come."""
    if isinstance(exc, dist.DistError):
        return True
    text = str(exc)
    return isinstance(exc, RuntimeError) and ("gloo" in text or "Connection closed by peer" in text)


def explain(world: World, exc: BaseException) -> Lost:
    """The failure of a collective as an error that names who is missing.

    It waits some seconds for the other processes to say that they are still there.
    """
    assert world.bonds is not None
    late = "imed out" in str(exc) or "imeout" in str(exc)
    missing, speaker = world.bonds.roll.call()
    if not missing:
        what = f"the connection between the processes broke: {first_line(exc)}"
        return Lost(
            what, hint="all of them answered afterwards, so look at the network", speaker=speaker
        )
    if late:
        what = f"has not come for {world.bonds.timeout_s:g} s"
        hint = "its Python stack is in the logs folder of the run; --set launch.timeout_s=S waits longer"
    else:
        what = "is gone"
        hint = "it was killed or crashed, often for lack of memory; see the logs folder of the run"
    return Lost("; ".join(f"{who} {what}{where}" for who, where in missing), hint=hint, speaker=speaker)


def _share_cores(local_size: int) -> None:
    """Give each process of this machine its share of the cores, unless the user has said otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        affinity = getattr(os, "sched_getaffinity", None)
        cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // local_size))
