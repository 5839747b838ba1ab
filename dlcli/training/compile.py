"""torch.compile for the training step."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from dlcli.errors import DlcliError


def compiled(module: nn.Module, mode: str) -> Callable[..., torch.Tensor]:
    """The module compiled by torch.compile, or itself for "none"; compilation happens in the first step.

    Raises: DlcliError where the CPU's compiler is missing: torch would fail in the first step.
    """
    if mode == "none":
        return module
    first = next(module.parameters(), None)
    if first is not None:
        check_compiler(first.device, f"--compile {mode}")
    return cast(Callable[..., torch.Tensor], torch.compile(module, mode=cast(Any, mode)))


def check_compiler(device: torch.device, what: str) -> None:
    """Raises: DlcliError where a CPU's C++ compiler is missing; ``what`` is the option that needs it."""
    if device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        raise DlcliError(
            f"{what} needs a C++ compiler, and there is no g++ or clang++ here",
            hint=f"install one, or leave {what} out",
        )
