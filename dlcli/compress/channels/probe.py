"""A copy of a model whose layers have constant outputs, to probe which layers read a channel."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from dlcli.compress.channels.sites import NORMS, Site, Sites, has_own_parameters, is_layer, is_opaque

PERTURBATION = 1e-7  # small enough to be linear, far above the rounding of a double


@dataclass
class ProbeResult:
    """One run: sums over each input channel, by site start and call; and all that leaves the layers.

    ``sinks`` are the outputs of the model and the inputs of opaque modules.
    """

    channel_sums: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    sinks: list[torch.Tensor] = field(default_factory=list)


class ProbedModel:
    """A copy of a module whose layers have constant outputs, which `run` can perturb."""

    def __init__(self, module: nn.Module, inputs: Sequence[torch.Tensor]) -> None:
        self.module = copy.deepcopy(module).cpu().float().eval()
        self.sites = Sites(self.module)
        self._inputs = [x.cpu() for x in inputs]
        self._shapes: dict[str, list[Any]] = {}
        self._record_shapes()
        self.module.double()
        self._inputs = [x.double() if x.is_floating_point() else x for x in self._inputs]
        self._own: dict[int, tuple[nn.Parameter, int]] = {}
        self._values: dict[str, torch.Tensor] = {}
        self._amounts: dict[int, torch.Tensor] = {}
        self._perturb_sources = False
        self._result = ProbeResult()
        self._calls: dict[str, int] = {}
        self._generator = torch.Generator().manual_seed(0)
        for path, part in self.sites.modules.items():
            self._replace_forward(path, part)

    def run(
        self, amounts: dict[int, torch.Tensor] | None = None, *, perturb_sources: bool = False
    ) -> ProbeResult:
        """Run with outputs perturbed by ``amounts`` a channel (by the start of a site), or with all
        sources perturbed: inputs, embeddings and attention."""
        self._result, self._calls, self._perturb_sources = ProbeResult(), {}, perturb_sources
        self._amounts = {} if amounts is None else amounts
        inputs = [
            x + PERTURBATION if perturb_sources and x.is_floating_point() else x for x in self._inputs
        ]
        with torch.no_grad(), _unfused_kernels(), self._perturbed_parameters():
            out = self.module(*inputs)
        self._result.sinks += _tensors(out)
        return self._result

    @contextmanager
    def _perturbed_parameters(self) -> Iterator[None]:
        """Perturb the parameters of no known layer for this run."""
        perturbed = [self._own[start] for start in self._amounts if start in self._own]
        for start, amounts in self._amounts.items():
            if start in self._own:
                parameter, dim = self._own[start]
                shape = [-1 if d == dim else 1 for d in range(parameter.ndim)]
                parameter.add_(PERTURBATION * amounts.view(shape))
        yield
        for parameter, _ in perturbed:
            parameter.copy_(self._values[str(id(parameter))])

    def _record_shapes(self) -> None:
        """Record the output shapes of each layer, call by call, in one run of the real layers."""
        handles = []
        for path, part in self.sites.modules.items():
            if is_layer(part) or is_opaque(part):
                outputs = self._shapes.setdefault(path, [])

                def record(sub: nn.Module, args: Any, output: Any, outputs: list[Any] = outputs) -> None:
                    outputs.append(output)

                handles.append(part.register_forward_hook(record))
        try:
            with torch.no_grad(), _unfused_kernels():
                self.module(*self._inputs)
        finally:
            for handle in handles:
                handle.remove()
        self._shapes = {path: [_shapes(out) for out in outs] for path, outs in self._shapes.items()}

    def _replace_forward(self, path: str, part: nn.Module) -> None:
        """Replace the forward of one module of the copy."""
        part._forward_hooks.clear()
        if is_opaque(part):
            part.forward = self._opaque(path)
        elif isinstance(part, nn.RNNBase):
            part.forward = self._recurrent(path, part)
        elif is_layer(part):
            dim = -1 if isinstance(part, nn.Linear) else -len(part.kernel_size) - 1  # type: ignore[arg-type]
            part.forward = self._layer(path, dim)
        elif self.sites.of(path, "norm"):
            part.forward = self._norm(path, channel_dim(part))
        elif isinstance(part, NORMS):
            part.forward = _identity  # type: ignore[method-assign]
        elif has_own_parameters(part) and not isinstance(part, nn.PReLU):
            for name, parameter in part.named_parameters(recurse=False):
                self._probe_parameter(f"{path}.{name}" if path else name, parameter)

    @torch.no_grad()
    def _probe_parameter(self, name: str, parameter: nn.Parameter) -> None:
        """Make a parameter of no known layer a source: any of its dimensions may be channels."""
        if not parameter.is_floating_point():
            return
        parameter.copy_(self._random(parameter.numel()).view(parameter.shape))
        self._values[str(id(parameter))] = parameter.detach().clone()
        for dim, size in enumerate(parameter.shape):
            if size > 1:
                self._own[self.sites.add_own(name, dim, size).start] = (parameter, dim)

    def _random(self, size: int) -> torch.Tensor:
        """Return numbers between 0.5 and 1.5, so that no activation cuts a perturbation off."""
        return torch.rand(size, generator=self._generator, dtype=torch.float64) + 0.5

    def _vector(self, site: Site) -> torch.Tensor:
        key = str(site.start)
        if key not in self._values:
            self._values[key] = self._random(site.size)
        amounts = self._amounts.get(site.start)
        return self._values[key] if amounts is None else self._values[key] + PERTURBATION * amounts

    def _next_shapes(self, path: str) -> Any:
        """Return the output shapes of this call; every run makes the same calls."""
        number = self._calls.get(path, 0)
        self._calls[path] = number + 1
        return self._shapes[path][number]

    def _record_sums(self, site: Site, x: torch.Tensor, dim: int) -> None:
        others = [d for d in range(x.ndim) if d != dim % x.ndim]
        sums = x.sum(others) if others else x
        self._result.channel_sums.setdefault(site.start, []).append(sums)

    def _layer(self, path: str, dim: int) -> Callable[..., torch.Tensor]:
        (inputs,), (outputs,) = self.sites.of(path, "in"), self.sites.of(path, "out")

        def forward(x: torch.Tensor, *rest: object) -> torch.Tensor:
            self._record_sums(inputs, x, dim)
            shape = self._next_shapes(path)
            vector = self._vector(outputs).view(-1, *[1] * (-dim - 1))
            return vector.expand(shape).clone()

        return forward

    def _norm(self, path: str, dim: int) -> Callable[..., torch.Tensor]:
        (site,) = self.sites.of(path, "norm")

        def forward(x: torch.Tensor, *rest: object) -> torch.Tensor:
            self._record_sums(site, x, dim)
            return x

        return forward

    def _recurrent(self, path: str, part: nn.RNNBase) -> Callable[..., Any]:
        (inputs,), outputs = self.sites.of(path, "in"), self.sites.of(path, "out")
        directions = 2 if part.bidirectional else 1

        def forward(x: torch.Tensor | PackedSequence, *rest: object) -> Any:
            data = x.data if isinstance(x, PackedSequence) else x
            self._record_sums(inputs, data, -1)
            shapes = self._next_shapes(path)
            vectors = [self._vector(site) for site in outputs]
            steps = torch.cat(vectors[-directions:]).expand(*data.shape[:-1], -1).clone()
            states = shapes[1] if isinstance(part, nn.LSTM) else shapes[1:]
            last = [
                torch.stack([v.expand(*shape[1:]) for v in vectors]) for shape in states
            ]  # (layers * directions, B, H)
            out = x._replace(data=steps) if isinstance(x, PackedSequence) else steps
            return out, tuple(last) if isinstance(part, nn.LSTM) else last[0]

        return forward

    def _opaque(self, path: str) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            self._result.sinks += _tensors(args) + _tensors(list(kwargs.values()))
            number = 1 + PERTURBATION * self._perturb_sources
            return _filled(self._next_shapes(path), number)

        return forward


def _identity(x: torch.Tensor, *rest: object) -> torch.Tensor:
    return x


@contextmanager
def _unfused_kernels() -> Iterator[None]:
    """Turn torch's fused encoder off, which does not call its submodules."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def channel_dim(part: nn.Module) -> int:
    """Return the channel dimension of a norm or PReLU; the libraries' LayerNorm2d permutes inside."""
    return -1 if isinstance(part, nn.LayerNorm) and not type(part).__name__.endswith("2d") else 1


def _shapes(out: Any) -> Any:
    """Return the shapes of an output that may be nested."""
    if isinstance(out, PackedSequence):
        return tuple(out.data.shape)
    if isinstance(out, torch.Tensor):
        return out.shape
    return [_shapes(part) for part in out] if isinstance(out, (tuple, list)) else None


def _filled(shapes: Any, number: float) -> Any:
    if isinstance(shapes, torch.Size):
        return torch.full(shapes, number, dtype=torch.float64)
    return tuple(_filled(part, number) for part in shapes) if isinstance(shapes, list) else None


def _tensors(value: Any) -> list[torch.Tensor]:
    """Return the floating-point tensors in a value that may be nested."""
    if isinstance(value, PackedSequence):
        value = value.data
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    return [x for part in value for x in _tensors(part)] if isinstance(value, (tuple, list)) else []
