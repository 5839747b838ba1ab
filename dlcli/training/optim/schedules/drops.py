"""Schedules that multiply the rate by ``gamma`` at certain steps; the product is at least ``lr_min``."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dlcli.training.optim.schedules.base import SchedulePoint, register_schedule

DEFAULT_GAMMA = 0.1


def describe_step(
    end: SchedulePoint, *, gamma: float | None, lr_min: float, decay_every: float
) -> tuple[str, str]:
    """Describe how often the rate drops."""
    every = decay_every
    when = f"every {every:g} epochs" if every >= 1 else f"every {_share_steps(every, end):,} steps"
    when = when.replace("every 1 epochs", "every epoch").replace("every 1 steps", "every step")
    return _describe_drops(when, (every,), _step_drops(end.total - 1, end, every), gamma, lr_min)


@register_schedule("step", describe=describe_step)
def step(point: SchedulePoint, *, gamma: float | None, lr_min: float, decay_every: float) -> float:
    """Step decay: a drop every ``decay_every``, a share of the run (below 1) or a number of epochs.

    Shares are rounded to whole steps. Drops are counted from the start of the run, but not applied
    during the warm-up.
    """
    started = point.step >= point.warmup_steps
    return _dropped(_step_drops(point.step, point, decay_every) if started else 0, gamma, lr_min)


def describe_multistep(
    end: SchedulePoint, *, gamma: float | None, lr_min: float, milestones: tuple[float, ...]
) -> tuple[str, str]:
    """Describe the steps or epochs at which the rate drops."""
    names = [f"epoch {m:g}" if m >= 1 else f"step {_share_steps(m, end):,}" for m in sorted(milestones)]
    when = f"after {' and '.join(names)}"
    drops = _multistep_drops(end.total - 1, end, milestones)
    return _describe_drops(when, milestones, drops, gamma, lr_min)


@register_schedule("multistep", describe=describe_multistep)
def multistep(
    point: SchedulePoint, *, gamma: float | None, lr_min: float, milestones: tuple[float, ...]
) -> float:
    """A drop at each of ``milestones``, which are shares or epochs as in `step`."""
    started = point.step >= point.warmup_steps
    return _dropped(_multistep_drops(point.step, point, milestones) if started else 0, gamma, lr_min)


def describe_plateau(
    end: SchedulePoint,
    *,
    gamma: float | None,
    lr_min: float,
    plateau_patience: int,
    plateau_cooldown: int,
    plateau_threshold: float,
) -> tuple[str, str]:
    """Describe after how many epochs without improvement the rate drops."""
    epochs = plateau_patience + 1
    when = "after each epoch" if epochs == 1 else f"after {epochs} epochs in a row"
    better = f" by {100 * plateau_threshold:g} %" if plateau_threshold else ""
    text = f"times {gamma or DEFAULT_GAMMA:g} {when} without a better metric{better}"
    if plateau_cooldown:
        text += f", then {plateau_cooldown} that do not count"
    return "per epoch", text + _floor(lr_min)


@register_schedule("plateau", describe=describe_plateau)
def plateau(point: SchedulePoint, *, lr_min: float) -> float:
    """The product of the drops so far (`dlcli.training.optim.schedule.Plateau`)."""
    return max(point.plateau, lr_min)


def _dropped(drops: int, gamma: float | None, lr_min: float) -> float:
    return max(math.pow(gamma or DEFAULT_GAMMA, drops), lr_min)


def _describe_drops(
    when: str, points: Sequence[float], drops: int, gamma: float | None, lr_min: float
) -> tuple[str, str]:
    """The unit and the description; ``drops`` is the number in the whole run."""
    unit = "per epoch" if all(value >= 1 for value in points) else "per step"
    never = "" if drops else ", which is never in this run"
    return unit, f"times {gamma or DEFAULT_GAMMA:g} {when}{never}{_floor(lr_min)}"


def _floor(lr_min: float) -> str:
    return f", not below {100 * lr_min:g} % of the peak" if lr_min else ""


def _step_drops(step: int, point: SchedulePoint, every: float) -> int:
    return step // _steps(every, point)


def _multistep_drops(step: int, point: SchedulePoint, milestones: Sequence[float]) -> int:
    return sum(_steps(value, point) <= step for value in milestones)


def _steps(value: float, point: SchedulePoint) -> int:
    """Convert a share of the run, or a number of epochs, to steps."""
    return round(value) * point.steps_per_epoch if value >= 1 else _share_steps(value, point)


def _share_steps(value: float, point: SchedulePoint) -> int:
    """Convert a share of the run to steps, at least one."""
    return max(1, round(value * point.total))
