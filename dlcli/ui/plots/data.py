"""The pictures of `dlcli data`: one PNG a chart, drawn like those of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.ui.plots.canvas import BLUE, DPI, GREEN, GREY, ORANGE, add_grid, new_figure, save_figure
from dlcli.wording import printable, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dlcli.datacheck.base import Balance, Bars, Chart, Histogram, Panels, Points

COLOURS = {"train": BLUE, "val": ORANGE, "test": GREEN}
LINES = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00")
NAME_WIDTH = 28
NAMED_CLASSES = 120  # more are drawn as a curve, without names
MOST_BARS = 30
BINS = 40
DRAWN_STEPS = 1500  # a longer line is drawn as the band between the extremes of its pieces
SMALLEST_RANGE = 20.0  # positive values over a wider range than this get a logarithmic axis


def save_charts(folder: Path, charts: Sequence[Chart]) -> list[Path]:
    """Draw every chart into ``folder`` as NAME.png; returns the files.

    Raises: DlcliError when one cannot be written.
    """
    draw: dict[str, Callable[[Any], Figure]] = {
        "Balance": _balance,
        "Histogram": _histogram,
        "Points": _points,
        "Bars": _bars,
        "Panels": _panels,
    }
    return [
        save_figure(draw[type(chart).__name__](chart), folder / f"{chart.name}.png") for chart in charts
    ]


def _balance(chart: Balance) -> Figure:
    """A panel a split, all with the same classes."""
    import numpy as np

    if len(chart.classes) > NAMED_CLASSES:
        return _ranked(chart)
    count = len(chart.classes)
    line = 0.24 if count <= 40 else 0.15
    names = [_name(name) for name in chart.classes]
    margin = 0.075 * max(map(len, names))
    fig, panels = new_figure(
        margin + 2.6 * len(chart.counts), max(1.6, line * count + 0.9), columns=[1] * len(chart.counts)
    )
    at = np.arange(count)
    for axes, (split, counts) in zip(panels, chart.counts.items(), strict=True):
        axes.barh(at, counts, color=COLOURS.get(split, GREY), height=0.72)
        axes.set_ylim(count - 0.4, -0.6)
        first = axes is panels[0]
        axes.set_yticks(at, names if first else [""] * count, fontsize=9 if count <= 40 else 6.5)
        for label in axes.get_yticklabels():
            label.set_parse_math(False)
        _dress(axes, f"{split}: {int(counts.sum()):,}", "")
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0, labelsize=9 if count <= 40 else 6.5)
        _few_ticks(axes)
    fig.suptitle(chart.title, fontsize=11)
    return fig


def _ranked(chart: Balance) -> Figure:
    import numpy as np

    fig, (axes,) = new_figure(6.0, 3.6, columns=(1,))
    order = np.argsort(-np.asarray(chart.counts["train"]), kind="stable")
    for split, counts in chart.counts.items():
        axes.plot(np.arange(len(order)) + 1, counts[order], color=COLOURS.get(split, GREY), label=split)
    axes.set_ylim(bottom=0)
    _dress(axes, chart.title, "classes, the largest in train first")
    axes.legend(fontsize=9, frameon=False)
    return fig


def _histogram(chart: Histogram) -> Figure:
    """Shares of each split in common bins, so that splits of any size can be compared."""
    import numpy as np

    fig, (axes,) = new_figure(6.0, 3.6, columns=(1,))
    values = {s: v[np.isfinite(v)] for s, v in chart.values.items()}
    every = np.concatenate(list(values.values()))
    edges, log = _edges(every)
    for split, numbers in values.items():
        counts, _ = np.histogram(numbers, bins=edges)
        shares = 100 * counts / max(len(numbers), 1)
        colour = COLOURS.get(split, GREY)
        label = f"{split}, {len(numbers):,}"
        if split == "train":
            axes.stairs(shares, edges, color=colour, fill=True, alpha=0.25)
        axes.stairs(shares, edges, color=colour, linewidth=1.4, label=label)
    if log:
        axes.set_xscale("log")
        _plain_log(axes)
    else:
        axes.margins(x=0.02)
        _few_ticks(axes, 7)
    axes.set_ylabel("% of the split", fontsize=10)
    axes.set_ylim(bottom=0)
    _dress(axes, chart.title, chart.axis)
    axes.legend(fontsize=9, frameon=False)
    return fig


def _edges(values: Any) -> tuple[Any, bool]:
    """Bins for all splits; whether they are even on a logarithmic axis."""
    import numpy as np

    if not len(values):
        return np.array([0.0, 1.0]), False
    low, high = float(values.min()), float(values.max())
    whole = bool((values == np.round(values)).all())
    if whole and high - low < 2 * BINS:
        return np.arange(low - 0.5, high + 1), False
    if low == high:
        return np.array([low - 0.5, high + 0.5]), False
    middle = float(np.median(values))
    if low > 0 and high > SMALLEST_RANGE * middle:
        return np.geomspace(low, high, BINS + 1), True
    return np.linspace(low, high, BINS + 1), False


def _points(chart: Points) -> Figure:
    """Circles as large as there are samples of one size."""
    import numpy as np

    fig, (axes,) = new_figure(5.4, 5.0, columns=(1,))
    every = np.concatenate(list(chart.points.values()))
    different, counts = np.unique(every, axis=0, return_counts=True)
    area = 12 + 400 * counts / counts.max()
    axes.scatter(different[:, 0], different[:, 1], s=area, color=BLUE, alpha=0.45, linewidths=0)
    low, high = every.min(), every.max()
    if low > 0 and high > SMALLEST_RANGE * low:
        axes.set_xscale("log")
        axes.set_yscale("log")
    else:
        room = 0.06 * (high - low) or 0.5
        axes.set_xlim(low - room, high + room)
        axes.set_ylim(low - room, high + room)
    ends = [low, high]
    axes.plot(ends, ends, color=GREY, linestyle="--", linewidth=1, zorder=0)
    axes.set_ylabel(chart.axes[1], fontsize=10)
    _dress(axes, f"{chart.title}: {len(every):,}, larger circles where more are alike", chart.axes[0])
    return fig


def _bars(chart: Bars) -> Figure:
    """The largest first."""
    import numpy as np

    shown = sorted(chart.values.items(), key=lambda item: -item[1])[:MOST_BARS]
    fig, (axes,) = new_figure(6.0, max(1.3, 0.26 * len(shown) + 0.9), columns=(1,))
    at = np.arange(len(shown))
    shares = [100 * value for _, value in shown]
    axes.barh(at, shares, color=BLUE, height=0.72)
    for y, value in zip(at, shares, strict=True):
        axes.text(value, float(y), f" {value:.2g} %", va="center", fontsize=8)
    axes.set_yticks(at, [_name(name) for name, _ in shown])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, max(shares) * 1.15)
    more = len(chart.values) - len(shown)
    _dress(axes, chart.title + (f" ({more} more columns)" if more else ""), f"{chart.axis}, %")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    return fig


def _panels(chart: Panels) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(chart.panels)
    height = 1.25 if count > 2 else 2.4
    fig = Figure(figsize=(9.0, height * count + 0.7), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(fig)
    grid = fig.subplots(count, 1, squeeze=False, sharex=True)[:, 0]
    for axes, (panel, lines) in zip(grid, chart.panels.items(), strict=True):
        for colour, (name, values) in zip(LINES, lines.items(), strict=False):
            _line(axes, values, colour, printable(shorten(name, NAME_WIDTH)))
        for at, what in chart.marks.items():
            axes.axvline(at, color=GREY, linestyle="--", linewidth=1)
            if axes is grid[0]:
                axes.text(at, 1.02, f" {what}", transform=axes.get_xaxis_transform(), fontsize=9)
        axes.set_ylabel(_name(panel), fontsize=9).set_parse_math(False)
        add_grid(axes)
        axes.margins(x=0.01)
    grid[-1].set_xlabel(chart.axis, fontsize=10)
    if any(len(lines) > 1 for lines in chart.panels.values()):
        handles, labels = grid[0].get_legend_handles_labels()
        fig.legend(handles, labels, fontsize=9, frameon=False, loc="outside right upper")
    fig.suptitle(printable(chart.title), fontsize=11).set_parse_math(False)
    return fig


def _line(axes: Axes, values: Any, colour: str, name: str) -> None:
    import numpy as np

    steps = len(values)
    if steps <= DRAWN_STEPS:
        axes.plot(np.arange(steps), values, color=colour, linewidth=1.1, label=name)
        return
    pieces = np.array_split(np.asarray(values, dtype=np.float64), DRAWN_STEPS)
    there = [piece[np.isfinite(piece)] for piece in pieces]
    low = [piece.min() if len(piece) else np.nan for piece in there]
    high = [piece.max() if len(piece) else np.nan for piece in there]
    at = np.linspace(0, steps - 1, DRAWN_STEPS)
    axes.fill_between(at, low, high, color=colour, linewidth=0.3, label=name)


def _dress(axes: Axes, title: str, below: str) -> None:
    axes.set_title(printable(title), fontsize=11).set_parse_math(False)
    axes.set_xlabel(printable(below), fontsize=10).set_parse_math(False)
    add_grid(axes)


def _few_ticks(axes: Axes, most: int = 4) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=most, min_n_ticks=2))
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))


def _plain_log(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))


def _tick(value: float, position: int | None = None) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def _name(name: str) -> str:
    return shorten(printable(name), NAME_WIDTH)
