"""Weight averaging over steps (EMA) or epochs (SWA), and the recomputation of batch norm statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class WeightAverage:
    """A running average of a module's parameters and float buffers; other buffers are copied.

    With ``decay`` it is an exponential moving average (Polyak and Juditsky, 1992): average = d average
    + (1 - d) weights, with d = min(decay, (1 + n) / (10 + n)) after n updates, so that the initial
    weights lose their influence early. Without, it is the arithmetic mean of the updates (stochastic
    weight averaging, Izmailov et al., arXiv:1803.05407), whose batch norm statistics need
    `refresh_batch_norms`.

    It starts as a copy of the module, on its device, in float32 for weights of lower precision:
    bfloat16 would round an update of 0.001 away. An update uses no random numbers and does not
    synchronise with the device. The module must not be wrapped by DistributedDataParallel or
    torch.compile.
    """

    def __init__(self, module: nn.Module, *, decay: float | None) -> None:
        self.decay, self.n = decay, 0
        with torch.no_grad():
            self._values = {
                name: tensor.detach().to(_average_dtype(tensor.dtype), copy=True)
                for name, tensor in _state(module).items()
            }

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Update the average with the module's current values."""
        decay = self.n / (self.n + 1)
        if self.decay is not None:
            decay = min(self.decay, (1 + self.n) / (10 + self.n))
        # Grouped by dtype, as the foreach kernels require.
        pairs: dict[torch.dtype, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
        for name, tensor in _state(module).items():
            value = self._values[name]
            values, current = pairs.setdefault(value.dtype, ([], []))
            values.append(value)
            current.append(tensor.detach().to(value.dtype))
        for dtype, (values, current) in pairs.items():
            if dtype.is_floating_point:
                torch._foreach_lerp_(values, current, 1 - decay)
            else:
                torch._foreach_copy_(values, current)
        self.n += 1

    @torch.no_grad()
    def begin(self, module: nn.Module) -> None:
        """Restart from a copy of the module's current values."""
        _write(self._values, _state(module))
        self.n = 0

    def forget(self) -> None:
        """Reset the count, so that the next update is the first; the values stay until then."""
        self.n = 0

    def tensors(self) -> dict[str, torch.Tensor]:
        """The averages by their names in the module; not copies."""
        return dict(self._values)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor], n: int) -> None:
        """Load the averages ``tensors`` of ``n`` updates.

        Raises: ValueError when names or shapes do not match the module.
        """
        for name, value in self._values.items():
            if name not in tensors or tensors[name].shape != value.shape:
                raise ValueError(f"the weight average does not fit at {name}")
        _write(self._values, tensors)
        self.n = n

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Context in which the module has the averages as weights.

        Values are copied into the same tensors, so optimizers, DistributedDataParallel and CUDA graphs
        are not affected. Changes of the weights within the context are undone. Needs memory for another
        copy of the weights.
        """
        state = _state(module)
        own = {name: tensor.detach().clone() for name, tensor in state.items()}
        try:
            _write(state, self._values)
            yield
        finally:
            _write(state, own)


def refresh_batch_norms(module: nn.Module, batches: Iterable[tuple[torch.Tensor, ...]]) -> None:
    """Recompute the running statistics of batch norms as means over ``batches``.

    Each of ``batches`` is the inputs of one forward pass. Like `torch.optim.swa_utils.update_bn`,
    except that all other layers are in eval mode (no dropout) and that batch norms with frozen weights
    keep their statistics. Modes and momenta are restored. A model without such layers reads no batch;
    without batches nothing changes.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and _learns(part)]
    if not norms:
        return
    modes = [(part, part.training) for part in module.modules()]
    momenta = [norm.momentum for norm in norms]
    module.eval()
    try:
        with torch.no_grad():
            for index, inputs in enumerate(batches):
                for norm in norms if index == 0 else ():
                    norm.reset_running_stats()
                    norm.momentum = None  # a mean over all batches
                    norm.train()
                module(*inputs)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for part, mode in modes:
            part.training = mode


def _learns(norm: _BatchNorm) -> bool:
    own = list(norm.parameters(recurse=False))
    return norm.running_mean is not None and (not own or any(p.requires_grad for p in own))


def _average_dtype(kind: torch.dtype) -> torch.dtype:
    return torch.promote_types(kind, torch.float32) if kind.is_floating_point else kind


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of the module's state dict by name, each once: tied weights have several names."""
    seen: set[int] = set()
    tensors: dict[str, torch.Tensor] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        if isinstance(value, torch.Tensor) and id(value) not in seen:
            seen.add(id(value))
            tensors[name] = value
    return tensors


@torch.no_grad()
def _write(state: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in state.items():
        tensor.copy_(values[name])
