"""Learning rates as pure functions of the step, so that resuming needs no scheduler state.

Per step: `lr_factor(step)` multiplies the peak rate for optimizer step ``step`` (counted from 0).
"""

from __future__ import annotations

import math

from dlcli.config import OptimConfig

_DIV_FACTOR, _FINAL_DIV_FACTOR = 25.0, 1e4  # torch's OneCycleLR
_ONECYCLE_RISE = 0.3


def lr_factor(step: int, total: int, config: OptimConfig) -> float:
    """The factor in (0, 1] for ``step`` of ``total``.

    onecycle: cosine rise from 1/25 over the first 30 % (or ``warmup``, when given), cosine fall to
    4e-6 (Smith and Topin, arXiv:1708.07120; equal to torch's OneCycleLR without momentum cycling).
    cosine: half a cosine to 0 (Loshchilov and Hutter, arXiv:1608.03983). Both cosine and constant
    start with a linear rise over ``warmup``.
    """
    if config.scheduler == "onecycle":
        return _onecycle(step, total, config.warmup or _ONECYCLE_RISE)
    rise = round(config.warmup * total)
    if step < rise:
        return (step + 1) / (rise + 1)
    if config.scheduler == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(total - rise, 1)))


def _onecycle(step: int, total: int, rise: float) -> float:
    top = rise * total - 1
    low, final = 1 / _DIV_FACTOR, 1 / (_DIV_FACTOR * _FINAL_DIV_FACTOR)
    if total == 1:
        return 1.0
    if step <= top:
        return _cosine(low, 1.0, step / top) if top > 0 else 1.0
    return _cosine(1.0, final, (step - top) / (total - 1 - top))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(share, 1.0)))
