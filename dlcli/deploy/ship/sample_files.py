"""A few samples as the arguments of a program: files that are written, or texts themselves."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dlcli.data.base import Listed, Samples, Stacked
from dlcli.data.series.ts_files import Values
from dlcli.data.series.windows import Windows
from dlcli.data.tables.cells import as_strings
from dlcli.data.tables.columns import column_names
from dlcli.data.tables.rows import TableRows
from dlcli.data.text.inputs import looks_like_path
from dlcli.deploy.raw_inputs import images_of
from dlcli.notation.numbers import NumberFormat
from dlcli.notation.times import is_time_format
from dlcli.pixels.decode import whole_image
from dlcli.task import ImageInput, SeriesInput, TabularInput, TaskSpec

if TYPE_CHECKING:
    import polars

_ROWS = 4  # of a table
_MAX_TEXT = 10_000  # characters: of an argument of a process


def sample_argument(samples: Samples, task: TaskSpec, folder: Path) -> str | None:
    """An argument for `predict` and for a program; a file that it names is written in ``folder``.

    It is one of the ``samples``, of a table a few rows; None where there is none.
    """
    spec = task.input
    if isinstance(samples.items, TableRows) and isinstance(spec, TabularInput):
        path = folder / "sample.csv"
        _table(samples.items.frame.head(_ROWS), spec).write_csv(path)
        return str(path)
    if isinstance(samples.items, Windows) and isinstance(spec, SeriesInput):
        path = folder / "sample.csv"
        _window(samples.items, spec).write_csv(path)
        return str(path)
    assert isinstance(samples.items, Listed | Stacked)
    if isinstance(spec, ImageInput):
        return _image(samples, spec, folder)
    if isinstance(spec, SeriesInput):
        return _series(samples.items.values, folder)
    texts = (text for text in samples.items.values if isinstance(text, str))
    return next((text for text in texts if _fits_argument(text)), None)


def _image(samples: Samples, spec: ImageInput, folder: Path) -> str | None:
    """The file of an image; pixels without one become a file."""
    from PIL import Image

    image = next(images_of(samples), None)
    if image is None or isinstance(image, Path):
        return None if image is None else str(image)
    pixels, path = whole_image(image, spec), folder / "sample.png"
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path)
    return str(path)


def _series(series: Iterable[Values], folder: Path) -> str | None:
    """The first series whose end is no gap, which a file of arrays would take as padding."""
    for values in series:
        if np.isfinite(values[-1]).any():
            np.save(folder / "sample.npy", values[None])
            return str(folder / "sample.npy")
    return None


def _fits_argument(text: str) -> bool:
    """Whether a text can be an argument of a process, and means itself: not "-", and no file's name."""
    sound = 0 < len(text.strip()) <= len(text) <= _MAX_TEXT and "\0" not in text
    return sound and text.strip() != "-" and not looks_like_path(text)


def _table(frame: polars.DataFrame, spec: TabularInput) -> polars.DataFrame:
    """Rows as strings, numbers and times in the formats that the model's columns are written in."""
    import polars as pl

    formats = {number.source: number.format for number in spec.numbers}
    names = column_names(spec)
    return pl.DataFrame([_written(frame[name], formats.get(name)) for name in names])


def _written(column: polars.Series, form: str | None) -> polars.Series:
    import polars as pl

    if form is not None and is_time_format(form) and column.dtype.is_temporal():
        since = pl.Series([0]).cast(pl.Datetime("us"))[0]
        times = column + since if column.dtype == pl.Duration else column.cast(pl.Datetime("us"))
        return times.dt.to_string(form)
    own = NumberFormat.of(form) if form is not None and column.dtype.is_numeric() else None
    words = as_strings(column)
    if own is None:
        return words
    return words.str.replace(".", own.decimal, literal=True) + own.unit


def _window(windows: Windows, spec: SeriesInput) -> polars.DataFrame:
    """The rows before the first forecast, with the columns that name their series."""
    import polars as pl

    one, start = windows.series[int(windows.which[0])], int(windows.starts[0])
    rows = one.values[start - spec.length : start]
    columns = {name: rows[:, i] for i, name in enumerate(one.channels) if name in spec.channels}
    names = spec.series_column.split(",") if spec.series_column is not None else []
    named = dict(zip(names, one.id.split("/", len(names) - 1), strict=True)) if names else {}
    return pl.DataFrame(columns).with_columns(pl.lit(cell).alias(name) for name, cell in named.items())
