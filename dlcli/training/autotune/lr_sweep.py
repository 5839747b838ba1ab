"""The losses of a learning rate sweep, and the suggested rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.errors import DlcliError

LOWEST, HIGHEST = 1e-7, 10.0
# A run at the rate of the lowest loss is close to diverging, so the suggestion is lower by this factor.
MARGIN = 3.0
DESCENT = 0.8  # share of the loss's descent that lies below the suggested rate
_SMOOTHING_STD = 0.2  # of the Gaussian kernel, in decades
_FLAT_BELOW = 1e-5  # losses at lower rates are the initial level
_SIGNIFICANCE = 4.0  # standard deviations that a descent must exceed

Curve = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LrSweep:
    """Losses by learning rate, corrected for differences between batches; smoothed; the suggestion."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float

    @property
    def lowest(self) -> float:
        """The rate of the lowest smoothed loss."""
        return self.rates[self.smoothed.index(min(self.smoothed))]

    @property
    def sentence(self) -> str:
        """The result as a sentence."""
        return (
            f"lr auto: {self.suggestion:g} (in {len(self.rates)} steps from {self.rates[0]:g} to "
            f"{self.rates[-1]:.2g} the loss fell until {self.lowest:.2g})"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "suggestion": self.suggestion,
            "rates": list(self.rates),
            "losses": list(self.losses),
            "smoothed": list(self.smoothed),
        }


def suggest(rates: list[float], losses: list[float]) -> LrSweep:
    """Suggest the rate at 80 % of the descent, but at most a third of the rate of the lowest loss.

    The steepest point, the usual choice, lies near it where the curve is smooth; on noisy ones with
    several steep points it differed from seed to seed by up to 50 times, this by up to 20.

    Raises: DlcliError where the losses never fall below their initial level by more than their noise.
    """
    log_rates, values = np.log10(np.asarray(rates)), np.asarray(losses, dtype=np.float64)
    if len(values) < 10:
        raise _no_descent(f"the loss was not finite after {len(values)} steps")
    initial = log_rates <= math.log10(_FLAT_BELOW)
    level = float(np.median(values[initial]))
    # Clipped: limits the effect of outliers.
    smoothed, std_factor = _smooth(log_rates, np.minimum(values, 1.5 * level))
    lowest = int(np.argmin(smoothed))
    residuals = values - smoothed
    descent = log_rates <= log_rates[lowest]  # at higher rates the loss explodes
    end = descent & (log_rates >= log_rates[lowest] - 0.6)
    std_lowest = max(_robust_std(residuals[part]) for part in (initial, descent, end))
    std_lowest *= std_factor[lowest]
    # The standard error of a median is 1.25 times that of a mean.
    std_level = 1.25 * _robust_std(residuals[initial]) / math.sqrt(initial.sum())
    significant = _SIGNIFICANCE * math.hypot(std_lowest, std_level)
    if level - smoothed[lowest] <= max(significant, 0.01 * level):
        raise _no_descent(f"the loss stayed near {level:.4g} in {len(values)} steps")
    index = int(np.argmax(smoothed <= level - DESCENT * (level - smoothed[lowest])))
    rate = min(rates[index], rates[lowest] / MARGIN)
    return LrSweep(tuple(rates), tuple(losses), tuple(smoothed.tolist()), float(f"{rate:.1e}"))


def _smooth(log_rates: Curve, values: Curve) -> tuple[Curve, Curve]:
    """Gaussian kernel means around each rate, and their std as a factor of that of a single value."""
    weights = np.exp(-0.5 * ((log_rates[:, None] - log_rates[None, :]) / _SMOOTHING_STD) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights @ values, np.sqrt((weights**2).sum(axis=1))


def _robust_std(residuals: Curve) -> float:
    """Standard deviation estimated from the median absolute deviation."""
    return 1.4826 * float(np.median(np.abs(residuals)))


def _no_descent(reason: str) -> DlcliError:
    return DlcliError(
        f"--lr auto: no learning rate between {LOWEST:g} and {HIGHEST:g} makes the loss fall: {reason}",
        hint="give one, such as --lr 1e-3; the loss of a trained model falls no "
        "further, and the losses of small batches are noisy: try a larger --batch-size",
    )
