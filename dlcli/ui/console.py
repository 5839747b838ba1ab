"""The two streams, as rich consoles: results on stdout, progress and messages on stderr.

Nothing is parsed in what is printed: markup, emoji codes and automatic highlighting are off, so that a
class called ``[red]x[/]`` is printed as it is. Colours come from styles alone. Names come from files of
other people: whatever in a text would reach the terminal as a control character is escaped here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from dlcli.wording import printable_lines

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

# The width in files and pipes: wide enough for tables, and still readable on a wide screen.
PIPED_WIDTH = 140


def stdout() -> Console:
    """The console for results."""
    return _console(False, **_environment(sys.stdout.isatty()))


def stderr() -> Console:
    """The console for progress and messages; always the same one while a live view is open."""
    return _console(True, **_environment(sys.stderr.isatty()))


def on_terminal(console: Console) -> bool:
    """Return whether the console can redraw lines: a terminal, and not a dumb one.

    FORCE_COLOR asks for colours in a pipe, not for redrawing.
    """
    return console.file.isatty() and not console.is_dumb_terminal


def _environment(is_terminal: bool) -> dict[str, str | bool]:
    env = os.environ.get
    return {
        "is_terminal": is_terminal,
        "columns": env("COLUMNS", ""),
        "no_color": bool(env("NO_COLOR")),
        "hints": "\0".join(env(name, "") for name in ("FORCE_COLOR", "TERM", "COLORTERM")),
    }


@cache
def _console(err: bool, *, is_terminal: bool, columns: str, no_color: bool, hints: str) -> Console:
    """Return the console of a stream and environment; rich looks up ``sys.stdout`` at every print.

    ``hints`` is only a part of the key: rich reads those variables itself.
    """
    from rich.console import Console

    class EscapingConsole(Console):
        """A console whose texts hold no control characters: those are of its own segments alone."""

        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            """Yield the segments, their texts escaped."""
            for segment in super().render(renderable, options):
                is_plain = segment.control or segment.text.isprintable()
                yield segment if is_plain else segment._replace(text=printable_lines(segment.text))

    width = int(columns) if columns.isdigit() and int(columns) > 0 else None
    return EscapingConsole(
        stderr=err,
        width=width if is_terminal else width or PIPED_WIDTH,
        # rich keeps bold and dim under NO_COLOR; here the variable means plain text.
        color_system=None if no_color else "auto",
        markup=False,
        emoji=False,
        highlight=False,
    )
