"""Read tables of texts: the rows of each split, and the detection of the text column."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dlcli.config import DataConfig
from dlcli.data.notices import Notice
from dlcli.data.source_rows import SourceRows
from dlcli.data.tables.frames import (
    TABLE_SUFFIXES,
    is_table,
    looks_like_text,
    need_column,
    read_frame,
    read_head,
    split_by_column,
)
from dlcli.data.tables.split_names import split_files
from dlcli.data.text.text_pairs import column_names, join
from dlcli.errors import DlcliError

if TYPE_CHECKING:
    import polars

_DEFAULT_COLUMN_NAME = re.compile(r"column_\d+")
_TEXT_COLUMN_NAMES = frozenset(
    [
        *("text", "sentence", "review", "tweet", "question", "message", "comment", "content", "body"),
        *("document", "utterance", "query", "headline", "abstract", "source"),
    ]
)


@dataclass
class TableSplit:
    """One split of a table: rows, ids and groups; ``where`` names it in messages."""

    frame: polars.DataFrame
    ids: list[str]
    groups: list[str] | None
    where: str
    source: SourceRows


@dataclass
class TextTables:
    """Tables at a path: the rows of each split, the chosen columns, and notices.

    The first ``texts`` of the columns are texts.
    """

    files: list[Path]
    columns: tuple[str, ...]
    texts: int
    splits: dict[str, TableSplit] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)


# From a frame and its file: the chosen columns, how many of them (the first) are texts, and notices.
ChooseColumns = Callable[["polars.DataFrame", Path], tuple[tuple[str, ...], int, list[Notice]]]


def table_head(path: Path) -> polars.DataFrame | None:
    """Read the first rows of the table at a path, of the training file where there are several."""
    if path.is_file() and not is_table(path):
        return None
    try:
        files = split_files(path, TABLE_SUFFIXES)
    except DlcliError:  # several data sets: the reader of tables reports it
        return None
    return None if files is None else read_head(next(iter(files.values())))


def read_tables(path: Path, config: DataConfig, choose: ChooseColumns) -> TextTables:
    """Read the tables at ``path`` by split; ``choose`` selects columns of the training file.

    Ids are row numbers from 0, prefixed with the split where splits are files. Raises: DlcliError when a
    column is missing in one of them.
    """
    files = split_files(path, TABLE_SUFFIXES) or {"all": path}
    base = files.get("train", next(iter(files.values())))
    head = read_head(base)
    header = config.header
    if header is None and head is not None:
        header = has_header(head)
    text_columns = column_names(config.text, () if head is None else head.columns) if config.text else ()
    frames = {base: read_texts(base, header=header, columns=text_columns)}
    columns, texts, notices = choose(frames[base][0], base)
    tables = TextTables(list(files.values()), columns, texts, notices=notices)
    for split, file in files.items():
        frame, more = frames.get(file) or read_texts(file, header=header, columns=columns[:texts])
        if not all(_is_string(frame[name]) for name in columns[:texts] if name in frame.columns):
            frame, more = read_texts(file, header=header, columns=columns[:texts])
        tables.notices += more
        for number, name in enumerate(columns):
            need_column(frame, name, what="the text" if number < texts else "the target", path=file)
        groups = None
        if config.group_column is not None:
            need_column(frame, config.group_column, what="the group column", path=file)
            cells = text_cells(frame[config.group_column])
            # A row without a group forms its own group.
            groups = np.array([cell or f"row {i}" for i, cell in enumerate(cells)], dtype=object)
        rows = {split: np.arange(frame.height)}
        if split == "all" and config.split_column is not None:
            rows = split_by_column(frame, config.split_column, path=file)
        prefix = "" if split == "all" else f"{split}/"
        for part, where in rows.items():
            ids = [f"{prefix}{row}" for row in where.tolist()]
            grouped = None if groups is None else groups[where].tolist()
            source = SourceRows.in_table(str(file), where, columns)
            chosen = frame.select(columns)[where]
            tables.splits[part] = TableSplit(chosen, ids, grouped, str(file), source)
    return tables


def read_texts(
    path: Path, *, header: bool | None = None, columns: Collection[str] = ()
) -> tuple[polars.DataFrame, list[Notice]]:
    """Read a table with ``columns`` as strings; also return notices.

    Default names such as column_2 in ``columns`` mean a table without a header.
    """
    frame, notices = read_frame(path, header=header, as_text=columns)
    missing = [name for name in columns if name not in frame.columns]
    if header is None and missing and all(_DEFAULT_COLUMN_NAME.fullmatch(name) for name in missing):
        frame, notices = read_frame(path, header=False, as_text=columns)
    return frame, notices


def has_header(head: polars.DataFrame) -> bool | None:
    """Return False where the first line of a narrow table is a row, else None (to be inferred).

    It is a row if one of its cells occurs again in its column, or if both its cells are sentences.
    """
    names = head.columns
    if len(names) > 3:
        return None
    repeated = [name in text_cells(head[name]) for name in names]
    sentences = len(names) == 2 and all(len(n.split()) >= 3 and looks_like_text(head[n]) for n in names)
    # If all are repeated, a header was copied with the rows.
    return False if (any(repeated) and not all(repeated)) or sentences else None


def text_column(frame: polars.DataFrame, unless: Collection[str] = ()) -> str | None:
    """Return the column that looks most like text, by contents, then name, then mean length, or None."""
    names = [name for name in frame.columns if name not in unless]
    candidates = [name for name in names if looks_like_text(frame[name])]
    if not candidates:
        return next((n for n in names if n.lower() == "text" and _is_string(frame[n])), None)
    named = [name for name in candidates if is_text_name(name)]
    return named[0] if named else max(candidates, key=lambda name: _mean_length(frame[name]))


def is_text_name(name: str) -> bool:
    """Return whether a column name is typical for text."""
    return name.lower() in _TEXT_COLUMN_NAMES


def other_columns(config: DataConfig) -> set[str]:
    """Return the columns that the settings drop or use for splits and groups."""
    return {*config.drop, *(n for n in (config.split_column, config.group_column) if n is not None)}


def text_cells(column: polars.Series) -> list[str]:
    """Return the cells of a column as strings, "" where missing; a list is joined by spaces."""
    import polars

    if column.dtype.base_type() in (polars.List, polars.Array):
        return [" ".join(map(str, cell or ())) for cell in column.to_list()]
    if column.dtype.base_type() is polars.Struct:
        return [json.dumps(cell) for cell in column.to_list()]
    return column.cast(polars.String).fill_null("").to_list()


def texts_of(frame: polars.DataFrame, columns: Sequence[str]) -> list[str]:
    """Return the texts of one column, or the pairs of two."""
    cells = [text_cells(frame[name]) for name in columns]
    return cells[0] if len(cells) == 1 else [join(*pair) for pair in zip(*cells, strict=True)]


def _is_string(column: polars.Series) -> bool:
    import polars

    return column.dtype == polars.String


def _mean_length(column: polars.Series) -> float:
    mean = column.str.len_chars().mean()
    return mean if isinstance(mean, float) else 0.0
