"""Facts under headings: keys in one column through all sections, long values wrapped next to them.

Laid out by hand and not by a rich table, which fills every line with blanks up to its width; those
are in the way when the output goes to a file or into a bug report.
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
    """A key (empty: it goes on with the row above), a value, and how a test of it went.

    ``ok`` is shown as a word, and colour only helps; None shows nothing. ``style`` is rich's.
    """

    key: str
    value: str
    ok: bool | None = None
    style: str = ""


@dataclass(frozen=True)
class Section:
    """A heading and its rows. Where one row has a mark, all values stand right of the marks."""

    title: str
    rows: Sequence[Row]


def print_sections(sections: Sequence[Section]) -> None:
    """Print the sections that have rows on stdout, a blank line between them."""
    from rich.text import Text

    console = consoles.stdout()
    shown = [section for section in sections if section.rows]
    widest = max((len(row.key) for section in shown for row in section.rows), default=0)
    for number, section in enumerate(shown):
        if number:
            console.print()
        console.print(Text(section.title, "bold"))
        key_width = widest if any(row.key for row in section.rows) else 0
        marks = any(row.ok is not None for row in section.rows)
        for row in section.rows:
            _print_row(row, key_width, marks)


def _print_row(row: Row, key_width: int, marks: bool) -> None:
    from rich.text import Text

    console = consoles.stdout()
    lead = Text(" " * _INDENT)
    if key_width:
        lead.append(row.key, "dim").append(" " * (key_width - len(row.key) + _GAP))
    if marks:
        word, style = _MARKS[row.ok]
        lead.append(word, style).append(" " * (_MARK_WIDTH - len(word) + _GAP))
    value = Text(printable(row.value), row.style)
    width = max(20, console.width - lead.cell_len)
    for number, line in enumerate(value.wrap(console, width, overflow="fold") or [value]):
        line.rstrip()
        console.print((lead if number == 0 else Text(" " * lead.cell_len)) + line, soft_wrap=True)
