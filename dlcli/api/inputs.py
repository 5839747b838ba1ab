"""Values of a Python program as the samples that a model predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Items, Listed, Samples, Stacked
from dlcli.data.images.arrays import to_pixels
from dlcli.data.kinds import kind_of
from dlcli.data.tables.columns import column_names
from dlcli.data.tables.rows import TableRows, booleans_as_strings
from dlcli.data.text.text_pairs import join
from dlcli.errors import UsageError
from dlcli.task import ImageInput, SeriesInput, TabularInput, TaskSpec, TextInput
from dlcli.wording import quoted_list


def samples_of(values: Any, task: TaskSpec) -> list[Samples]:
    """The samples of values, in their order; those of one part have the same shape.

    A ``Path`` and, but for texts, a ``str`` is a file, folder or pattern, as an argument of `dlcli
    predict`. Others, by the kind of the model:

    - an image (PIL, or an array or tensor (H, W), (H, W, C) or (C, H, W) of uint8, or of numbers from 0
      to 1 or 255), a batch of them with one more axis in front, or a list;
    - a text, or a list of texts;
    - a table of pandas or polars, a dict of columns, of one row, or a list of dicts;
    - a series (T, C) or (T,), a batch (N, T, C), or a list of series of any lengths.

    Raises: UsageError for others; DlcliError for what cannot be read.
    """
    if isinstance(values, list | tuple) and not values:
        return []
    paths = _paths(values, texts=isinstance(task.input, TextInput))
    if paths is not None:
        return [kind_of(task).inputs(paths, task)]
    spec = task.input
    if isinstance(spec, TextInput):
        texts = [values] if isinstance(values, str) else list(values)
        for i, text in enumerate(texts):
            if spec.pair and isinstance(text, tuple) and len(text) == 2:
                texts[i] = join(*map(str, text))
            elif not isinstance(text, str):
                raise UsageError(f"item {i} is {text!r:.40}", hint="give a text or a list of texts")
        return [_samples(Listed(tuple(texts)))]
    if isinstance(spec, TabularInput):
        return [_samples(_rows(values, spec))]
    if isinstance(spec, ImageInput):
        single, images = _arrays(values, (2, 3), batch=4)
        return [
            _samples(Stacked(to_pixels(np.stack(list(group)), "the input")[0]))
            for _, group in groupby(images if not single else images[:1], key=lambda image: image.shape)
        ]
    if isinstance(spec, SeriesInput) and task.kind != "forecast":
        _, series = _arrays(values, (1, 2), batch=3)
        series = [part[:, None] if part.ndim == 1 else part for part in series]
        wrong = next((part for part in series if part.shape[1] != len(spec.channels)), None)
        if wrong is not None:
            raise UsageError(
                f"a series has {wrong.shape[1]} channels, the input of the model {len(spec.channels)}"
            )
        return [_samples(Listed(tuple(series)))]
    raise _refused(values, "the path of a file")


def _paths(values: Any, *, texts: bool) -> list[str] | None:
    """The paths that values are, or None. With ``texts`` only ``Path`` objects are paths."""
    kinds: tuple[type, ...] = (Path,) if texts else (Path, str)
    if isinstance(values, kinds):
        return [str(values)]
    if isinstance(values, list | tuple) and values and all(isinstance(v, kinds) for v in values):
        return [str(value) for value in values]
    return None


def _samples(items: Items) -> Samples:
    ids = tuple(str(i) for i in range(len(items)))
    return Samples(ids=ids, targets=np.zeros(0, dtype=np.int64), items=items)


def _rows(values: Any, spec: TabularInput) -> TableRows:
    """The columns of a model in a table. Raises: UsageError naming those that are missing."""
    import polars as pl

    try:
        if isinstance(values, pl.DataFrame):
            frame = values
        elif isinstance(values, Mapping):
            one_row = not any(isinstance(v, list | tuple | np.ndarray) for v in values.values())
            frame = pl.DataFrame([dict(values)] if one_row else dict(values), strict=False)
        elif hasattr(values, "to_dict") and hasattr(values, "columns"):  # pandas, without importing it
            frame = pl.DataFrame(
                {str(k): list(v) for k, v in values.to_dict("list").items()}, strict=False
            )
        elif isinstance(values, Sequence) and all(isinstance(row, Mapping) for row in values):
            frame = pl.DataFrame(list(values), infer_schema_length=None, strict=False)
        else:
            raise _refused(values, "a table, a dict of columns or a list of dicts")
    except (TypeError, ValueError, pl.exceptions.PolarsError) as exc:
        raise UsageError(f"the input is no table: {exc}") from exc
    columns = column_names(spec)
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise UsageError(f"the input lacks {quoted_list(missing)}: the model was trained on it")
    formats = {n.source: n.format for n in spec.numbers if n.format is not None}
    return TableRows(frame.select(booleans_as_strings(frame[name]) for name in columns), formats)


def _arrays(values: Any, single: tuple[int, ...], *, batch: int) -> tuple[bool, list[npt.NDArray[Any]]]:
    """Whether values are one sample, and the samples as arrays; ``single`` are the axes of one."""
    if isinstance(values, list | tuple) and values and not np.isscalar(values[0]):
        arrays = [np.asarray(value) for value in values]
        if all(array.ndim in single for array in arrays):
            return False, arrays
    array = np.asarray(values)
    if array.dtype.kind in "fiub" and array.ndim in single:
        return True, [array]
    if array.dtype.kind in "fiub" and array.ndim == batch:
        return False, list(array)
    raise _refused(values, f"an array of {single[0]} or {single[1]} axes, or a batch of {batch}")


def _refused(values: Any, wanted: str) -> UsageError:
    shape = f" of shape {tuple(values.shape)}" if hasattr(values, "shape") else ""
    return UsageError(f"cannot predict a {type(values).__name__}{shape}", hint=f"give {wanted}")
