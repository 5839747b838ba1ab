"""The verdict on a comparison in words; a difference is claimed only where its interval excludes 0."""

from __future__ import annotations

import numpy as np

from dlcli.benchmark.statistics import Ratio
from dlcli.deploy.compare import Comparison
from dlcli.evaluation.metrics import direction

_SMALLER, _LARGER = 0.95, 1.05  # ratios of file sizes between these are no change
# Relative; float32 sums in another order differ by less. On few samples even that can have one sign.
_ROUNDING = 1e-6


def verdict(comparison: Comparison, *, expect_smaller: bool = True) -> list[str]:
    """Return one sentence each on accuracy, size and speed.

    ``expect_smaller`` is whether the change was meant to make the file smaller.
    """
    ratio = comparison.size_ratio
    sentences = [_accuracy(comparison)]
    if ratio < _SMALLER:
        sentences.append(f"{1 / ratio:.1f} times smaller")
    elif expect_smaller or ratio > _LARGER:
        sentences.append(f"{'NOT SMALLER' if expect_smaller else 'larger'}: {ratio:.2f} of the size")
    cpu = comparison.clock == "cpu"
    sentences += [_speed(size, ratio, cpu=cpu) for size, ratio in comparison.speedup.items()]
    if comparison.untimed:
        sentences.append(f"speed not known: {comparison.untimed}")
    return sentences


def _accuracy(comparison: Comparison) -> str:
    delta = comparison.delta
    if comparison.split == "random":
        return f"NOT VERIFIED ON DATA: {comparison.note}"
    samples = f"{comparison.samples:,} samples of {comparison.split}"
    change = f"{delta.difference:+.4f} {delta.metric} on {samples}"
    if not np.isfinite(delta.difference):
        return f"WRONG: {change}"
    if not np.isfinite(delta.low):
        return f"{change}; its confidence interval is not known"
    if delta.difference and abs(delta.difference) <= _ROUNDING * max(1.0, abs(delta.before)):
        return f"{change}: equal up to rounding"
    if delta.low > 0 or delta.high < 0:
        better = (delta.difference > 0) == (direction(delta.metric) > 0)
        return f"{change}: significantly {'better' if better else 'WORSE'}"
    return f"{change}: not significant"


def _speed(batch_size: str, ratio: Ratio, *, cpu: bool) -> str:
    """Return the word that the whole range of the rounds supports."""
    at = f"at batch {batch_size}"
    if not ratio.known:
        return f"speed {at} NOT KNOWN: {ratio.doubt}"
    clock = ", in CPU time of one thread" if cpu else ""
    if ratio.low > 1:
        return f"{ratio.median:.2f} times faster {at}{clock}"
    if ratio.high < 1:
        return f"SLOWER {at}: {ratio.median:.2f} of the speed{clock}"
    return f"no significant difference in speed {at}{clock}"
