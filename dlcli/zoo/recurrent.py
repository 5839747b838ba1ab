"""Recurrent models for texts and series: ``rnn``, ``gru`` and ``lstm``.

B samples, T steps, C features, H hidden units of one direction. The backward direction reads each
sample's true steps from its own end, so padding never influences an answer; it is a second layer over
the flipped steps, which gives what packed sequences give and exports to ONNX. First weights:
orthogonal between hidden states (arXiv:1312.6120), N(0, 1/fan_in) from the input, an LSTM's forget
bias 1, `init_body`, and `init_head` for the last layer.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from dlcli.data.kinds import ModelNeeds
from dlcli.task import Frozen, SeriesInput, TaskSpec, TextInput
from dlcli.zoo.base import SEARCH_WITH_DROPOUT, SUPERVISED, ModelEntry, register
from dlcli.zoo.layers import (
    ActivationName,
    NormName,
    StepPoolName,
    activation,
    flip_steps,
    init_body,
    init_head,
    norm1d,
    pool_steps,
)
from dlcli.zoo.token_embedding import TokenEmbedding
from dlcli.zoo.windows import WindowNorm, WindowNormName

Cell = Literal["rnn", "gru", "lstm"]


class RecurrentArgs(Frozen):
    """``hidden`` units of each direction and layer; ``dropout`` in front of each layer and the head.

    The pooled states pass a dense layer of ``hidden`` units with ``norm`` and ``activation``.
    """

    hidden: int = Field(128, ge=1)
    layers: int = Field(1, ge=1)
    bidirectional: bool = True
    dropout: float = Field(0.2, ge=0, lt=1)
    activation: ActivationName = "relu"
    norm: NormName = "none"
    pooling: StepPoolName = "max"


class TextRecurrentArgs(RecurrentArgs):
    """The settings of every recurrent model, and ``dim``, the size of a token's vector.

    ``token_dropout`` is the share of tokens that count as unknown while training.
    """

    dim: int = Field(128, ge=1)
    dropout: float = Field(0.4, ge=0, lt=1)
    token_dropout: float = Field(0.05, ge=0, lt=1)


class SeriesRecurrentArgs(RecurrentArgs):
    """The settings of every recurrent model, and two of forecasts alone.

    ``window_norm`` is how the level is taken out of the window; ``patch`` steps of it are read at
    once (Lin et al., arXiv:2308.11200, here all channels together), fewer where the window would not
    hold four times that many.
    """

    window_norm: WindowNormName = "last"
    patch: int = Field(24, ge=1)


class Elman(nn.RNN):
    """A simple recurrence with tanh that exports with a free length.

    torch 2.15 unrolls nn.RNN when it exports, for the length of the example alone; nn.GRU becomes an
    operator. So an export gets the GRU that equals this layer, with a reset gate of 1 and an update gate
    of 0; it computes three times as much.
    """

    def forward(  # type: ignore[override]  # packed sequences are not taken
        self, x: torch.Tensor, hx: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, C) -> states (B, T, H), and the last one (1, B, H)."""
        if not torch.compiler.is_exporting():
            states, last = super().forward(x, hx)
            return states, last
        assert hx is None
        own = dict(self.named_parameters())
        start = x.new_zeros(1, x.shape[0], self.hidden_size)
        # The sigmoid of 40 is 1 in float32, and that of -40 vanishes next to 1.
        gates = [x.new_full((self.hidden_size,), value) for value in (40.0, -40.0)]
        weights = [
            torch.cat([torch.zeros_like(own[name]), torch.zeros_like(own[name]), own[name]])
            for name in ("weight_ih_l0", "weight_hh_l0")
        ]
        biases = [
            torch.cat([*gates, own["bias_ih_l0"]]),
            torch.cat([gates[0] * 0, gates[1] * 0, own["bias_hh_l0"]]),
        ]
        states, last = torch.gru(x, start, [*weights, *biases], True, 1, 0.0, False, False, True)
        return states, last


_CELLS: dict[Cell, type[nn.RNN] | type[nn.GRU] | type[nn.LSTM]] = {
    "rnn": Elman,
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}


class Recurrence(nn.Module):
    """Steps (B, T, C) to hidden states (B, T, H), or (B, T, 2H) with both directions."""

    def __init__(self, cell: Cell, features: int, args: RecurrentArgs) -> None:
        super().__init__()
        forward: list[nn.Module] = []
        backward: list[nn.Module] = []
        for _ in range(args.layers):
            forward.append(_net(cell, features, args.hidden))
            if args.bidirectional:
                backward.append(_net(cell, features, args.hidden))
            features = args.hidden * (1 + args.bidirectional)
        self.onward, self.backward_ = nn.ModuleList(forward), nn.ModuleList(backward)
        self.dropout = nn.Dropout(args.dropout)
        self.width = features

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """(B, T, C) -> (B, T, H or 2H). States after a sample's end mean nothing."""
        for i, onward in enumerate(self.onward):
            x = self.dropout(x) if i else x
            out = onward(x)[0]
            if self.backward_:
                back = self.backward_[i](flip_steps(x, lengths))[0]
                out = torch.cat([out, flip_steps(back, lengths)], dim=2)
            x = out
        return x


class Readout(nn.Module):
    """Pooled states (B, width) to (B, outputs): dense layer, norm, activation, dropout, head."""

    def __init__(self, width: int, outputs: int, args: RecurrentArgs) -> None:
        super().__init__()
        self.dense = nn.Linear(width, args.hidden)
        self.norm = norm1d(args.norm, args.hidden)
        self.activation = activation(args.activation)
        self.dropout = nn.Dropout(args.dropout)
        self.head = nn.Linear(args.hidden, outputs)
        init_body(self.dense, args.activation)
        init_head(self.head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, width) -> (B, outputs)."""
        x = self.activation(self.norm(self.dense(self.dropout(x))))
        output: torch.Tensor = self.head(self.dropout(x))
        return output


class TextRecurrent(nn.Module):
    """Token ids (B, T) and lengths (B,) to (B, outputs)."""

    def __init__(self, cell: Cell, spec: TextInput, outputs: int, args: TextRecurrentArgs) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(
            spec.vocab_size, args.dim, dropout=args.dropout, token_dropout=args.token_dropout
        )
        self.states = Recurrence(cell, args.dim, args)
        self.pooling = args.pooling
        self.readout = Readout(self.states.width, outputs, args)

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(B, T) -> (B, outputs)."""
        states = self.states(self.embedding(tokens), lengths)
        output: torch.Tensor = self.readout(pool_steps(states, lengths, self.pooling))
        return output


class SeriesRecurrent(nn.Module):
    """Series (B, T, C) to (B, outputs)."""

    def __init__(self, cell: Cell, channels: int, outputs: int, args: SeriesRecurrentArgs) -> None:
        super().__init__()
        self.states = Recurrence(cell, channels, args)
        self.pooling = args.pooling
        self.readout = Readout(self.states.width, outputs, args)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T, C) and the true lengths (B,), where they vary -> (B, outputs)."""
        states = self.states(x, lengths)
        output: torch.Tensor = self.readout(pool_steps(states, lengths, self.pooling))
        return output


class RecurrentForecaster(nn.Module):
    """Windows (B, T, C) to forecasts (B, horizon, targets)."""

    def __init__(self, cell: Cell, task: TaskSpec, args: SeriesRecurrentArgs) -> None:
        super().__init__()
        assert isinstance(task.input, SeriesInput)
        self.window = WindowNorm(task, args.window_norm)
        self.patch = min(args.patch, max(1, task.input.length // 4))
        channels = self.patch * len(task.input.channels)
        self.net = SeriesRecurrent(cell, channels, task.num_outputs, args)
        self.output_shape = (task.horizon, len(task.targets))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, C) -> (B, horizon, targets)."""
        x, level = self.window(x)
        # A window that is no whole number of patches loses its beginning.
        x = x[:, x.shape[1] % self.patch :].reshape(x.shape[0], -1, self.patch * x.shape[2])
        return self.window.back(self.net(x).unflatten(1, self.output_shape), level)


def _net(cell: Cell, features: int, hidden: int) -> nn.Module:
    """One layer, one direction, with its first weights."""
    rnn = _CELLS[cell](features, hidden, batch_first=True)
    for name, weight in rnn.named_parameters():
        if name.startswith("weight_ih"):
            nn.init.normal_(weight, std=1 / math.sqrt(features))
        elif name.startswith("weight_hh"):
            for start in range(0, len(weight), hidden):  # a square for each gate
                nn.init.orthogonal_(weight.data[start : start + hidden])
        else:
            nn.init.zeros_(weight)
    if cell == "lstm":
        # Gates in torch's order: input, forget, cell, output; of the two biases one is enough.
        nn.init.ones_(rnn.get_parameter("bias_ih_l0").data[hidden : 2 * hidden])
    return rnn


def _build_text(cell: Cell, task: TaskSpec, args: TextRecurrentArgs) -> nn.Module:
    assert isinstance(task.input, TextInput)
    return TextRecurrent(cell, task.input, task.num_outputs, args)


def _build_series(cell: Cell, task: TaskSpec, args: SeriesRecurrentArgs) -> nn.Module:
    assert isinstance(task.input, SeriesInput)
    if task.kind == "forecast":
        return RecurrentForecaster(cell, task, args)
    return SeriesRecurrent(cell, len(task.input.channels), task.num_outputs, args)


def _head(module: nn.Module) -> str:
    return "net.readout.head" if isinstance(module, RecurrentForecaster) else "readout.head"


def _register(cell: Cell, what: str) -> None:
    register(
        ModelEntry(
            name=cell,
            kind="text",
            build=lambda task, args: _build_text(cell, task, args),
            head=_head,
            args=TextRecurrentArgs,
            word_vectors="dim",
            needs=ModelNeeds(name=cell),
            recipe={
                "optim": {"lr": 2e-3, "clip_grad_norm": 1.0},
                "fit": {"epochs": 15, "batch_size": 64, "min_steps": 600},  # see `cnn_text`
            },
            search=SEARCH_WITH_DROPOUT,
            summary=f"{what} over the tokens, in both directions",
        )
    )
    register(
        ModelEntry(
            name=cell,
            kind="series",
            build=lambda task, args: _build_series(cell, task, args),
            head=_head,
            tasks=(*SUPERVISED, "forecast"),
            args=SeriesRecurrentArgs,
            needs=ModelNeeds(name=cell),
            recipe={
                "optim": {"lr": 2e-3, "clip_grad_norm": 1.0},
                "fit": {"epochs": 100, "batch_size": 16, "monitor": "loss"},  # see `cnn_series`
            },
            recipes={"forecast": {"fit": {"epochs": 5, "batch_size": 64, "min_steps": 300}}},
            search=SEARCH_WITH_DROPOUT,
            summary=f"{what} over the steps, in both directions",
        )
    )


_register("rnn", "Elman's simple recurrence")
_register("gru", "gated recurrent units")
_register("lstm", "long short-term memory")
