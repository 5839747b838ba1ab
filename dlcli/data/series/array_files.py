"""Read whole series from NumPy files: X and y in one `.npz`, or in an `.npy` each. Never unpickled.

Legend: N series, T steps, C channels. X is (N, T, C), or (N, T) of one channel; y is (N,) or
(N, targets).
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dlcli.data.notices import Notice
from dlcli.data.series.ts_files import SeriesFile, Values, padding_notice
from dlcli.data.tables.split_names import SPLIT_NAMES
from dlcli.errors import DlcliError

if TYPE_CHECKING:
    import polars

ARRAY_SUFFIXES = (".npy", ".npz")
_SHAPES = "X is (N, T, C): series, steps, channels; or (N, T) of one channel"


def read_npz(path: Path) -> dict[str, SeriesFile]:
    """Read the splits of an `.npz`: X and y are "all"; X_train and y_train, for example, are train.

    Raises: DlcliError when it cannot be read, has no X, or shapes do not match.
    """
    arrays = _load(path)
    keys = {key.lower(): key for key in arrays}
    splits: dict[str, SeriesFile] = {}
    for lower, key in keys.items():
        split = _split_from_key(lower)
        if split is None:
            continue
        if split in splits:
            raise DlcliError(f"{path} has several arrays for {split}: {', '.join(arrays)}")
        label = keys.get("y" + lower[1:])
        splits[split] = check_arrays(
            arrays[key], None if label is None else arrays[label], f"{path}: {key}"
        )
    if not splits:
        raise DlcliError(
            f"{path} has no array X",
            hint="name the arrays X and y, or X_train, y_train, X_test, y_test",
        )
    if len(splits) > 1 and "all" in splits:
        raise DlcliError(f"{path} has X and also X of a split", hint="keep one of them")
    return splits


def read_npy(path: Path) -> SeriesFile:
    """Read the series of X.npy, and the labels of a y.npy next to it."""
    other = _find_labels_file(path)
    if other is None:
        return check_arrays(_load_npy(path), None, str(path))
    return check_arrays(_load_npy(path), _load_npy(other), f"{path} and {other.name}")


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
    columns = None if labels is None else _label_columns(labels, len(values), where)
    present: npt.NDArray[np.bool_] = np.logical_not(np.isnan(values).all(axis=2))  # (N, T)
    lengths = np.where(present.any(axis=1), values.shape[1] - present[:, ::-1].argmax(axis=1), 0)
    shorter = int((lengths < values.shape[1]).sum())
    if not shorter:
        return SeriesFile(values, columns, notices=tuple(notices))
    notices.append(padding_notice(shorter, len(values)).prefixed(where))
    trimmed = tuple(row[:length] for row, length in zip(values, lengths.tolist(), strict=True))
    return SeriesFile(trimmed, columns, notices=tuple(notices))


def _split_from_key(key: str) -> str | None:
    """Return the split in an array's name ("all" for X), or None."""
    if key == "x":
        return "all"
    named = re.fullmatch(r"x[_.\-]?([a-z]+)", key)
    return None if named is None else SPLIT_NAMES.get(named[1])


def _find_labels_file(path: Path) -> Path | None:
    """Return y_train.npy for X_train.npy, or None."""
    if path.name[:1] not in ("X", "x"):
        return None
    same_case = "y" if path.name[0] == "x" else "Y"
    names = [letter + path.name[1:] for letter in dict.fromkeys(("y", same_case, "Y"))]
    return next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)


def _label_columns(labels: npt.NDArray[Any], count: int, where: str) -> Mapping[str, polars.Series]:
    """Return labels (N,) or (N, targets) as columns."""
    import polars as pl

    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or len(labels) != count or labels.dtype.kind not in "fiubUS":
        raise DlcliError(
            f"{where}: y has shape {labels.shape} and type {labels.dtype} for {count} series",
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


def _load_npy(path: Path) -> Any:
    arrays = _load(path)
    if set(arrays) != {path.name}:
        raise DlcliError(f"{path} is an archive of arrays", hint="rename it to .npz")
    return arrays[path.name]


def _load(path: Path) -> dict[str, Any]:
    """Load the array of an `.npy`, or those of an `.npz` whose names begin with x or y.

    Raises: DlcliError when the file is damaged or holds Python objects.
    """
    try:
        # The file is opened here because np.load leaves a damaged archive open.
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                file.seek(0)
                with np.load(file, allow_pickle=False) as archive:
                    return {key: archive[key] for key in archive.files if key[:1].lower() in ("x", "y")}
        # Memory-mapped, so that a damaged header with a huge shape fails before allocation.
        return {path.name: np.load(path, allow_pickle=False, mmap_mode="r")}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, MemoryError) as exc:
        if any(word in str(exc) for word in ("pickle", "Object arrays", "Python objects")):
            raise DlcliError(
                f"{path} holds Python objects or is not a NumPy file; it is not unpickled",
                hint="save plain numbers: np.savez(file, X=X.astype('float32'), y=y)",
            ) from exc
        reason = " ".join(str(exc).split()) or type(exc).__name__
        raise DlcliError(f"cannot read {path}: {reason}") from exc
