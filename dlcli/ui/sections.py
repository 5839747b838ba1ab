"""Sections of keys and values: keys aligned across all sections, long values wrapped.

Not a rich table, which pads every line with blanks up to its width; those are a nuisance in files
and bug reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlcli.ui import console as consoles
from dlcli.wording import printable

_INDENT = 2
_GAP = 2
_MARKS = {True: ("ok", "green"), False: ("failed", "bold red"), None: ("", "")}
_MARK_WIDTH = len("failed")


@dataclass(frozen=True)
class Row:
    """A key (empty: continues the row above), a value, and the result of a test.

    ``ok`` is shown as a word, not by colour alone; None shows nothing. ``style`` is rich's. A command
    that takes several lines ends them with a backslash, so that it can be copied into a shell.
    """

    key: str
    value: str
    ok: bool | None = None
    style: str = ""
    is_command: bool = False


@dataclass(frozen=True)
class Section:
    """A heading and its rows. If one row has a mark, all values are right of the marks."""

    title: str
    rows: Sequence[Row]


def print_sections(sections: Sequence[Section]) -> None:
    """Print the sections that have rows on stdout, a blank line between them."""
    from rich.text import Text

    console = consoles.stdout()
    shown = [section for section in sections if section.rows]
    widest = max((len(printable(row.key)) for section in shown for row in section.rows), default=0)
    for number, section in enumerate(shown):
        if number:
            console.print()
        console.print(Text(printable(section.title), "bold"))
        key_width = widest if any(row.key for row in section.rows) else 0
        marks = any(row.ok is not None for row in section.rows)
        for row in section.rows:
            _print_row(row, key_width, marks)


def _print_row(row: Row, key_width: int, marks: bool) -> None:
    from rich.text import Text

    console = consoles.stdout()
    prefix = Text(" " * _INDENT)
    if key_width:
        key = printable(row.key)
        prefix.append(key, "dim").append(" " * (key_width - len(key) + _GAP))
    if marks:
        word, style = _MARKS[row.ok]
        prefix.append(word, style).append(" " * (_MARK_WIDTH - len(word) + _GAP))
    value = Text(printable(row.value), row.style)
    width = max(20, console.width - prefix.cell_len)
    wrapped = [Text(line, row.style) for line in _command_lines(value.plain, width)]
    lines = wrapped if row.is_command else list(value.wrap(console, width, overflow="fold")) or [value]
    for number, line in enumerate(lines):
        line.rstrip()
        console.print((prefix if number == 0 else Text(" " * prefix.cell_len)) + line, soft_wrap=True)


def _command_lines(command: str, width: int) -> list[str]:
    """Divide a command between words alone: within one it would be another command."""
    lines = ["$"]
    for word in command.split(" "):
        if len(lines[-1]) > 1 and len(lines[-1]) + len(word) + 3 > width:
            lines[-1] += " \\"
            lines.append(" ")
        lines[-1] = f"{lines[-1]} {word}"
    return lines
