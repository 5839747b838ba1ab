"""Inputs of `predict` from tables, lines of files, or the arguments themselves."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dlcli.data.sets.named import clean
from dlcli.data.tables.frames import is_table, need_column
from dlcli.data.text.byte_pairs import whole
from dlcli.data.text.files import decoded, read_lines, read_text, split_lines, texts_below
from dlcli.data.text.tables import read_texts, strings, text_column
from dlcli.errors import DlcliError

_ID_LENGTH = 60  # characters of a text that stand for it


def given_texts(
    arguments: Sequence[str], column: str | None, *, plain: Callable[[list[str]], list[str]]
) -> tuple[list[str], list[str]]:
    """Return an id for each text given to `predict`, and the texts.

    A table gives its rows (``file:row``, from 1), any other file its non-empty lines (``file:line``),
    a folder its text files, one text each, "-" the lines of standard input (``-:line``). An argument
    that is no file and does not look like a path is a text itself, and its own id, shortened.
    ``plain`` takes the labels off the lines of a training file.

    Raises: DlcliError for a missing file, a table without the column, or nothing to read.
    """
    ids: list[str] = []
    texts: list[str] = []
    for argument in arguments:
        pairs = list(_given(argument, column, plain))
        if not pairs:
            name = "standard input" if argument == "-" else argument
            raise DlcliError(f"{name} holds no text", hint="give a text, or files with one on each line")
        ids += [id_ for id_, _ in pairs]
        texts += [text for _, text in pairs]
    return ids, texts


def _given(
    argument: str, column: str | None, plain: Callable[[list[str]], list[str]]
) -> Iterator[tuple[str, str]]:
    path = Path(os.path.expanduser(argument))
    if argument == "-":
        text, _ = decoded(sys.stdin.buffer.read(), "standard input")
        yield from _numbered("-", split_lines(text))
    elif not argument.strip() or not _exists(path):
        if looks_like_path(argument):
            raise DlcliError(
                f"{argument} does not exist", hint="if it is a text: echo it into dlcli predict -"
            )
        yield shortened(argument), whole(argument)
    elif path.is_dir():
        for file in texts_below(path):
            yield clean(str(file)), read_text(file)[0].strip()
    elif is_table(path):
        yield from _rows(argument, path, column)
    else:
        yield from _numbered(clean(argument), plain(read_lines(path)[0]))


def _rows(argument: str, path: Path, column: str | None) -> Iterator[tuple[str, str]]:
    frame, _ = read_texts(path, columns=[] if column is None else [column])
    if column is not None:
        need_column(frame, column, what="the text", path=path)
    text_name = column or text_column(frame) or (frame.columns[0] if frame.width == 1 else None)
    if text_name is None:
        raise DlcliError(f"{path} has no column that looks like text", hint="name it text")
    for row, text in enumerate(strings(frame[text_name]), start=1):
        yield f"{clean(argument)}:{row}", text


def looks_like_path(argument: str) -> bool:
    """Whether an argument was meant as a file: no space in it, but a slash, a suffix or a star."""
    if re.search(r"\s", argument.strip()) or not argument.strip():
        return False
    return re.search(r"[/\\*]|^[.~]|\.[A-Za-z0-9]{1,8}$", argument) is not None


def shortened(text: str) -> str:
    """A text on one line of at most 60 characters."""
    line = clean(" ".join(whole(text).split()))
    return line if len(line) <= _ID_LENGTH else line[: _ID_LENGTH - 3] + "..."


def _numbered(name: str, lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{name}:{number}", line.strip()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a text too long for a name, or with a NUL
        return False
