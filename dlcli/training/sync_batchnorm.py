"""Synchronised batch norm on any device: statistics over the samples of all processes.

x is (B, C, ...), where B may differ between processes and may be 0. On GPUs torch's own batch norms
become `torch.nn.SyncBatchNorm`, which needs a GPU. `Synchronised` is for CPUs, and for subclasses
that the conversion of torch would replace by a plain SyncBatchNorm.
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
    """Convert the batch norms of a module to synchronised ones; returns the module.

    Parameters and buffers stay the same objects, with the same names. Every process must then run the
    same layers in the same order, also with 0 samples. Call it before `checkpoint_segments` and
    DistributedDataParallel. Raises: UsageError for a subclass of batch norm with its own forward.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    converted = {id(norm): _convert(norm, device) for norm in norms}
    for part in list(module.modules()):
        for name, child in part._modules.items():
            part._modules[name] = converted.get(id(child), child)
    return converted.get(id(module), module)


def _convert(norm: _BatchNorm, device: torch.device) -> nn.Module:
    if isinstance(norm, (nn.SyncBatchNorm, Synchronised)):
        return norm
    if type(norm).forward is _BatchNorm.forward and device.type == "cuda":
        sync: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(norm)  # type: ignore[no-untyped-call]
        return sync
    kind: Any = type(norm)
    norm.__class__ = _synchronised(kind)  # keeps the object, its hooks and its mode
    return norm


class Synchronised(_BatchNorm):
    """The base of all synchronised layers; the class of the original layer follows it in the MRO."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Normalise (B, C, ...), same shape and dtype; ``mask`` (B, 1, T) is False at padding.

        In eval mode, or with a single process, it is the forward of the original layer. Raises:
        ValueError, as torch's layers, when there is one value per channel in all processes.
        """
        single = not distributed.is_initialized() or distributed.get_world_size() == 1
        if single or not self.training:
            args = () if mask is None else (mask,)
            out: torch.Tensor = super().forward(x, *args)
            return out
        return self.sync_forward(x, mask)

    def sync_forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Normalise by the statistics of all processes, and update the running ones."""
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        valid = None if mask is None else mask.to(torch.promote_types(x.dtype, torch.float32))
        mean, var, count = _statistics(x.detach(), valid)
        if x.device.type == "cpu" and valid is None and count.item() == 1:
            raise ValueError(
                "Expected more than 1 value per channel when training, got 1 over all processes"
            )
        if self.track_running_stats and self.running_mean is not None:
            self._update_running(mean, var * (count / (count - 1).clamp(min=1)))
        out: torch.Tensor = _Normalise.apply(
            x, self.weight, self.bias, mean, var, count, valid, self.eps
        )
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
    """The synchronised subclass of a batch norm class. Raises: UsageError."""
    if kind is StepBatchNorm or kind.forward is _BatchNorm.forward:
        body: dict[str, Any] = {}
    elif kind.__module__.startswith("timm.") and kind.__name__ == "BatchNormAct2d":
        body = {"sync_forward": _sync_forward_with_activation}
    else:
        raise UsageError(
            f"the batch norms of this model ({kind.__name__}) override forward, so they cannot be "
            "synchronised over several processes",
            hint="use --no-sync-bn: each device then normalises its own samples",
        )
    return cast("type[_BatchNorm]", type(f"Synchronised{kind.__name__}", (Synchronised, kind), body))


def _sync_forward_with_activation(self: Any, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """`Synchronised.sync_forward` for timm's BatchNormAct2d, which contains dropout and activation."""
    out: torch.Tensor = self.act(self.drop(Synchronised.sync_forward(self, x, mask)))
    return out


def _statistics(
    x: torch.Tensor, valid: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean (C,), biased variance (C,) and count () of the values of each channel in all processes.

    Means, sums of squared deviations and counts of the processes are combined by the formula of Chan,
    Golub and LeVeque (1983), which unlike sums of squares does not cancel where the mean is large. One
    all-gather of 2C + 1 numbers.
    """
    channels, axes = x.shape[1], _axes(x)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if valid is None:
        count = x.new_tensor(float(x.numel() // channels))
        mean, squares = x.new_zeros(channels), x.new_zeros(channels)
        if x.numel():
            var, mean = torch.var_mean(x, axes, correction=0)
            squares = var * count
    else:
        count = valid.sum()
        mean = (x * valid).sum(axes) / count.clamp(min=1)
        squares = ((x - _wide(mean, x)).square() * valid).sum(axes)
    own = torch.cat([mean, squares, count.view(1)])
    parts = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, own)
    means, all_squares, counts = torch.stack(parts).split_with_sizes([channels, channels, 1], dim=1)
    total = counts.sum().clamp(min=1)
    mean = (means * counts).sum(0) / total
    squares = all_squares.sum(0) + ((means - mean).square() * counts).sum(0)
    return mean, squares / total, total


class _Normalise(torch.autograd.Function):
    """Batch norm by the statistics of all processes, with the gradient through these statistics.

    ``backward`` all-reduces two sums per channel. The gradients of weight and bias are those of this
    process's samples: DistributedDataParallel reduces them.
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
        valid: torch.Tensor | None,
        eps: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), count, valid)
        return functional.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, scale, count, valid = ctx.saved_tensors
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
            if valid is not None:
                through = through * valid  # padding does not affect the statistics
            factor = scale if weight is None else scale * weight
            grad_x = ((grad - through) * _wide(factor, x)).to(dtype)
        affine = weight is not None
        return grad_x, grad_weight if affine else None, grad_bias if affine else None, *(None,) * 5


class RunningStatistics:
    """Saves and restores the running statistics of batch norms and fake quantizers.

    For skipped steps: the forward pass updates them before it is known whether gradients are finite,
    and a NaN would never leave a running mean.
    """

    def __init__(self, module: nn.Module) -> None:
        norms = [part for part in module.modules() if isinstance(part, _NormBase)]
        values = [t for norm in norms for t in (norm.running_mean, norm.running_var) if t is not None]
        ranges = [part for part in module.modules() if isinstance(part, FakeQuantizer)]
        values += [t for part in ranges for t in (part.low, part.high)]
        counts = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
        self._live = [tensors for tensors in (values, counts) if tensors]
        self._saved: list[list[torch.Tensor]] = []

    @torch.no_grad()
    def save(self) -> None:
        """Save a copy; does not synchronise with the device."""
        if not self._saved:
            self._saved = [[tensor.clone() for tensor in live] for live in self._live]
            return
        for live, saved in zip(self._live, self._saved, strict=True):
            torch._foreach_copy_(saved, live)

    @torch.no_grad()
    def restore(self, *, unless: bool | torch.Tensor = False) -> None:
        """Restore the saved copy, unless ``unless`` is true; a tensor is evaluated on the device."""
        if unless is True:
            return
        for live, saved in zip(self._live, self._saved, strict=True):
            if isinstance(unless, torch.Tensor):
                new, old = (torch.cat([t.reshape(-1) for t in tensors]) for tensors in (live, saved))
                sizes = [t.numel() for t in live]
                pieces = torch.split(torch.where(unless, new, old), sizes)
                torch._foreach_copy_(live, [p.view_as(t) for p, t in zip(pieces, live, strict=True)])
            else:
                torch._foreach_copy_(live, saved)


def _axes(x: torch.Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _wide(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """View (C,) as (C, 1, ...), to broadcast with (B, C, ...)."""
    return values.view(-1, *(1,) * (x.ndim - 2))
