"""Summary of a table's columns: types, statistics, missing values, values piled up at an end.

Legend: N rows of all splits, one after the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dlcli.data.base import Floats
from dlcli.data.tables.cells import MAX_FINITE, as_numbers, as_strings
from dlcli.data.tables.matrix import plain_values
from dlcli.data.tables.unused import is_number
from dlcli.datacheck.base import Cell, CheckResult, Table, percent
from dlcli.datacheck.targets import piled_ends
from dlcli.wording import one_line, plural, shorten

if TYPE_CHECKING:
    import polars

_TOP = 3  # most frequent words


def describe(frame: polars.DataFrame, result: CheckResult) -> None:
    """Add a table of the numeric columns, one of the times and one of the words."""
    times: list[tuple[Cell, ...]] = []
    numbers: list[tuple[Cell, ...]] = []
    words: list[tuple[Cell, ...]] = []
    piled = []
    plain = plain_values([column for column in frame.iter_columns() if column.dtype.is_numeric()])
    for column in frame.iter_columns():
        missing, different = column.null_count(), column.drop_nulls().n_unique()
        if column.dtype.is_temporal():
            times.append((column.name, missing, different, str(column.min()), str(column.max())))
        elif is_number(column):
            values = _finite(column, plain)
            statistics: tuple[Cell, ...] = (None,) * 5
            if len(values):
                computed = (values.min(), np.median(values), values.max(), values.mean(), values.std())
                statistics = tuple(float(value) for value in computed)
                piled += [(column.name, *end, len(values)) for end in piled_ends(values)]
            numbers.append((column.name, missing, different, *statistics))
        else:
            words.append((column.name, missing, different, _most_frequent(column)))
    heads = ("column", "missing", "distinct")
    for name, more, rows in (
        ("numbers", ("min", "median", "max", "mean", "std"), numbers),
        ("times", ("first", "last"), times),
        ("words", ("most frequent",), words),
    ):
        if rows:
            title = f"{plural(len(rows), 'column')} of {name}"
            result.tables.append(Table(name, title, (*heads, *more), tuple(rows)))
    if piled:
        examples = [f"{name} {value:.10g}: {percent(n, total)}" for name, value, n, total in piled]
        message = "values pile up at the end of a column: were they clipped there?"
        result.report("note", "piled-values", message, examples=examples)


def _finite(column: polars.Series, plain: dict[str, Floats]) -> Floats:
    if column.name in plain:
        values = plain[column.name]
        return values[np.abs(values) < MAX_FINITE]
    values = as_numbers(column)[0].drop_nulls().to_numpy()
    return values[np.abs(values) < MAX_FINITE]


def _most_frequent(column: polars.Series) -> str:
    words = as_strings(column).drop_nulls().alias("word")
    counts = words.value_counts(sort=True, name="count").head(_TOP)
    pairs = zip(counts["word"].to_list(), counts["count"].to_list(), strict=True)
    return ", ".join(f"{shorten(one_line(word), 24)} {count:,}" for word, count in pairs)
