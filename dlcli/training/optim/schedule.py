"""The learning rate of a step, the state of plateau, and the description of a schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dlcli.config import OptimConfig
from dlcli.keyword_settings import keywords
from dlcli.training.optim.schedules.base import SCHEDULES, ScheduleEntry, SchedulePoint
from dlcli.training.optim.schedules.drops import DEFAULT_GAMMA
from dlcli.training.optim.user_schedule import is_user_schedule, schedule_entry
from dlcli.trust import short_name


def lr_factor(
    step: int,
    total: int,
    steps_per_epoch: int,
    config: OptimConfig,
    plateau: float = 1.0,
    entry: ScheduleEntry | None = None,
    *,
    head_steps: int = 0,
) -> float:
    """The share of the peak learning rate for ``step`` of ``total``, counted from 0.

    It is in [0, 1], but for the first ``head_steps``, which train the head alone: they have a schedule
    of the same kind for themselves, with the peak ``head_lr``; that of the others begins after them.

    All schedules but onecycle start with a linear warm-up over ``warmup`` of the run. Curves decay over
    the rest of it and reach ``lr_min`` at ``total``, one step after the last. ``plateau`` is the product
    of the drops of the plateau schedule so far; ``entry`` is `schedule_entry`, which runs the user's
    file where the schedule is their own.
    """
    entry = entry or schedule_entry(config)
    if step < head_steps:
        share = config.head_lr / config.peak_lr
        return share * lr_factor(step, head_steps, steps_per_epoch, config, entry=entry)
    step, total = step - head_steps, max(total - head_steps, 1)
    point = _point(step, total, steps_per_epoch, config, plateau)
    factor = entry.function(point, **keywords(entry.function, config))
    if entry.warmup is None and step < point.warmup_steps:
        return (step + 1) / (point.warmup_steps + 1) * factor
    return factor


@dataclass(frozen=True)
class Plateau:
    """The state of the plateau schedule.

    ``factor`` is the product of its drops, ``stale`` the number of epochs without improvement,
    ``cooldown`` that of the epochs that will not count.
    """

    factor: float = 1.0
    best: float | None = None
    stale: int = 0
    cooldown: int = 0

    def after(
        self,
        value: float,
        *,
        direction: int,
        config: OptimConfig,
        min_delta: float,
        counts: bool = True,
    ) -> Plateau:
        """The state after an epoch with the metric ``value``; ``direction`` is 1 if higher is better.

        As torch's ReduceLROnPlateau: the rate drops after more than ``plateau_patience`` epochs without
        an improvement of more than ``min_delta`` and the share ``plateau_threshold`` of the best value,
        and the count is reset; the next ``plateau_cooldown`` epochs do not count. NaN is never an
        improvement. Without ``counts``, in the warm-up, no drop is nearer after it.
        """
        best = -math.inf if self.best is None else self.best * direction
        least = 0.0 if self.best is None else config.plateau_threshold * abs(self.best)
        cooldown = max(self.cooldown - 1, 0)
        if value * direction > best + max(min_delta, least):
            return replace(self, best=value, stale=0, cooldown=cooldown)
        if not counts or self.cooldown:
            return replace(self, cooldown=cooldown)
        if self.stale < config.plateau_patience:
            return replace(self, stale=self.stale + 1)
        factor = max(self.factor * (config.gamma or DEFAULT_GAMMA), config.lr_min)
        return replace(self, factor=factor, stale=0, cooldown=config.plateau_cooldown)


def describe(config: OptimConfig, total: int, steps_per_epoch: int, *, head_steps: int = 0) -> str:
    """Describe the schedule in one line: per step or per epoch, and its range."""
    if head_steps:
        rest = describe(config, max(total - head_steps, 1), steps_per_epoch)
        return f"{rest}; the {head_steps:,} steps of the head alone have one of their own"
    entry = schedule_entry(config)
    end = _point(total, total, steps_per_epoch, config)
    if entry.describe is not None:
        unit, text = entry.describe(end, **keywords(entry.describe, config))
    else:
        lowest = entry.function(end, **keywords(entry.function, config))
        unit, text = "per step", f"down to {100 * lowest:g} % of the peak"
    steps = end.warmup_steps
    warmup = f"warm-up over {steps:,} of {total:,} steps, " if steps else ""
    return f"{short_name(config.scheduler)}, {unit}: {warmup}{text}"


def steps_without_patience(total: int, config: OptimConfig, *, head_steps: int = 0) -> int:
    """The steps of the head alone at the start of a run of ``total``, and the warm-up after them."""
    return head_steps + _point(0, max(total - head_steps, 1), 1, config).warmup_steps


def _point(
    step: int, total: int, steps_per_epoch: int, config: OptimConfig, plateau: float = 1.0
) -> SchedulePoint:
    rise = None if is_user_schedule(config) else SCHEDULES.get(config.scheduler).warmup
    default = rise or 0.0
    warmup = default if config.warmup is None else config.warmup
    return SchedulePoint(step, total, steps_per_epoch, warmup, plateau)
