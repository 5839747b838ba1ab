"""Schedules that change the rate at every step, from the peak after the warm-up down to ``lr_min``."""

from __future__ import annotations

import bisect
import itertools
import math

from dlcli.training.optim.schedules.base import SchedulePoint, register_schedule

_EXPONENTIAL_END = 0.01  # default gamma of exponential
_DIV_FACTOR, _FINAL_DIV_FACTOR = 25.0, 1e4  # of torch's OneCycleLR


@register_schedule("constant", describe=lambda end: ("per step", "the peak rate"))
def constant(point: SchedulePoint) -> float:
    """The peak rate."""
    return 1.0


@register_schedule("linear")
def linear(point: SchedulePoint, *, lr_min: float) -> float:
    """Linear decay to ``lr_min``."""
    return _above(lr_min, 1 - point.progress)


@register_schedule("polynomial")
def polynomial(point: SchedulePoint, *, lr_min: float, power: float) -> float:
    """Polynomial decay to ``lr_min``: the share of steps that remain, to the power of ``power``."""
    return _above(lr_min, math.pow(1 - point.progress, power))


@register_schedule("exponential")
def exponential(point: SchedulePoint, *, lr_min: float, gamma: float | None) -> float:
    """Exponential decay by ``gamma`` over the run, not below ``lr_min``."""
    return max(math.pow(gamma or _EXPONENTIAL_END, point.progress), lr_min)


@register_schedule("cosine")
def cosine(point: SchedulePoint, *, lr_min: float) -> float:
    """Cosine decay to ``lr_min``."""
    return _above(lr_min, _half_cosine(point.past, point.length))


def describe_restarts(
    end: SchedulePoint, *, lr_min: float, cycles: int, cycle_growth: float
) -> tuple[str, str]:
    """Describe the number of cycles and their lengths."""
    bounds = _cycle_bounds(end.length, cycles, cycle_growth)
    lengths = ", ".join(f"{b - a:,}" for a, b in itertools.pairwise(bounds))
    floor = f"{100 * lr_min:g} %"
    return "per step", f"{len(bounds) - 1} times from the peak down to {floor} of it, in {lengths} steps"


@register_schedule("cosine-restarts", describe=describe_restarts)
def cosine_restarts(point: SchedulePoint, *, lr_min: float, cycles: int, cycle_growth: float) -> float:
    """Cosine decay with warm restarts; each cycle is ``cycle_growth`` times as long as the one before.

    Loshchilov and Hutter, arXiv:1608.03983. Cycles are rounded to whole steps.
    """
    bounds = _cycle_bounds(point.length, cycles, cycle_growth)
    after = min(bisect.bisect_right(bounds, point.past), len(bounds) - 1)
    begin, end = bounds[after - 1], bounds[after]
    return _above(lr_min, _half_cosine(point.past - begin, end - begin))


@register_schedule("onecycle", warmup=0.3)
def onecycle(point: SchedulePoint, *, lr_min: float) -> float:
    """Cosine rise from 1/25 of the peak, then cosine decay to 4e-6 of it (or to ``lr_min`` if not 0).

    Smith and Topin, arXiv:1708.07120; equal to torch's OneCycleLR without momentum cycling.
    """
    top = point.warmup * point.total - 1
    if point.total == 1:
        return 1.0
    if point.step <= top:
        return _cosine(1 / _DIV_FACTOR, 1.0, point.step / top) if top > 0 else 1.0
    low = lr_min or 1 / (_DIV_FACTOR * _FINAL_DIV_FACTOR)
    return _cosine(1.0, low, (point.step - top) / (point.total - 1 - top))


def _above(low: float, share: float) -> float:
    return low + (1 - low) * share


def _half_cosine(past: int, length: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * past / length))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(share, 1.0)))


def _cycle_bounds(length: int, cycles: int, growth: float) -> list[int]:
    """The first step of each cycle and the end of the last one, from 0 to ``length``.

    Cycles without steps are omitted.
    """
    # Geometric sums, divided by the largest power to avoid overflow.
    sums = list(itertools.accumulate((growth ** (i - cycles) for i in range(cycles)), initial=0.0))
    return sorted({round(length * (part / sums[-1])) for part in sums})
