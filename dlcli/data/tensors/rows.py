"""Samples of several arrays by name, and their reader. N samples."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Indices, Inputs, Items, Reader, Samples
from dlcli.data.contents import Keys, array_key
from dlcli.data.tensors.spec import TensorInput, TensorPart
from dlcli.errors import DlcliError

Array = npt.NDArray[Any]
# Names of other tensors in a model's graph, and of lengths, which would be taken for padding.
_TAKEN = ("logits", "numbers", "vectors", "lengths")


@dataclass(frozen=True)
class TensorRows(Items):
    """Arrays of N rows by name: float32, int64, or uint8 pixels (N, H, W, C)."""

    arrays: Mapping[str, Array]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    @classmethod
    def gather(cls, parts: Sequence[TensorRows], where: Indices) -> TensorRows:
        """As `Items.gather`."""
        names = parts[0].arrays
        joined = {name: [part.arrays[name] for part in parts] for name in names}
        return cls(
            {
                name: (arrays[0] if len(arrays) == 1 else np.concatenate(arrays))[where]
                for name, arrays in joined.items()
            }
        )

    @classmethod
    def contents(cls, parts: Sequence[TensorRows]) -> list[Keys] | None:
        """As `Items.contents`."""
        return [
            [tuple(array_key(array[i]) for array in part.arrays.values()) for i in range(len(part))]
            for part in parts
        ]


def as_rows(arrays: Mapping[str, Array], images: frozenset[str] = frozenset()) -> TensorRows:
    """Arrays of any numbers as rows: those in ``images`` as pixels, the others as float32 or int64."""
    return TensorRows(
        {
            tensor_name(name): array
            if name in images
            else array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
            for name, array in arrays.items()
        }
    )


def tensor_name(name: str) -> str:
    """A name as a model's graph can have it."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"input_{plain}" if plain in _TAKEN or not re.match(r"[A-Za-z_]", plain) else plain


def fit_parts(rows: TensorRows) -> tuple[TensorPart, ...]:
    """The tensors of the training rows. Raises: DlcliError where a float is never a number."""
    parts = []
    for name, array in rows.arrays.items():
        finite = array[np.isfinite(array)]
        if not finite.size:
            raise DlcliError(f"{name} has no finite value in the training split")
        pixels = array.dtype == np.uint8
        shape, scale = array.shape[1:], 255 if pixels else 1
        parts.append(
            TensorPart(
                name=name,
                dtype="int64" if array.dtype == np.int64 else "float32",
                shape=(shape[2], *shape[:2]) if pixels else shape,
                low=float(finite.min()) / scale,
                high=float(finite.max()) / scale,
                pixels=pixels,
            )
        )
    return tuple(parts)


class TensorReader(Reader):
    """Reads rows as they are; samples with a value that is no number are in ``bad`` from the start."""

    def __init__(self, samples: Samples, spec: TensorInput, *, fail: bool) -> None:
        super().__init__(samples)
        assert isinstance(samples.items, TensorRows)
        self._spec = spec
        self._arrays = [_checked(samples.items, part) for part in spec.tensors]
        self._readable = np.ones(len(samples), dtype=np.bool_)
        for part, array in zip(spec.tensors, self._arrays, strict=True):
            if array.dtype.kind != "f":
                continue
            finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
            for index in np.flatnonzero(~finite).tolist():
                self.bad[samples.ids[index]] = f"{part.name} has values that are no numbers (NaN, inf)"
            self._readable &= finite
        if fail and self.bad:
            name, reason = next(iter(self.bad.items()))
            raise DlcliError(
                f"cannot use sample {name}: {reason}",
                hint="mend it, or skip such samples with --on-bad-sample skip",
            )

    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        """Each tensor (n, ...) of the readable samples."""
        rows = indices[self._readable[indices]]
        return tuple(_encode(array[rows]) for array in self._arrays), rows

    def array(self) -> Inputs | None:
        """The whole arrays; None with pixels, which take a quarter of the memory of floats."""
        if self.bad or any(part.pixels for part in self._spec.tensors):
            return None
        return tuple(self._arrays)


def _checked(rows: TensorRows, part: TensorPart) -> Array:
    """The array of a tensor. Raises: DlcliError where there is none, or of another shape or type."""
    array = rows.arrays.get(part.name)
    if array is None:
        known = ", ".join(rows.arrays)
        raise DlcliError(f"the data has no {part.name!r}, which the model takes; it has {known}")
    shape = array.shape[1:]
    if part.pixels and array.dtype == np.uint8 and len(shape) == 3:
        shape = (shape[2], *shape[:2])
    if shape != part.shape:
        raise DlcliError(f"{part.name} has shape {shape}, but the model takes {part.shape}")
    if (array.dtype == np.uint8) != part.pixels or (array.dtype == np.int64) != (part.dtype == "int64"):
        wanted = "pixels" if part.pixels else part.dtype
        raise DlcliError(f"{part.name} holds {array.dtype}, but the model takes {wanted}")
    return array


def _encode(array: Array) -> Array:
    if array.dtype != np.uint8:
        return array
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)
