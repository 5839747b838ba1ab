"""The report of `dlcli info` as Markdown, for bug reports: no names of the user and the machine."""

from __future__ import annotations

import getpass
import os
import platform
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dlcli.ui.info import Report, sections_of
from dlcli.ui.sections import Row
from dlcli.wording import printable

_WIDTH = 100  # of the packages' columns
_SHORTEST = 3  # a shorter name is part of too many words
_MARKS = {True: "ok", False: "**failed**", None: ""}


def print_markdown(report: Report) -> None:
    """Print the report on stdout, a table for each section."""
    words = private_words()
    sys.stdout.write("".join(f"{hide(line, words)}\n" for line in markdown_lines(report)))


def markdown_lines(report: Report) -> Iterable[str]:
    """Yield the lines; names of the user and the machine are still in them."""
    for section in sections_of(report, _WIDTH):
        if not section.rows:
            continue
        yield f"**{section.title}**"
        yield ""
        yield from ("|  |  |  |", "| --- | --- | --- |")
        yield from map(_line, section.rows)
        yield ""
    yield report.verdict[0]


def private_words() -> dict[str, str]:
    """What is replaced, longest first: the home folder, the user's and the machine's name."""
    words = {}
    home = os.path.expanduser("~")
    if home not in ("~", "/"):
        words[home] = "~"
        words[str(Path(home).resolve())] = "~"
    names = {os.environ.get(name, "") for name in ("USER", "USERNAME", "LOGNAME", "SUDO_USER")}
    with suppress(OSError, KeyError):  # a user id without a name
        names.add(getpass.getuser())
    names.add(Path(home).name)
    words |= {name: "USER" for name in names - {"root"} if len(name) >= _SHORTEST}
    host = platform.node()
    words |= {name: "HOST" for name in (host, host.partition(".")[0]) if len(name) >= _SHORTEST}
    return dict(sorted(words.items(), key=lambda pair: -len(pair[0])))


def hide(text: str, words: dict[str, str]) -> str:
    """Return ``text`` with private words replaced.

    Names are replaced as whole words: "ann" is no part of "annotated".
    """
    for word, replacement in words.items():
        if replacement == "~":
            text = text.replace(word, replacement)
        else:
            text = re.sub(rf"(?<![\w-]){re.escape(word)}(?![\w-])", replacement, text)
    return text


def _line(row: Row) -> str:
    value = printable(row.value)
    if row.is_command:
        value = f"`{value}`"
    return f"| {printable(row.key)} | {_MARKS[row.ok]} | {value.replace('|', chr(92) + '|')} |"
