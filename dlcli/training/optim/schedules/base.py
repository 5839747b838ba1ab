"""How a learning rate schedule registers, and what it is computed from.

A schedule is a pure function of the step, so that resuming needs no scheduler state. Only plateau
depends on what happened: its factor so far is one of the counters of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dlcli.registry import Registry


@dataclass(frozen=True)
class SchedulePoint:
    """A step of a run: ``step`` from 0 to ``total``; ``plateau`` is the product of the drops so far.

    ``warmup`` is the share of the run in which the rate rises, ``warmup_steps`` the whole steps of it.
    """

    step: int
    total: int
    steps_per_epoch: int
    warmup: float = 0.0
    plateau: float = 1.0

    @property
    def warmup_steps(self) -> int:
        return round(self.warmup * self.total)

    @property
    def length(self) -> int:
        """Steps after the warm-up, at least 1."""
        return max(self.total - self.warmup_steps, 1)

    @property
    def past(self) -> int:
        """Steps since the warm-up, from 0 to ``length``."""
        return min(max(self.step - self.warmup_steps, 0), self.length)

    @property
    def progress(self) -> float:
        """The share of the steps after the warm-up that are past, in [0, 1]."""
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
    """Decorator: make a function the schedule that ``--scheduler NAME`` means.

    The function takes a `SchedulePoint` and keyword-only settings, and returns the share of the peak
    rate (0 to 1). A setting with the name of a field of `dlcli.config.OptimConfig` (``lr_min``) gets
    its value; any other is set by ``--set optim.args.SETTING=value``. ``name`` must be a string
    literal.

    A linear warm-up is multiplied onto it, unless ``warmup`` is given: the default share of the run
    over which the schedule itself rises. ``describe`` gives the unit and the words of the plan's line,
    by default what the rate falls to.
    """

    def add(function: Schedule) -> Schedule:
        SCHEDULES.register(name)(ScheduleEntry(function, warmup, describe))
        return function

    return add
