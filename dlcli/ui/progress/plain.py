"""Progress for files and pipes: aligned lines that begin with a word to grep for, never redrawn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dlcli import wording
from dlcli.events import (
    EpochDone,
    EvalProgress,
    Event,
    Noted,
    Profiled,
    RunFinished,
    RunStarted,
    StepDone,
    Warned,
)
from dlcli.ui.console import on_terminal
from dlcli.ui.progress.lines import (
    GAP,
    Cell,
    epoch_cells,
    finished,
    fit,
    plan,
    profile_lines,
    step_cells,
    time_spent,
)

if TYPE_CHECKING:
    from rich.console import Console

EVERY_S = 15.0


def warn(console: Console, event: Warned) -> None:
    """Print a warning: wrapped on a terminal, else one line, so that tools can grep it."""
    line = f"warning: {wording.one_line(event.message)}"
    console.print(line, style="yellow", soft_wrap=not on_terminal(console))


def note(console: Console, event: Noted) -> None:
    """Print a note, in the same way."""
    console.print(f"note: {wording.one_line(event.message)}", soft_wrap=not on_terminal(console))


def message(console: Console, event: Event) -> bool:
    """Print an event that is words for people: a warning, a note, a profile; False for another one."""
    if isinstance(event, Warned):
        warn(console, event)
    elif isinstance(event, Noted):
        note(console, event)
    elif isinstance(event, Profiled):
        for line in profile_lines(event, console.width):
            console.print(line, soft_wrap=True)
    else:
        return False
    return True


class WarningsOnly:
    """The sink of ``--quiet`` and ``--json``."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, event: Event) -> None:
        if isinstance(event, Warned):
            warn(self._console, event)


class PlainLines:
    """One line per epoch, and one every ``every_s`` seconds within a long epoch or evaluation."""

    def __init__(
        self,
        console: Console,
        *,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._every_s = every_s
        self._clock = clock
        self._printed_at = clock()

    def __call__(self, event: Event) -> None:
        if message(self._console, event):
            return
        if isinstance(event, RunStarted):
            self._plan(event)
        elif isinstance(event, StepDone):
            if self._due():
                self._cells(step_cells(event))
        elif isinstance(event, EvalProgress):
            if self._due():
                what = "eval " if event.unit == "samples" else ""
                self._print(
                    f"{what}{wording.printable(event.split)}  {event.done}/{event.total} {event.unit}",
                    None,
                )
        elif isinstance(event, EpochDone):
            self._cells(epoch_cells(event), style="bold" if event.improved else None)
        elif isinstance(event, RunFinished):
            for line in (finished(event), *time_spent(event)):
                self._print(line, None)

    def _due(self) -> bool:
        return self._clock() - self._printed_at >= self._every_s

    def _plan(self, event: RunStarted) -> None:
        self._print(f"{'run':<10}{wording.printable(event.run)}", "bold")
        for word, value in plan(event):
            self._print(f"{word:<10}{value}", None)

    def _cells(self, cells: Sequence[Cell], style: str | None = None) -> None:
        # The width is that of the terminal or COLUMNS; a pipe has PIPED_WIDTH.
        shown = fit(cells, self._console.width, lambda cell: len(_named(cell)))
        self._print(GAP.join(_named(cell) for cell in shown).rstrip(), style)

    def _print(self, line: str, style: str | None) -> None:
        self._console.print(line, style=style, soft_wrap=True)
        self._printed_at = self._clock()


def _named(cell: Cell) -> str:
    value = cell.text.rjust(cell.width)
    return f"{cell.name} {value}" if cell.name else value
