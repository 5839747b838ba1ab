"""Texts with a syntax of their own: bounds on a drop, amounts to prune, sizes, comma-separated names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from pydantic import ConfigDict

from dlcli.errors import UsageError

# A bound may be "1%", so it is a text; YAML may give 0.01, a number.
NUMBERS_AS_TEXT = ConfigDict(coerce_numbers_to_str=True)
_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_ROUNDING = 1e-12  # relative rounding error of a difference of two metrics


@dataclass(frozen=True)
class Bound:
    """How much worse a metric may get: in its own unit, or relative to its value before."""

    amount: float
    relative: bool

    def allowed(self, before: float) -> float:
        """Return the largest drop, in the metric's own unit."""
        return self.amount * abs(before) if self.relative else self.amount

    def holds(self, drop: float, before: float) -> bool:
        """Return whether a drop is allowed: up to rounding (0.95 - 0.94 counts as 0.01); NaN is not."""
        return drop <= self.allowed(before) + _ROUNDING * max(1.0, abs(before))


def parse_bound(text: str | None, flag: str = "--max-drop") -> Bound | None:
    """Parse 0.01 or 1%. Raises: UsageError for other text and for negative or infinite bounds."""
    if text is None:
        return None
    relative = text.strip().endswith("%")
    try:
        amount = float(text.strip().removesuffix("%")) / (100 if relative else 1)
    except ValueError:
        amount = math.nan
    if not 0 <= amount < math.inf:
        raise UsageError(
            f"{flag} {text!r} is not a bound", hint=f"{flag} 0.01 in the metric's unit, or {flag} 1%"
        )
    return Bound(amount, relative)


def parse_amount(text: str, flag: str = "--amount") -> int | float:
    """Parse how much to prune, as `torch.nn.utils.prune` has it: 0.5 is a share, 200 a number of them.

    Raises: UsageError for whatever is neither a share between 0 and 1 nor a whole number from 1 on.
    """
    for number_type in (int, float):
        try:
            amount = number_type(text)
        except (ValueError, OverflowError):
            continue
        if amount >= 1 if number_type is int else 0 < amount < 1:
            return amount
    raise UsageError(
        f"{flag} {text} is neither a share between 0 and 1 nor a whole number from 1 on",
        hint=f"{flag} 0.5 prunes half, {flag} 200 prunes 200",
    )


def parse_names(text: str | None) -> tuple[str, ...]:
    """Return the comma-separated names in ``text``, stripped; none for None."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def parse_bytes(text: str | None, flag: str = "--max-size") -> int | None:
    """Parse 3MB, 500kB or 2.5MiB to bytes. Raises: UsageError for other text, a zero included."""
    amount = None if text is None else _with_unit(text, _BYTES)
    if text is not None and (amount is None or amount < 1):
        raise UsageError(f"{flag} {text!r} is not a size", hint=f"{flag} 3MB, 500kB or 2.5MiB")
    return None if amount is None else int(amount)


def parse_milliseconds(text: str | None, flag: str = "--max-latency") -> float | None:
    """Parse 2ms, 500us or 0.1s to milliseconds. Raises: UsageError for other text, zero included."""
    amount = None if text is None else _with_unit(text, _MILLISECONDS)
    if text is not None and not amount:
        raise UsageError(f"{flag} {text!r} is not a latency", hint=f"{flag} 2ms, 500us or 0.1s")
    return amount


def _with_unit(text: str, units: Mapping[str, float]) -> float | None:
    """Return a number times its unit, in upper or lower case; None where it is not both."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]+)", text.strip().lower())
    if match is None or match[2] not in units:
        return None
    return float(match[1]) * units[match[2]]


def parse_coverage(text: str, flag: str = "--intervals") -> Fraction:
    """Parse 90% or 0.9, exactly: a rank is computed from it. Raises: UsageError for other text."""
    try:
        share = Fraction(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not 0 < share < 1:
        raise UsageError(
            f"{flag} {text!r} is no share of samples between 0 and 1", hint=f"{flag} 90%, or {flag} 0.9"
        )
    return share
