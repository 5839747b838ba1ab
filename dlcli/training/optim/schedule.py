"""Learning rates as pure functions of the step, so that resuming needs no scheduler state.

`lr_factor(step)` multiplies the peak rate for optimizer step ``step`` (counted from 0). Only plateau
depends on what happened: its drops so far are a number among the counters of the run (`Plateau`).
"""

from __future__ import annotations

import bisect
import itertools
import math
from dataclasses import dataclass, replace

from dlcli.config import OptimConfig

_DIV_FACTOR, _FINAL_DIV_FACTOR = 25.0, 1e4  # torch's OneCycleLR
_ONECYCLE_RISE = 0.3
_DROP = 0.1  # default gamma of step, multistep and plateau
_EXPONENTIAL_END = 0.01  # default gamma of exponential


def lr_factor(
    step: int, total: int, steps_per_epoch: int, config: OptimConfig, plateau: float = 1.0
) -> float:
    """The share of the peak rate, in [0, 1], for ``step`` of ``total``.

    All but onecycle start with a linear rise over ``warmup`` of the run. Curves fall over what is left
    of it and are at ``lr_min`` at its end, one step behind the last. Places of drops are counted from
    the run's start, but none happens in the rise; their product is ``lr_min`` at least.

    - onecycle: cosine rise from 1/25 over the first 30 % (or ``warmup``, when it is given and not 0),
      cosine fall to 4e-6 (or ``lr_min``, when it is not 0) at the last step (Smith and Topin,
      arXiv:1708.07120; equal to torch's OneCycleLR without momentum cycling).
    - cosine: half a cosine. cosine-restarts: ``cycles`` of them in whole steps, each ``cycle_growth``
      times as long as the one before (Loshchilov and Hutter, arXiv:1608.03983).
    - linear, polynomial: the share of the steps that is left; its ``power``.
    - exponential: the same ratio each step, ``gamma`` in all, and never below ``lr_min``.
    - step, multistep: times ``gamma`` every ``decay_every``, or at each of ``milestones``; below 1 they
      are shares of the run, rounded to steps, from 1 on they are whole epochs.
    - plateau: ``plateau``, the product of the drops so far.
    - constant: 1.
    """
    if config.scheduler == "onecycle":
        return _onecycle(step, total, config)
    rise = _rise(total, config)
    warm = (step + 1) / (rise + 1) if step < rise else 1.0
    length = max(total - rise, 1)
    past = min(max(step - rise, 0), length)
    if config.scheduler == "plateau":
        return warm * max(plateau, config.lr_min)
    if config.scheduler in ("step", "multistep"):
        drops = _drops(step, total, steps_per_epoch, config) if step >= rise else 0
        return warm * max(math.pow(config.gamma or _DROP, drops), config.lr_min)
    return warm * _curve(past, length, config)


@dataclass(frozen=True)
class Plateau:
    """What the plateau schedule remembers: the product of its drops, and how long ago it got better."""

    factor: float = 1.0
    best: float | None = None
    stale: int = 0

    def after(self, value: float, *, direction: int, config: OptimConfig, min_delta: float) -> Plateau:
        """This after an epoch whose metric was ``value``; ``direction``: 1 where more is better, or -1.

        As torch's ReduceLROnPlateau with an absolute threshold: after more than ``plateau_patience``
        epochs that are not better than the best by more than ``min_delta`` comes a drop, and the count
        starts again. NaN is never better.
        """
        best = -math.inf if self.best is None else self.best * direction
        if value * direction > best + min_delta:
            return replace(self, best=value, stale=0)
        if self.stale < config.plateau_patience:
            return replace(self, stale=self.stale + 1)
        return replace(self, factor=max(self.factor * (config.gamma or _DROP), config.lr_min), stale=0)


def describe(config: OptimConfig, total: int, steps_per_epoch: int) -> str:
    """The schedule in one line: whether it moves per step or per epoch, and how far."""
    floor = f"{100 * config.lr_min:g} %"
    gamma = config.gamma or _DROP
    unit = "per step"
    match config.scheduler:
        case "onecycle":
            text = f"down to {100 * _end(config):g} % of the peak"
        case "constant":
            text = "the peak rate"
        case "plateau":
            unit = "per epoch"
            late = config.plateau_patience + 1
            when = "after each epoch" if late == 1 else f"after {late} epochs in a row"
            text = f"times {gamma:g} {when} without a better metric"
        case "step" | "multistep":
            given = config.milestones if config.scheduler == "multistep" else (config.decay_every,)
            unit = "per epoch" if all(value >= 1 for value in given) else "per step"
            text = f"times {gamma:g} {_when(config, total, steps_per_epoch)}"
        case "cosine-restarts":
            bounds = _restarts(max(total - _rise(total, config), 1), config)
            lengths = ", ".join(f"{b - a:,}" for a, b in itertools.pairwise(bounds))
            text = f"{len(bounds) - 1} times from the peak down to {floor} of it, in {lengths} steps"
        case "exponential":
            text = (
                f"down to {100 * max(config.gamma or _EXPONENTIAL_END, config.lr_min):g} % of the peak"
            )
        case _:
            text = f"down to {floor} of the peak"
    drops = config.scheduler in ("step", "multistep", "plateau")
    if drops and config.lr_min:
        text += f", not below {floor} of the peak"
    rise = _rise(total, config)
    warm = f"warm-up over {rise:,} of {total:,} steps, " if rise else ""
    return f"{config.scheduler}, {unit}: {warm}{text}"


def _when(config: OptimConfig, total: int, steps_per_epoch: int) -> str:
    """Where step and multistep drop: "every 30 epochs", "at step 500 and epoch 75"."""
    if config.scheduler == "step":
        every = config.decay_every
        where = f"every {every:g} epochs" if every >= 1 else f"every {_share(every, total):,} steps"
        where = where.replace("every 1 epochs", "every epoch").replace("every 1 steps", "every step")
    else:
        points = sorted(config.milestones)
        names = [f"epoch {m:g}" if m >= 1 else f"step {_share(m, total):,}" for m in points]
        where = f"after {' and '.join(names)}"
    never = _drops(total - 1, total, steps_per_epoch, config) == 0
    return f"{where}, which is never in this run" if never else where


def _rise(total: int, config: OptimConfig) -> int:
    default = _ONECYCLE_RISE if config.scheduler == "onecycle" else 0.0
    return round((config.warmup or default) * total)


def _share(value: float, total: int) -> int:
    """A share of the run in steps, at least one."""
    return max(1, round(value * total))


def _drops(step: int, total: int, steps_per_epoch: int, config: OptimConfig) -> int:
    """How often step and multistep have dropped by ``step``."""

    def steps(value: float) -> int:
        return round(value) * steps_per_epoch if value >= 1 else _share(value, total)

    if config.scheduler == "multistep":
        return sum(steps(value) <= step for value in config.milestones)
    return step // steps(config.decay_every)


def _curve(past: int, length: int, config: OptimConfig) -> float:
    """The curves after ``past`` of ``length`` steps, from 1 to their lowest."""
    low = config.lr_min
    match config.scheduler:
        case "constant":
            return 1.0
        case "exponential":
            return max(math.pow(config.gamma or _EXPONENTIAL_END, past / length), low)
        case "linear":
            share = 1 - past / length
        case "polynomial":
            share = math.pow(1 - past / length, config.power)
        case "cosine-restarts":
            bounds = _restarts(length, config)
            after = min(bisect.bisect_right(bounds, past), len(bounds) - 1)
            begin, end = bounds[after - 1], bounds[after]
            share = _half_cosine(past - begin, end - begin)
        case _:
            share = _half_cosine(past, length)
    return low + (1 - low) * share


def _half_cosine(past: int, length: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * past / length))


def _restarts(length: int, config: OptimConfig) -> list[int]:
    """Where the cycles begin, and where the last one ends, in whole steps from 0 to ``length``.

    A cycle of no steps is left out.
    """
    growth, cycles = config.cycle_growth, config.cycles
    # Geometric sums, divided by their largest power so that none is too large for a float.
    sums = list(itertools.accumulate((growth ** (i - cycles) for i in range(cycles)), initial=0.0))
    return sorted({round(length * (part / sums[-1])) for part in sums})


def _end(config: OptimConfig) -> float:
    return config.lr_min or 1 / (_DIV_FACTOR * _FINAL_DIV_FACTOR)


def _onecycle(step: int, total: int, config: OptimConfig) -> float:
    top = (config.warmup or _ONECYCLE_RISE) * total - 1
    if total == 1:
        return 1.0
    if step <= top:
        return _cosine(1 / _DIV_FACTOR, 1.0, step / top) if top > 0 else 1.0
    return _cosine(1.0, _end(config), (step - top) / (total - 1 - top))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(share, 1.0)))
