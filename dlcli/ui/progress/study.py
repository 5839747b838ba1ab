"""The progress of a study on stderr: a line for every trial that ended, and a bar on a terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dlcli import wording
from dlcli.events import EpochDone, Event, Warned
from dlcli.tune.study import Study
from dlcli.ui import console as consoles
from dlcli.ui import text
from dlcli.ui.progress.plain import warn

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from dlcli.tune.trials import Trial

_ENDED = ("finished", "pruned", "failed")


class StudyView:
    """What every view does: warnings, each once, and nothing else under ``--quiet`` and ``--json``."""

    def __init__(self, study: Study, console: Console) -> None:
        self.study = study
        self._console = console
        self._warnings: set[str] = set()

    def event(self, event: Event) -> None:
        """Show an event of the trial that is trained in this process."""
        if isinstance(event, Warned) and event.message not in self._warnings:
            self._warnings.add(event.message)
            warn(self._console, event)

    def update(self, trials: Sequence[Trial]) -> None:
        """Show the trials as they are now."""

    def close(self) -> None:
        """Restore the terminal."""


class StudyLines(StudyView):
    """For files and pipes: a line for each trial that ended."""

    def __init__(self, study: Study, console: Console) -> None:
        super().__init__(study, console)
        self._shown: set[int] = set()

    def update(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            if trial.status in _ENDED and trial.number not in self._shown:
                self._shown.add(trial.number)
                best = best_number(self.study, trials)
                style = "bold green" if trial.number == best else "default"
                self._console.print(trial_line(self.study, trial), style=style, soft_wrap=True)


class StudyLive(StudyLines):
    """For a terminal: below the lines, a bar of all trials and the trial that is trained."""

    def __init__(self, study: Study, console: Console) -> None:
        super().__init__(study, console)
        self._trials: Sequence[Trial] = ()
        self._epoch: EpochDone | None = None
        self._began, self._ended_before = time.monotonic(), -1
        self._live: Live | None = None

    def event(self, event: Event) -> None:
        super().event(event)
        if isinstance(event, EpochDone):
            self._epoch = event

    def update(self, trials: Sequence[Trial]) -> None:
        from rich.live import Live

        if self._ended_before < 0:
            self._ended_before = _ended(trials)
        if _ended(trials) != _ended(self._trials):
            self._epoch = None
        self._trials = trials
        if self._live is None:
            self._live = Live(self, console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        super().update(trials)

    def close(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        ended, total = _ended(self._trials), self.study.trials
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1, min_width=6)
        grid.add_column(no_wrap=True, justify="right")
        grid.add_row(
            " trials", ProgressBar(total=total, completed=ended), f"{ended}/{total}{self._left()}"
        )
        monitor = self.study.monitor
        running = [trial for trial in self._trials if trial.status == "running"]
        cells = [f"{trial.name}  {settings_text(trial)}" for trial in running]
        epoch = self._epoch
        if epoch is not None and len(running) == 1:
            value = text.figure(epoch.val.get(monitor, math.nan))
            cells.append(f"epoch {epoch.epoch}/{epoch.epochs}, {monitor} {value}")
        best = best_number(self.study, self._trials)
        if best is not None:
            trial = self._trials[best]
            cells.append(f"best so far: {trial.name}, {monitor} {text.figure(trial.value)}")
        lines = [
            Text(f" {wording.printable(cell)}", no_wrap=True, overflow="ellipsis") for cell in cells
        ]
        return Group(grid, *lines)

    def _left(self) -> str:
        done = _ended(self._trials) - max(self._ended_before, 0)
        if not done:
            return ""
        seconds = time.monotonic() - self._began
        left = seconds / done * (self.study.trials - _ended(self._trials))
        return f", {text.duration(left)} left"


@contextmanager
def study_view(study: Study, quiet: bool, as_json: bool) -> Iterator[StudyView]:
    """Yield the view of a study; the terminal is restored however the block ends."""
    console = consoles.stderr()
    lines = StudyLive if consoles.on_terminal(console) else StudyLines
    kind = StudyView if quiet or as_json else lines
    view = kind(study, console)
    try:
        yield view
    finally:
        view.close()


def trial_line(study: Study, trial: Trial) -> str:
    """Return a trial in one line: ``trial-003  accuracy 0.9720  12s  optim.lr 0.002``."""
    parts = [trial.name]
    if trial.status == "failed":
        return "  ".join([*parts, f"failed: {wording.one_line(trial.reason)}", settings_text(trial)])
    parts.append(f"{study.monitor} {text.figure(trial.value)}")
    if study.second:
        parts.append(f"{study.second} {second_text(study.second, trial.second)}")
    if trial.status == "pruned":
        parts.append(
            f"pruned after fold {trial.folds}" if trial.folds else f"pruned after epoch {trial.epochs}"
        )
    parts.append(text.duration(trial.seconds))
    return wording.printable("  ".join([*parts, settings_text(trial)]))


def second_text(name: str, value: float) -> str:
    """Return a second objective with its unit."""
    if math.isnan(value):
        return "-"
    if name == "latency":
        return f"{value:.3g} ms"
    return wording.size(int(value)) if name == "size" else f"{value:.4g}"


def settings_text(trial: Trial) -> str:
    """Return the searched settings of a trial."""
    values = "  ".join(f"{key} {value_text(value)}" for key, value in trial.settings.items())
    return f"the default settings ({values})" if trial.default else values


def value_text(value: object) -> str:
    """Return a setting's value, numbers to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def best_number(study: Study, trials: Sequence[Trial]) -> int | None:
    """Return the number of the best trial that has finished."""
    finished = [trial for trial in trials if trial.status == "finished"]
    if not finished:
        return None
    return max(finished, key=lambda trial: (study.direction * trial.value, -trial.number)).number


def _ended(trials: Sequence[Trial]) -> int:
    return sum(trial.status in _ENDED for trial in trials)
