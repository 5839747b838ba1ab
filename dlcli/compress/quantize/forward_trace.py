"""Trace of one forward pass: its operations, and which module call each tensor entered and left.

The pass is observed, not traced symbolically, so that any module will do. A value is a tensor as an
operation left it, and has a number: an in-place operation makes a new value of the same tensor.
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

# Operations that return the very tensor they were given, in eval mode.
_NO_OPS = ("dropout", "dropout_", "feature_dropout", "contiguous", "float", "to")


@dataclass(frozen=True)
class TracedOp:
    """An operation (torch's name for it) that ran directly in the module at ``path``."""

    name: str
    path: str
    inputs: tuple[int, ...]
    output: int


@dataclass(frozen=True)
class ModuleCall:
    """Call number ``number`` (from 0) of the module at ``path``: its first tensor and its output.

    ``began`` numbers all calls of the pass in the order in which they began.
    """

    path: str
    number: int
    began: int
    input: int
    output: int


@dataclass(frozen=True)
class ForwardTrace:
    """One forward pass, in the order in which operations and calls ended. ``ndims`` are by value."""

    ops: tuple[TracedOp, ...]
    calls: tuple[ModuleCall, ...]
    ndims: dict[int, int]

    def producer(self, value: int) -> TracedOp | None:
        """Return the operation that made a value; None for inputs of the pass."""
        return next((op for op in self.ops if op.output == value), None)

    def consumers(self, value: int) -> list[TracedOp]:
        """Return the operations that read a value."""
        return [op for op in self.ops if value in op.inputs]

    def producing_call(self, value: int) -> ModuleCall | None:
        """Return the innermost module call that made a value and returned it."""
        producer = self.producer(value)
        if producer is None:
            return None
        calls = (call for call in self.calls if call.output == value)
        return next((c for c in calls if f"{producer.path}.".startswith(f"{c.path}.")), None)

    def consuming_call(self, value: int) -> ModuleCall | None:
        """Return the first module call with a value as first tensor: of nested ones the outermost."""
        calls = [call for call in self.calls if call.input == value]
        return min(calls, key=lambda call: call.began, default=None)


def trace_forward(module: nn.Module, inputs: Sequence[torch.Tensor]) -> ForwardTrace:
    """Run ``module`` once, in eval mode and without gradients, and return the trace."""
    tracer = _Tracer()
    hooks: list[RemovableHandle] = []
    modes = {child: child.training for child in module.modules()}
    for path, child in module.named_modules():
        hooks.append(child.register_forward_pre_hook(tracer.enter(path), prepend=True))
        hooks.append(child.register_forward_hook(tracer.leave()))
    try:
        module.eval()
        with torch.no_grad(), tracer:
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for child, mode in modes.items():
            child.training = mode
    return ForwardTrace(tuple(tracer.ops), tuple(tracer.calls), tracer.ndims)


class _Tracer(TorchFunctionMode):
    """Records every torch function that Python calls, and module calls by hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[TracedOp] = []
        self.calls: list[ModuleCall] = []
        self.ndims: dict[int, int] = {}
        self._values: dict[int, int] = {}  # by id of the tensor
        self._alive: list[torch.Tensor] = []  # an id is reused once its object is gone
        self._numbers: Counter[str] = Counter()
        self._stack: list[tuple[str, int, int, int]] = []  # path, number, began, input

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        inputs = tuple(self._value(tensor) for tensor in _tensors([*args, *(kwargs or {}).values()]))
        output = func(*args, **(kwargs or {}))
        if name in _NO_OPS and any(output is arg for arg in args):
            return output
        for tensor in _tensors([output]):
            path = self._stack[-1][0] if self._stack else ""
            self.ops.append(TracedOp(name, path, inputs, self._value(tensor, new=True)))
        return output

    def enter(self, path: str) -> Any:
        """Return the forward pre-hook of the module at ``path``."""

        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            first = next(iter(_tensors(args)), None)
            number = self._numbers[path]
            self._numbers[path] += 1
            value = -1 if first is None else self._value(first)
            self._stack.append((path, number, self._numbers.total() - 1, value))

        return hook

    def leave(self) -> Any:
        """Return the forward hook."""

        def hook(module: nn.Module, args: object, output: object) -> None:
            path, number, began, value = self._stack.pop()
            if isinstance(output, torch.Tensor):
                self.calls.append(ModuleCall(path, number, began, value, self._value(output)))

        return hook

    def _value(self, tensor: torch.Tensor, *, new: bool = False) -> int:
        """Return the number of a tensor's value; ``new`` gives it a new one."""
        if new or id(tensor) not in self._values:
            with torch._C.DisableTorchFunction():
                self.ndims[len(self.ndims)] = tensor.ndim
            self._values[id(tensor)] = len(self.ndims) - 1
            self._alive.append(tensor)
        return self._values[id(tensor)]


def _tensors(values: Any) -> list[torch.Tensor]:
    """Return the tensors in values that may be nested."""
    tensors: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            tensors.append(value)
        elif isinstance(value, (list, tuple)):
            tensors += _tensors(value)
    return tensors
