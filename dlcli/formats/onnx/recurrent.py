"""Recurrent layers as single ONNX operators.

torch's exporter decomposes nn.LSTM, nn.GRU and nn.RNN first, which takes most of the time of an export,
fails after another export in the same process, and fixes the length of nn.RNN. So an export gets layers
that name the operator themselves. T steps, B samples, C features, H hidden units, D directions.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

# ONNX's order of the gates, as indices in torch's: i f g o -> i o f g, and r z n -> z r n.
_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
_OPSET = 14  # of the operators, which are unchanged up to opset 21
_DIRECTIONS = {1: "forward", 2: "bidirectional"}


class _RnnOperator(nn.Module):
    """A recurrent module of torch, as one operator a layer."""

    def __init__(self, rnn: nn.RNNBase, op: str) -> None:
        super().__init__()
        self.rnn, self.op = rnn, op
        self.directions = ["", "_reverse"] if rnn.bidirectional else [""]
        # Buffers of the final layout: the exporter folds only small tensors.
        for layer in range(rnn.num_layers):
            for name in ("weight_ih", "weight_hh"):
                ways = [self._gates(f"{name}_l{layer}{way}") for way in self.directions]
                self.register_buffer(f"{name}_{layer}", torch.stack(ways))
            if rnn.bias:
                ways = [
                    torch.cat([self._gates(f"{name}_l{layer}{way}") for name in ("bias_ih", "bias_hh")])
                    for way in self.directions
                ]
                self.register_buffer(f"bias_{layer}", torch.stack(ways))

    def forward(self, x: torch.Tensor, hx: Any = None) -> tuple[torch.Tensor, Any]:
        """(B, T, C), or (T, B, C) -> states, and the last ones (layers * D, B, H)."""
        if hx is not None or x.ndim != 3:
            outputs: tuple[torch.Tensor, Any] = self.rnn(x, hx)
            return outputs
        x = x.transpose(0, 1) if self.rnn.batch_first else x
        last: list[Any] = []
        for layer in range(self.rnn.num_layers):
            y, *ends = self._layer(x, layer)
            # (T, D, B, H) -> (T, B, D * H)
            x = y.squeeze(1) if len(self.directions) == 1 else y.transpose(1, 2).flatten(2)
            last.append(ends)
        states = x.transpose(0, 1) if self.rnn.batch_first else x
        joined = [torch.cat(each) for each in zip(*last, strict=True)]
        return states, tuple(joined) if self.op == "LSTM" else joined[0]

    def _layer(self, x: torch.Tensor, layer: int) -> Any:
        """(T, B, C) -> all states (T, D, B, H), and the last ones (D, B, H)."""
        names = ["weight_ih", "weight_hh", *(["bias"] if self.rnn.bias else [])]
        hidden, directions = self.rnn.hidden_size, len(self.directions)
        attrs: dict[str, Any] = {"hidden_size": hidden, "direction": _DIRECTIONS[directions]}
        if self.op == "GRU":
            attrs["linear_before_reset"] = 1
        if getattr(self.rnn, "nonlinearity", "tanh") == "relu":
            attrs["activations"] = ["Relu"] * directions
        ends = [[directions, x.shape[1], hidden]] * (2 if self.op == "LSTM" else 1)
        shapes = [[x.shape[0], directions, x.shape[1], hidden], *ends]
        return torch.onnx.ops.symbolic_multi_out(
            self.op,
            [x, *(self.get_buffer(f"{name}_{layer}") for name in names)],
            attrs,
            dtypes=[x.dtype] * len(shapes),
            shapes=shapes,
            version=_OPSET,
        )

    def _gates(self, name: str) -> torch.Tensor:
        """A weight or bias of all gates, in ONNX's order of them."""
        parts = getattr(self.rnn, name).detach().chunk(len(_GATES[self.op]))
        return torch.cat([parts[i] for i in _GATES[self.op]])


def with_onnx_rnns(module: nn.Module) -> nn.Module:
    """The module, or a copy with its recurrent layers replaced by operators."""
    if not any(_operator(part) for part in module.modules()):
        return module
    return _replaced(copy.deepcopy(module))


def _replaced(module: nn.Module) -> nn.Module:
    op = _operator(module)
    if op is not None:
        assert isinstance(module, nn.RNNBase)
        return _RnnOperator(module, op)
    for name, child in list(module.named_children()):
        setattr(module, name, _replaced(child))
    return module


def has_torch_only_rnn(module: nn.Module) -> bool:
    """Whether a recurrent layer stays that torch decomposes: its export depends on earlier exports."""
    return any(isinstance(part, nn.RNNBase) and not _operator(part) for part in module.modules())


def _operator(part: nn.Module) -> str | None:
    """The operator of a recurrent layer; None for other modules, and where ONNX has none."""
    if not isinstance(part, nn.RNNBase) or part.proj_size:
        return None
    kinds = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
    return next((op for op, kind in kinds.items() if isinstance(part, kind)), None)
