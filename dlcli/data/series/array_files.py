"""Read whole series from NumPy files: X and y in one `.npz`, or in an `.npy` each. Never unpickled.

Legend: N series, T steps, C channels. X is (N, T, C), or (N, T) of one channel; y is (N,) or
(N, targets).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dlcli.data.notices import Notice
from dlcli.data.series.ts_files import SeriesFile, Values, padding_notice
from dlcli.data.tables.split_names import SPLIT_NAMES
from dlcli.errors import DlcliError
from dlcli.notation.arrays import labels_file, load, load_one, names_by_split

if TYPE_CHECKING:
    import polars

ARRAY_SUFFIXES = (".npy", ".npz")
_SHAPES = "X is (N, T, C): series, steps, channels; or (N, T) of one channel"


def read_npz(path: Path) -> dict[str, SeriesFile]:
    """Read the splits of an `.npz`: X and y are "all"; X_train and y_train, for example, are train.

    Raises: DlcliError when it cannot be read, has no X, or shapes do not match.
    """
    return {
        split: check_arrays(samples, labels, where)
        for split, (samples, labels, where) in read_archive(path).items()
    }


def read_archive(path: Path) -> dict[str, tuple[Any, Any, str]]:
    """Samples, labels (None without) and where they are, by split or "all".

    Raises: DlcliError when the file cannot be read or has no samples.
    """
    arrays = load(path)
    try:
        splits = names_by_split(arrays, SPLIT_NAMES)
    except ValueError as exc:
        raise DlcliError(f"{path} has several arrays of one split: {exc}") from exc
    if not splits:
        raise DlcliError(
            f"{path} has no array X" + (f", only {', '.join(arrays)}" if arrays else ""),
            hint="name the arrays X and y, or X_train, y_train, X_test, y_test",
        )
    if len(splits) > 1 and "all" in splits:
        raise DlcliError(f"{path} has X and also X of a split", hint="keep one of them")
    return {
        split: (
            arrays[names.samples],
            None if names.labels is None else arrays[names.labels],
            f"{path}: {names.samples}",
        )
        for split, names in splits.items()
    }


def read_npy(path: Path) -> SeriesFile:
    """Read the series of X.npy, and the labels of a y.npy next to it."""
    return check_arrays(*read_pair(path))


def read_pair(path: Path) -> tuple[Any, Any, str]:
    """The array of X.npy, that of a y.npy next to it (None without), and where they are."""
    other = labels_file(path)
    if other is None:
        return load_one(path), None, str(path)
    return load_one(path), load_one(other), f"{path} and {other.name}"


def check_arrays(array: Any, labels: Any, where: str) -> SeriesFile:
    """Check arrays and remove padding: NaN in all channels at the end of a series.

    Raises: DlcliError naming ``where``, the shape and the expected shapes.
    """
    if array.dtype.kind not in "fiub":
        raise DlcliError(f"{where} holds {array.dtype}, not numbers", hint=_SHAPES)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise DlcliError(f"{where} has shape {array.shape}", hint=_SHAPES)
    small = array.dtype.kind in "iub" and array.dtype.itemsize <= 2
    fits_float32 = array.dtype in (np.float16, np.float32) or small
    values: Values = np.array(array, dtype=np.float32 if fits_float32 else np.float64)
    values = values[:, :, None] if values.ndim == 2 else values
    notices = []
    if values.shape[1] < values.shape[2]:
        _, steps, channels = values.shape
        message = f"{where}: {channels} channels of {steps} steps each; "
        notices.append(Notice(f"{message}if it should be the reverse, swap the last two axes"))
    columns = None if labels is None else label_columns(labels, len(values), where)
    present: npt.NDArray[np.bool_] = np.logical_not(np.isnan(values).all(axis=2))  # (N, T)
    lengths = np.where(present.any(axis=1), values.shape[1] - present[:, ::-1].argmax(axis=1), 0)
    shorter = int((lengths < values.shape[1]).sum())
    if not shorter:
        return SeriesFile(values, columns, notices=tuple(notices))
    notices.append(padding_notice(shorter, len(values)).prefixed(where))
    trimmed = tuple(row[:length] for row, length in zip(values, lengths.tolist(), strict=True))
    return SeriesFile(trimmed, columns, notices=tuple(notices))


def label_columns(labels: npt.NDArray[Any], count: int, where: str) -> Mapping[str, polars.Series]:
    """Return labels (N,) or (N, targets) as columns."""
    import polars as pl

    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or len(labels) != count or labels.dtype.kind not in "fiubUS":
        raise DlcliError(
            f"{where}: y has shape {labels.shape} and type {labels.dtype} for {count} samples",
            hint="y is (N,), classes or numbers, or (N, targets)",
        )
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "replace")

    def column(name: str, values: npt.NDArray[Any]) -> polars.Series:
        series = pl.Series(name, values.tolist())
        return series.fill_nan(None) if series.dtype.is_float() else series

    if labels.ndim == 1:
        return {"y": column("y", labels)}
    return {f"y{i}": column(f"y{i}", labels[:, i]) for i in range(labels.shape[1])}
