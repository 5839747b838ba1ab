"""Optimizers: the update rule, what is decayed, and at which share of the rate each layer learns."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from dlcli.config import OptimConfig
from dlcli.errors import UsageError
from dlcli.training.optim.depth import parameter_depths
from dlcli.training.optim.lion import Lion
from dlcli.training.optim.muon import Muon, hidden_weights

Groups = list[dict[str, Any]]

# Settings that mean something for some optimizers, and for some schedules, only.
_OF_OPTIMIZERS = {
    "momentum": ("momentum", "nesterov", "rmsprop", "muon"),
    "betas": ("adam", "adamw", "radam", "nadam", "lion"),
}
_OF_SCHEDULERS = {
    "lr_min": (
        *("onecycle", "cosine", "cosine-restarts", "linear", "polynomial"),
        *("step", "multistep", "exponential", "plateau"),
    ),
    "gamma": ("step", "multistep", "exponential", "plateau"),
    "decay_every": ("step",),
    "milestones": ("multistep",),
    "power": ("polynomial",),
    "cycles": ("cosine-restarts",),
    "cycle_growth": ("cosine-restarts",),
    "plateau_patience": ("plateau",),
}


def check_optim(config: OptimConfig, said: OptimConfig | None = None) -> None:
    """Refuse settings that would be ignored, and values that mean nothing.

    ``said`` are the settings without the model's recipe: what a recipe brings may be ignored when the
    user chose another optimizer or schedule. By default all of ``config`` counts as said.
    Raises: UsageError naming the setting and what it belongs to.
    """
    said = config if said is None else said
    default = OptimConfig()
    for chosen, table in (("optimizer", _OF_OPTIMIZERS), ("scheduler", _OF_SCHEDULERS)):
        for name, owners in table.items():
            value, choice = getattr(said, name), getattr(config, chosen)
            if value != getattr(default, name) and choice not in owners:
                raise UsageError(
                    f"optim.{name} = {value} means nothing to optim.{chosen} = {choice}",
                    hint=f"it belongs to {', '.join(owners)}",
                )
    if config.optimizer == "nesterov" and not config.momentum:
        raise UsageError(
            "optim.momentum = 0 leaves nothing of optim.optimizer = nesterov", hint="--optimizer sgd"
        )
    if config.betas is not None and not all(0 <= beta < 1 for beta in config.betas):
        raise UsageError(f"optim.betas = {config.betas}: each must be at least 0 and below 1")
    if config.scheduler == "multistep" and not config.milestones:
        raise UsageError("optim.milestones is empty", hint="--scheduler constant")
    for name, values in (("decay_every", (config.decay_every,)), ("milestones", config.milestones)):
        for value in values:
            if value <= 0 or (value >= 1 and value != int(value)):
                raise UsageError(
                    f"optim.{name} = {value:g} is neither a share of the run below 1 nor whole epochs",
                    hint="0.5 is half of the run, 30 is thirty epochs",
                )


def make_optimizer(
    module: nn.Module, config: OptimConfig, *, head: str, never: Collection[str] = ()
) -> torch.optim.Optimizer:
    """The optimizer over all parameters but ``never``, those by name that no step of the run trains.

    Frozen parameters have no gradient, so they are passed over until they thaw; no group changes.
    Vectors (norms and biases) are not decayed: decaying them helps nothing and shifts batch statistics.
    Each group has a ``lr_scale``: 1 for the head (``head`` is its path), below it ``backbone_lr`` times
    ``layer_decay`` to the power of the layers up to the head (ELECTRA, arXiv:2003.10555; BEiT,
    arXiv:2106.08254).

    Groups are sorted: matrices and kernels first, then vectors; within each by rising scale. States on
    disk count parameters in this order. Raises: UsageError when muon finds nothing to work on.
    """
    scales = lr_scales(module, config, head=head)
    hidden = hidden_weights(module, head=head) - set(never) if config.optimizer == "muon" else set()
    if config.optimizer == "muon" and not hidden:
        raise UsageError(
            "optim.optimizer = muon has nothing to work on: no matrix or kernel below the head trains",
            hint="--optimizer adamw",
        )
    groups: dict[tuple[bool, bool, float], dict[str, Any]] = {}
    for name, p in module.named_parameters():
        if name not in never:
            vector, by_muon, scale = p.ndim <= 1, name in hidden, scales[name]
            group = {
                "params": [],
                "weight_decay": 0.0 if vector else config.weight_decay,
                "lr_scale": scale,
                **({"muon": by_muon} if config.optimizer == "muon" else {}),
            }
            groups.setdefault((vector, not by_muon, scale), group)["params"].append(p)
    return _build([groups[key] for key in sorted(groups)], config)


def lr_scales(module: nn.Module, config: OptimConfig, *, head: str) -> dict[str, float]:
    """By name of the parameter: its learning rate as a share of the head's."""
    depths = parameter_depths(module, head=head)
    backbone = [
        config.backbone_lr * config.layer_decay ** (depths.layers - i) for i in range(depths.layers)
    ]
    scale = [*backbone, 1.0]
    return {name: scale[depths.of[name]] for name, _ in module.named_parameters()}


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every group: ``lr`` is the head's."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def _build(groups: Groups, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer that the settings name.

    adam (arXiv:1412.6980), adagrad, rmsprop and the sgd family add the weight decay to the gradient
    (L2), as torch does. adamw (arXiv:1711.05101), radam (arXiv:1908.03265), nadam (Dozat, 2016), lion
    and muon decay the weights apart from it (decoupled).
    """
    devices = {p.device.type for group in groups for p in group["params"]}
    fused = devices <= {"cuda", "cpu", "mps"}  # where Adam, AdamW and SGD have such kernels
    lr = 1e-3 if config.lr == "auto" else config.lr  # set_lr gives the true one before each step
    betas: dict[str, Any] = {} if config.betas is None else {"betas": config.betas}
    optim = torch.optim
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adamw": lambda: optim.AdamW(groups, lr=lr, fused=fused, **betas),
        "adam": lambda: optim.Adam(groups, lr=lr, fused=fused, **betas),
        "sgd": lambda: optim.SGD(groups, lr=lr, fused=fused),
        "momentum": lambda: optim.SGD(groups, lr=lr, momentum=config.momentum, fused=fused),
        "nesterov": lambda: optim.SGD(
            groups, lr=lr, momentum=config.momentum, nesterov=True, fused=fused
        ),
        "rmsprop": lambda: optim.RMSprop(groups, lr=lr, momentum=config.momentum),
        # Fused on CPUs only; elsewhere torch takes foreach by itself where it is faster.
        "adagrad": lambda: optim.Adagrad(groups, lr=lr, fused=devices == {"cpu"} or None),
        "radam": lambda: optim.RAdam(groups, lr=lr, decoupled_weight_decay=True, **betas),
        "nadam": lambda: optim.NAdam(groups, lr=lr, decoupled_weight_decay=True, **betas),
        "lion": lambda: Lion(groups, lr=lr, **betas),
        "muon": lambda: Muon(groups, lr=lr, momentum=config.momentum, fused=fused),
    }
    made = makers[config.optimizer]()
    if config.optimizer in ("momentum", "nesterov") and config.momentum:
        made.register_step_pre_hook(_fill_momenta)
    return made


def _fill_momenta(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Momenta of 0 for parameters that get their first gradient: the same numbers as torch's own start.

    torch's fused SGD (seen in 2.15) fails with a TypeError when some parameters have a momentum and
    others, just thawed, have none; and where the gradient scaler skips the very first step, it keeps
    uninitialised memory as momenta.
    """
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None and optimizer.state[p].get("momentum_buffer") is None:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
