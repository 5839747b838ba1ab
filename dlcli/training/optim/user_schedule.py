"""Schedules of the user's own code, ``--scheduler sched.py:fn``, or of a package (``dlcli.schedules``).

A function of the share of the run that is done, from 0 at the first step to nearly 1 at the last, which
returns the factor of the peak rate; it is called before each step, with those of ``optim.args`` that it
takes::

    def root(share, power=0.5):
        return (1 - share) ** power

``--warmup`` multiplies it by a linear rise, as the registered schedules. The factor depends on nothing
else, so that resuming needs no state.
"""

from __future__ import annotations

import math
from numbers import Real

from dlcli.call_arguments import check_arguments, taken_by
from dlcli.config import OptimConfig
from dlcli.errors import DlcliError
from dlcli.training.optim.schedules.base import SCHEDULES, ScheduleEntry, SchedulePoint
from dlcli.trust import SCHEDULES_GROUP, names_code
from dlcli.user_code import UserObject, load_object

_PASSED = ("share",)
_CHECKED = 100  # equidistant shares of the run


def is_user_schedule(config: OptimConfig) -> bool:
    """Whether the settings name a schedule of the user's own code."""
    name = config.scheduler
    # Entry points are looked up last: that reads the metadata of all packages.
    return SCHEDULES.find(name) is None and names_code(name, SCHEDULES_GROUP)


def schedule_entry(config: OptimConfig) -> ScheduleEntry:
    """The registered schedule of the settings, or that of the user's own code.

    Raises: UsageError, DlcliError from the user's code.
    """
    if not is_user_schedule(config):
        return SCHEDULES.get(config.scheduler)
    code = load_schedule(config)
    args = taken_by(code.value, config.args, _PASSED)

    def factor(point: SchedulePoint) -> float:
        share = point.step / point.total
        with code.errors(f"the schedule {code.label} failed at {share:.4g} of the run"):
            value = code.value(share, **args)
        return _checked(value, share, code)

    def describe(end: SchedulePoint) -> tuple[str, str]:
        first = factor(SchedulePoint(0, end.total, end.steps_per_epoch))
        return "per step", f"from {100 * first:.4g} % to {100 * factor(end):.4g} % of the peak"

    code.works()
    return ScheduleEntry(factor, describe=describe)


def check_schedule(config: OptimConfig) -> None:
    """Call the user's schedule for shares from 0 to 1. Raises: UsageError, DlcliError."""
    entry = schedule_entry(config)
    for step in range(_CHECKED + 1):
        entry.function(SchedulePoint(step, _CHECKED, 1))


def load_schedule(config: OptimConfig) -> UserObject:
    """The function. Raises: UsageError where it takes no share; DlcliError from the user's code."""
    code = load_object(config.scheduler, SCHEDULES_GROUP, config.args, word="function")
    args = taken_by(code.value, config.args, _PASSED)
    check_arguments(code.label, code.value, "optim.args", args, _PASSED)
    return code


def _checked(value: object, share: float, code: UserObject) -> float:
    """Raises: DlcliError where a factor is no number, not finite or negative."""
    number = float(value) if isinstance(value, Real) or hasattr(value, "__float__") else math.nan
    if not (math.isfinite(number) and number >= 0):
        raise DlcliError(
            f"the schedule {code.label} gave {value!r:.40} at {share:.4g} of the run",
            hint="return the factor of the peak learning rate, a number from 0 on",
        )
    return number
