"""Columns that tell rows apart instead of describing them: row numbers, ids, names, constants.

A model that reads them learns the order of the file. N training rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dlcli.data.notices import Notice
from dlcli.data.tables.cells import as_strings
from dlcli.data.tables.frames import looks_like_text
from dlcli.wording import plural, quoted, quoted_list

if TYPE_CHECKING:
    import polars

ROW_NUMBERS = "of row numbers"
# A column of distinct values in at least this many rows is an identifier.
MIN_IDENTIFIER_ROWS = 20
# Distinct whole numbers of a range up to this times the rows are numbers of rows, in any order.
_MAX_RANGE = 2
_UNNAMED = re.compile(r"(column_\d+|unnamed: ?\d+)", re.I)
_YEAR = re.compile(r"year|jahr|ann[eé]e|año|anno", re.I)
# A part of the words is worth a column of its own if it has few values, each in many rows.
_MAX_PARTS, _MIN_PART_ROWS, _MIN_PART_SHARE = 30, 5, 0.9
_PARTS = (
    (r",\s*(?:the\s)?(\w+)\.", "the title"),
    (r"^([A-Za-z])\d", "the first letter"),
    (r"^([A-Za-z]+)[-_/ ]?\d", "the letters before the number"),
    (r"@([\w.-]+)$", "what follows the @"),
    (r"^(\w+)[ ,/-]", "the first word"),
    (r"[ ,/-](\w+)$", "the last word"),
)


def is_number(column: polars.Series) -> bool:
    """Return whether the encoder reads a column as numbers; times are seconds."""
    return column.dtype.is_numeric() or column.dtype.is_temporal()


def reason_to_drop(column: polars.Series, *, wanted: bool = False) -> str | None:
    """Return why a column is not usable, or None; ``wanted``: the user wants it."""
    import polars as pl

    cells = column.drop_nulls()
    if not len(cells):
        return "without any value"
    if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
        return "of lists or objects"
    if looks_like_text(column):
        return "of text (--kind text encodes them)"
    distinct = cells.n_unique()
    if distinct == 1 and len(cells) == len(column):
        return "with the same value in every row"
    if wanted or distinct < len(cells) or distinct < MIN_IDENTIFIER_ROWS:
        return None
    named = column.dtype.is_integer() and _is_id_name(column.name)
    return "with a different value in every row" if column.dtype == pl.String or named else None


def rare_words(column: polars.Series, least: int) -> str:
    """Return the reason to drop a column of words none of which is frequent enough to be learned."""
    cells = column.drop_nulls()
    values = f"{cells.n_unique():,} values in {plural(len(cells), 'row')}"
    if len(cells) < len(column):
        values += f", {len(column) - len(cells):,} missing"
    return f"in which no value occurs {least} times ({values})"


def has_header_gaps(names: Sequence[str]) -> bool:
    """Return whether some columns have names and others none."""
    unnamed = [_UNNAMED.fullmatch(name) is not None for name in names]
    return any(unnamed) and not all(unnamed)


def is_counter(column: polars.Series, *, unnamed: bool) -> bool:
    """Return whether a column without a name holds whole numbers that are all different.

    ``unnamed``: whether the other columns have names. A data frame's index is written like that.
    """
    whole = column.dtype.is_integer() and not column.null_count()
    return unnamed and is_unnamed(column.name) and whole and column.n_unique() == len(column)


def is_unnamed(name: str) -> bool:
    """Return whether a name is that of a column without one."""
    return _UNNAMED.fullmatch(name) is not None


def numbers_rows(column: polars.Series, rows: npt.NDArray[np.int64], *, unnamed: bool = False) -> bool:
    """Return whether a column numbers the rows: in order, in another order, or without a name.

    ``rows`` (N,) are the row numbers in the file; ``unnamed``: whether the other columns have names.
    """
    if not column.dtype.is_integer() or column.null_count() or len(column) < 3:
        return False
    values = column.to_numpy().astype(np.float64)
    step = (values[1] - values[0]) / (rows[1] - rows[0])
    if step != 0 and bool((values == values[0] + step * (rows - rows[0])).all()):
        return True
    if len(np.unique(values)) < len(values):
        return False
    if is_counter(column, unnamed=unnamed):
        return True
    is_year = _YEAR.search(column.name) is not None and values.min() > 1000 and values.max() < 3000
    return (
        len(values) >= MIN_IDENTIFIER_ROWS
        and not is_year
        and np.ptp(values) + 1 <= _MAX_RANGE * len(values)
    )


def about_sorted(columns: Sequence[polars.Series], keep: Collection[str]) -> list[Notice]:
    """Return a warning of whole numbers that increase or decrease with every row, as sorted ids do."""
    names = []
    for column in columns:
        if column.name in keep or not column.dtype.is_integer() or column.null_count():
            continue
        steps = np.diff(column.to_numpy())
        if len(steps) + 1 >= MIN_IDENTIFIER_ROWS and (
            bool((steps > 0).all()) or bool((steps < 0).all())
        ):
            names.append(column.name)
    if not names:
        return []
    message = f"{quoted_list(names)} increase or decrease with every row, as sorted ids do; "
    message += f"--set data.drop=[{names[0]}] leaves it out, data.keep=[{names[0]}] ends this warning"
    return [Notice(message, "sorted-id", "warning")]


def about_dropped(
    frame: polars.DataFrame, row_numbers: Sequence[str], dropped: Mapping[str, Sequence[str]]
) -> list[Notice]:
    """Return notices of what could be used of dropped columns: row numbers by name, parts of words."""
    notices = []
    shuffled = [name for name in row_numbers if not is_unnamed(name)]
    if shuffled and shuffled != list(frame.columns):
        message = f"--set data.keep=[{', '.join(shuffled[:3])}] uses columns that number the rows"
        notices.append(Notice(message))
    words = {name for reason, names in dropped.items() if reason != ROW_NUMBERS for name in names}
    for column in frame.iter_columns():
        part = _useful_part(column) if column.name in words and not is_number(column) else None
        if part is not None:
            notices.append(Notice(f"{column.name!r}: {part}; a column of it could be used"))
    return notices


def _useful_part(column: polars.Series) -> str | None:
    """Return a description of a part of the words that has few values, each in several rows."""
    cells = as_strings(column).drop_nulls()
    for pattern, name in _PARTS if len(cells) >= MIN_IDENTIFIER_ROWS else ():
        counts = Counter(cells.str.extract(pattern).drop_nulls().to_list())
        frequent = {part: n for part, n in counts.most_common(_MAX_PARTS) if n >= _MIN_PART_ROWS}
        if len(frequent) > 1 and sum(frequent.values()) >= _MIN_PART_SHARE * len(cells):
            shown = ", ".join(quoted(part) for part in list(frequent)[:3])
            return f"{name} has few values ({shown}{', ...' if len(frequent) > 3 else ''})"
    return None


def _is_id_name(name: str) -> bool:
    lower = name.lower()
    return (
        lower in ("id", "uid", "uuid", "index", "key")
        or lower.endswith(("_id", " id", "-id"))
        or (name.endswith(("Id", "ID")) and len(name) > 2)
    )
