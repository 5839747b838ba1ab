"""Values of many numeric columns at once: the time grows with the cells, not with calls per column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dlcli.data.base import Floats
from dlcli.data.tables.infer import any_in, stack
from dlcli.notation.numbers import PLAIN

if TYPE_CHECKING:
    import polars


def plain_values(
    columns: Sequence[polars.Series], formats: Mapping[str, str | None] | None = None
) -> dict[str, Floats]:
    """Return the values (N,) of numbers, also written as plain strings, NaN where missing.

    Columns of other types, of other ``formats``, or with cells that are no number are left out.
    """
    import polars as pl

    known = formats or {}
    by_type: dict[polars.DataType, list[polars.Series]] = {}
    for column in columns:
        is_plain = column.dtype == pl.String and known.get(column.name, PLAIN) in (None, PLAIN)
        if is_plain or column.dtype.is_numeric() or column.dtype == pl.Boolean:
            by_type.setdefault(column.dtype, []).append(column)
    values: dict[str, Floats] = {}
    for dtype, group in by_type.items():
        cells = stack(group)
        if dtype == pl.String:
            cells = cells.str.strip_chars()
            cells = cells.set(cells == "", None)
        numbers = cells.cast(pl.Float64, strict=False)
        words = any_in(numbers.is_null() & cells.is_not_null(), len(group))
        matrix = numbers.fill_null(float("nan")).to_numpy().reshape(len(group), -1)
        values |= {group[i].name: matrix[i] for i in np.flatnonzero(~words).tolist()}
    return values
