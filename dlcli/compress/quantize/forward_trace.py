"""What a model does, as it runs: its operations, and which module gave and took each tensor.

One forward pass is watched; nothing is traced symbolically, so any module will do. A value is a tensor
as an operation left it, and has a number: an operation in place makes a new value of the same tensor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

# Operations that give back the very tensor they were asked about, in eval mode.
_NOTHING = ("dropout", "dropout_", "feature_dropout", "contiguous", "float", "to")


@dataclass(frozen=True)
class Op:
    """An operation (torch's name for it) that ran directly within the module at ``path``."""

    name: str
    path: str
    inputs: tuple[int, ...]
    output: int


@dataclass(frozen=True)
class Call:
    """The call number ``number`` (from 0) of the module at ``path``: its first tensor and its answer.

    ``began`` counts all calls of the pass in the order in which they began.
    """

    path: str
    number: int
    began: int
    input: int
    output: int


@dataclass(frozen=True)
class Watched:
    """One forward pass, in the order in which things ended. ``ndims`` are by value."""

    ops: tuple[Op, ...]
    calls: tuple[Call, ...]
    ndims: dict[int, int]

    def maker(self, value: int) -> Op | None:
        """The operation that made a value; None for what came from outside."""
        return next((op for op in self.ops if op.output == value), None)

    def users(self, value: int) -> list[Op]:
        """The operations that read a value."""
        return [op for op in self.ops if value in op.inputs]

    def giver(self, value: int) -> Call | None:
        """The innermost module call that made a value and gave it back."""
        maker = self.maker(value)
        if maker is None:
            return None
        within = (call for call in self.calls if call.output == value)
        return next((call for call in within if f"{maker.path}.".startswith(f"{call.path}.")), None)

    def taker(self, value: int) -> Call | None:
        """The first module call whose first tensor a value is: of nested ones the outermost."""
        found = [call for call in self.calls if call.input == value]
        return min(found, key=lambda call: call.began, default=None)


def watch(module: nn.Module, inputs: Sequence[torch.Tensor]) -> Watched:
    """Run ``module`` once, in eval mode and without gradients, and say what it did."""
    watcher = _Watcher()
    hooks: list[RemovableHandle] = []
    training = module.training
    modes = {part: part.training for part in module.modules()}
    for path, part in module.named_modules():
        hooks.append(part.register_forward_pre_hook(watcher.enter(path), prepend=True))
        hooks.append(part.register_forward_hook(watcher.leave()))
    try:
        module.eval()
        with torch.no_grad(), watcher:
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
        module.training = training
        for part, mode in modes.items():
            part.training = mode
    return Watched(tuple(watcher.ops), tuple(watcher.calls), watcher.ndims)


class _Watcher(TorchFunctionMode):
    """Sees every function of torch that Python calls."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.calls: list[Call] = []
        self.ndims: dict[int, int] = {}
        self._values: dict[int, int] = {}
        self._alive: list[torch.Tensor] = []  # an id is used again once its object is gone
        self._numbers: Counter[str] = Counter()
        self._within: list[tuple[str, int, int, int]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        inputs = tuple(self._value(tensor) for tensor in _tensors([*args, *(kwargs or {}).values()]))
        output = func(*args, **(kwargs or {}))
        if name in _NOTHING and any(output is one for one in args):
            return output
        for tensor in _tensors([output]):
            path = self._within[-1][0] if self._within else ""
            self.ops.append(Op(name, path, inputs, self._value(tensor, fresh=True)))
        return output

    def enter(self, path: str) -> Any:
        """The hook before a call of the module at ``path``."""

        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            first = next(iter(_tensors(args)), None)
            number = self._numbers[path]
            self._numbers[path] += 1
            taken = -1 if first is None else self._value(first)
            self._within.append((path, number, self._numbers.total() - 1, taken))

        return hook

    def leave(self) -> Any:
        """The hook behind a call."""

        def hook(module: nn.Module, args: object, output: object) -> None:
            path, number, began, first = self._within.pop()
            if isinstance(output, torch.Tensor):
                self.calls.append(Call(path, number, began, first, self._value(output)))

        return hook

    def _value(self, tensor: torch.Tensor, *, fresh: bool = False) -> int:
        if fresh or id(tensor) not in self._values:
            with torch._C.DisableTorchFunction():
                self.ndims[len(self.ndims)] = tensor.ndim
            self._values[id(tensor)] = len(self.ndims) - 1
            self._alive.append(tensor)
        return self._values[id(tensor)]


def _tensors(values: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _tensors(value)
    return found
