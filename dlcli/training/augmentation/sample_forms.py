"""The form in which an augmentation of the user's own gets the samples of a kind of data.

An image is uint8 (C, H, W). All other samples are the float32 tensors that the model takes: a series
(T, C) up to its own length; the numeric columns (F,) of a row of a table, without indicators of missing
values and codes of categories; the float tensors of a sample of several. They are scaled as the model
gets them, and go to the model as they return. Token ids are no numbers, so texts have no such form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlcli.errors import DlcliError, UsageError
from dlcli.task import ImageInput, InputSpec, TabularInput

Pipeline = Callable[..., Any]
Refuse = Callable[[str, str], DlcliError]  # an error of what the code returned, and its hint
# By interpolation or noise floats leave [0, 1] a little; normalised images and [0, 255] leave it far.
_OVERSHOOT = 0.2


class SampleForm(ABC):
    """What the code is called with, and what becomes of what it returns. B samples."""

    names: tuple[str, ...]  # of the tensors of a call
    size_hint = "return as many numbers as the sample has"

    @abstractmethod
    def tensors(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The tensors (B, ...) of a batch as the code gets them."""

    @abstractmethod
    def replaced(self, inputs: Sequence[Tensor], augmented: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """New inputs of the model for the augmented tensors (B, ...) of a batch."""

    @abstractmethod
    def checked(self, value: Tensor, tensor: Tensor, refuse: Refuse) -> Tensor:
        """What was returned for ``tensor``, of its shape, ready for `replaced`. Raises: DlcliError."""

    def lengths(self, inputs: Sequence[Tensor]) -> list[int] | None:
        """The number of steps of each sample, where it varies; the first dimension is then of steps."""
        return None

    def call(self, pipeline: Pipeline, tensors: Sequence[Tensor]) -> Any:
        """Call the code with the tensors of a sample, or of a batch."""
        return pipeline(*tensors)


@dataclass(frozen=True)
class NumbersForm(SampleForm):
    """The float32 tensors among the inputs, at ``positions``, as they are.

    ``width`` is how many columns of the last dimension are numbers, None for all. ``lengths_at`` is the
    position of the lengths, after which a sample is 0, and stays it.
    """

    names: tuple[str, ...]
    positions: tuple[int, ...]
    width: int | None = None
    lengths_at: int | None = None

    def tensors(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """As `SampleForm.tensors`."""
        return tuple(inputs[position][..., : self.width] for position in self.positions)

    def replaced(self, inputs: Sequence[Tensor], augmented: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """As `SampleForm.replaced`."""
        new = list(inputs)
        for position, tensor in zip(self.positions, augmented, strict=True):
            if self.width is not None:
                tensor = torch.cat((tensor, inputs[position][..., self.width :]), dim=-1)
            if self.lengths_at is not None:
                steps = torch.arange(tensor.shape[1], device=tensor.device)
                padding = steps >= inputs[self.lengths_at][:, None]
                tensor = tensor.masked_fill(padding[:, :, None], 0)
            new[position] = tensor
        return tuple(new)

    def lengths(self, inputs: Sequence[Tensor]) -> list[int] | None:
        """As `SampleForm.lengths`."""
        return None if self.lengths_at is None else inputs[self.lengths_at].tolist()

    def checked(self, value: Tensor, tensor: Tensor, refuse: Refuse) -> Tensor:
        """As `SampleForm.checked`: of its dtype, and finite."""
        if value.dtype != tensor.dtype:
            raise refuse(f"returned {_dtype(value)}, not {_dtype(tensor)}", "return .float() of it")
        if not torch.isfinite(value).all():
            raise refuse(
                "returned values that are not finite (NaN, inf)",
                "a number divided by 0, or by the std of a constant, is not",
            )
        return value.to(tensor.device)


class ImageForm(SampleForm):
    """Images: uint8 (C, H, W), to uint8 or floats in [0, 1].

    Pipelines of albumentations and kornia are called as these libraries want.
    """

    names = ("image",)
    size_hint = "return images of the same size; --img-size sets that of the model"

    def tensors(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """As `SampleForm.tensors`."""
        return (inputs[0].permute(0, 3, 1, 2).contiguous(),)

    def replaced(self, inputs: Sequence[Tensor], augmented: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """As `SampleForm.replaced`: uint8, or float32 in [0, 255], (B, H, W, C)."""
        return (augmented[0].permute(0, 2, 3, 1).contiguous(),)

    def call(self, pipeline: Pipeline, tensors: Sequence[Tensor]) -> Any:
        """As `SampleForm.call`, by the convention of the pipeline's library."""
        return _CONVENTIONS.get(_library(pipeline), _call_with_tensor)(pipeline, tensors[0])

    def checked(self, value: Tensor, tensor: Tensor, refuse: Refuse) -> Tensor:
        """As `SampleForm.checked`: uint8, or floats in [0, 1] as float32 in [0, 255]."""
        if value.dtype == torch.uint8:
            return value.to(tensor.device)
        low, high = (float(x) for x in value.aminmax()) if value.is_floating_point() else (0.0, 0.0)
        if not value.is_floating_point() or not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):
            values = f" from {low:.3g} to {high:.3g}" if value.is_floating_point() else ""
            raise refuse(
                f"returned {_dtype(value)} values{values}",
                "return uint8, or floats in [0, 1]; leave Normalize out: dlcli normalises what a model "
                "gets",
            )
        return (value.float().clamp(0, 1) * 255).to(tensor.device)


def form_of(spec: InputSpec) -> SampleForm:
    """The form of the samples of an input. Raises: UsageError where they have no numbers."""
    if isinstance(spec, ImageInput):
        return ImageForm()
    numbers = {i: part.name for i, part in enumerate(spec.signature) if part.dtype == "float32"}
    width = len(spec.numbers) if isinstance(spec, TabularInput) else None
    if not numbers or width == 0:
        raise UsageError(
            "--augment with code of your own takes images, series, numeric columns of tables, and "
            f"float tensors; this {spec.kind} data has none of them",
            hint="leave --augment out",
        )
    lengths = [i for i, part in enumerate(spec.signature) if part.name == "lengths"]
    return NumbersForm(tuple(numbers.values()), tuple(numbers), width, lengths[0] if lengths else None)


def described(tensors: Sequence[Tensor]) -> str:
    """Dtypes and shapes of the tensors of a call: "uint8 (3, 32, 32)"."""
    return ", ".join(f"{_dtype(tensor)} {tuple(tensor.shape)}" for tensor in tensors)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _library(pipeline: Pipeline) -> str:
    """The library of a pipeline's class or of a base, if it has a calling convention of its own."""
    roots = (base.__module__.partition(".")[0] for base in type(pipeline).__mro__)
    return next((root for root in roots if root in _CONVENTIONS), "")


def _call_with_tensor(pipeline: Pipeline, image: Tensor) -> Any:
    return pipeline(image)


def _call_albumentations(pipeline: Pipeline, image: Tensor) -> Any:
    """An array (H, W, C) by the name ``image``; a dictionary returns, with a tensor from ToTensorV2."""
    value = pipeline(image=image.permute(1, 2, 0).contiguous().cpu().numpy())["image"]
    if not isinstance(value, np.ndarray):
        return value
    value = value[:, :, None] if value.ndim == 2 else value
    return torch.from_numpy(np.ascontiguousarray(value)).permute(2, 0, 1)


def _call_kornia(pipeline: Pipeline, image: Tensor) -> Any:
    """Floats in [0, 1] with a dimension of batches."""
    scaled = image.float() / 255
    return pipeline(scaled) if image.ndim == 4 else pipeline(scaled[None])[0]


_CONVENTIONS: dict[str, Callable[[Pipeline, Tensor], Any]] = {
    "albumentations": _call_albumentations,
    "kornia": _call_kornia,
}
