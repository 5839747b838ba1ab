"""The types between a data set and everything that reads it. NumPy only: ONNX paths import no torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

SplitName = Literal["train", "val", "test"]

Pixels = npt.NDArray[np.uint8]  # (N, H, W, C) in a batch, (H, W, C) for one image
Labels = npt.NDArray[np.int64]  # (N,)


@dataclass(frozen=True)
class Samples:
    """One split of a data set, listed but not decoded: exactly one of ``paths`` and ``pixels``.

    ``ids`` name the samples for ever (a path below the root, or ``train/17``); ``targets`` index the
    source's class names; ``pixels`` are raw uint8 (N, H, W, C) arrays of any size.
    """

    ids: tuple[str, ...]
    targets: Labels
    paths: tuple[Path, ...] | None = None
    pixels: Pixels | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: npt.NDArray[np.int64]) -> Samples:
        """The samples at ``indices``, in that order."""
        return Samples(
            ids=tuple(self.ids[i] for i in indices),
            targets=self.targets[indices],
            paths=None if self.paths is None else tuple(self.paths[i] for i in indices),
            pixels=None if self.pixels is None else self.pixels[indices],
        )


@dataclass(frozen=True)
class DataSource:
    """A data set before decoding: its classes and its splits as they were found.

    ``given`` says which splits the source itself brought; the others were made by dlcli.
    ``native`` is (C, H, W) where all samples share one size known without decoding (arrays), else
    (C, 0, 0). ``warnings`` are sentences for the user (empty class folders and the like).
    """

    name: str  # short, for run names: "digits", "imgs"
    origin: str  # what --data said, made absolute if it is a path
    class_names: tuple[str, ...]
    splits: dict[str, Samples]
    given: frozenset[str]
    native: tuple[int, int, int]
    fingerprint: str
    data_dir: str | None = None
    warnings: tuple[str, ...] = field(default=())


def fingerprint(parts: list[bytes]) -> str:
    """Hex digest of the parts, in order: what `eval` compares to notice that the data changed."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:32]
