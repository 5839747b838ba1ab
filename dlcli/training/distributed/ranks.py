"""What ``--devices`` and ``--nnodes`` ask for: processes, their devices, and machines."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from dlcli.config import LaunchConfig
from dlcli.errors import UsageError
from dlcli.training.distributed.world import chosen
from dlcli.zoo.device import resolve_device


@dataclass(frozen=True)
class Ranks:
    """Processes on this machine. ``said`` is a sentence for the plan, where something was decided."""

    count: int
    chosen: tuple[int, ...] = ()
    said: str = ""


def ranks_wanted(launch: LaunchConfig, device: str) -> Ranks:
    """How many processes ``--devices`` asks for on this machine, where ``device`` is ``--device``.

    Raises: UsageError when it is no such thing, or more than there is; DlcliError from the device.
    """
    text = launch.devices.strip()
    if not re.fullmatch(r"auto|[1-9][0-9]*|[0-9]+(,[0-9]+)+|[0-9]+,", text):
        raise UsageError(
            f"--devices {text!r} is no number, no list of devices and not auto",
            hint="--devices 2 for two of them, --devices 0,1 for those two, --devices auto for all",
        )
    kind = resolve_device(device).type
    there = torch.accelerator.device_count() if kind not in ("cpu", "mps") else 0
    picked = chosen(text)
    if kind == "cpu" and text == "auto":
        return Ranks(1, said="--devices auto is one process on a CPU, which uses all cores by itself")
    count = len(picked) or (max(1, there) if text == "auto" else int(text))
    if ":" in device and (count > 1 or picked):
        raise UsageError(f"--device {device} is one device; --devices {text} asks for others too")
    if kind == "mps" and count > 1:
        raise UsageError(
            "this machine has one mps device", hint="leave --devices out, or use --device cpu"
        )
    if kind == "cpu" and picked:
        raise UsageError(
            f"--devices {text} names devices, but the processes run on the CPU",
            hint=f"--devices {count}",
        )
    if len(set(picked)) < len(picked):
        raise UsageError(f"--devices {text} names a device twice")
    if kind not in ("cpu", "mps") and (count > there or any(index >= there for index in picked)):
        raise UsageError(
            f"--devices {text}: this machine has {there} {kind} devices that torch can use",
            hint="dlcli info shows what torch sees; --device cpu --devices N runs on the CPU",
        )
    return Ranks(count, picked)


def machines(launch: LaunchConfig) -> tuple[int, int]:
    """The least and the largest number of machines. Raises: UsageError."""
    match = re.fullmatch(r"([1-9][0-9]*)(?::([1-9][0-9]*))?", launch.nnodes.strip())
    least, most = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if least > most:
        raise UsageError(
            f"--nnodes {launch.nnodes!r} is neither a number such as 2 nor a range such as 1:4"
        )
    return least, most


def is_wanted(launch: LaunchConfig, ranks: Ranks) -> bool:
    """Whether a launcher is needed: several processes here, or other machines."""
    return ranks.count > 1 or bool(ranks.chosen) or machines(launch) != (1, 1)


def check_machines(launch: LaunchConfig, name: str | None) -> None:
    """Refuse several machines that could not find each other. Raises: UsageError."""
    if machines(launch) == (1, 1):
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
