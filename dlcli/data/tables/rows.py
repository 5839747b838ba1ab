"""Rows of a table as items, and casting of columns to the types of the training file.

The types of a file are inferred from its own cells, so other files are cast to those of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlcli.data.base import Indices, Items
from dlcli.data.notices import Notice
from dlcli.data.tables.cells import as_numbers, as_strings

if TYPE_CHECKING:
    import polars


@dataclass(frozen=True)
class TableRows(Items):
    """Rows of a table, without the target columns."""

    frame: polars.DataFrame

    def __len__(self) -> int:
        return self.frame.height

    @classmethod
    def gather(cls, parts: Sequence[TableRows], where: Indices) -> TableRows:
        """Gather rows of parts with the same columns; see `Items`."""
        import polars as pl

        frame = (
            pl.concat([part.frame for part in parts], how="vertical_relaxed")
            if len(parts) > 1
            else parts[0].frame
        )
        return cls(frame[where])


def booleans_as_strings(column: polars.Series) -> polars.Series:
    """Return a boolean column as strings, others unchanged."""
    import polars as pl

    return as_strings(column) if column.dtype == pl.Boolean else column


def cast_to_training(
    column: polars.Series, train_column: polars.Series, *, where: str
) -> tuple[polars.Series, list[Notice]]:
    """Cast a column to the type of the training column; notices count cells that become missing."""
    import polars as pl

    column, train_column = booleans_as_strings(column), booleans_as_strings(train_column)
    if column.dtype == train_column.dtype or not (
        train_column.dtype == pl.String
        or train_column.dtype.is_numeric()
        or train_column.dtype.is_temporal()
    ):
        return column, []
    if train_column.dtype == pl.String:
        return as_strings(column), []
    numbers, invalid = as_numbers(column)
    notices = []
    if invalid:
        notices.append(
            Notice(f"{where}: {invalid} cells of {column.name!r} are not numbers and count as missing")
        )
    if train_column.dtype.is_numeric():
        return numbers, notices
    return (numbers * 1e6).cast(pl.Int64).cast(pl.Datetime("us")), notices
