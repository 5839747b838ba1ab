"""Parts of a sample, and the sample without each of them. NumPy only.

What a model's output becomes without a part says how much the part counts: Zeiler and Fergus,
"Visualizing and Understanding Convolutional Networks", arXiv:1311.2901, section 4.2; of texts Li,
Monroe and Jurafsky, arXiv:1612.08220. It needs no gradient, so it explains every file that predicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Indices, Inputs

BATCH = 64  # samples without a part that are predicted together
MOST_PARTS = 200  # of a text or of steps; more are taken together, evenly


@dataclass(frozen=True)
class Part:
    """A part of a sample.

    ``what`` is its sort: "region", "word", "column", "step" or "channel". ``start`` and ``stop`` are
    where it lies: (top, left) and (bottom, right) of a region in the model's pixels, the characters of
    a word in its text, the steps of a series; empty for columns and channels.
    """

    name: str
    what: str
    start: tuple[int, ...] = ()
    stop: tuple[int, ...] = ()


@dataclass(frozen=True)
class Occlusion:
    """The parts of one sample and ``batches`` of the sample without one of them.

    A batch is the inputs of n samples and the indices (n,) of the parts that they lack. A part may come
    several times, replaced in several ways, which count alike. ``method`` says how parts are replaced.
    """

    parts: tuple[Part, ...]
    batches: Iterator[tuple[Inputs, Indices]]
    method: str


def in_batches(
    variants: Iterable[tuple[int, npt.NDArray[np.generic]]], rest: Inputs = ()
) -> Iterator[tuple[Inputs, Indices]]:
    """Batches of (part, array of one sample); ``rest`` are further inputs (1, ...) that never change."""
    arrays: list[npt.NDArray[np.generic]] = []
    parts: list[int] = []
    for part, array in variants:
        arrays.append(array)
        parts.append(part)
        if len(arrays) == BATCH:
            yield _batch(arrays, parts, rest)
            arrays, parts = [], []
    if arrays:
        yield _batch(arrays, parts, rest)


def _batch(
    arrays: Sequence[npt.NDArray[np.generic]], parts: Sequence[int], rest: Inputs
) -> tuple[Inputs, Indices]:
    repeated = (np.repeat(array, len(arrays), axis=0) for array in rest)
    return (np.stack(arrays), *repeated), np.array(parts, np.int64)


def spans(length: int, most: int = MOST_PARTS) -> list[tuple[int, int]]:
    """At most ``most`` spans (start, stop) of about one size that cover ``length``."""
    edges = np.linspace(0, length, min(length, most) + 1).round().astype(int).tolist()
    return list(pairwise(edges))
