"""Columns of the tables that `predict` reads, carried over to its rows: an id, and others as they are.

Cells are the text of a file (``007`` stays ``007``), and what a typed file such as Parquet holds.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcli.data.base import Samples
from dlcli.data.source_rows import SourceRows
from dlcli.data.tables.cells import as_strings
from dlcli.data.tables.frames import need_column, read_typed
from dlcli.data.tables.infer import TypedFrame
from dlcli.errors import UsageError
from dlcli.wording import quoted

if TYPE_CHECKING:
    import polars

ALL = "all"
ROW, TABLE = "row", "table"


@dataclass(frozen=True)
class CarriedColumns:
    """What names the rows of tables in the output: ``columns`` by name, N cells each.

    ``row`` is the row of the table, from 0; ``table`` its file, where there are several; then come the
    ``id_column``, by its name here, and the other columns. ``messages`` are about ids that do not tell
    rows apart.
    """

    columns: Mapping[str, Sequence[Any]]
    id_column: str | None = None
    messages: tuple[str, ...] = ()

    def cells(self, index: int) -> dict[str, Any]:
        """The cells of a sample, by column."""
        return {name: values[index] for name, values in self.columns.items()}


def carry_columns(
    samples: Samples, id_column: str | None, keep: str | None, reserved: Collection[str]
) -> CarriedColumns:
    """Read the columns that the user wants next to the predictions of ``samples``.

    ``keep`` is "all" or names with commas. A column with one of the ``reserved`` names, those of the
    predictions, is called ``input_NAME``. Raises: UsageError where no input is a table; DlcliError for a
    column that a table lacks.
    """
    source = samples.source_rows
    if source is None:
        if id_column is not None or keep is not None:
            flag = f"--id-column {id_column}" if id_column is not None else f"--keep-columns {keep}"
            raise UsageError(f"{flag}: no input is a table with a row for each prediction")
        return CarriedColumns({})
    table = [source.files[code] if code >= 0 else None for code in source.codes.tolist()]
    inside = source.codes >= 0
    columns: dict[str, Sequence[Any]] = {
        ROW: [row if is_row else None for row, is_row in zip(source.rows.tolist(), inside, strict=True)]
    }
    if len(source.files) > 1:
        columns[TABLE] = table
    if id_column is None and keep is None:
        return CarriedColumns(columns)
    frames = [read_source(file, source, as_text=True).frame for file in source.files]
    taken = {*reserved, *columns, *([TABLE] if len(source.files) > 1 else [])}
    id_name = None
    messages: tuple[str, ...] = ()
    for name in _names(frames, source, id_column, keep):
        shown = _free_name(name, taken)
        taken.add(shown)
        columns[shown] = _gather([frame[name] for frame in frames], source)
        if name == id_column:
            id_name = shown
            messages = tuple(_id_messages(name, columns[shown]))
    return CarriedColumns(columns, id_name, messages)


def read_source(file: str, source: SourceRows, *, as_text: bool = False) -> TypedFrame:
    """All columns of one of the tables; with ``as_text`` those of a file of text as they stand there."""
    only = () if as_text else None
    return read_typed(Path(os.path.expanduser(file)), only=only, names=source.columns)


def _names(
    frames: Sequence[polars.DataFrame], source: SourceRows, id_column: str | None, keep: str | None
) -> list[str]:
    """The columns to carry over, the id first. With "all" they are those that every table has."""
    chosen: Iterable[str] = ()
    if keep == ALL:
        chosen = [name for name in frames[0].columns if all(name in frame.columns for frame in frames)]
    elif keep is not None:
        # The name of a column may contain a comma.
        chosen = [keep] if keep in frames[0].columns else [name.strip() for name in keep.split(",")]
    names = list(dict.fromkeys([*([] if id_column is None else [id_column]), *chosen]))
    for frame, file in zip(frames, source.files, strict=True):
        for name in names:
            what = "--id-column" if name == id_column else "--keep-columns"
            need_column(frame, name, what=what, path=file)
    return names


def _free_name(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name = f"input_{name}"
    return name


def _gather(parts: Sequence[polars.Series], source: SourceRows) -> list[Any]:
    """The cells of one column, of all tables, in the order of the samples; None outside tables."""
    cells: list[Any] = [None] * len(source.codes)
    for code, column in enumerate(parts):
        values = (column if _is_plain(column) else as_strings(column)).to_list()
        for index in np.flatnonzero(source.codes == code).tolist():
            cells[index] = values[source.rows[index]]
    return cells


def _is_plain(column: polars.Series) -> bool:
    """Whether JSON has the cells of a column as they are."""
    import polars as pl

    return column.dtype.is_integer() or column.dtype.is_float() or column.dtype == pl.Boolean


def _id_messages(name: str, ids: Sequence[Any]) -> list[str]:
    """Warnings of ids that do not tell rows apart."""
    present = [id_ for id_ in ids if id_ is not None]
    empty, repeated = len(ids) - len(present), len(present) - len(set(present))
    reasons = [
        *([f"rows with the id of an earlier one: {repeated:,}"] if repeated else []),
        *([f"rows without an id: {empty:,}"] if empty else []),
    ]
    if not reasons:
        return []
    message = f"--id-column {quoted(name)}: {', '.join(reasons)}"
    return [f"{message}; the column {ROW!r} tells all rows apart"]
