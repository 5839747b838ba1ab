"""Lion, an optimizer whose update is the sign of the momentum. torch does not have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dlcli.training.optim.optimizers.base import Groups, register_optimizer


@register_optimizer("lion")
def lion(groups: Groups, lr: float, *, betas: tuple[float, float] | None) -> torch.optim.Optimizer:
    """`Lion`."""
    return Lion(groups, lr=lr) if betas is None else Lion(groups, lr=lr, betas=betas)


class Lion(torch.optim.Optimizer):
    """Lion: Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675.

    Every weight changes by exactly the learning rate, so it needs a rate 3 to 10 times lower than
    AdamW, and a weight decay higher by the same factor (section 5 of the paper). Weight decay is
    decoupled. The state is one ``momentum`` per parameter, of its shape and dtype: half of AdamW's.
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group)
        return loss

    def _update(self, params: list[torch.Tensor], group: dict[str, Any]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        grads = [p.grad for p in params if p.grad is not None]
        momenta = [self.state[p]["momentum"] for p in params]
        fast, slow = group["betas"]
        # beta m + (1 - beta) g, as m + (1 - beta) (g - m)
        updates = torch._foreach_lerp(momenta, grads, 1 - fast)
        torch._foreach_sign_(updates)
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, updates, alpha=-group["lr"])
        torch._foreach_lerp_(momenta, grads, 1 - slow)
