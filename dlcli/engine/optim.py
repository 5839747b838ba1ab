"""Optimizers: weight decay on matrices and kernels only, fused where torch has the kernel."""

from __future__ import annotations

import torch
from torch import nn

from dlcli.config import OptimConfig


def make_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer over the parameters that train.

    Norms and biases (parameters of one dimension) are not decayed: decaying them helps nothing and
    shifts batch statistics. AdamW: arXiv:1711.05101. SGD uses Nesterov momentum.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = all(p.device.type in ("cuda", "cpu", "mps") for p in trained)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=fused)
    return torch.optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=fused
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
