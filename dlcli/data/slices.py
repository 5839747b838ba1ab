"""Samples grouped by the values of a column of their table, or by a measure of their kind of data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dlcli.data.base import Indices, Samples
from dlcli.data.kinds import Measure
from dlcli.data.source_rows import SourceRows
from dlcli.data.tables.carried import read_source
from dlcli.data.tables.cells import as_numbers, as_strings
from dlcli.data.tables.rows import TableRows
from dlcli.errors import UsageError, nearest
from dlcli.notation.times import is_time_format, time_text
from dlcli.wording import number

if TYPE_CHECKING:
    import polars

MISSING, OTHERS = "(missing)", "(other values)"
MOST_VALUES = 20  # of a column of words; the rarer ones are one group
NO_MEASURES: Mapping[str, Measure] = {}
FEW_NUMBERS = 8  # distinct ones have a group each; of more there are quartiles


def groups_of(
    samples: Samples, name: str, measures: Mapping[str, Measure] = NO_MEASURES
) -> dict[str, Indices]:
    """Indices of the samples of each group, by its name; every sample is in one.

    ``name`` is a column of the table that the samples are rows of, else one of the ``measures`` of
    their kind. Words and few distinct numbers have a group a value, by their frequency; other numbers
    and times those between their quartiles, each up to and with its upper end. Raises: UsageError where
    there is neither; DlcliError where a table cannot be read.
    """
    column, form = _column(samples, name, measures)
    numbers, invalid = as_numbers(column, form)
    if column.dtype.is_nested() or invalid or numbers.null_count() == len(numbers):
        return _by_value(column)
    if numbers.drop_nulls().n_unique() <= FEW_NUMBERS:
        return _by_value(column)
    return _by_quartile(numbers, is_time=column.dtype.is_temporal() or is_time_format(form or ""))


def _column(
    samples: Samples, name: str, measures: Mapping[str, Measure]
) -> tuple[polars.Series, str | None]:
    """A cell or number of each sample, and the format of its numbers."""
    import polars as pl

    if isinstance(samples.items, TableRows):
        names = samples.items.frame.columns
        if name in names:
            return samples.items.frame[name], samples.items.formats.get(name)
    elif samples.source_rows is not None:
        tables = [read_source(file, samples.source_rows) for file in samples.source_rows.files]
        heads = [table.frame.columns for table in tables]
        names = [column for column in heads[0] if all(column in head for head in heads)]
        if name in names:
            columns = [table.frame[name] for table in tables]
            return _gathered(columns, samples.source_rows), tables[0].formats.get(name)
    else:
        names = []
    if name in measures:
        return pl.Series(name, measures[name](samples), dtype=pl.Float64), None
    if not names and not measures:
        raise UsageError(
            f"--slice {name}: these samples are no rows of a table, so they have no columns",
            hint="tables have, and texts and images of a table",
        )
    what = "the table has no such column" if names else "these samples have no columns"
    if measures:
        what += f", and it is not {' or '.join(measures)}"
    raise UsageError(f"--slice {name}: {what}", hint=nearest(name, [*names, *measures]))


def _gathered(columns: Sequence[polars.Series], source: SourceRows) -> polars.Series:
    """The cells of one column of several tables, in the order of the samples."""
    import polars as pl

    same = len({str(column.dtype) for column in columns}) == 1
    starts = np.cumsum([0, *(len(column) for column in columns[:-1])])
    together = pl.concat(columns if same else [as_strings(column) for column in columns])
    return together[starts[source.codes] + source.rows]


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
