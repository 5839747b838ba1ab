"""The registry of learning rate schedules, and the arguments of a schedule.

A schedule is a pure function of the step, so resuming needs no scheduler state. Only plateau depends on
earlier metrics: its factor is part of the progress of a run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dlcli.registry import Registry


@dataclass(frozen=True)
class SchedulePoint:
    """A step of a run: ``step`` from 0 to ``total``; ``plateau`` is the product of the drops so far.

    ``warmup`` is the share of the run in which the rate rises.
    """

    step: int
    total: int
    steps_per_epoch: int
    warmup: float = 0.0
    plateau: float = 1.0

    @property
    def warmup_steps(self) -> int:
        """The number of warm-up steps."""
        return round(self.warmup * self.total)

    @property
    def length(self) -> int:
        """The number of steps after the warm-up, at least 1."""
        return max(self.total - self.warmup_steps, 1)

    @property
    def past(self) -> int:
        """Steps since the warm-up, from 0 to ``length``."""
        return min(max(self.step - self.warmup_steps, 0), self.length)

    @property
    def progress(self) -> float:
        """The position between the end of the warm-up and the end of the run, in [0, 1]."""
        return self.past / self.length


# (point, *, settings) -> the share of the peak rate
Schedule = Callable[..., float]
# (point at the end, *, settings) -> "per step" or "per epoch", and a description
Description = Callable[..., tuple[str, str]]


@dataclass(frozen=True)
class ScheduleEntry:
    """A registered schedule; see `register_schedule`."""

    function: Schedule
    warmup: float | None = None
    describe: Description | None = None

    @property
    def functions(self) -> tuple[Callable[..., object], ...]:
        """The functions whose keyword-only parameters are the settings of the schedule."""
        return (self.function,) if self.describe is None else (self.function, self.describe)


SCHEDULES: Registry[ScheduleEntry] = Registry("schedule", "dlcli.training.optim.schedules")


def register_schedule(
    name: str, *, warmup: float | None = None, describe: Description | None = None
) -> Callable[[Schedule], Schedule]:
    """Decorator: register a function as ``--scheduler NAME``.

    The function takes a `SchedulePoint` and keyword-only settings, and returns the share of the peak
    rate (0 to 1). A setting with the name of a field of `dlcli.config.OptimConfig` (``lr_min``) gets
    its value; any other is set by ``--set optim.args.SETTING=value``. ``name`` must be a string
    literal.

    The share is multiplied by a linear warm-up, unless ``warmup`` is given: the default share of the run
    over which the schedule itself rises. ``describe`` returns the unit and the description for the
    summary of a run; by default the final rate.
    """

    def add(function: Schedule) -> Schedule:
        SCHEDULES.register(name)(ScheduleEntry(function, warmup, describe))
        return function

    return add
