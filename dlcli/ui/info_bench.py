"""The speeds of `dlcli info --bench`: the CPU, the accelerator next to it, and their ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dlcli import wording
from dlcli.ui.sections import Row, Section

if TYPE_CHECKING:
    from dlcli.benchmark.machine import Measurement


def bench_sections(
    rows: Sequence[Measurement], ratios: dict[tuple[str, str], float], width: int
) -> list[Section]:
    """Return a section a device; ranges and sizes are left out where the screen is narrow."""
    sections = []
    for device in dict.fromkeys(row.device for row in rows):
        own = [row for row in rows if row.device == device]
        names = max(len(row.what) for row in own)
        lines = [
            Row("", f"{row.what:<{names}}  {_figure(row, ratios, wide=width >= 100)}", row.error is None)
            for row in own
        ]
        sections.append(Section(f"Speed of {device}" if device else "Speed", lines))
    return sections


def _figure(row: Measurement, ratios: dict[tuple[str, str], float], *, wide: bool) -> str:
    if row.error is not None or row.rate is None or row.low is None or row.high is None:
        return wording.one_line(row.error or "not measured")
    # A CPU has a few hundredths of a TFLOP/s.
    scale, unit = (1000, "GFLOP/s") if row.unit == "TFLOP/s" and row.rate < 1 else (1, row.unit)
    words = f"{_digits(row.rate * scale):>6} {unit:<8}"
    if (ratio := ratios.get((row.what, row.device))) is not None:
        words += f"  {_digits(ratio):>5} x the CPU"
    if not wide:
        return words
    interval = f"{_digits(row.low * scale)} to {_digits(row.high * scale)}, n={row.calls}"
    return f"{words}  {interval:<26}  {row.size}".rstrip()


def _digits(value: float) -> str:
    """Return three digits, without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.{2 if value < 10 else 1}f}" if value >= 1 else f"{value:.3f}"
