"""Inputs of `predict` from tables."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dlcli.data.base import Samples
from dlcli.data.tables.cells import as_strings
from dlcli.data.tables.columns import column_names
from dlcli.data.tables.frames import TABLE_SUFFIXES, is_table, need_column, read_frame
from dlcli.data.tables.rows import TableRows, booleans_as_strings
from dlcli.errors import DlcliError
from dlcli.task import TabularInput, TaskSpec


def table_inputs(arguments: Sequence[str], task: TaskSpec) -> Samples:
    """Return the rows of tables, folders and patterns, without targets; ids are "file.csv:row", from 0.

    Raises: DlcliError when a file is missing, cannot be read, or lacks a column that the model was
    trained on.
    """
    import polars as pl

    spec = task.input
    assert isinstance(spec, TabularInput)
    columns = column_names(spec)
    ids, frames = [], []
    for name in _expand(arguments):
        # As strings: the encoder then counts the cells that are not numbers.
        frame, _ = read_frame(Path(name), as_text=columns)
        for column in columns:
            need_column(frame, column, what="the model was trained on it", path=name)
        frames.append(frame.select(booleans_as_strings(frame[column]) for column in columns))
        ids += [f"{name}:{row}" for row in range(frame.height)]
    if any(frame.schema != frames[0].schema for frame in frames):  # such as of a CSV and a Parquet file
        frames = [
            frame.select(as_strings(column) for column in frame.iter_columns()) for frame in frames
        ]
    joined = pl.concat(frames)
    return Samples(ids=tuple(ids), targets=np.zeros(0, dtype=np.int64), items=TableRows(joined))


def _expand(arguments: Sequence[str]) -> list[str]:
    """Expand files, folders and patterns to the paths of tables."""
    paths: list[str] = []
    for argument in arguments:
        path = Path(argument).expanduser()
        if path.is_dir():
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
                hint="give files, folders or patterns of " + ", ".join(TABLE_SUFFIXES[:6]),
            )
        paths += tables
    return paths
