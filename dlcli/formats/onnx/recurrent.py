"""Recurrent nets as the ONNX operators they are.

torch's exporter takes nn.LSTM, nn.GRU and nn.RNN apart first, which takes most of the time of an export,
fails after another export in the same process, and fixes the length of nn.RNN. So an export gets layers
that name the operator themselves. T steps, B samples, C features, H hidden units, D directions.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

# ONNX's order of the gates, as places in torch's: i f g o -> i o f g, and r z n -> z r n.
_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
_SINCE = 14  # the operators are the same in every later opset that is offered, up to 21
_DIRECTIONS = {1: "forward", 2: "bidirectional"}


class _Operator(nn.Module):
    """What a recurrent net of torch answers, as one operator a layer."""

    def __init__(self, net: nn.RNNBase, op: str) -> None:
        super().__init__()
        self.net, self.op = net, op
        self.directions = ["", "_reverse"] if net.bidirectional else [""]
        # Buffers of the final layout: the exporter folds only small tensors.
        for layer in range(net.num_layers):
            for name in ("weight_ih", "weight_hh"):
                ways = [self._gates(f"{name}_l{layer}{way}") for way in self.directions]
                self.register_buffer(f"{name}_{layer}", torch.stack(ways))
            if net.bias:
                ways = [
                    torch.cat([self._gates(f"{name}_l{layer}{way}") for name in ("bias_ih", "bias_hh")])
                    for way in self.directions
                ]
                self.register_buffer(f"bias_{layer}", torch.stack(ways))

    def forward(self, x: torch.Tensor, hx: Any = None) -> tuple[torch.Tensor, Any]:
        """(B, T, C), or (T, B, C) -> states, and the last ones (layers * D, B, H)."""
        if hx is not None or x.ndim != 3:
            answer: tuple[torch.Tensor, Any] = self.net(x, hx)
            return answer
        x = x.transpose(0, 1) if self.net.batch_first else x
        last: list[Any] = []
        for layer in range(self.net.num_layers):
            y, *ends = self._layer(x, layer)
            # (T, D, B, H) -> (T, B, D * H)
            x = y.squeeze(1) if len(self.directions) == 1 else y.transpose(1, 2).flatten(2)
            last.append(ends)
        states = x.transpose(0, 1) if self.net.batch_first else x
        joined = [torch.cat(each) for each in zip(*last, strict=True)]
        return states, tuple(joined) if self.op == "LSTM" else joined[0]

    def _layer(self, x: torch.Tensor, layer: int) -> Any:
        """(T, B, C) -> all states (T, D, B, H), and the last ones (D, B, H)."""
        names = ["weight_ih", "weight_hh", *(["bias"] if self.net.bias else [])]
        hidden, directions = self.net.hidden_size, len(self.directions)
        attrs: dict[str, Any] = {"hidden_size": hidden, "direction": _DIRECTIONS[directions]}
        if self.op == "GRU":
            attrs["linear_before_reset"] = 1
        if getattr(self.net, "nonlinearity", "tanh") == "relu":
            attrs["activations"] = ["Relu"] * directions
        ends = [[directions, x.shape[1], hidden]] * (2 if self.op == "LSTM" else 1)
        shapes = [[x.shape[0], directions, x.shape[1], hidden], *ends]
        return torch.onnx.ops.symbolic_multi_out(
            self.op,
            [x, *(self.get_buffer(f"{name}_{layer}") for name in names)],
            attrs,
            dtypes=[x.dtype] * len(shapes),
            shapes=shapes,
            version=_SINCE,
        )

    def _gates(self, name: str) -> torch.Tensor:
        """A weight or bias of all gates, in ONNX's order of them."""
        parts = getattr(self.net, name).detach().chunk(len(_GATES[self.op]))
        return torch.cat([parts[i] for i in _GATES[self.op]])


def with_onnx_rnns(module: nn.Module) -> nn.Module:
    """The module itself, or a copy of one that holds recurrent nets, with operators in their places."""
    if not any(_operator(part) for part in module.modules()):
        return module
    return _replaced(copy.deepcopy(module))


def _replaced(module: nn.Module) -> nn.Module:
    op = _operator(module)
    if op is not None:
        assert isinstance(module, nn.RNNBase)
        return _Operator(module, op)
    for name, child in list(module.named_children()):
        setattr(module, name, _replaced(child))
    return module


def has_torch_only_rnn(module: nn.Module) -> bool:
    """Whether a net stays that only torch can take apart: then the exporter depends on order."""
    return any(isinstance(part, nn.RNNBase) and not _operator(part) for part in module.modules())


def _operator(part: nn.Module) -> str | None:
    """The operator of a recurrent net; None for other modules, and where ONNX has none."""
    if not isinstance(part, nn.RNNBase) or part.proj_size:
        return None
    kinds = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
    return next((op for op, kind in kinds.items() if isinstance(part, kind)), None)
