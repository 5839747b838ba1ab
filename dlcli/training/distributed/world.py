"""The processes of a run: ranks, devices and collectives. A single process is a world of one.

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
from dlcli.config.devices import parse_devices
from dlcli.errors import DlcliError, UsageError
from dlcli.training.distributed.heartbeat import Heartbeat
from dlcli.wording import first_line
from dlcli.zoo.device import resolve_device, set_threads

T = TypeVar("T")
# The device's group waits longer than the host's, so that a rank that hangs is named by the latter;
# when nccl itself times out, it ends the process without an error.
_DEVICE_MARGIN_S = 60.0


class PeerLost(DlcliError):
    """Another process of the group hangs or is gone. ``reports``: this one writes the failure."""

    def __init__(self, message: str, *, hint: str | None = None, reports: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.reports = reports


@dataclass(frozen=True)
class GroupHandles:
    """The process group for host numbers, and the heartbeat, of several processes."""

    host: dist.ProcessGroup
    heartbeat: Heartbeat
    timeout_s: float


@dataclass(frozen=True)
class World:
    """``rank`` of ``size`` processes; ``local_rank`` of ``local_size`` on this machine.

    ``devices`` are the device indices that the user chose, one per local rank; empty: the first ones.
    ``restarted_after`` is the failure that the group was restarted after, or "".
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    devices: tuple[int, ...] = ()
    restarted_after: str = ""
    group: GroupHandles | None = field(default=None, repr=False, compare=False)

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes files and reports to the user."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """This process's device, where ``name`` is ``--device``. Raises: UsageError, DlcliError."""
        device = resolve_device(name)
        if self.group is None or device.type == "cpu" or ":" in name:
            return device
        count = torch.accelerator.device_count()
        # One visible device a process is what Slurm's --gpus-per-task gives.
        index = self.devices[self.local_rank] if self.devices else self.local_rank % max(count, 1)
        return torch.device(device.type, index)

    def record_step(self, step: int) -> None:
        """Record the current step, to be reported when this process hangs."""
        if self.group is not None:
            self.group.heartbeat.step = step

    def sum(self, *numbers: float) -> list[float]:
        """The sums of host numbers over all processes, in float64; every process must call it."""
        if self.group is None:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total, group=self.group.host)
        return cast(list[float], total.tolist())

    def broadcast(self, value: T) -> T:
        """The main process's value, in every process."""
        if self.group is None:
            return value
        box = [value if self.main else None]
        dist.broadcast_object_list(box, src=0, group=self.group.host)
        return cast(T, box[0])

    def gather(self, value: T) -> list[T]:
        """The values of all processes by rank, in the main process; elsewhere an empty list."""
        if self.group is None:
            return [value]
        values: list[Any] | None = [None] * self.size if self.main else None
        dist.gather_object(value, values, dst=0, group=self.group.host)
        return values or []

    def run_on_main(self, work: Callable[[], T]) -> T:
        """Call ``work`` in the main process; returns its result in all, raises its DlcliError in all."""
        if self.group is None:
            return work()
        value: T | None = None
        error: DlcliError | None = None
        if self.main:
            try:
                value = work()
            except DlcliError as exc:
                error = exc
        fields = None if error is None else (error.message, error.hint, error.exit_code)
        result, main_error = self.broadcast((value, fields))
        if error is not None:
            raise error
        if main_error is not None:
            message, hint, exit_code = main_error
            copy = DlcliError(message, hint=hint)
            copy.exit_code = exit_code
            raise copy
        return cast(T, result)

    def share_buffers(self, module: nn.Module) -> None:
        """Set every floating-point buffer, batch statistics above all, to its mean over the processes.

        Equal ones stay as they are, bit for bit: the mean is taken in float64.
        """
        if self.group is None:
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

        Wrap again when other parameters train. All start from the main process's weights and buffers.
        """
        if self.group is None or not any(p.requires_grad for p in module.parameters()):
            return module
        device = next(module.parameters()).device
        # Not before each forward pass: `share_buffers` and synchronised batch norms do what is needed.
        # Up to torch 2.14 the option is called broadcast_buffers.
        parameters = inspect.signature(DistributedDataParallel).parameters
        names = ("forward_sync_buffers", "broadcast_buffers")
        option = next(name for name in names if name in parameters)
        options: dict[str, Any] = {option: False}
        return DistributedDataParallel(
            module,
            device_ids=None if device.type == "cpu" else [device.index],
            gradient_as_bucket_view=True,
            **options,
        )

    def no_sync(self, module: object) -> AbstractContextManager[object]:
        """Context in which backward passes of a wrapped module do not average the gradients."""
        no_sync = getattr(module, "no_sync", None) if self.group is not None else None
        return nullcontext() if no_sync is None else cast(AbstractContextManager[object], no_sync())

    def leave(self) -> None:
        """Destroy the process groups, without waiting for the other processes."""
        if self.group is not None:
            self.group.heartbeat.close()
            dist.destroy_process_group()


ALONE = World()


def join(launch: LaunchConfig, device: str) -> World:
    """Join the group that the environment names (RANK, WORLD_SIZE, MASTER_ADDR ...).

    ``device`` is ``--device``. Returns when all processes have joined. Raises: PeerLost when they have
    not within ``launch.timeout_s``.
    """
    env = {key: int(os.environ[key]) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    world = World(
        env["RANK"], env["WORLD_SIZE"], env["LOCAL_RANK"], local_size, parse_devices(launch.devices)
    )
    kind = resolve_device(device).type
    if kind == "mps":
        raise UsageError("--device mps cannot be shared by processes", hint="use --device cpu")
    set_threads(processes=local_size)
    wait = timedelta(seconds=launch.timeout_s)
    margin = timedelta(seconds=0 if kind == "cpu" else _DEVICE_MARGIN_S)
    try:
        store, _, _ = next(rendezvous("env://", timeout=wait))
        heartbeat = Heartbeat(store, world.rank, world.size)
        if kind != "cpu":
            on_device = replace(
                world, group=GroupHandles(cast(dist.ProcessGroup, None), heartbeat, launch.timeout_s)
            )
            torch.accelerator.set_device_index(on_device.device(device).index)
        dist.init_process_group(
            dist.get_default_backend_for_device(kind),
            store=PrefixStore("dlcli", store),
            rank=world.rank,
            world_size=world.size,
            timeout=wait + margin,
        )
        host = dist.new_group(backend="gloo", timeout=wait)
        heartbeat.start()
    except (dist.DistError, RuntimeError, ValueError) as exc:
        raise PeerLost(
            f"the {world.size} processes of the run did not meet within {launch.timeout_s:g} s: "
            f"{first_line(exc)}",
            hint="MASTER_ADDR and MASTER_PORT must be reachable from every machine; with several "
            "network cards GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the one to use",
        ) from exc
    return replace(world, group=GroupHandles(cast(dist.ProcessGroup, host), heartbeat, launch.timeout_s))


def is_peer_loss(exc: BaseException) -> bool:
    """Whether an error of a collective means that another process is gone or did not answer."""
    if isinstance(exc, dist.DistError):
        return True
    text = str(exc)
    return isinstance(exc, RuntimeError) and ("gloo" in text or "Connection closed by peer" in text)


def find_lost_peers(world: World, exc: BaseException) -> PeerLost:
    """The failure of a collective as an error that names the missing processes.

    It waits some seconds for the others to answer.
    """
    assert world.group is not None
    timed_out = "imed out" in str(exc) or "imeout" in str(exc)
    missing, reports = world.group.heartbeat.find_missing()
    if not missing:
        message = f"the connection between the processes broke: {first_line(exc)}"
        return PeerLost(
            message, hint="all of them answered afterwards, so look at the network", reports=reports
        )
    if timed_out:
        state = f"has not answered for {world.group.timeout_s:g} s"
        hint = "its Python stack is in the logs folder of the run; --set launch.timeout_s=S waits longer"
    else:
        state = "is gone"
        hint = "it was killed or crashed, often for lack of memory; see the logs folder of the run"
    return PeerLost(
        "; ".join(f"{name} {state}{last_step}" for name, last_step in missing),
        hint=hint,
        reports=reports,
    )
