"""The input of a model that takes tensors as its data gives them."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from dlcli.schema import Frozen
from dlcli.task import InputSpec, TensorSpec


class TensorPart(Frozen):
    """One tensor of a model's input, of ``shape`` without the batch.

    ``low`` and ``high`` are its lowest and highest value in training. With ``pixels`` it is uint8
    (H, W, C) in the data and float32 (C, H, W) from 0 to 1 for the model.
    """

    name: str
    dtype: Literal["float32", "int64"]
    shape: tuple[int, ...]
    low: float
    high: float
    pixels: bool = False


class TensorInput(InputSpec):
    """The tensors of a sample, in the order of the model's arguments. Nothing is scaled."""

    kind: Literal["tensor"] = "tensor"
    tensors: tuple[TensorPart, ...] = Field(min_length=1)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the only tensor; of several, (the number of all their values,)."""
        if len(self.tensors) == 1:
            return self.tensors[0].shape
        return (sum(math.prod(part.shape) for part in self.tensors),)

    @property
    def signature(self) -> tuple[TensorSpec, ...]:
        """Each tensor (B, ...)."""
        return tuple(TensorSpec(p.name, p.dtype, ("batch", *p.shape)) for p in self.tensors)
