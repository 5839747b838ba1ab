"""Rows of a table as items, and casting of columns to the types of the training file.

The types of a file are inferred from its own cells, so other files are cast to those of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from dlcli.data.base import Indices, Items
from dlcli.data.contents import Keys
from dlcli.data.notices import Notice
from dlcli.data.tables.cells import as_numbers, as_strings

if TYPE_CHECKING:
    import polars


@dataclass(frozen=True)
class TableRows(Items):
    """Rows of a table, without the target columns.

    ``formats`` are those that its numbers and times were read by; ``notices`` are for whoever encodes
    the rows.
    """

    equal_by_chance: ClassVar[bool] = True
    frame: polars.DataFrame
    formats: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()

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
        notices = tuple(dict.fromkeys(notice for part in parts for notice in part.notices))
        return cls(frame[where], parts[0].formats, notices)

    @classmethod
    def contents(cls, parts: Sequence[TableRows]) -> list[Keys] | None:
        """As `Items.contents`; None for parts whose columns differ, and for columns of objects."""
        import polars as pl

        frames = [part.frame for part in parts]
        schemas = [frame.schema for frame in frames]
        if any(schema != schemas[0] for schema in schemas) or pl.Object in schemas[0].dtypes():
            return None
        return [frame.hash_rows().to_list() if frame.width else [] for frame in frames]


def booleans_as_strings(column: polars.Series) -> polars.Series:
    """Return a boolean column as strings, others unchanged."""
    import polars as pl

    return as_strings(column) if column.dtype == pl.Boolean else column


def cast_to_training(
    column: polars.Series, train_column: polars.Series, *, where: str, form: str | None = None
) -> tuple[polars.Series, list[Notice]]:
    """Cast a column to the type of the training column; notices count cells that become missing.

    ``form`` is the format of the training column, for a column of strings.
    """
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
    numbers, invalid = as_numbers(column, form)
    notices = []
    if invalid:
        notices.append(
            Notice(f"{where}: {invalid} cells of {column.name!r} are not numbers and count as missing")
        )
    if train_column.dtype.is_numeric():
        return numbers, notices
    if train_column.dtype == pl.Time:
        return (numbers * 1e9).cast(pl.Int64).cast(pl.Time), notices
    kind = pl.Duration("us") if train_column.dtype == pl.Duration else pl.Datetime("us")
    return (numbers * 1e6).cast(pl.Int64).cast(kind), notices
