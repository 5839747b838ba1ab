"""Sizes of images, as `eval --slice` groups them: the files' own, before any resize."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from dlcli.data.base import Listed, Samples, Stacked
from dlcli.errors import BadSample
from dlcli.pixels.opening import open_image, opened, orientation

_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height


def pixels(samples: Samples) -> list[float]:
    """Width times height of each image; NaN for one that cannot be read."""
    return [width * height for width, height in _sizes(samples)]


def aspects(samples: Samples) -> list[float]:
    """Width over height of each image, as it is shown; NaN for one that cannot be read."""
    return [width / height for width, height in _sizes(samples)]


def _sizes(samples: Samples) -> list[tuple[float, float]]:
    items = samples.items
    assert isinstance(items, Listed | Stacked)
    if isinstance(items, Stacked):
        height, width = items.values.shape[1:3]
        return [(width, height)] * len(items)
    return [_size(item) for item in items.values]


def _size(item: Any) -> tuple[float, float]:
    """Width and height of a file, from its header, or of an array (H, W, ...)."""
    if not isinstance(item, Path):
        return item.shape[1], item.shape[0]
    try:
        with opened(item) as file, open_image(file) as image:
            width, height = image.size
            turned = orientation(image) in _TURNED
    except BadSample:
        return math.nan, math.nan
    return (height, width) if turned else (width, height)
