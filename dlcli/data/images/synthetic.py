"""Image inputs without data: a reference input and random pixels."""

from __future__ import annotations

import numpy as np

from dlcli.data.base import Inputs
from dlcli.data.kinds import ModelNeeds
from dlcli.task import ImageInput

SIDE = 28  # pixels, of models that accept any size
REFERENCE_WORDS = f"1 x {SIDE} x {SIDE} pixels, or a backbone's own size"


def reference_input(needs: ModelNeeds) -> ImageInput:
    """Grey images of 28 x 28 if the model accepts them, else the default input of the model."""
    channels, side = min(needs.channels), needs.photo_size
    if 1 in needs.channels:
        side = max(SIDE, needs.min_size)
    side = -(-side // needs.size_multiple) * needs.size_multiple
    return ImageInput(
        channels=1 if channels == 1 else 3,
        height=side,
        width=side,
        resize_size=side,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )


def noise(spec: ImageInput, count: int, length: int | None, rng: np.random.Generator) -> Inputs:
    """Random uint8 pixels (n, H, W, C)."""
    shape = (count, spec.height, spec.width, spec.channels)
    return (rng.integers(0, 256, shape, dtype=np.uint8),)
