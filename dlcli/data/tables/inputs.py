"""Inputs of `predict` from tables."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dlcli.data.base import Samples
from dlcli.data.notices import Notice
from dlcli.data.source_rows import SourceRows
from dlcli.data.tables.cells import as_strings
from dlcli.data.tables.columns import column_names
from dlcli.data.tables.frames import (
    STDIN,
    TABLE_SUFFIXES,
    is_stdin,
    is_table,
    need_columns,
    read_typed,
)
from dlcli.data.tables.rows import TableRows, booleans_as_strings
from dlcli.data.tables.same_names import DUPLICATE_COLUMN, names_twice
from dlcli.errors import DlcliError
from dlcli.task import TabularInput, TaskSpec
from dlcli.wording import quoted_list

if TYPE_CHECKING:
    import polars


def table_inputs(arguments: Sequence[str], task: TaskSpec) -> Samples:
    """Return the rows of tables, folders and patterns, without targets; ids are "file.csv:row", from 0.

    "-" is a table on standard input, its ids "stdin:row".

    Raises: DlcliError when a file is missing, cannot be read, or lacks a column that the model was
    trained on.
    """
    import polars as pl

    spec = task.input
    assert isinstance(spec, TabularInput)
    columns = column_names(spec)
    ids: list[str] = []
    frames: list[polars.DataFrame] = []
    notices: list[Notice] = []
    parts: list[tuple[str | None, int]] = []
    for name in _expand(arguments):
        frame, more = _read(name, spec, columns)
        parts.append((name, frame.height))
        frames.append(frame)
        notices += more
        shown = "stdin" if name == STDIN else name
        ids += [f"{shown}:{row}" for row in range(frame.height)]
    if any(frame.schema != frames[0].schema for frame in frames):  # such as of a CSV and a Parquet file
        frames = [
            frame.select(as_strings(column) for column in frame.iter_columns()) for frame in frames
        ]
    formats = {n.source: n.format for n in spec.numbers if n.format is not None}
    rows = TableRows(pl.concat(frames), formats, tuple(notices))
    return Samples(
        ids=tuple(ids),
        targets=np.zeros(0, dtype=np.int64),
        items=rows,
        source_rows=SourceRows.of(parts, columns),
    )


def _read(name: str, spec: TabularInput, columns: list[str]) -> tuple[polars.DataFrame, list[Notice]]:
    """Read the columns of a model from one table, as strings where the model knows their format."""
    import polars as pl

    path = Path(name)
    # The encoder reads them by the formats of training and counts the cells that do not fit.
    as_text = {n.source for n in spec.numbers if n.format} | {c.name for c in spec.categories}
    typed = read_typed(path, as_text=as_text, names=columns)
    need_columns(typed.frame, columns, what="the model was trained on it", path=name)
    notices = []
    if twice := [column for column in names_twice(typed.notices) if column in columns]:
        message = f"{name} has several columns named {quoted_list(twice)}: the first is read"
        notices.append(Notice(message, DUPLICATE_COLUMN, "warning"))
    own = {column.name: column for column in typed.frame.iter_columns()}
    return pl.DataFrame([booleans_as_strings(own[column]) for column in columns]), notices


def _expand(arguments: Sequence[str]) -> list[str]:
    """Expand files, folders and patterns to the paths of tables."""
    paths: list[str] = []
    for argument in arguments:
        path = Path(argument).expanduser()
        if is_stdin(path):
            tables = [STDIN]
        elif path.is_dir():
            tables = sorted(str(file) for file in path.iterdir() if is_table(file))
        elif path.is_file():
            tables = [argument if path == Path(argument) else str(path)]
        else:
            tables = sorted(
                name for name in glob.glob(str(path), recursive=True) if is_table(Path(name))
            )
        if not tables:
            raise DlcliError(
                f"{argument} {'has no tables' if path.is_dir() else 'does not exist'}",
                hint=f"give files, folders or patterns of {', '.join(TABLE_SUFFIXES[:6])}, or -",
            )
        paths += tables
    return paths
