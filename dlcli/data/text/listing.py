"""List texts and their targets: tables, folders, lines of ``label text``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.config import DataConfig
from dlcli.data.notices import Notice
from dlcli.data.source_rows import SourceRows
from dlcli.data.tables.frames import looks_like_text, need_column
from dlcli.data.tables.label_cells import binary_run, is_binary
from dlcli.data.tables.split_names import split_files
from dlcli.data.text.files import (
    LAYOUTS,
    PLAIN_SUFFIXES,
    has_label_words,
    is_number,
    list_text_files,
    read_lines,
    read_text,
    split_label,
    split_label_words,
)
from dlcli.data.text.tables import is_text_name, other_columns, read_tables, text_column, texts_of
from dlcli.data.text.text_pairs import column_names, pair_columns
from dlcli.errors import DlcliError
from dlcli.wording import quoted_list

if TYPE_CHECKING:
    import polars

_TARGET_COLUMN_NAMES = ("label", "labels", "category", "class", "target")
_ROW_ID_NAMES = ("id", "idx", "index", "uid", "uuid", "row")
_MAX_OTHER_COLUMNS = 2  # a table with more columns than the text and these is tabular data


@dataclass
class TextSplit:
    """One split: ids, texts or pairs, targets, groups, rows of tables; ``where`` names it."""

    ids: list[str]
    texts: list[str]
    targets: dict[str, polars.Series]
    where: str
    groups: list[str] | None = None
    source: SourceRows | None = None


@dataclass
class TextListing:
    """Texts by split, their files, detected settings (column names), and notices.

    With ``pair`` each text is a pair (`dlcli.data.text.text_pairs`).
    """

    pair: bool = False
    splits: dict[str, TextSplit] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)


def is_text_table(head: polars.DataFrame, config: DataConfig) -> bool:
    """Return whether a table is texts with targets, not tabular data with a text column."""
    if config.text is not None or pair_columns(head.drop(other_columns(config), strict=False)):
        return True
    column = text_column(head, other_columns(config))
    others = head.width - len(other_columns(config)) - 1
    if column is None or others < 1 or column in _requested_targets(config):
        return False
    rest = [name for name in head.columns if name not in {column, *other_columns(config)}]
    if _are_labels(head, rest):
        return True
    # In a wider table the text column needs a typical name: "Name" of passengers is a feature.
    return others <= _MAX_OTHER_COLUMNS or (is_text_name(column) and looks_like_text(head[column]))


def _requested_targets(config: DataConfig) -> list[str]:
    return [name.strip() for name in (config.target or "").split(",") if name.strip()]


def read_text_tables(path: Path, config: DataConfig) -> TextListing:
    """Read the rows of the tables at a path. Raises: DlcliError when a column is missing."""
    tables = read_tables(path, config, lambda frame, file: _choose_columns(frame, config, file))
    columns, names = tables.columns[: tables.texts], tables.columns[tables.texts :]
    options = {"text": ",".join(columns), "target": ",".join(names)}
    listing = TextListing(
        files=tables.files, options=options, notices=tables.notices, pair=len(columns) == 2
    )
    for split, rows in tables.splits.items():
        targets = {name: rows.frame[name] for name in names}
        texts = texts_of(rows.frame, columns)
        listing.splits[split] = TextSplit(rows.ids, texts, targets, rows.where, rows.groups, rows.source)
    return listing


def _choose_columns(
    frame: polars.DataFrame, config: DataConfig, path: Path
) -> tuple[tuple[str, ...], int, list[Notice]]:
    """Return text and target columns, how many texts they are, and notices of unused columns."""
    requested = _requested_targets(config)
    for name in requested:
        need_column(frame, name, what="--target", path=path)
    texts = _text_columns(frame, config, path, {*other_columns(config), *requested})
    if not texts:
        raise DlcliError(
            f"{path} has no column that looks like text: {quoted_list(frame.columns, 8)}",
            hint="select one: --set data.text=COLUMN",
        )
    others = [name for name in frame.columns if name not in {*texts, *other_columns(config)}]
    names = requested or _target_names(frame, others)
    if not names:
        raise DlcliError(
            f"{path} has no target column besides {quoted_list(texts)}", hint="add a column named label"
        )
    if both := [name for name in texts if name in names]:
        raise DlcliError(
            f"{both[0]!r} is both text and target", hint="give another column with --target"
        )
    unused = [name for name in others if name not in names]
    inferred_labels = len(names) > 1 and not requested
    inferred_pair = len(texts) == 2 and config.text is None
    if not unused and not inferred_labels and not inferred_pair:
        return (*texts, *names), len(texts), []
    message = f"{path.name}: {texts[0]!r} is the text"
    if len(texts) == 2:
        message = f"{path.name}: {texts[0]!r} and {texts[1]!r} are pairs of texts"
        message += f" (--set data.text={texts[0]} reads one)" if inferred_pair else ""
    message += f", {', '.join(names)} the target"
    message += "s (--target selects others)" if inferred_labels else ""
    message += f"; not used: {quoted_list(unused)}" if unused else ""
    return (*texts, *names), len(texts), [Notice(message)]


def _text_columns(
    frame: polars.DataFrame, config: DataConfig, path: Path, unless: set[str]
) -> tuple[str, ...]:
    """Return the column of the text, the two of a pair, or none. Raises: DlcliError, UsageError."""
    if config.text is not None:
        names = column_names(config.text, frame.columns)
        for name in names:
            need_column(frame, name, what="data.text", path=path)
        return names
    pair = pair_columns(frame.drop(unless, strict=False))
    if pair is not None:
        return pair
    column = text_column(frame, unless)
    return () if column is None else (column,)


def _target_names(frame: polars.DataFrame, others: list[str]) -> list[str]:
    """Return a column of a usual name, else the columns of 0 and 1 at the end, else the last column."""
    common = [name for name in others if name.lower() in _TARGET_COLUMN_NAMES]
    rest = [name for name in others if name.lower() not in _ROW_ID_NAMES]
    return common[:1] or binary_run(frame, rest) or rest[-1:] or others[-1:]


def _are_labels(head: polars.DataFrame, names: list[str]) -> bool:
    """Return whether all columns, besides row numbers, hold 0 and 1: the labels of a text, one-hot."""
    columns = [name for name in names if name.lower() not in _ROW_ID_NAMES]
    # A rare label may be 0 in all rows of the head.
    return len(columns) > 1 and all(is_binary(head[n], both=False) for n in columns)


def read_folders(path: Path) -> TextListing:
    """Read the text files of CLASS or SPLIT/CLASS folders."""
    import polars as pl

    splits, listing_notices = list_text_files(path)
    if not splits:
        raise DlcliError(f"{path} has no texts in class folders", hint=LAYOUTS)
    listing = TextListing(notices=listing_notices)
    notices: list[Notice] = []
    for split, files in splits.items():
        contents = [read_text(file.path) for file in files]
        notices += [notice for _, notice in contents if notice]
        labels = pl.Series("label", [file.label for file in files], dtype=pl.String)
        where = str(path if split == "all" else path / split)
        texts = [text.strip() for text, _ in contents]
        listing.splits[split] = TextSplit([file.id for file in files], texts, {"label": labels}, where)
        listing.files += [file.path for file in files]
    if notices:
        message = f"{len(notices):,} of {len(listing.files):,} files are not UTF-8, for example "
        message += notices[0].message
        listing.notices.append(Notice(message, "not-utf-8"))
    return listing


def read_plain(path: Path, config: DataConfig) -> TextListing:
    """Read the lines of plain files.

    The label is the text before a tab or the first word; in files of fastText every ``__label__`` word.
    """
    files = {"all": path} if path.is_file() and not path.name.lower().endswith(PLAIN_SUFFIXES) else None
    files = files or split_files(path, PLAIN_SUFFIXES)
    if files is None:
        raise DlcliError(f"{path} has no known layout of texts", hint=LAYOUTS)
    listing = TextListing(files=list(files.values()))
    filled: dict[str, dict[int, str]] = {}
    for split, file in files.items():
        lines, notices = read_lines(file)
        listing.notices += notices
        filled[split] = {i: line for i, line in enumerate(lines) if line.strip()}
        if not filled[split]:
            raise DlcliError(f"{file} has no lines of text", hint=LAYOUTS)
    lines_of = {split: list(by_number.values()) for split, by_number in filled.items()}
    columns, texts = _split_lines(lines_of, config)
    for split, by_number in filled.items():
        prefix = "" if split == "all" else f"{split}/"
        ids = [f"{prefix}{i}" for i in by_number]
        targets = {"label": columns[split]}
        listing.splits[split] = TextSplit(ids, texts[split], targets, str(files[split]))
    return listing


def _split_lines(
    lines: Mapping[str, list[str]], config: DataConfig
) -> tuple[dict[str, polars.Series], dict[str, list[str]]]:
    """Return the label column and the texts of each split."""
    import polars as pl

    if has_label_words(next(iter(lines.values()))):
        return _split_label_words(lines)
    pairs = {split: [split_label(line) for line in part] for split, part in lines.items()}
    labels = {label for part in pairs.values() for label, _ in part}
    # Integer labels are classes; labels with a fraction, such as 3.5, are regression targets.
    numbers = all(map(is_number, labels)) and not all(label.isdigit() for label in labels)
    columns = {
        split: pl.Series("label", [label for label, _ in part], dtype=pl.String)
        for split, part in pairs.items()
    }
    if numbers and config.task is None:
        columns = {split: column.cast(pl.Float64) for split, column in columns.items()}
    return columns, {split: [text for _, text in part] for split, part in pairs.items()}


def _split_label_words(
    lines: Mapping[str, list[str]],
) -> tuple[dict[str, polars.Series], dict[str, list[str]]]:
    """As `_split_lines`, for labels of fastText's form: lists where a line has several."""
    import polars as pl

    parts = {split: [split_label_words(line) for line in part] for split, part in lines.items()}
    several = any(len(labels) > 1 for part in parts.values() for labels, _ in part)
    columns = {}
    for split, part in parts.items():
        sets = [labels for labels, _ in part]
        columns[split] = (
            pl.Series("label", sets, dtype=pl.List(pl.String))
            if several
            else pl.Series("label", [labels[0] if labels else None for labels in sets], dtype=pl.String)
        )
    return columns, {split: [text for _, text in part] for split, part in parts.items()}
