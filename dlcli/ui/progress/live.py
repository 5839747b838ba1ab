"""Progress on a terminal: finished epochs scroll up, above two progress bars.

The width is read at every refresh, so a resized window is right again at the next one. The bars are
drawn by rich's thread at `REFRESH_HZ` from immutable events: assigning one is atomic, so training
needs no lock.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlcli import wording
from dlcli.events import (
    CheckpointSaved,
    EpochDone,
    EvalProgress,
    Event,
    RunFinished,
    RunStarted,
    StepDone,
)
from dlcli.ui import text
from dlcli.ui.progress.lines import (
    GAP,
    Cell,
    epoch_cells,
    finished,
    fit,
    plan,
    time_spent,
)
from dlcli.ui.progress.plain import message

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table

REFRESH_HZ = 4
INDENT = " "
CLOCKED_WIDTH = 60  # of the screen; narrower ones show no times, to leave room for the bars
CLOCK_WIDTH = 16  # so that the bars do not change width with the digits of "12m34s, 1h02m left"


@dataclass(frozen=True)
class _At:
    """An event and its time of arrival, so that the times advance between events."""

    event: StepDone
    at: float


class LiveView:
    """The sink of a terminal. `close` must be called: it restores the terminal."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._live: Live | None = None
        self._run: RunStarted | None = None
        self._step: _At | None = None
        self._eval: EvalProgress | None = None
        self._eval_began = _EvalBegan("", 0, 0.0)
        self._saved_step: int | None = None
        self._heads: list[str] = []

    def __call__(self, event: Event) -> None:
        if message(self._console, event):
            return
        if isinstance(event, RunStarted):
            self._run, self._step, self._eval = event, None, None
            self._console.print(_panel(event))
            self._open()
        elif isinstance(event, StepDone):
            self._step, self._eval = _At(event, self._clock()), None
            self._open()
        elif isinstance(event, EvalProgress):
            self._evaluated(event)
            self._open()
        elif isinstance(event, EpochDone):
            self._eval = None
            self._print_epoch(event)
        elif isinstance(event, CheckpointSaved):
            if event.what == "state":
                self._saved_step = event.step
        elif isinstance(event, RunFinished):
            self.close()
            self._run = self._step = None
            self._console.print(INDENT + finished(event), style="bold")
            for line in time_spent(event):
                self._console.print(INDENT + line)

    def close(self) -> None:
        """Remove the bars and show the cursor again; a later event reopens them."""
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def __rich__(self) -> RenderableType:
        from rich.console import Group

        rows: list[RenderableType] = []
        step, evaluated = self._step, self._eval
        if self._run is not None:
            rows.append(self._bars(self._run, step, evaluated))
            if step is not None:
                rows.append(self._figures(step.event))
        elif evaluated is not None:
            bars = _grid(self._console.width)
            self._eval_bar(bars, evaluated)
            rows.append(bars)
        return Group(*rows)

    def _open(self) -> None:
        if self._live is None:
            from rich.live import Live

            self._live = Live(
                self,
                console=self._console,
                refresh_per_second=REFRESH_HZ,
                transient=True,
                # Results in a pipe must stay there: rich would redirect them to this console.
                redirect_stdout=sys.stdout.isatty(),
            )
            self._live.start()

    def _evaluated(self, event: EvalProgress) -> None:
        before = self._eval
        if before is None or before.split != event.split or event.done < before.done:
            self._eval_began = _EvalBegan(event.split, event.done, self._clock())
        self._eval = event

    def _bars(self, run: RunStarted, step: _At | None, evaluated: EvalProgress | None) -> Table:
        bars = _grid(self._console.width)
        if step is None:
            _bar(bars, "run", run.resumed_step, run.total_steps, "starting")
        else:
            gone = self._clock() - step.at
            left = text.duration(max(step.event.eta_s - gone, 0.0))
            clock = f"{text.duration(step.event.elapsed_s + gone)}, {left} left"
            _bar(bars, "run", step.event.step, step.event.total_steps, clock)
        if evaluated is not None:
            self._eval_bar(bars, evaluated)
        elif step is not None:
            event = step.event
            label = f"epoch {event.epoch}/{event.epochs}"
            _bar(bars, label, event.step_in_epoch, event.steps_per_epoch, "")
        return bars

    def _eval_bar(self, bars: Table, event: EvalProgress) -> None:
        began = self._eval_began
        seconds = self._clock() - began.at
        clock = ""
        if seconds > 0.5 and event.done > began.done:
            speed = (event.done - began.done) / seconds
            clock = f"{text.rate(speed)}/s, {text.duration((event.total - event.done) / speed)} left"
        what = "eval " if event.unit == "samples" else ""
        _bar(bars, f"{what}{wording.printable(event.split)}", event.done, event.total, clock)

    def _figures(self, event: StepDone) -> RenderableType:
        from rich.text import Text

        cells = [
            Cell("loss", text.figure(event.loss), 0, rank=0),
            Cell("lr", f"{event.lr:.2e}", 0, rank=2),
            Cell("samples/s", text.rate(event.samples_per_s), 0, rank=1),
        ]
        if event.accuracy is not None:
            cells.insert(1, Cell("acc", text.figure(event.accuracy), 0, rank=0))
        if event.memory_mib is not None:
            cells.append(Cell("memory", wording.memory(event.memory_mib), 0, rank=3))
        if self._saved_step is not None:
            cells.append(Cell("saved at step", wording.count(self._saved_step), 0, rank=4))
        line = Text(INDENT, no_wrap=True, overflow="crop")
        for cell in fit(
            cells, self._console.width - len(INDENT), lambda c: len(c.name) + 1 + len(c.text)
        ):
            line.append(f"{cell.name} ", style="dim").append(cell.text).append(GAP)
        return line

    def _print_epoch(self, event: EpochDone) -> None:
        """Print a line of the table of epochs, with its header when the columns change."""
        from rich.text import Text

        room = self._console.width - len(INDENT)
        cells = fit(epoch_cells(event), room, _column)
        heads = [cell.name for cell in cells]
        if heads != self._heads:
            self._heads = heads
            self._console.print(INDENT + _aligned(cells, heads), style="dim", soft_wrap=True)
        line = Text(INDENT + _aligned(cells, [cell.text for cell in cells]), no_wrap=True)
        line.stylize("bold green" if event.improved else "default")
        self._console.print(line, soft_wrap=True)


@dataclass(frozen=True)
class _EvalBegan:
    split: str
    done: int
    at: float


def _column(cell: Cell) -> int:
    return max(cell.width, len(cell.name), len(cell.text))


def _aligned(cells: Sequence[Cell], words: Sequence[str]) -> str:
    pairs = zip(cells, words, strict=True)
    return GAP.join(word.rjust(_column(cell)) for cell, word in pairs).rstrip()


def _panel(event: RunStarted) -> RenderableType:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for word, value in plan(event):
        grid.add_row(word, value)
    title = Text(wording.printable(event.run), style="bold")
    return Panel(grid, title=title, title_align="left", border_style="dim", expand=False)


def _grid(width: int) -> Table:
    """Return a table of label, bar, position, percentage, time; the bar takes the remaining width."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1, min_width=6)
    grid.add_column(no_wrap=True, justify="right")
    grid.add_column(no_wrap=True, justify="right")
    if width >= CLOCKED_WIDTH:
        grid.add_column(no_wrap=True, min_width=CLOCK_WIDTH)
    return grid


def _bar(grid: Table, label: str, done: int, total: int, clock: str) -> None:
    from rich.progress_bar import ProgressBar

    total = max(total, 1)
    cells: list[RenderableType] = [
        INDENT + label,
        ProgressBar(
            total=total, completed=min(done, total), complete_style="cyan", finished_style="green"
        ),
        f"{wording.count(done)}/{wording.count(total)}",
        f"{100 * done // total}%",
        clock,
    ]
    grid.add_row(*cells[: len(grid.columns)])
