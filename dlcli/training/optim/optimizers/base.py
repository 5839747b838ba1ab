"""The registry of optimizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dlcli.registry import Registry

Groups = list[dict[str, Any]]  # parameter groups, as torch takes them
# (groups, lr, *, settings) -> the optimizer
Builder = Callable[..., torch.optim.Optimizer]
# (module, head) -> names of parameters
Selection = Callable[[nn.Module, str], set[str]]


@dataclass(frozen=True)
class OptimizerEntry:
    """A registered optimizer; see `register_optimizer`."""

    build: Builder
    select: Selection | None = None


OPTIMIZERS: Registry[OptimizerEntry] = Registry("optimizer", "dlcli.training.optim.optimizers")


def register_optimizer(name: str, *, select: Selection | None = None) -> Callable[[Builder], Builder]:
    """Decorator: register the function that builds ``--optimizer NAME``.

    The function takes parameter groups (with their weight decay), the learning rate and keyword-only
    settings. A setting with the name of a field of `dlcli.config.OptimConfig` (``momentum``) gets its
    value; any other is set by ``--set optim.args.SETTING=value``. ``name`` must be a string literal.

    ``select`` returns the names of the parameters that the optimizer is meant for; they get separate
    groups, in which ``NAME`` is True.
    """

    def add(build: Builder) -> Builder:
        OPTIMIZERS.register(name)(OptimizerEntry(build, select))
        return build

    return add


def device_types(groups: Groups) -> set[str]:
    """The device types of the parameters."""
    return {p.device.type for group in groups for p in group["params"]}


def has_fused_kernels(groups: Groups) -> bool:
    """Whether Adam, AdamW and SGD have fused kernels for all devices of the parameters."""
    return device_types(groups) <= {"cuda", "cpu", "mps"}
