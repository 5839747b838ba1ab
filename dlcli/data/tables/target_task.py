"""Infer the task of target columns from their cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dlcli.data.class_folders import natural
from dlcli.data.notices import Notice
from dlcli.data.tables.cells import MAX_FINITE, as_numbers, as_strings
from dlcli.data.tables.label_cells import (
    binary_numbers,
    first_marked,
    is_list,
    several_labels,
    split_labels,
    words_of,
)
from dlcli.errors import DlcliError
from dlcli.task import TaskKind
from dlcli.wording import quoted

if TYPE_CHECKING:
    import polars

# Integers of at most this many distinct values, each twice or more on average, are classes.
MAX_CLASS_VALUES = 20


def infer_task(
    columns: Mapping[str, polars.Series], separators: str | None
) -> tuple[TaskKind, tuple[Notice, ...]]:
    """Infer the task from the cells; also return a notice where another is plausible."""
    import polars as pl

    if len(columns) > 1:
        return _task_of_columns(columns)
    ((name, column),) = columns.items()
    if column.dtype == pl.String or is_list(column):
        return _task_of_words(name, column, separators)
    if column.dtype == pl.Boolean or not column.dtype.is_numeric():
        return "classification", ()
    values = finite_numbers(column)
    count = values.n_unique()
    whole = bool((values % 1 == 0).all())
    if count == 2 or (whole and count <= MAX_CLASS_VALUES and 2 * count <= len(values)):
        shown = ", ".join(class_names_of(values)[:3]) + (" ..." if count > 3 else "")
        message = f"{name!r} has {count} different {'integers' if whole else 'numbers'} ({shown})"
        message += ", read as classes; --task regression predicts the number"
        return "classification", (Notice(message),) if count > 1 else ()
    if count <= MAX_CLASS_VALUES or (
        whole and count <= 5 * MAX_CLASS_VALUES and 10 * count <= len(values)
    ):
        message = f"{name!r} has {count} different numbers, read as a regression target"
        return "regression", (Notice(f"{message}; --task classification makes each a class"),)
    return "regression", ()


def _task_of_words(
    name: str, column: polars.Series, separators: str | None
) -> tuple[TaskKind, tuple[Notice, ...]]:
    marks = several_labels(column, separators)
    if marks is not None:
        cells = words_of(column).drop_nulls().unique(maintain_order=True).to_list()
        several = (cell for cell in cells if is_list(column) or len(split_labels(cell, marks)) > 1)
        message = f"{name!r} has several labels per row: {quoted(next(several, cells[0]))}"
        return "multilabel", (Notice(f"{message}; --task classification makes each cell one class"),)
    marked = first_marked(column)
    if marked is None:
        return "classification", ()
    message = f"{name!r}: {quoted(marked)} is one class; --task multilabel splits such cells into labels"
    return "classification", (Notice(message),)


def _task_of_columns(columns: Mapping[str, polars.Series]) -> tuple[TaskKind, tuple[Notice, ...]]:
    import polars as pl

    columns = {name: binary_numbers(column) for name, column in columns.items()}
    for name, column in columns.items():
        if column.dtype == pl.Boolean or column.dtype.is_numeric():
            continue
        cell = quoted(as_strings(column).drop_nulls()[0])
        raise DlcliError(
            f"several targets must be numbers or 0 and 1, but {name!r} has {cell}",
            hint="give one target, or several columns of numbers",
        )
    if all(finite_numbers(column).is_in([0.0, 1.0]).all() for column in columns.values()):
        message = f"{len(columns)} columns of 0 and 1 are labels; --task regression predicts the numbers"
        return "multilabel", (Notice(message),)
    return "regression", ()


def finite_numbers(column: polars.Series) -> polars.Series:
    """Return the finite numbers of a column as Float64."""
    numbers, _ = as_numbers(column)
    return numbers.filter(numbers.abs() < MAX_FINITE)


def class_names_of(column: polars.Series) -> tuple[str, ...]:
    """Return the distinct cells as strings in natural order: "2" before "10"."""
    import polars as pl

    words = words_of(column).drop_nulls().unique().to_list()
    if column.dtype.is_numeric():
        return tuple(sorted(words, key=float))
    if column.dtype == pl.Boolean:
        return tuple(sorted(words))
    return tuple(sorted(words, key=lambda word: (natural(word), word)))
