"""Rows of a table as items, and one type for a column that several files hold.

Each file is typed by its own cells; what the training file's are decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlcli.data.base import Indices, Items
from dlcli.data.notices import Notice
from dlcli.data.tables.cells import as_numbers, as_words

if TYPE_CHECKING:
    import polars


@dataclass(frozen=True)
class TableRows(Items):
    """Rows of a table: the columns that are no target."""

    frame: polars.DataFrame

    def __len__(self) -> int:
        return self.frame.height

    @classmethod
    def gather(cls, parts: Sequence[TableRows], where: Indices) -> TableRows:
        """Also of `Items`. The parts have the same columns."""
        import polars as pl

        frame = (
            pl.concat([part.frame for part in parts], how="vertical_relaxed")
            if len(parts) > 1
            else parts[0].frame
        )
        return cls(frame[where])


def without_booleans(column: polars.Series) -> polars.Series:
    """True and false are words like others."""
    import polars as pl

    return as_words(column) if column.dtype == pl.Boolean else column


def as_in_training(
    column: polars.Series, model: polars.Series, *, where: str
) -> tuple[polars.Series, list[Notice]]:
    """A column in the type of ``model``, the training file's; and notices that count lost cells."""
    import polars as pl

    column, model = without_booleans(column), without_booleans(model)
    if column.dtype == model.dtype or not (
        model.dtype == pl.String or model.dtype.is_numeric() or model.dtype.is_temporal()
    ):
        return column, []
    if model.dtype == pl.String:
        return as_words(column), []
    numbers, strange = as_numbers(column)
    notices = []
    if strange:
        notices.append(Notice(f"{where}: {strange} cells of {column.name!r} are no numbers: missing"))
    if model.dtype.is_numeric():
        return numbers, notices
    return (numbers * 1e6).cast(pl.Int64).cast(pl.Datetime("us")), notices
