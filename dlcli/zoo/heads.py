"""Heads of pretrained backbones: the last linear layer, or hidden layers and dropout in its place."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import nn

from dlcli.errors import UsageError
from dlcli.task import Frozen

_Width = Annotated[int, Field(ge=1)]


class HeadArgs(Frozen):
    """``head``: linear, or mlp with a hidden layer of ``hidden`` units, or one for each of several."""

    # Arguments that have no effect on a linear head.
    only_mlp: ClassVar[tuple[str, ...]] = ("hidden",)

    head: Literal["linear", "mlp"] = "linear"
    hidden: _Width | Annotated[tuple[_Width, ...], Field(min_length=1)] = 512

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of units of each hidden layer of an mlp head."""
        return (self.hidden,) if isinstance(self.hidden, int) else self.hidden


class MlpHead(nn.Sequential):
    """Linear, ReLU, dropout for each hidden layer, then linear; ``first`` is a dropout before them."""

    def __init__(
        self, features: int, widths: tuple[int, ...], outputs: int, *, dropout: float, first: float = 0.0
    ) -> None:
        layers: list[nn.Module] = [nn.Dropout(first)] if first else []
        for width in widths:
            layers += [nn.Linear(features, width), nn.ReLU(), nn.Dropout(dropout)]
            features = width
        super().__init__(*layers, nn.Linear(features, outputs))


def replace_head(
    module: nn.Module, path: str, args: HeadArgs, *, name: str, dropout: float, first: float = 0.0
) -> None:
    """Put the head that ``args`` describe in place of the linear layer at ``path``, if it is another.

    ``dropout`` follows each hidden layer, ``first`` is before the head. Raises: UsageError where the
    layer is not linear.
    """
    if args.head == "linear" and not first:
        return
    last = module.get_submodule(path)
    if not isinstance(last, nn.Linear):
        option = "--head mlp" if args.head == "mlp" else "model.args.head_dropout"
        raise UsageError(f"{option}: {name} has a head that is no linear layer", hint="leave it out")
    widths = args.widths if args.head == "mlp" else ()
    head = MlpHead(last.in_features, widths, last.out_features, dropout=dropout, first=first)
    module.set_submodule(path, head)
