"""Synthetic series: an input of typical size, and random values."""

from __future__ import annotations

import numpy as np

from dlcli.data.base import Inputs, random_lengths
from dlcli.data.kinds import ModelNeeds
from dlcli.task import SeriesInput

_STEPS, _CHANNELS = 96, 3
REFERENCE_WORDS = f"{_STEPS} steps of {_CHANNELS} channels"


def reference_input(needs: ModelNeeds) -> SeriesInput:
    """Return an input of 96 steps and 3 channels."""
    names = tuple(map(str, range(_CHANNELS)))
    return SeriesInput(channels=names, mean=(0.0,) * _CHANNELS, std=(1.0,) * _CHANNELS, length=_STEPS)


def noise(spec: SeriesInput, count: int, length: int | None, rng: np.random.Generator) -> Inputs:
    """Return standard normal values (n, T, C), and where lengths vary, padded, their lengths (n,)."""
    if not spec.varies:
        return (rng.normal(size=(count, *spec.shape)).astype(np.float32),)
    lengths = random_lengths(rng, count, min(length or 32, spec.length))
    values = rng.normal(size=(count, int(lengths.max()), len(spec.channels))).astype(np.float32)
    values[np.arange(values.shape[1]) >= lengths[:, None]] = 0
    return (values, lengths)
