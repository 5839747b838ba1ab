"""What an optimizer remembers, by the names of the parameters: put into another optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dlcli.config import OptimConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.training.optim.make import state_keys
from dlcli.training.plan import Plan
from dlcli.zoo.matching import LoadedWeights
from dlcli.zoo.saved_optimizer import Entry, entries_by_name, fits


def optimizer_kind(optimizer: torch.optim.Optimizer) -> str:
    """The kind of optimizer, as far as it decides which tensors are stored per parameter."""
    momentum = any(group.get("momentum") for group in optimizer.param_groups)
    return type(optimizer).__name__ + (" with momentum" if momentum else "")


def parameter_names(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """The names of the optimizer's parameters, in its order."""
    names = {id(p): name for name, p in module.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def load_entries(
    module: nn.Module, optimizer: torch.optim.Optimizer, entries: Mapping[str, Mapping[str, Any]]
) -> None:
    """Put what is remembered of the module's parameters, by name, into the optimizer.

    Parameters that it does not have are ignored; its groups keep their settings. Raises: ValueError for
    tensors that do not fit their parameter.
    """
    parameters = dict(module.named_parameters())
    state = {}
    for number, name in enumerate(parameter_names(module, optimizer)):
        if name in entries:
            state[number] = {
                key: _like(parameters[name], value, f"{name}/{key}")
                if isinstance(value, torch.Tensor)
                else value
                for key, value in entries[name].items()
            }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _like(parameter: torch.Tensor, tensor: torch.Tensor, name: str) -> torch.Tensor:
    """Return the tensor, with the strides of a parameter of the same shape: fused kernels need them."""
    shape, whole = tuple(tensor.shape), tuple(parameter.shape)
    if not fits(shape, whole) or (shape == whole != () and not tensor.is_floating_point()):
        raise ValueError(f"its {name} is {tensor.dtype} {shape}, and its parameter {whole}")
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor) if shape == whole else tensor


def initial_entries(
    plan: Plan, module: nn.Module, loaded: LoadedWeights | None, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Entry], list[str]]:
    """Return what the run's optimizer begins with, from the file of ``--weights``, and notes on it.

    Raises: UsageError, DlcliError where ``--optimizer-state`` requests a state that there is not, or
    that is of another kind of optimizer.
    """
    saved = plan.initial_optimizers
    if not plan.config.model.optimizer_state:
        if not saved:
            return {}, []
        return {}, [
            f"{plan.weights_from}: its optimizer's state is not used; --optimizer-state begins with it"
        ]
    if len(saved) != 1 or loaded is None or plan.initial is None:
        number = f"the states of {len(saved)} optimizers" if saved else "no optimizer's state"
        raise DlcliError(
            f"--optimizer-state: {plan.weights_from} has {number}",
            hint="a file with one: torch.save({'model_state_dict': model.state_dict(), "
            "'optimizer_state_dict': optimizer.state_dict()}, FILE)",
        )
    entries = entries_by_name(saved[0], plan.initial, loaded, module)
    _check_kind(entries, module, optimizer, plan.config.optim)
    names = parameter_names(module, optimizer)
    entries = {name: entry for name, entry in entries.items() if name in names}
    lr = "" if saved[0].lr is None else f", {saved[0].lr:g},"
    return entries, [
        f"{plan.weights_from}: the optimizer's state is loaded for {len(entries)} of {len(names)} "
        f"parameters; its learning rate{lr} is not: --lr and the schedule set it"
    ]


def _check_kind(
    entries: Mapping[str, Entry],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: OptimConfig,
) -> None:
    """Raises: UsageError where the optimizer does not remember just what the entries hold."""
    keys = state_keys(optimizer, config)
    if not entries and any(keys):
        raise UsageError(
            "--optimizer-state: the optimizer in the file remembers nothing of the model's parameters",
            hint="leave --optimizer-state out",
        )
    for name, expected in zip(
        parameter_names(module, optimizer),
        (k for k, group in zip(keys, optimizer.param_groups, strict=True) for _ in group["params"]),
        strict=True,
    ):
        if name in entries and entries[name].keys() != expected:
            raise UsageError(
                f"--optimizer-state: the file's optimizer keeps {', '.join(sorted(entries[name]))}, and "
                f"{config.optimizer} keeps {', '.join(sorted(expected)) or 'nothing'}",
                hint="give the --optimizer of the file, or leave --optimizer-state out",
            )
