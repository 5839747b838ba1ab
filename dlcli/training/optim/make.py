"""Check the optimizer's settings, group the parameters, and build the optimizer."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from dlcli.call_arguments import argument_names
from dlcli.config import OptimConfig
from dlcli.config.layer_patterns import parse_lr_of
from dlcli.errors import UsageError
from dlcli.keyword_settings import check_args, check_ignored, keywords
from dlcli.training.optim.depth import parameter_depths
from dlcli.training.optim.freezing import matching
from dlcli.training.optim.optimizers.base import OPTIMIZERS, Groups
from dlcli.training.optim.schedules.base import SCHEDULES
from dlcli.training.optim.user_optimizer import is_user_optimizer, load_optimizer, make_user_optimizer
from dlcli.training.optim.user_schedule import check_schedule, is_user_schedule, load_schedule
from dlcli.wording import first_line


def check_optim(config: OptimConfig, requested: OptimConfig | None = None) -> None:
    """Refuse settings that would be ignored, and invalid values.

    ``requested`` are the settings without the model's recipe: settings of a recipe may be ignored when
    the user chose another optimizer or schedule. By default all of ``config`` counts as requested.
    Raises: UsageError naming the setting and the optimizers or schedules that have it; DlcliError from
    the user's code.
    """
    requested = config if requested is None else requested
    optimizers = {name: (entry.build,) for name, entry in OPTIMIZERS.entries()}
    schedules = {name: entry.functions for name, entry in SCHEDULES.entries()}
    check_ignored("optim", "optimizer", config.optimizer, optimizers, requested)
    check_ignored("optim", "scheduler", config.scheduler, schedules, requested)
    own = _arguments_of_code(config)
    registered = (*optimizers.get(config.optimizer, ()), *schedules.get(config.scheduler, ()))
    check_args("optim.args", config, registered, own)
    if config.optimizer == "nesterov" and not config.momentum:
        raise UsageError("optim.optimizer = nesterov needs optim.momentum > 0", hint="--optimizer sgd")
    if config.betas is not None and not all(0 <= beta < 1 for beta in config.betas):
        raise UsageError(f"optim.betas = {config.betas}: each must be at least 0 and below 1")
    if config.lr_of is not None and config.lr == "auto":
        raise UsageError("--lr auto and --lr-of exclude each other", hint="give --lr a number")
    if config.scheduler == "multistep" and not config.milestones:
        raise UsageError("optim.milestones is empty", hint="--scheduler constant")
    for name, values in (("decay_every", (config.decay_every,)), ("milestones", config.milestones)):
        for value in values:
            if value <= 0 or (value >= 1 and value != int(value)):
                raise UsageError(
                    f"optim.{name} = {value:g} is neither a share of the run below 1 nor a whole number "
                    "of epochs",
                    hint="0.5 is half of the run, 30 is thirty epochs",
                )


def _arguments_of_code(config: OptimConfig) -> set[str]:
    """Names of the arguments that the user's own optimizer and schedule take, both checked.

    Raises: UsageError, DlcliError.
    """
    names: set[str] = set()
    if is_user_optimizer(config):
        code, _ = load_optimizer(config)
        names |= argument_names(code.value, config.args, ("params",)) - {"lr"}
    if is_user_schedule(config):
        check_schedule(config)
        names |= argument_names(load_schedule(config).value, config.args, ("share",))
    return names


def make_optimizer(
    module: nn.Module, config: OptimConfig, *, head: str, never: Collection[str] = ()
) -> torch.optim.Optimizer:
    """Build the optimizer of all parameters but ``never``, the names of those that no step trains.

    Frozen parameters have no gradient, so they are skipped until they are unfrozen; the groups do not
    change. Vectors (norms and biases) get no weight decay: it has no benefit and shifts batch
    statistics. Each group has a ``lr_scale``: 1 for the head (``head`` is its path), before it
    ``backbone_lr`` times ``layer_decay`` to the power of the number of layers up to the head (ELECTRA,
    arXiv:2003.10555; BEiT, arXiv:2106.08254).

    Groups are sorted: matrices and kernels first, then vectors; within each by ascending scale. Saved
    optimizer states number parameters in this order. Raises: UsageError when muon has no parameter to
    update.
    """
    select = None if is_user_optimizer(config) else OPTIMIZERS.get(config.optimizer).select
    scales = lr_scales(module, config, head=head)
    selected = set() if select is None else select(module, head) - set(never)
    if select is not None and not selected:
        raise UsageError(
            f"optim.optimizer = {config.optimizer} has no parameter to update: no matrix or kernel "
            "before the head trains",
            hint="--optimizer adamw",
        )
    groups: dict[tuple[bool, bool, float], dict[str, Any]] = {}
    for name, p in module.named_parameters():
        if name not in never:
            vector, scale = p.ndim <= 1, scales[name]
            group = {
                "params": [],
                "weight_decay": 0.0 if vector else config.weight_decay,
                "lr_scale": scale,
                **({} if select is None else {config.optimizer: name in selected}),
            }
            key = (vector, name not in selected, scale)
            groups.setdefault(key, group)["params"].append(p)
    return _build([groups[key] for key in sorted(groups)], config)


def state_keys(optimizer: torch.optim.Optimizer, config: OptimConfig) -> list[set[str]]:
    """What the optimizer remembers of a parameter, by group; ``config`` is what it was built from.

    A twin takes one step, so that this holds of every optimizer, a user's own too.
    """
    groups: Groups = []
    for group in optimizer.param_groups:
        parameter = nn.Parameter(torch.ones([2] * group["params"][0].ndim))
        parameter.grad = torch.ones_like(parameter)
        given = ("weight_decay", "lr_scale", config.optimizer)
        groups.append({"params": [parameter], **{key: group[key] for key in given if key in group}})
    twin = _build(groups, config)
    twin.step()
    states = [twin.state[p] for group in twin.param_groups for p in group["params"]]
    return [{key for key, value in state.items() if value is not None} for state in states]


def lr_scales(module: nn.Module, config: OptimConfig, *, head: str) -> dict[str, float]:
    """The learning rate of each parameter by name, relative to the peak rate.

    That is the head's, unless ``lr_of`` gives it another. Raises: UsageError for unknown layers.
    """
    depths = parameter_depths(module, head=head)
    backbone = [
        config.backbone_lr * config.layer_decay ** (depths.layers - i) for i in range(depths.layers)
    ]
    scale = [*backbone, 1.0]
    scales = {name: scale[depths.of[name]] for name, _ in module.named_parameters()}
    for pattern, lr in parse_lr_of(config.lr_of) if config.lr_of else ():
        names = matching(pattern, list(scales), head=head, setting="optim.lr_of")
        scales |= dict.fromkeys(names, lr / config.peak_lr)
    return scales


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group; ``lr`` is that of the head."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def _build(groups: Groups, config: OptimConfig) -> torch.optim.Optimizer:
    lr = 1e-3 if config.lr == "auto" else config.lr  # set_lr sets the actual one before each step
    if is_user_optimizer(config):
        return make_user_optimizer(groups, lr, config)
    build = OPTIMIZERS.get(config.optimizer).build
    try:
        return build(groups, lr, **keywords(build, config))
    except ValueError as exc:  # torch's own bounds
        raise UsageError(f"optim.optimizer = {config.optimizer}: {first_line(exc)}") from exc
