"""Synchronised batch norm on any device: statistics over the samples of all processes.

x is (B, C, ...) with B of its own in each process, 0 included. torch's SyncBatchNorm is for GPUs only,
and plain layers become that there. `Synchronised` is for everything else: for CPUs, and for layers that
torch would turn into something different.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
from torch import distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from dlcli.errors import UsageError
from dlcli.zoo.layers import StepBatchNorm
from dlcli.zoo.structures.fake_quant import FakeQuantizer


def synchronise_batch_norms(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with batch norms that, while training, see the samples of all processes at once.

    Parameters, buffers and their names stay the same objects. Every process must then run the same
    layers in the same order, also with 0 samples. It comes before `checkpoint_segments` and before
    DistributedDataParallel. Raises: UsageError for a kind of batch norm whose formula is not known.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    fresh = {id(norm): _convert(norm, device) for norm in norms}
    for part in list(module.modules()):
        for name, child in part._modules.items():
            part._modules[name] = fresh.get(id(child), child)
    return fresh.get(id(module), module)


def _convert(norm: _BatchNorm, device: torch.device) -> nn.Module:
    if isinstance(norm, (nn.SyncBatchNorm, Synchronised)):
        return norm
    if type(norm).forward is _BatchNorm.forward and device.type == "cuda":
        fresh: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(norm)  # type: ignore[no-untyped-call]
        return fresh
    kind: Any = type(norm)
    norm.__class__ = _synchronised(kind)  # the object stays, with its hooks and its mode
    return norm


class Synchronised(_BatchNorm):
    """The base of all synchronised layers; the layer's own class follows it in the MRO."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """The shape and dtype stay; ``mask`` (B, 1, T) leaves false steps out of the statistics.

        In eval mode, or with one process, it is the layer that it was. Raises: ValueError as torch's
        layers do when all processes together have one value a channel.
        """
        alone = not distributed.is_initialized() or distributed.get_world_size() == 1
        if alone or not self.training:
            given = () if mask is None else (mask,)
            out: torch.Tensor = super().forward(x, *given)
            return out
        return self.together(x, mask)

    def together(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Normalise by the statistics of all processes, and update the running ones."""
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        true = None if mask is None else mask.to(torch.promote_types(x.dtype, torch.float32))
        mean, var, count = _statistics(x.detach(), true)
        if x.device.type == "cpu" and true is None and count.item() == 1:
            raise ValueError(
                "Expected more than 1 value per channel when training, got 1 in all processes together"
            )
        if self.track_running_stats and self.running_mean is not None:
            self._update_running(mean, var * (count / (count - 1).clamp(min=1)))
        out: torch.Tensor = _Normalise.apply(x, self.weight, self.bias, mean, var, count, true, self.eps)
        return out

    @torch.no_grad()
    def _update_running(self, mean: torch.Tensor, var: torch.Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(var.to(self.running_var.dtype), share)


@cache
def _synchronised(kind: Any) -> type[_BatchNorm]:
    """The class of the same layer, synchronised. Raises: UsageError."""
    if kind is StepBatchNorm or kind.forward is _BatchNorm.forward:
        body: dict[str, Any] = {}
    elif kind.__module__.startswith("timm.") and kind.__name__ == "BatchNormAct2d":
        body = {"together": _then_activate}
    else:
        raise UsageError(
            f"the batch norms of this model ({kind.__name__}) have a formula of their own, which cannot "
            "be computed over several processes",
            hint="use --no-sync-bn: each device then normalises its own samples",
        )
    return cast("type[_BatchNorm]", type(f"Synchronised{kind.__name__}", (Synchronised, kind), body))


def _then_activate(self: Any, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """timm's layers hold their dropout and activation themselves."""
    out: torch.Tensor = self.act(self.drop(Synchronised.together(self, x, mask)))
    return out


def _statistics(
    x: torch.Tensor, true: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean (C,), biased variance (C,) and count () of the values of a channel in all processes.

    Each process gives its mean, its sum of centred squares and its count; those are put together by
    the formula of Chan, Golub and LeVeque (1983), which unlike sums of squares loses no digits where the
    mean is large. One exchange of 2C + 1 numbers.
    """
    channels, axes = x.shape[1], _axes(x)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if true is None:
        count = x.new_tensor(float(x.numel() // channels))
        mean, squares = x.new_zeros(channels), x.new_zeros(channels)
        if x.numel():
            var, mean = torch.var_mean(x, axes, correction=0)
            squares = var * count
    else:
        count = true.sum()
        mean = (x * true).sum(axes) / count.clamp(min=1)
        squares = ((x - _wide(mean, x)).square() * true).sum(axes)
    own = torch.cat([mean, squares, count.view(1)])
    parts = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, own)
    means, all_squares, counts = torch.stack(parts).split_with_sizes([channels, channels, 1], dim=1)
    total = counts.sum().clamp(min=1)
    mean = (means * counts).sum(0) / total
    squares = all_squares.sum(0) + ((means - mean).square() * counts).sum(0)
    return mean, squares / total, total


class _Normalise(torch.autograd.Function):
    """Batch norm by given statistics of all processes, and its gradient through those statistics.

    In ``backward`` the processes exchange two sums a channel. The gradients of weight and bias are those
    of the own samples: data parallel training adds them up.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        mean: torch.Tensor,
        var: torch.Tensor,
        count: torch.Tensor,
        true: torch.Tensor | None,
        eps: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), count, true)
        return functional.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, scale, count, true = ctx.saved_tensors
        axes, dtype = _axes(x), x.dtype
        grad = grad.to(mean.dtype)
        normed = (x.to(mean.dtype) - _wide(mean, x)) * _wide(scale, x)
        grad_bias, grad_weight = grad.sum(axes), (grad * normed).sum(axes)
        grad_x = None
        if ctx.needs_input_grad[0]:
            sums = torch.cat([grad_bias, grad_weight])
            distributed.all_reduce(sums)
            first, second = (sums / count).split(x.shape[1])
            through = _wide(first, x) + normed * _wide(second, x)
            if true is not None:
                through = through * true  # only true steps moved the statistics
            factor = scale if weight is None else scale * weight
            grad_x = ((grad - through) * _wide(factor, x)).to(dtype)
        affine = weight is not None
        return grad_x, grad_weight if affine else None, grad_bias if affine else None, *(None,) * 5


class RunningStatistics:
    """The running statistics of batch norms and fake quantizers, restored when a step is skipped.

    A forward pass changes them before it is known whether the update is finite, and a NaN would stay in
    a running mean for good.
    """

    def __init__(self, module: nn.Module) -> None:
        norms = [part for part in module.modules() if isinstance(part, _NormBase)]
        values = [t for norm in norms for t in (norm.running_mean, norm.running_var) if t is not None]
        ranges = [part for part in module.modules() if isinstance(part, FakeQuantizer)]
        values += [t for part in ranges for t in (part.low, part.high)]
        counts = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
        self._live = [tensors for tensors in (values, counts) if tensors]
        self._kept: list[list[torch.Tensor]] = []

    @torch.no_grad()
    def keep(self) -> None:
        """Save a copy; does not synchronise with the device."""
        if not self._kept:
            self._kept = [[tensor.clone() for tensor in live] for live in self._live]
            return
        for live, kept in zip(self._live, self._kept, strict=True):
            torch._foreach_copy_(kept, live)

    @torch.no_grad()
    def put_back(self, *, unless: bool | torch.Tensor = False) -> None:
        """Restore the copy, unless ``unless`` is true; a tensor is evaluated on the device."""
        if unless is True:
            return
        for live, kept in zip(self._live, self._kept, strict=True):
            if isinstance(unless, torch.Tensor):
                new, old = (torch.cat([t.reshape(-1) for t in tensors]) for tensors in (live, kept))
                sizes = [t.numel() for t in live]
                pieces = torch.split(torch.where(unless, new, old), sizes)
                torch._foreach_copy_(live, [p.view_as(t) for p, t in zip(pieces, live, strict=True)])
            else:
                torch._foreach_copy_(live, kept)


def _axes(x: torch.Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _wide(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(C,) as (C, 1, ...), to go with (B, C, ...)."""
    return values.view(-1, *(1,) * (x.ndim - 2))
