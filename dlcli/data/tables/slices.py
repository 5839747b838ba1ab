"""Samples of a table grouped by the values of one of its columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dlcli.data.base import Indices, Samples
from dlcli.data.tables.cells import as_numbers, as_strings
from dlcli.data.tables.rows import TableRows
from dlcli.errors import UsageError, nearest
from dlcli.notation.times import is_time_format, time_text
from dlcli.wording import number

if TYPE_CHECKING:
    import polars

MISSING, OTHERS = "(missing)", "(other values)"
MOST_VALUES = 20  # of a column of words; the rarer ones are one group
FEW_NUMBERS = 8  # distinct ones have a group each; of more there are quartiles


def check_column(samples: Samples, name: str) -> None:
    """Raises: UsageError where the samples are no rows of a table with this column."""
    if not isinstance(samples.items, TableRows):
        raise UsageError(
            f"--slice {name}: these samples are no rows of a table, so they have no columns",
            hint="tables have; of images, texts and series only the input itself is read",
        )
    names = samples.items.frame.columns
    if name not in names:
        raise UsageError(f"--slice {name}: the table has no such column", hint=nearest(name, names))


def groups_of(samples: Samples, name: str) -> dict[str, Indices]:
    """Indices of the samples of each group, by its name; every sample is in one. See `check_column`.

    Words and few distinct numbers have a group a value, by their frequency; other numbers and times
    those between their quartiles, each up to and with its upper end. Raises: UsageError.
    """
    check_column(samples, name)
    rows = samples.items
    assert isinstance(rows, TableRows)
    column, form = rows.frame[name], rows.formats.get(name)
    numbers, invalid = as_numbers(column, form)
    if column.dtype.is_nested() or invalid or numbers.null_count() == len(numbers):
        return _by_value(column)
    if numbers.drop_nulls().n_unique() <= FEW_NUMBERS:
        return _by_value(column)
    return _by_quartile(numbers, is_time=column.dtype.is_temporal() or is_time_format(form or ""))


def _by_value(column: polars.Series) -> dict[str, Indices]:
    words = np.array(as_strings(column).fill_null(MISSING).replace("", MISSING).to_list(), dtype=object)
    names, counts = np.unique(words.astype(str), return_counts=True)
    order = np.lexsort((names, -counts))
    if len(order) > MOST_VALUES:
        order, rare = order[: MOST_VALUES - 1], order[MOST_VALUES - 1 :]
        others = {OTHERS: np.flatnonzero(np.isin(words.astype(str), names[rare])).astype(np.int64)}
    else:
        others = {}
    groups = {str(names[i]): np.flatnonzero(words == names[i]).astype(np.int64) for i in order}
    return groups | others


def _by_quartile(numbers: polars.Series, *, is_time: bool) -> dict[str, Indices]:
    values = numbers.fill_null(float("nan")).to_numpy()
    known = values[np.isfinite(values)]
    ends = np.quantile(known, (0.25, 0.5, 0.75))
    quarter = np.searchsorted(ends, values, side="left")  # equal values are in one group
    quarter[~np.isfinite(values)] = -1
    groups = {}
    for i in range(4):
        where = np.flatnonzero(quarter == i).astype(np.int64)
        if len(where):
            low, high = values[where].min(), values[where].max()
            first, last = (time_text(end) if is_time else number(end) for end in (low, high))
            groups[f"{first} to {last}"] = where
    missing = np.flatnonzero(quarter == -1).astype(np.int64)
    return groups | ({MISSING: missing} if len(missing) else {})
