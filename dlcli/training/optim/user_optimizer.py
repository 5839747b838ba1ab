"""Optimizers of the user's own, ``--optimizer opt.py:Class``, or of a package (``dlcli.optimizers``).

A `torch.optim.Optimizer` class, or a function that returns one, called with the parameter groups, ``lr``
and those of ``optim.args`` that it takes::

    class SignSGD(torch.optim.Optimizer):
        def __init__(self, params, lr, weight_decay=0.0):
            super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

Each group has its ``weight_decay`` (``--weight-decay``; 0 for vectors), and its ``lr`` is set before
each step. What it remembers belongs into ``self.state[p]``, tensors or numbers, as in torch: that is
saved and restored. Unlike registered optimizers, it gets no other setting: defaults in the user's file
stay what they are.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from dlcli.call_arguments import argument_names, check_arguments, signature_of, taken_by
from dlcli.config import OptimConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.training.optim.optimizers.base import OPTIMIZERS, Groups
from dlcli.trust import OPTIMIZERS_GROUP, names_code
from dlcli.user_code import UserObject, load_object

_PASSED = ("params",)


def is_user_optimizer(config: OptimConfig) -> bool:
    """Whether the settings name an optimizer of the user's own code."""
    name = config.optimizer
    return OPTIMIZERS.find(name) is None and names_code(name, OPTIMIZERS_GROUP)


def load_optimizer(config: OptimConfig) -> tuple[UserObject, dict[str, Any]]:
    """The class or function, and its keyword arguments without ``lr``.

    Raises: UsageError where it cannot be called with them; DlcliError from the user's code.
    """
    code = load_object(config.optimizer, OPTIMIZERS_GROUP, config.args)
    if "lr" not in argument_names(code.value, {"lr": 0.0}, _PASSED):
        raise DlcliError(  # a mistake in the code, not in the settings
            f"the optimizer {code.label} has no parameter lr",
            hint="it is called with (params, lr=..., **optim.args)",
        )
    args = taken_by(code.value, config.args, _PASSED)
    check_arguments(code.label, code.value, "optim.args", {"lr": 0.0, **args}, _PASSED)
    return code, args


def make_user_optimizer(groups: Groups, lr: float, config: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimizer of the groups. Raises: UsageError, DlcliError."""
    code, args = load_optimizer(config)
    ids = {id(p) for group in groups for p in group["params"]}
    with code.errors(f"the optimizer {code.label} cannot be built"):
        optimizer = code.value(groups, **{"lr": lr, **args})
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise DlcliError(
            f"{code.label} gave a {type(optimizer).__name__}, not a torch.optim.Optimizer",
            hint="derive the class from torch.optim.Optimizer, or return an object of such a class",
        )
    updated = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if updated != ids or any("lr_scale" not in group for group in optimizer.param_groups):
        raise DlcliError(
            f"the optimizer {code.label} does not take the parameter groups as they are",
            hint="pass the first argument on to super().__init__, or to the optimizer that you build",
        )
    step = signature_of(optimizer.step)
    if step is not None and any(p.default is inspect.Parameter.empty for p in _named(step)):
        raise DlcliError(
            f"the optimizer {code.label} needs a closure that computes the loss several times a step, "
            "which dlcli does not call",
            hint="use one whose step() can be called without arguments",
        )
    code.works()
    return optimizer


def check_weight_decay(optimizer: torch.optim.Optimizer, requested: OptimConfig) -> None:
    """Raises: UsageError for a weight decay that the optimizer does not have."""
    decay = requested.weight_decay
    if "weight_decay" not in optimizer.defaults and decay != OptimConfig().weight_decay:
        raise UsageError(
            f"--weight-decay {decay:g}: {type(optimizer).__name__} has no default for weight_decay",
            hint="leave it out, or let the optimizer apply the weight_decay of each group",
        )


def _named(signature: inspect.Signature) -> list[inspect.Parameter]:
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p for p in signature.parameters.values() if p.kind not in variable]
