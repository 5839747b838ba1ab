"""From a joint encoding (`dlcli.data.joint_input`) to a model's own, as a module that exports.

Nothing here is a parameter or in a state dict: both encodings are in the card. B samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from dlcli.data.tables.columns import transform
from dlcli.task import ImageInput, InputSpec, NumberColumn, SeriesInput, TabularInput, TextInput


def recode(joint: InputSpec, own: InputSpec) -> nn.Module | None:
    """The module from inputs of ``joint`` to those of ``own``; None where they are equal."""
    if joint == own:
        return None
    if isinstance(joint, ImageInput) and isinstance(own, ImageInput):
        return RescaledImages(joint, own)
    if isinstance(joint, SeriesInput) and isinstance(own, SeriesInput):
        return RescaledSeries(joint, own)
    if isinstance(joint, TextInput) and isinstance(own, TextInput):
        return RecodedTexts(joint, own)
    if isinstance(joint, TabularInput) and isinstance(own, TabularInput):
        return RecodedRows(joint, own)
    return None  # tensors of the user's own, of which nothing is encoded


class _Recode(nn.Module):
    def constant(self, name: str, values: object, dtype: torch.dtype = torch.float32) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)


def _rescaling(
    means: Sequence[float], stds: Sequence[float], own_means: Sequence[float], own_stds: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Factors and summands from (x - mean)/std to (x - own mean)/own std."""
    mean, std, own_mean, own_std = map(np.array, (means, stds, own_means, own_stds))
    return (std / own_std).tolist(), ((mean - own_mean) / own_std).tolist()


class RescaledImages(_Recode):
    """Pixels (B, C, H, W), normalised by another mean and std."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, joint: ImageInput, own: ImageInput) -> None:
        super().__init__()
        scale, shift = _rescaling(joint.mean, joint.std, own.mean, own.std)
        self.constant("scale", [[[[one]] for one in scale]])
        self.constant("shift", [[[[one]] for one in shift]])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The same pixels, normalised as the model's own."""
        return (x * self.scale + self.shift,)


class RescaledSeries(_Recode):
    """Values (B, T, C), scaled by another mean and std; steps after the length of a sample stay 0."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, joint: SeriesInput, own: SeriesInput) -> None:
        super().__init__()
        scale, shift = _rescaling(joint.mean, joint.std, own.mean, own.std)
        self.constant("scale", scale)
        self.constant("shift", shift)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        """The same values, scaled as the model's own, and the lengths where there are any."""
        scaled = x * self.scale + self.shift
        if lengths is None:
            return (scaled,)
        steps = torch.arange(x.shape[1], device=x.device)
        inside = (steps.unsqueeze(0) < lengths.unsqueeze(1)).unsqueeze(2)
        return torch.where(inside, scaled, 0.0), lengths


class RecodedTexts(_Recode):
    """Token ids (B, T) of a larger vocabulary; words that the model does not know are unknown."""

    table: torch.Tensor

    def __init__(self, joint: TextInput, own: TextInput) -> None:
        super().__init__()
        ids = {word: i for i, word in enumerate(own.vocabulary)}
        self.constant("table", [ids.get(w, own.unknown) for w in joint.vocabulary], torch.int64)

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The model's own ids, and the lengths."""
        return self.table[tokens], lengths


class RecodedRows(_Recode):
    """Rows (B, F + K), scaled, filled and coded in another way."""

    scale: torch.Tensor
    shift: torch.Tensor
    fill: torch.Tensor
    indicators: torch.Tensor
    has: torch.Tensor
    own_indicators: torch.Tensor

    def __init__(self, joint: TabularInput, own: TabularInput) -> None:
        super().__init__()
        self.numbers, self.features = len(joint.numbers), joint.features
        pairs = list(zip(joint.numbers, own.numbers, strict=True))
        scale, shift = _rescaling(
            *zip(*((one.mean, one.std, other.mean, other.std) for one, other in pairs), strict=True)
        )
        self.constant("scale", scale)
        self.constant("shift", shift)
        self.constant("fill", [_filled(column) for column in own.numbers])
        # The columns of the joint rows where the indicators are; of a number without one any column,
        # which ``has`` then masks.
        self.has_indicator = [column.indicator for column in joint.numbers]
        where = np.cumsum(self.has_indicator) - 1 + self.numbers
        places = [int(i) if has else 0 for i, has in zip(where, self.has_indicator, strict=True)]
        self.constant("indicators", places, torch.int64)
        self.constant("has", self.has_indicator, torch.bool)
        chosen = [int(where[i]) for i, column in enumerate(own.numbers) if column.indicator]
        self.constant("own_indicators", chosen, torch.int64)
        for j, (one, other) in enumerate(zip(joint.categories, own.categories, strict=True)):
            codes = {value: i + 1.0 for i, value in enumerate(other.values)}
            self.constant(f"codes_{j}", [0.0, *(codes.get(value, 0.0) for value in one.values)])
        self.categories = len(joint.categories)

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The model's own rows."""
        parts = []
        if self.numbers:
            parts.append(rows[:, : self.numbers] * self.scale + self.shift)
            if any(self.has_indicator):
                flags = rows.index_select(1, self.indicators) > 0.5
                parts = [torch.where(flags & self.has, self.fill, parts[0])]
            if len(self.own_indicators):
                parts.append(rows.index_select(1, self.own_indicators))
        for j in range(self.categories):
            codes = rows[:, self.features + j].long()
            parts.append(self.get_buffer(f"codes_{j}").index_select(0, codes).unsqueeze(1))
        return (torch.cat(parts, dim=1),)


def _filled(column: NumberColumn) -> float:
    """What the model gets for a missing cell."""
    value = transform(np.array([column.fill]), column)[0]
    return float((value - column.mean) / column.std)
