"""Cells of target columns: several labels in one cell, and words for 0 and 1.

The labels of a cell are separated by ``|`` or ``;``, or by commas where the cells show that commas
separate; or the cell is a list, of JSON ("["a", "b"]"), of Python ("['a', 'b']") or of the file's own
type. An empty cell is a row without a label.
"""

from __future__ import annotations

import ast
import json
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dlcli.data.tables.cells import as_strings

if TYPE_CHECKING:
    import polars

SEPARATORS = "|;"
_BINARY_WORDS = ({"true": 1, "false": 0}, {"yes": 1, "no": 0})


def is_list(column: polars.Series) -> bool:
    """Return whether the cells of a column are lists, as in JSON lines and Parquet."""
    import polars as pl

    return column.dtype.base_type() in (pl.List, pl.Array)


def words_of(column: polars.Series) -> polars.Series:
    """Return a target column as stripped strings in Unicode's form NFC; a list is joined by ``|``."""
    import polars as pl

    if is_list(column):
        cells = ["|".join(labels) for labels in _of_lists(column)]
        return pl.Series(column.name, [cell or None for cell in cells], dtype=pl.String)
    words = as_strings(column)
    others = [word for word in words.drop_nulls().unique().to_list() if not word.isascii()]
    forms = {word: composed for word in others if (composed := composed_form(word)) != word}
    return words.replace(forms) if forms else words


def composed_form(word: str) -> str:
    """Return a word in NFC: an accented letter is one character, however the file spells it."""
    return unicodedata.normalize("NFC", word)


def labels_of(column: polars.Series, separators: str) -> list[list[str]]:
    """Return the labels of each cell (N,); none for an empty cell."""
    if is_list(column):
        return _of_lists(column)
    cells = words_of(column).to_list()
    parts = {cell: split_labels(cell, separators) for cell in set(cells) if cell is not None}
    return [[] if cell is None else parts[cell] for cell in cells]


def split_labels(cell: str, separators: str) -> list[str]:
    """Split one cell into labels at any of the characters ``separators``, or as a list."""
    listed = _parse_list(cell)
    if listed is not None:
        return listed
    for mark in separators[1:]:
        cell = cell.replace(mark, separators[0])
    parts = cell.split(separators[0]) if separators else [cell]
    return [label for part in parts if (label := part.strip())]


def several_labels(column: polars.Series, separators: str | None) -> str | None:
    """Return the separators of a column whose cells hold several labels each; None for one class each.

    It holds several labels where all cells are lists, where most cells have a separator, or where at
    least half of the parts between separators are cells of their own. ``separators`` are those that the
    user gives; by default ``|`` and ``;``, then the comma, for which only the last rule counts.
    """
    if is_list(column):
        return SEPARATORS
    counts = _cell_counts(column)
    if not counts:
        return None
    if all(_parse_list(cell) is not None for cell in counts):
        return separators or SEPARATORS
    for marks in [separators] if separators else [SEPARATORS, ","]:
        marked = [cell for cell in counts if any(mark in cell for mark in marks)]
        if marks != "," and 2 * sum(counts[cell] for cell in marked) > sum(counts.values()):
            return marks
        if _parts_recur(marked, counts, marks):
            return marks
    return None


def default_separators(column: polars.Series) -> str:
    """Return the separators of a column that is read as labels because the user asks for it."""
    cells = _cell_counts(column)
    if any(mark in cell for cell in cells for mark in SEPARATORS):
        return SEPARATORS
    return "," if any("," in cell for cell in cells) else SEPARATORS


def first_marked(column: polars.Series) -> str | None:
    """Return the first cell that holds ``|`` or ``;`` between words, or None."""
    return next((cell for cell in _cell_counts(column) if len(split_labels(cell, SEPARATORS)) > 1), None)


def is_binary(column: polars.Series, *, both: bool = True) -> bool:
    """Return whether a column holds 0 and 1 alone, ``both`` of them: as numbers, booleans or words."""
    import polars as pl

    column = binary_numbers(column)
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        return False
    values = set(column.drop_nulls().cast(pl.Float64).unique().to_list())
    return values == {0.0, 1.0} or (not both and bool(values) and values < {0.0, 1.0})


def binary_numbers(column: polars.Series) -> polars.Series:
    """Return a column of "true" and "false" or "yes" and "no" as 0 and 1; others unchanged."""
    import polars as pl

    if column.dtype != pl.String:
        return column
    words = column.str.strip_chars().str.to_lowercase()
    words = words.set(words == "", None)
    different = set(words.drop_nulls().unique().to_list())
    for codes in _BINARY_WORDS:
        if different and different <= set(codes):
            return words.replace_strict(codes, return_dtype=pl.Int64)
    return column


def binary_run(frame: polars.DataFrame, names: Sequence[str]) -> list[str]:
    """Return the columns at the end of ``names`` that hold 0 and 1 alone, in order."""
    run: list[str] = []
    for name in reversed(names):
        if not is_binary(frame[name]):
            break
        run.insert(0, name)
    return run


def alike(names: Collection[str]) -> list[list[str]]:
    """Return the groups of names that differ in case or inner spaces alone."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(" ".join(name.casefold().split()), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _cell_counts(column: polars.Series) -> dict[str, int]:
    """Return how often each cell that is not empty occurs, in the order of the column."""
    counts: dict[str, int] = {}
    for cell in words_of(column).drop_nulls().to_list():
        counts[cell] = counts.get(cell, 0) + 1
    return counts


def _parts_recur(marked: Sequence[str], cells: Mapping[str, int], marks: str) -> bool:
    """Return whether at least half of the parts of the ``marked`` cells are cells of their own."""
    parts = {part for cell in marked for part in split_labels(cell, marks)}
    return len(parts) > 1 and 2 * sum(part in cells for part in parts) >= len(parts)


def _of_lists(column: polars.Series) -> list[list[str]]:
    return [_as_labels(cell) for cell in column.to_list()]


def _as_labels(values: Sequence[Any] | None) -> list[str]:
    """Return the elements of a list as labels, without empty ones."""
    words = [composed_form(_spelled(value)) for value in values or () if value is not None]
    return [word for word in words if word]


def _spelled(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _parse_list(cell: str) -> list[str] | None:
    """Return the elements of a list of JSON or Python in a cell, None where it is not one."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            values = parse(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        simple = all(isinstance(value, str | int | float) for value in values)
        return _as_labels(values) if simple else None
    return None
