"""Which kind of data a user's samples are, and the items of that kind.

Legend: N samples, H, W, C of images, T steps, F columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Items, Listed, Stacked
from dlcli.data.tables.rows import TableRows
from dlcli.data.tensors.rows import as_rows
from dlcli.errors import DlcliError, UsageError
from dlcli.user_data.reading import Rows
from dlcli.user_data.samples import Array, Sample, Value

PixelRange = tuple[tuple[float, ...], tuple[float, ...]]  # the values of 0 and of 255, by channel
# The usual mean and std of Normalize, by channel: 0.5, ImageNet, CIFAR-10 (two), CIFAR-100, MNIST,
# Fashion-MNIST. Images that have no black or no white pixel are told from others by these alone.
_NORMALIZED: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = (
    ((0.5,), (0.5,)),
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    ((0.1307,), (0.3081,)),
    ((0.2860,), (0.3530,)),
)
_SLACK = 1e-6  # of float32, at the ends
_OFF_GRID = 1e-3  # of a step between two of the 256 values: the rounding of float32
_CHUNK = 2**24  # values that are checked at once


@dataclass(frozen=True)
class Conversion:
    """From columns of values to the items of a kind.

    ``channels_first`` and ``pixel_range`` are of images, the range where they are no uint8, and
    ``exact`` where no value is rounded; ``columns`` are of tables whose samples are arrays; ``images``
    are the names of tensors that are 8-bit images.
    """

    kind: str
    channels_first: bool = False
    pixel_range: PixelRange | None = None
    exact: bool = True
    columns: tuple[str, ...] = ()
    images: frozenset[str] = frozenset()

    def items(self, inputs: Mapping[str, Rows], targets: Sequence[Any]) -> Items:
        """The items of some samples."""
        if self.kind == "tabular":
            return TableRows(_frame(inputs, self.columns))
        if self.kind == "tensor":
            arrays = {name: self._tensor(name, rows) for name, rows in inputs.items()}
            return as_rows(arrays, self.images)
        (rows,) = inputs.values()
        if self.kind == "text":
            return Listed(tuple(map(str, rows)))
        if self.kind == "pairs":
            return Listed(tuple(zip(map(str, rows), map(str, targets), strict=True)))
        if isinstance(rows, np.ndarray):
            return Stacked(self._pixels(rows) if self.kind == "image" else _series(rows))
        if self.kind == "image":
            return Listed(tuple(self._pixels(np.asarray(row)[None])[0] for row in rows))
        return Listed(tuple(_series(np.asarray(row)[None])[0] for row in rows))

    def _tensor(self, name: str, rows: Rows) -> Array:
        """One array of N rows. Raises: DlcliError for tensors of different shapes."""
        if isinstance(rows, list):
            one, other = np.asarray(rows[0]).shape, {np.asarray(row).shape for row in rows}
            raise DlcliError(
                f"{name} has different shapes: {one} and {next(iter(other - {one}))}",
                hint="resize or pad it in __getitem__",
            )
        if name not in self.images:
            return rows
        rows = rows[..., None] if rows.ndim == 3 else rows
        return np.ascontiguousarray(rows if rows.shape[3] in (1, 3) else np.moveaxis(rows, 1, 3))

    def _pixels(self, images: Array) -> npt.NDArray[np.uint8]:
        """uint8 (N, H, W, C)."""
        if images.ndim == 3:
            images = images[..., None]
        elif self.channels_first:
            images = np.moveaxis(images, 1, 3)
        if self.pixel_range is None:
            return np.require(images, np.uint8, ["C", "W"])
        low, high = (np.array(side) for side in self.pixel_range)
        scaled = (images - low) * (255 / (high - low))
        return np.ascontiguousarray(np.rint(scaled).clip(0, 255).astype(np.uint8))


def fit_conversion(
    first: Sample, splits: Sequence[Mapping[str, Rows]], kind: str | None, columns: Sequence[str]
) -> Conversion:
    """The conversion of a data set, of the requested ``kind`` or the one that its samples fit.

    ``splits`` are the columns of each split, ``columns`` the names of the values of an array. Raises:
    UsageError for a kind that the samples do not fit; DlcliError where none does.
    """
    forms = dict(first.structure)
    fitted: tuple[PixelRange, bool] | None = None
    if kind in (None, "image") and len(forms) == 1 and _is_image(first) and not _all_8_bit(first):
        (name,) = forms
        fitted = _fit_range([split[name] for split in splits], _channels_first(first, name))
    kind = kind or _kind(first, exact=fitted is not None and fitted[1])
    if kind == "tabular":
        return Conversion(kind, columns=_column_names(first, columns))
    if kind == "tensor":
        if "text" in forms.values():
            raise DlcliError(
                f"samples of {first.describe()} have a text among several inputs",
                hint="return its token ids, padded to one length",
            )
        return Conversion(kind, images=frozenset(name for name in forms if _is_8_bit(first, name)))
    fits = {
        "text": set(forms.values()) == {"text"},
        "pairs": set(forms.values()) == {"text"} and isinstance(first.target, str),
        "image": _is_image(first),
        "series": all(form.endswith((" 1 axes", " 2 axes")) for form in forms.values()),
    }
    if len(forms) != 1 or not fits.get(kind, False):
        way = "return the two texts: dlcli fits their vocabularies"
        raise UsageError(
            f"samples of {first.describe()} cannot be {kind} data",
            hint=way if kind == "pairs" else "leave --kind and --task out",
        )
    if kind != "image":
        return Conversion(kind)
    first_axis = _channels_first(first, next(iter(forms)))
    if _all_8_bit(first):
        return Conversion(kind, first_axis)
    if fitted is None:
        raise DlcliError("images have values that are no numbers (NaN or infinite)")
    return Conversion(kind, first_axis, *fitted)


def _fit_range(splits: Sequence[Rows], channels_first: bool) -> tuple[PixelRange, bool] | None:
    """The values that become pixels 0 and 255 in each channel, and whether all values are pixels then.

    None for images that hold NaN or infinite values.

    They are where they have 256 evenly spaced values, from 0 to 1, from 0 to 255, between those of a
    usual Normalize, or from the lowest to the highest of the channel: what torchvision's ToTensor makes
    of an image, and a Normalize after it.
    """
    parts = [np.asarray(row)[None] for rows in splits if isinstance(rows, list) for row in rows]
    parts += [rows for rows in splits if isinstance(rows, np.ndarray)]
    planes = [_by_channel(part, channels_first) for part in parts]
    low = np.min([[plane.min() for plane in part] for part in planes], axis=0).astype(np.float64)
    high = np.max([[plane.max() for plane in part] for part in planes], axis=0).astype(np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return None
    own = low, np.where(high > low, high, low + 1)
    plain = [(np.zeros_like(low), np.full_like(high, top)) for top in (1, 255)]
    normalized = [
        (
            (0 - np.array(mean)) / std + np.zeros_like(low),
            (1 - np.array(mean)) / std + np.zeros_like(low),
        )
        for mean, std in _NORMALIZED
        if len(mean) in (1, len(low))
    ]
    plain, normalized = (
        [r for r in usual if (low >= r[0] - _SLACK).all() and (high <= r[1] + _SLACK).all()]
        for usual in (plain, normalized)
    )
    for lowest, highest in (*plain, *normalized, own):
        if all(
            _on_grid(plane, lowest[c], highest[c]) for part in planes for c, plane in enumerate(part)
        ):
            return (tuple(lowest.tolist()), tuple(highest.tolist())), True
    lowest, highest = (*plain, own)[0]
    return (tuple(lowest.tolist()), tuple(highest.tolist())), False


def _by_channel(images: Array, channels_first: bool) -> list[Array]:
    if images.ndim == 3:
        return [images]
    axis = 1 if channels_first else 3
    return [np.take(images, c, axis=axis) for c in range(images.shape[axis])]


def _on_grid(values: Array, low: float, high: float) -> bool:
    flat = values.reshape(-1)
    for start in range(0, len(flat), _CHUNK):
        part = flat[start : start + _CHUNK].astype(np.float32)
        steps = (part - np.float32(low)) * np.float32(255 / (high - low))
        if not bool((np.abs(steps - np.rint(steps)) <= _OFF_GRID).all()):
            return False
    return True


def _kind(first: Sample, *, exact: bool) -> str:
    """The kind of samples; ``exact``: whether floats of the shape of an image are 8-bit pixels."""
    forms = dict(first.structure)
    if len(forms) > 1:
        return "tabular" if set(forms.values()) <= {"text", "number"} else "tensor"
    ((name, form),) = forms.items()
    if form == "text":
        return "text"
    if form == "number" or form.endswith(" 1 axes"):
        return "tabular"
    # Floats of two axes may also be steps and channels of a series.
    is_pixels = form.startswith("uint8") or name in first.images or (exact and form.endswith(" 3 axes"))
    if _is_image(first) and is_pixels:
        return "image"
    return "series" if form.endswith(" 2 axes") else "tensor"


def _is_image(first: Sample) -> bool:
    return _has_image_shape(next(iter(first.inputs.values())))


def _all_8_bit(first: Sample) -> bool:
    return all(_is_8_bit(first, name) for name in first.inputs)


def _is_8_bit(first: Sample, name: str) -> bool:
    value = first.inputs[name]
    return not isinstance(value, str) and value.dtype == np.uint8 and _has_image_shape(value)


def _has_image_shape(value: Value) -> bool:
    if isinstance(value, str) or value.ndim not in (2, 3):
        return False
    return value.ndim == 2 or value.shape[0] in (1, 3) or value.shape[2] in (1, 3)


def _channels_first(first: Sample, name: str) -> bool:
    value = first.inputs[name]
    assert isinstance(value, np.ndarray)
    return value.ndim == 3 and value.shape[2] not in (1, 3)


def _column_names(first: Sample, names: Sequence[str]) -> tuple[str, ...]:
    """The names of an array's values. Raises: UsageError for samples that are no rows."""
    arrays = [value for value in first.inputs.values() if not isinstance(value, str)]
    if any(value.ndim > 1 for value in arrays):
        raise UsageError(
            f"samples of {first.describe()} are no rows of a table", hint="leave --kind out"
        )
    values = [value for value in arrays if value.ndim == 1]
    if len(first.inputs) > 1 or not values:
        return ()
    count = len(values[0])
    return tuple(map(str, names)) if len(names) == count else tuple(f"x{i}" for i in range(count))


def _frame(inputs: Mapping[str, Rows], names: Sequence[str]) -> Any:
    """The table of scalars, or of the values of one array (N, F)."""
    import polars as pl

    columns = []
    for name, rows in inputs.items():
        if isinstance(rows, list):
            if not all(isinstance(row, str) for row in rows):
                raise DlcliError("rows of a table have the same number of values in every sample")
            columns.append(pl.Series(name, rows, dtype=pl.String))
        elif rows.ndim == 1:
            columns.append(pl.Series(name, rows))
        else:
            values = rows.astype(np.float64)
            own = names or [f"{name}{i}" for i in range(values.shape[1])]
            columns += [pl.Series(each, values[:, i]) for i, each in enumerate(own)]
    return pl.DataFrame(columns)


def _series(rows: Array) -> Array:
    """Values (N, T, C), in float32 where that holds them exactly."""
    rows = rows[..., None] if rows.ndim == 2 else rows
    exact = rows.dtype in (np.float16, np.float32) or rows.dtype.itemsize <= 2
    return np.array(rows, dtype=np.float32 if exact else np.float64)
