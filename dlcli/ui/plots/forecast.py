"""Forecasts over time: what was true, and what the model predicted from where its horizon begins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.ui.plots.canvas import (
    BLUE,
    GREY,
    ORANGE,
    add_grid,
    add_run_name,
    new_stack,
    save_figure,
)
from dlcli.wording import plural, printable, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dlcli.evaluation.metrics import EvalResult
    from dlcli.evaluation.metrics.base import ForecastLine

NAME_WIDTH = 40


def save_forecasts(path: Path, result: EvalResult, run: str = "") -> Path:
    """Draw the last window of up to four series or targets, a panel each; returns ``path``.

    Raises: DlcliError when the picture cannot be written.
    """
    lines = result.forecasts
    height = 3.6 if len(lines) == 1 else 2.1 * len(lines) + 0.8
    fig, panels = new_stack(9.0, height, rows=len(lines))
    for axes, line in zip(panels, lines, strict=True):
        _draw(axes, line)
    horizon = plural(len(lines[0].predicted), "step")
    handles, labels = panels[0].get_legend_handles_labels()
    fig.legend(handles, labels, fontsize=9, frameon=False, loc="outside lower center", ncols=len(labels))
    noun, total = "series", len(result.per_series)
    if not total:
        noun, total = "targets", len(result.per_target)
    some = f", {len(lines)} of {total:,} {noun}" if len(lines) < total else ""
    add_run_name(fig, run, f"the last window of {printable(result.split)}, horizon of {horizon}{some}")
    return save_figure(fig, path)


def _draw(axes: Axes, line: ForecastLine) -> None:
    at = _positions(axes, line.times, len(line.true))
    start = len(line.true) - len(line.predicted)
    marks = "o" if len(line.true) <= 30 else ""
    axes.plot(at, line.true, color=BLUE, linewidth=1.2, marker=marks, markersize=3, label="true")
    axes.plot(
        at[start:],
        line.predicted,
        color=ORANGE,
        linewidth=1.2,
        marker=marks or ("o" if len(line.predicted) == 1 else ""),
        markersize=3,
        label="predicted",
    )
    if line.low:
        axes.fill_between(
            at[start:], line.low, line.high, color=ORANGE, alpha=0.2, linewidth=0, label="interval"
        )
    axes.axvspan(at[start], at[-1], color=GREY, alpha=0.08, linewidth=0, label="horizon")
    axes.axvline(at[start], color=GREY, linestyle="--", linewidth=1)
    axes.set_title(shorten(printable(line.name), NAME_WIDTH), fontsize=10).set_parse_math(False)
    axes.margins(x=0.01)
    add_grid(axes)


def _positions(axes: Axes, times: tuple[str, ...], steps: int) -> Any:
    """Where the steps stand on the time axis: at their times, numbers, or else their order."""
    import numpy as np
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    try:
        at = np.array(times, dtype="datetime64[us]")
    except ValueError:
        at = np.zeros(0, dtype="datetime64[us]")
    numbers = all(_is_number(time) for time in times)
    if len(at) == steps and not np.isnat(at).any() and not numbers:
        locator = AutoDateLocator(minticks=3, maxticks=8)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        return at
    if len(times) == steps and numbers:
        return np.array([float(time) for time in times])
    axes.set_xlabel("step", fontsize=9)
    return np.arange(steps)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
