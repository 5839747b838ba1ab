"""Regions of an image, replaced by its mean colour."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dlcli.data.base import Inputs, Items, Pixels
from dlcli.data.occlusion import Occlusion, Part, in_batches, spans
from dlcli.task import ImageInput, TaskSpec

_CELLS = 8  # of the grid by a side; a region is two by two of them, at every cell


def occlude_image(items: Items, inputs: Inputs, task: TaskSpec) -> Occlusion:
    """Square regions of a quarter of the side, overlapping by half."""
    assert isinstance(task.input, ImageInput)
    pixels: Pixels = inputs[0][0]
    height, width = pixels.shape[:2]
    rows, columns = ([0, *(stop for _, stop in spans(side, _CELLS))] for side in (height, width))
    parts = tuple(
        Part(f"{left}:{right} x {top}:{bottom}", "region", (top, left), (bottom, right))
        for top, bottom in _windows(rows)
        for left, right in _windows(columns)
    )
    grey = pixels.reshape(-1, pixels.shape[2]).mean(axis=0).round().astype(np.uint8)

    def variants() -> Iterator[tuple[int, Pixels]]:
        for index, part in enumerate(parts):
            (top, left), (bottom, right) = part.start, part.stop
            without = pixels.copy()
            without[top:bottom, left:right] = grey
            yield index, without

    return Occlusion(parts, in_batches(variants()), "regions replaced by the image's mean colour")


def _windows(edges: list[int]) -> list[tuple[int, int]]:
    """Two neighbouring cells each; the one cell of a side of one pixel."""
    return list(zip(edges[:-2], edges[2:], strict=True)) or [(edges[0], edges[-1])]
