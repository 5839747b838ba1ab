"""Inputs of `predict` from tables, lines of files, or the arguments themselves."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlcli.data.notices import Notice
from dlcli.data.sets.named import valid_unicode
from dlcli.data.source_rows import SourceRows
from dlcli.data.tables.frames import is_table, need_columns
from dlcli.data.text.byte_pairs import replace_surrogates
from dlcli.data.text.files import decode_bytes, read_lines, read_text, split_lines, text_files_below
from dlcli.data.text.tables import read_texts, text_column, texts_of
from dlcli.errors import DlcliError

_MAX_ID_LENGTH = 60  # characters
STDIN = "stdin"  # in the ids of its rows and lines


@dataclass(frozen=True)
class PredictTexts:
    """Ids and texts of the arguments of `predict`, the rows of tables that they are, and notices."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    rows: SourceRows | None
    notices: tuple[Notice, ...]


def predict_texts(
    arguments: Sequence[str], columns: Sequence[str], *, plain: Callable[[list[str]], list[str]]
) -> PredictTexts:
    """Return the texts of the arguments of `predict`.

    The texts are the rows of a table (id ``file:row``), the lines of other files (``file:line``) and of
    standard input for "-" (``stdin:line``), and the text files of a folder. Rows and lines count from 0;
    empty lines are no texts, and a notice counts them. An argument that is not a file and does not look
    like a path is itself a text; its id is its beginning.
    ``plain`` removes the labels from the lines of a training file. Two ``columns`` of a table are pairs;
    elsewhere a pair is a text with a tab; none: the column that looks like text.

    Raises: DlcliError for a missing file, a table without the columns, or nothing to read.
    """
    ids: list[str] = []
    texts: list[str] = []
    notices: list[Notice] = []
    parts: list[tuple[str | None, int]] = []
    for argument in arguments:
        pairs = list(_read_argument(argument, columns, plain, notices))
        if not pairs:
            name = "standard input" if argument == "-" else argument
            raise DlcliError(f"{name} has no text", hint="give a text, or files with one text per line")
        ids += [id_ for id_, _ in pairs]
        texts += [text for _, text in pairs]
        parts.append((argument if _is_table_file(argument) else None, len(pairs)))
    rows = SourceRows.of(parts, columns)
    return PredictTexts(tuple(ids), tuple(texts), rows, tuple(notices))


def _read_argument(
    argument: str,
    columns: Sequence[str],
    plain: Callable[[list[str]], list[str]],
    notices: list[Notice],
) -> Iterator[tuple[str, str]]:
    path = Path(os.path.expanduser(argument))
    if argument == "-":
        text, _ = decode_bytes(sys.stdin.buffer.read(), "standard input")
        yield from _numbered_lines(STDIN, split_lines(text), notices)
    elif not argument.strip() or not _exists(path):
        if looks_like_path(argument):
            raise DlcliError(
                f"{argument} does not exist",
                hint="to predict it as a text, pipe it into dlcli predict -",
            )
        yield text_id(argument), replace_surrogates(argument)
    elif path.is_dir():
        for file in text_files_below(path):
            yield valid_unicode(str(file)), read_text(file)[0].strip()
    elif _is_table_file(argument):
        yield from _table_rows(argument, path, columns)
    else:
        yield from _numbered_lines(valid_unicode(argument), plain(read_lines(path)[0]), notices)


def _table_rows(argument: str, path: Path, columns: Sequence[str]) -> Iterator[tuple[str, str]]:
    frame, _ = read_texts(path, columns=columns)
    need_columns(frame, columns, what="the model reads it", path=path)
    if not columns:
        detected = text_column(frame) or (frame.columns[0] if frame.width == 1 else None)
        if detected is None:
            raise DlcliError(
                f"{path} has no column that looks like text", hint="rename the column to text"
            )
        columns = (detected,)
    for row, text in enumerate(texts_of(frame, columns)):
        yield f"{valid_unicode(argument)}:{row}", text


def _is_table_file(argument: str) -> bool:
    path = Path(os.path.expanduser(argument))
    return is_table(path) and _exists(path) and path.is_file()


def looks_like_path(argument: str) -> bool:
    """Return whether an argument looks like a path: no whitespace, but a slash, a suffix or a star."""
    if re.search(r"\s", argument.strip()) or not argument.strip():
        return False
    return re.search(r"[/\\*]|^[.~]|\.[A-Za-z0-9]{1,8}$", argument) is not None


def text_id(text: str) -> str:
    """Return the beginning of a text on one line, at most 60 characters."""
    line = valid_unicode(" ".join(replace_surrogates(text).split()))
    return line if len(line) <= _MAX_ID_LENGTH else line[: _MAX_ID_LENGTH - 3] + "..."


def _numbered_lines(name: str, lines: Sequence[str], notices: list[Notice]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines):
        if line.strip():
            yield f"{name}:{number}", line.strip()
    empty = sum(not line.strip() for line in lines)
    if empty:
        message = f"{name}: empty lines, which have no prediction: {empty:,} of {len(lines):,}"
        notices.append(Notice(message, "empty-text", "warning"))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a file name, or with a NUL
        return False
