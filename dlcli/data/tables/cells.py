"""Convert the cells of a column to numbers or strings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dlcli.notation.numbers import (
    MISSING_SPELLINGS,
    PLAIN,
    NumberFormat,
    candidate_formats,
    normalise,
)
from dlcli.notation.times import find_times, is_time_format, parse_times, seconds
from dlcli.wording import quoted

if TYPE_CHECKING:
    import polars

# Larger values count as infinite, because models compute in float32.
MAX_FINITE = 1e38


def as_numbers(column: polars.Series, form: str | None = None) -> tuple[polars.Series, int]:
    """Convert any column to Float64, times to seconds; also return the number of invalid cells.

    ``form`` is the format of strings (see `dlcli.notation`); None infers it.
    """
    import polars as pl

    dtype = column.dtype
    if dtype == pl.String:
        return _parse_strings(column, form)
    if dtype.is_temporal():
        return seconds(column), 0
    if dtype.is_numeric() or dtype == pl.Boolean:
        return column.cast(pl.Float64).fill_nan(None), 0
    if dtype == pl.Null:
        return column.cast(pl.Float64), 0
    empty = pl.Series(column.name, [None] * len(column), dtype=pl.Float64)
    return empty, len(column) - column.null_count()


def as_strings(column: polars.Series) -> polars.Series:
    """Convert any column to stripped strings; an integer is written without a decimal point."""
    import polars as pl

    if column.dtype.is_float():
        whole = (column % 1 == 0) & (column.abs() < 2**53)
        if bool(whole.all()):
            column = column.cast(pl.Int64, strict=False)
    elif column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
        return pl.Series(column.name, [None] * len(column), dtype=pl.String)
    words = column.cast(pl.String).str.strip_chars()
    return words.set(words == "", None)


def missing_cells(words: polars.Series) -> polars.Series:
    """Return which stripped strings are null or spell a missing number."""
    return words.is_null() | words.str.to_lowercase().is_in(MISSING_SPELLINGS).fill_null(True)


def parse_cells(words: polars.Series, form: str) -> polars.Series:
    """Convert stripped strings by a format: Float64, Datetime or Duration, null where it does not fit.

    Raises: ValueError for a text that describes no format.
    """
    if is_time_format(form):
        return parse_times(words, form)
    numbers = NumberFormat.of(form)
    if numbers is None:
        raise ValueError(f"{form!r} is no format of numbers or times")
    return numbers.parse(words).fill_nan(None)


def known_format(form: str) -> bool:
    """Return whether a text is a format of numbers or times."""
    return is_time_format(form) or NumberFormat.of(form) is not None


def _parse_strings(column: polars.Series, form: str | None) -> tuple[polars.Series, int]:
    import polars as pl

    words = column.str.strip_chars()
    words = words.set(words == "", None)
    fast = words.cast(pl.Float64, strict=False) if form in (None, PLAIN) else None
    if fast is not None and fast.null_count() == words.null_count():
        return fast.fill_nan(None), 0
    words = words.set(missing_cells(words), None)
    if form is not None:
        parsed = parse_cells(words, form)
        numbers = parsed if parsed.dtype == pl.Float64 else seconds(parsed)
    else:
        numbers = _parse_unknown(words)
    return numbers, numbers.null_count() - words.null_count()


def _parse_unknown(words: polars.Series) -> polars.Series:
    """Parse cells of an unknown format: numbers, else times."""
    import polars as pl

    if words.null_count() == len(words):
        return pl.Series(words.name, [None] * len(words), dtype=pl.Float64)
    candidates, _ = candidate_formats(normalise(words.drop_nulls()))
    if candidates:  # the first, so a comma before three digits is one of thousands
        return candidates[0].parse(words).fill_nan(None)
    times = find_times(words)
    if times is None or times.other is not None:
        return pl.Series(words.name, [None] * len(words), dtype=pl.Float64)
    return seconds(times.times)


def example_cells(words: polars.Series, where: polars.Series, most: int = 3) -> str:
    """Return the first distinct cells at ``where`` (a mask) with their rows, for a message."""
    shown: dict[str, int] = {}
    for row in where.arg_true().head(1000).to_list():
        shown.setdefault(re.sub(r"\s+", " ", words[row]), row)
        if len(shown) == most:
            break
    return ", ".join(f"{quoted(cell)} (row {row})" for cell, row in shown.items())
