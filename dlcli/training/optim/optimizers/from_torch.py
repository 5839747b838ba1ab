"""The optimizers of `torch.optim`.

adam (arXiv:1412.6980), adagrad, rmsprop and the sgd family add the weight decay to the gradient (L2), as
torch does. adamw (arXiv:1711.05101), radam (arXiv:1908.03265) and nadam (Dozat, 2016) use decoupled
weight decay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import optim

from dlcli.training.optim.optimizers.base import (
    Groups,
    device_types,
    has_fused_kernels,
    register_optimizer,
)

Betas = tuple[float, float] | None


@register_optimizer("adamw")
def adamw(groups: Groups, lr: float, *, betas: Betas, eps: float = 1e-8) -> optim.Optimizer:
    """`torch.optim.AdamW`."""
    fused = has_fused_kernels(groups)
    return optim.AdamW(groups, lr=lr, eps=eps, fused=fused, **_betas_kwarg(betas))


@register_optimizer("adam")
def adam(
    groups: Groups, lr: float, *, betas: Betas, eps: float = 1e-8, amsgrad: bool = False
) -> optim.Optimizer:
    """`torch.optim.Adam`."""
    fused = has_fused_kernels(groups)
    return optim.Adam(groups, lr=lr, eps=eps, amsgrad=amsgrad, fused=fused, **_betas_kwarg(betas))


@register_optimizer("sgd")
def sgd(groups: Groups, lr: float) -> optim.Optimizer:
    """`torch.optim.SGD` without momentum."""
    return optim.SGD(groups, lr=lr, fused=has_fused_kernels(groups))


@register_optimizer("momentum")
def sgd_momentum(
    groups: Groups, lr: float, *, momentum: float, dampening: float = 0.0
) -> optim.Optimizer:
    """`torch.optim.SGD` with momentum."""
    if dampening:  # the first buffer is not dampened, so it cannot begin as 0; foreach takes it as None
        return optim.SGD(groups, lr=lr, momentum=momentum, dampening=dampening, foreach=True)
    return _sgd(groups, lr, momentum)


@register_optimizer("nesterov")
def sgd_nesterov(groups: Groups, lr: float, *, momentum: float) -> optim.Optimizer:
    """`torch.optim.SGD` with Nesterov momentum."""
    return _sgd(groups, lr, momentum, nesterov=True)


@register_optimizer("rmsprop")
def rmsprop(
    groups: Groups,
    lr: float,
    *,
    momentum: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    centered: bool = False,
) -> optim.Optimizer:
    """`torch.optim.RMSprop`."""
    return optim.RMSprop(groups, lr=lr, momentum=momentum, alpha=alpha, eps=eps, centered=centered)


@register_optimizer("adagrad")
def adagrad(groups: Groups, lr: float) -> optim.Optimizer:
    """`torch.optim.Adagrad`; fused on CPUs only, elsewhere torch chooses foreach where it is faster."""
    return optim.Adagrad(groups, lr=lr, fused=device_types(groups) == {"cpu"} or None)


@register_optimizer("radam")
def radam(groups: Groups, lr: float, *, betas: Betas) -> optim.Optimizer:
    """`torch.optim.RAdam` with decoupled weight decay."""
    return optim.RAdam(groups, lr=lr, decoupled_weight_decay=True, **_betas_kwarg(betas))


@register_optimizer("nadam")
def nadam(groups: Groups, lr: float, *, betas: Betas) -> optim.Optimizer:
    """`torch.optim.NAdam` with decoupled weight decay."""
    return optim.NAdam(groups, lr=lr, decoupled_weight_decay=True, **_betas_kwarg(betas))


def _betas_kwarg(betas: Betas) -> dict[str, Any]:
    return {} if betas is None else {"betas": betas}


def _sgd(groups: Groups, lr: float, momentum: float, *, nesterov: bool = False) -> optim.SGD:
    optimizer = optim.SGD(
        groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=has_fused_kernels(groups)
    )
    if momentum:
        optimizer.register_step_pre_hook(_init_momentum_buffers)
    return optimizer


def _init_momentum_buffers(optimizer: optim.Optimizer, *_: object) -> None:
    """Initialise the momentum buffers of parameters with a first gradient to 0, which torch is equal to.

    The fused SGD of torch 2.15 raises a TypeError when some parameters have a buffer and others, just
    unfrozen, have none; and when the gradient scaler skips the very first step, its buffers are
    uninitialised memory.
    """
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None and optimizer.state[p].get("momentum_buffer") is None:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
