"""Muon for hidden weight matrices and kernels, AdamW for the rest, as one optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from dlcli.training.optim.depth import below
from dlcli.training.optim.optimizers.base import Groups, has_fused_kernels, register_optimizer

_NEWTON_SCHULZ_STEPS = 5
# Coefficients of the odd polynomial: the steepest at 0 that keeps singular values near 1.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ADAMW_RMS = 0.2  # typical RMS of an AdamW update
_MATRIX_LAYERS = (nn.Linear, _ConvNd, nn.MultiheadAttention, nn.RNNBase)


def hidden_weights(module: nn.Module, head: str) -> set[str]:
    """Names of the parameters that Muon updates.

    These are the weights of linear, convolution, attention and recurrent layers outside of the head.
    Parameters of modules of any other class (class token, positions, embedding) are excluded: they need
    not be linear maps.
    """
    names = set()
    for path, sub in module.named_modules():
        if isinstance(sub, _MATRIX_LAYERS) and not below(path, head):
            own = sub.named_parameters(prefix=path, recurse=False)
            names |= {name for name, p in own if p.ndim > 1}
    return names


@register_optimizer("muon", select=hidden_weights)
def muon(groups: Groups, lr: float, *, momentum: float) -> torch.optim.Optimizer:
    """`Muon` for the hidden weights, AdamW for the rest."""
    return Muon(groups, lr=lr, momentum=momentum, fused=has_fused_kernels(groups))


class Muon(torch.optim.Optimizer):
    """Muon for groups with ``muon: True``, AdamW for the others, at the same learning rate and decay.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024: the update is the
    Nesterov momentum, orthogonalised. It is scaled by 0.2 sqrt(max(rows, columns)) to the RMS of an
    AdamW update, so that learning rates and weight decays of AdamW apply (Liu et al., "Muon is Scalable
    for LLM Training", arXiv:2502.16982, section 2.2). A kernel (O, I, ...) is treated as the matrix
    (O, I * ...); stacked weights (query, key and value; the gates of an LSTM) as one matrix.

    Equal to `torch.optim.Muon` with ``adjust_lr_fn="match_rms_adamw"`` on CUDA. torch's takes only
    matrices and computes in bfloat16 on every device, which is an illegal instruction on the CPUs of
    some virtual machines; this one computes in float32 on devices other than CUDA.
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, momentum: float, fused: bool) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "muon": False})
        rest = [group for group in self.param_groups if not group["muon"]]
        # It shares groups and states, so that the state dict of this object contains everything.
        self._adamw = torch.optim.AdamW(rest, fused=fused) if rest else None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["muon"]:
                for p in group["params"]:
                    if p.grad is not None:
                        self._update(p, p.grad, group)
        if self._adamw is not None:
            # load_state_dict replaces these objects.
            self._adamw.param_groups = [group for group in self.param_groups if not group["muon"]]
            self._adamw.state = self.state
            self._adamw.step()
        return loss

    def _update(self, p: torch.Tensor, grad: torch.Tensor, group: dict[str, Any]) -> None:
        lr, momentum, state = group["lr"], group["momentum"], self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        average = state["momentum_buffer"].lerp_(grad, 1 - momentum)
        update = orthogonalize(grad.lerp(average, momentum).flatten(1))  # (O, I * ...)
        p.mul_(1 - lr * group["weight_decay"])
        p.add_(update.view(p.shape), alpha=-lr * _ADAMW_RMS * math.sqrt(max(update.shape)))


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """Bring the singular values of a matrix (M, N) near 1, to about 0.7 to 1.2; the dtype stays.

    By five Newton-Schulz steps: an odd polynomial of a matrix acts on its singular values only.
    """
    a, b, c = _QUINTIC
    x = matrix.to(torch.bfloat16 if matrix.is_cuda else torch.float32)
    tall = x.shape[0] > x.shape[1]
    if tall:  # the smaller of the two Gram matrices
        x = x.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype).contiguous()
