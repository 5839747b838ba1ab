"""A copy of a model whose layers give constants, to see where a change of them arrives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from dlcli.compress.channels.sites import NORMS, Place, Places, has_own, is_layer, is_opaque

STEP = 1e-7  # of a change: small enough to be linear, far above what rounding does to a double


@dataclass
class Seen:
    """One run: sums over each input channel, a row a call; and all of what must not change."""

    columns: dict[int, list[torch.Tensor]] = field(default_factory=dict)  # by the place's start
    sinks: list[torch.Tensor] = field(default_factory=list)


class Probe:
    """A copy of the module whose layers give constants."""

    def __init__(self, module: nn.Module, inputs: Sequence[torch.Tensor]) -> None:
        self.module = copy.deepcopy(module).cpu().float().eval()
        self.places = Places(self.module)
        self._inputs = [x.cpu() for x in inputs]
        self._outputs: dict[str, list[Any]] = {}
        self._note_outputs()
        self.module.double()
        self._inputs = [x.double() if x.is_floating_point() else x for x in self._inputs]
        self._own: dict[int, tuple[nn.Parameter, int]] = {}
        self._values: dict[str, torch.Tensor] = {}
        self._change: dict[int, torch.Tensor] = {}
        self._sources = False
        self._seen = Seen()
        self._calls: dict[str, int] = {}
        self._generator = torch.Generator().manual_seed(0)
        for path, part in self.places.parts.items():
            self._stand_in(path, part)

    def run(self, change: dict[int, torch.Tensor] | None = None, *, sources: bool = False) -> Seen:
        """A run with changes (by a place's start), or with changed inputs, embeddings and attention."""
        self._seen, self._calls, self._sources = Seen(), {}, sources
        self._change = {} if change is None else change
        inputs = [x + STEP if sources and x.is_floating_point() else x for x in self._inputs]
        with torch.no_grad(), _own_kernels(), self._shifted():
            out = self.module(*inputs)
        self._seen.sinks += _tensors(out)
        return self._seen

    @contextmanager
    def _shifted(self) -> Iterator[None]:
        """Parameters of no layer, changed as asked for this run."""
        moved = [self._own[start] for start in self._change if start in self._own]
        for start, labels in self._change.items():
            if start in self._own:
                parameter, dim = self._own[start]
                shape = [-1 if d == dim else 1 for d in range(parameter.ndim)]
                parameter.add_(STEP * labels.view(shape))
        yield
        for parameter, _ in moved:
            parameter.copy_(self._values[str(id(parameter))])

    def _note_outputs(self) -> None:
        """Shapes of what each layer gives, call by call, from one real run."""
        handles = []
        for path, part in self.places.parts.items():
            if is_layer(part) or is_opaque(part):
                seen = self._outputs.setdefault(path, [])

                def note(sub: nn.Module, args: Any, output: Any, seen: list[Any] = seen) -> None:
                    seen.append(output)

                handles.append(part.register_forward_hook(note))
        try:
            with torch.no_grad(), _own_kernels():
                self.module(*self._inputs)
        finally:
            for handle in handles:
                handle.remove()
        self._outputs = {path: [_shapes(out) for out in seen] for path, seen in self._outputs.items()}

    def _stand_in(self, path: str, part: nn.Module) -> None:
        """Replace the forward of one part of the copy."""
        part._forward_hooks.clear()
        if is_opaque(part):
            part.forward = self._opaque(path)
        elif isinstance(part, nn.RNNBase):
            part.forward = self._recurrent(path, part)
        elif is_layer(part):
            dim = -1 if isinstance(part, nn.Linear) else -len(part.kernel_size) - 1  # type: ignore[arg-type]
            part.forward = self._layer(path, dim)
        elif self.places.of(path, "norm"):
            part.forward = self._norm(path, channel_dim(part))
        elif isinstance(part, NORMS):
            part.forward = _as_it_is  # type: ignore[method-assign]
        elif has_own(part) and not isinstance(part, nn.PReLU):
            for name, parameter in part.named_parameters(recurse=False):
                self._take(f"{path}.{name}" if path else name, parameter)

    @torch.no_grad()
    def _take(self, name: str, parameter: nn.Parameter) -> None:
        """A parameter of no known layer: any of its dimensions may be channels."""
        if not parameter.is_floating_point():
            return
        parameter.copy_(self._random(parameter.numel()).view(parameter.shape))
        self._values[str(id(parameter))] = parameter.detach().clone()
        for dim, size in enumerate(parameter.shape):
            if size > 1:
                self._own[self.places.add_own(name, dim, size).start] = (parameter, dim)

    def _random(self, size: int) -> torch.Tensor:
        """Positive and about 1, so that no activation cuts a change off."""
        return torch.rand(size, generator=self._generator, dtype=torch.float64) + 0.5

    def _vector(self, place: Place) -> torch.Tensor:
        key = str(place.start)
        if key not in self._values:
            self._values[key] = self._random(place.size)
        change = self._change.get(place.start)
        return self._values[key] if change is None else self._values[key] + STEP * change

    def _call(self, path: str) -> Any:
        """The shapes of this call's output; a run makes the calls of the first one again."""
        number = self._calls.get(path, 0)
        self._calls[path] = number + 1
        return self._outputs[path][number]

    def _note(self, place: Place, x: torch.Tensor, dim: int) -> None:
        others = [d for d in range(x.ndim) if d != dim % x.ndim]
        columns = x.sum(others) if others else x
        self._seen.columns.setdefault(place.start, []).append(columns)

    def _layer(self, path: str, dim: int) -> Callable[..., torch.Tensor]:
        (into,), (out,) = self.places.of(path, "in"), self.places.of(path, "out")

        def forward(x: torch.Tensor, *rest: object) -> torch.Tensor:
            self._note(into, x, dim)
            shape = self._call(path)
            vector = self._vector(out).view(-1, *[1] * (-dim - 1))
            return vector.expand(shape).clone()

        return forward

    def _norm(self, path: str, dim: int) -> Callable[..., torch.Tensor]:
        (place,) = self.places.of(path, "norm")

        def forward(x: torch.Tensor, *rest: object) -> torch.Tensor:
            self._note(place, x, dim)
            return x

        return forward

    def _recurrent(self, path: str, part: nn.RNNBase) -> Callable[..., Any]:
        (into,), outs = self.places.of(path, "in"), self.places.of(path, "out")
        directions = 2 if part.bidirectional else 1

        def forward(x: torch.Tensor | PackedSequence, *rest: object) -> Any:
            data = x.data if isinstance(x, PackedSequence) else x
            self._note(into, data, -1)
            shapes = self._call(path)
            vectors = [self._vector(out) for out in outs]
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
            self._seen.sinks += _tensors(args) + _tensors(list(kwargs.values()))
            number = 1 + STEP * self._sources
            return _filled(self._call(path), number)

        return forward


def _as_it_is(x: torch.Tensor, *rest: object) -> torch.Tensor:
    return x


@contextmanager
def _own_kernels() -> Iterator[None]:
    """Layers of torch run as they are written: its fused encoder passes its own parts over."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def channel_dim(part: nn.Module) -> int:
    """Where a norm or PReLU has its channels; the libraries' LayerNorm2d turns the axes inside."""
    return -1 if isinstance(part, nn.LayerNorm) and not type(part).__name__.endswith("2d") else 1


def _shapes(out: Any) -> Any:
    """Shapes of an output that may be nested."""
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
    """The floating tensors in what may be nested."""
    if isinstance(value, PackedSequence):
        value = value.data
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    return [x for part in value for x in _tensors(part)] if isinstance(value, (tuple, list)) else []
