"""The processes, devices and machines that ``--devices`` and ``--nnodes`` ask for."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from dlcli.config import LaunchConfig
from dlcli.config.devices import parse_devices, parse_machines
from dlcli.errors import UsageError
from dlcli.zoo.device import resolve_device


@dataclass(frozen=True)
class LocalRanks:
    """Processes on this machine and, where they were named, the indices of their devices.

    ``notice`` is a sentence for the user about a decision that was taken, or "".
    """

    count: int
    devices: tuple[int, ...] = ()
    notice: str = ""


def local_ranks(launch: LaunchConfig, device: str) -> LocalRanks:
    """The processes that ``--devices`` asks for on this machine, where ``device`` is ``--device``.

    Raises: UsageError when it is malformed, or more than there is; DlcliError from the device.
    """
    text = launch.devices.strip()
    indices = parse_devices(text)
    kind = resolve_device(device).type
    available = torch.accelerator.device_count() if kind not in ("cpu", "mps") else 0
    if kind == "cpu" and text == "auto":
        return LocalRanks(1, notice="--devices auto is one process on a CPU, which uses all cores")
    count = len(indices) or (max(1, available) if text == "auto" else int(text))
    if ":" in device and (count > 1 or indices):
        raise UsageError(f"--device {device} is one device; --devices {text} asks for others too")
    if kind == "mps" and count > 1:
        raise UsageError(
            "this machine has one mps device", hint="leave --devices out, or use --device cpu"
        )
    if kind == "cpu" and indices:
        raise UsageError(
            f"--devices {text} names devices, but the processes run on the CPU",
            hint=f"--devices {count}",
        )
    if len(set(indices)) < len(indices):
        raise UsageError(f"--devices {text} names a device twice")
    missing = count > available or any(index >= available for index in indices)
    if kind not in ("cpu", "mps") and missing:
        raise UsageError(
            f"--devices {text}: this machine has {available} {kind} devices that torch can use",
            hint="dlcli info shows what torch sees; --device cpu --devices N runs on the CPU",
        )
    return LocalRanks(count, indices)


def machine_range(launch: LaunchConfig) -> tuple[int, int]:
    """The minimum and the maximum number of machines. Raises: UsageError."""
    return parse_machines(launch.nnodes)


def needs_launcher(launch: LaunchConfig, ranks: LocalRanks) -> bool:
    """Whether a launcher is needed: several processes here, named devices, or other machines."""
    return ranks.count > 1 or bool(ranks.devices) or machine_range(launch) != (1, 1)


def check_machines(launch: LaunchConfig, name: str | None) -> None:
    """Refuse several machines that could not find each other. Raises: UsageError."""
    if machine_range(launch) == (1, 1):
        return
    if launch.rdzv_endpoint is None:
        raise UsageError(
            f"--nnodes {launch.nnodes} needs --rdzv-endpoint HOST:PORT",
            hint="the address of one of the machines, the same in the command on each of them",
        )
    if not re.fullmatch(r"\[?[^\s]+?\]?:[0-9]{1,5}", launch.rdzv_endpoint):
        raise UsageError(f"--rdzv-endpoint {launch.rdzv_endpoint!r} is not of the form HOST:PORT")
    if name is None:
        raise UsageError(
            f"--nnodes {launch.nnodes} needs --name, by which the machines find the run's folder",
            hint="the same name, in a folder that all of them share (--runs-dir)",
        )
