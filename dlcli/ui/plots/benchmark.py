"""The picture of a benchmark: how fast each row is, and what it knows against what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.ui.benchmark import UNKNOWN, clock_note, doubts_of, names_of
from dlcli.ui.plots.canvas import BLUE, GREEN, GREY, ORANGE, add_grid, log_axis, new_figure, save_figure
from dlcli.wording import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dlcli.benchmark.report import BenchmarkResult, BenchmarkRow
    from dlcli.benchmark.statistics import Ratio

LABEL_WIDTH = 32
COLOURS = (BLUE, ORANGE, GREEN, GREY)  # of batch sizes
NEAR = 0.05  # of an axis: closer points share a label
WIDE = 3.0  # values that differ by more than this factor get a logarithmic axis


def save_benchmark(path: Path, result: BenchmarkResult) -> Path:
    """Draw the speed of every row, and the metric against latency and size; returns ``path``.

    Points are numbered as in the tables; those that no other row beats are filled and joined. Raises:
    DlcliError when the picture cannot be written.
    """
    scored = [row for row in result.rows if row.metrics]
    sizes = list(result.batch_sizes[: len(COLOURS)])
    height = max(3.6, 1.4 + 0.16 * (len(sizes) + 1.2) * len(result.rows))
    panels = (5, 4, 4) if scored else (5,)
    fig, axes = new_figure(15.0 if scored else 8.0, height, columns=panels)
    _draw_speed(axes[0], result, sizes)
    if scored:
        batch = sizes[0]
        _draw_front(
            axes[1],
            result.rows,
            "latency",
            f"latency at batch {batch}, ms",
            lambda r: _latency(r, batch),
        )
        _draw_front(axes[2], result.rows, "size", "size, MB", lambda r: r.size_bytes / 1e6)
    device = next((row.timing.device for row in result.rows if row.timing and row.timing.device), "")
    title = f"benchmark on {device}" if device else "benchmark"
    notes = [clock_note(result), *(f"{UNKNOWN}: {doubt}" for doubt in doubts_of(result))]
    fig.suptitle("\n".join([title, *(note for note in notes if note)]), fontsize=12)
    return save_figure(fig, path)


def _draw_speed(axes: Axes, result: BenchmarkResult, sizes: Sequence[int]) -> None:
    """A bar for each row and batch size: times as fast as the first, or samples a second without it."""
    against_first = bool(result.rows[0].speedup)
    thick = 0.8 / len(sizes)
    values = []
    for number, batch in enumerate(sizes):
        at = [row + (number - (len(sizes) - 1) / 2) * thick for row in range(len(result.rows))]
        if against_first:
            ratios = [_known_ratio(row, batch) for row in result.rows]
            medians = [0.0 if ratio is None else ratio.median for ratio in ratios]
            below = [0.0 if ratio is None else ratio.median - ratio.low for ratio in ratios]
            above = [0.0 if ratio is None else ratio.high - ratio.median for ratio in ratios]
            axes.errorbar(medians, at, xerr=[below, above], fmt="none", ecolor="black", elinewidth=0.8)
        else:
            medians = [_throughput(row, batch) for row in result.rows]
        axes.barh(at, medians, thick * 0.92, color=COLOURS[number], label=f"batch {batch}")
        values += [value for value in medians if value > 0]
    names = [f"{n}  {shorten(name, LABEL_WIDTH)}" for n, name in enumerate(names_of(result.rows), 1)]
    axes.set_yticks(range(len(names)), names)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)  # a name with dollar signs is no formula
    for at_row, row in enumerate(result.rows):
        word = _missing_word(row, sizes)
        if word:
            axes.annotate(
                word, (0, at_row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9
            )
    axes.invert_yaxis()
    if against_first:
        axes.axvline(1, color=GREY, linestyle="--", linewidth=1)
    elif values and max(values) > WIDE * min(values):
        axes.set_xscale("log")
        log_axis(axes.xaxis)
    title = "times as fast as 1" if against_first else "samples a second"
    add_grid(axes)
    axes.grid(False, axis="y")
    axes.set_title(f"{title} (median, range over rounds)" if against_first else title, fontsize=11)
    if len(sizes) > 1:
        axes.legend(fontsize=9, frameon=False, loc="lower right")


def _draw_front(
    axes: Axes,
    rows: Sequence[BenchmarkRow],
    cost_name: str,
    label: str,
    cost: Callable[[BenchmarkRow], float],
) -> None:
    """The metric of each row against a cost, numbered; the front is filled and joined."""
    metric = next(row.metric for row in rows if row.metrics)
    points = [
        (number, cost(row), row.metrics[metric], cost_name in row.front)
        for number, row in enumerate(rows, 1)
        if row.metrics and row.metric == metric and cost(row) == cost(row)
        # One that was not compared with the first does another job: its metric is of other samples.
        if row is rows[0] or row.speedup or not rows[0].speedup
    ]
    front = sorted((x, y) for _, x, y, best in points if best)
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color=ORANGE, linewidth=1, zorder=1)
    for best, colour, name in ((False, GREY, "beaten"), (True, ORANGE, "not beaten by any")):
        chosen = [(x, y) for _, x, y, on in points if on == best]
        if chosen:
            face = colour if best else "white"
            xs, ys = zip(*chosen, strict=True)
            axes.scatter(xs, ys, s=46, facecolors=face, edgecolors=colour, label=name, zorder=2)
    costs = [x for _, x, _, _ in points if x > 0]
    if costs and max(costs) > WIDE * min(costs):
        axes.set_xscale("log")
        log_axis(axes.xaxis)
    axes.margins(x=0.12, y=0.18)
    _number(axes, [(str(number), x, y) for number, x, y, _ in points])
    add_grid(axes)
    axes.set_xlabel(label, fontsize=10)
    axes.set_title(f"{metric} against {cost_name}", fontsize=11)
    if points:
        axes.legend(fontsize=9, frameon=False)


def _number(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Numbers above the points; points that lie on each other share one label."""
    axes.autoscale_view()  # else the limits are found when the figure is drawn
    groups: list[tuple[list[str], float, float]] = []
    for text, x, y in points:
        across, up = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))
        for names, gx, gy in groups:
            if abs(across - gx) < NEAR and abs(up - gy) < NEAR:
                names.append(text)
                break
        else:
            groups.append(([text], across, up))
    for names, across, up in groups:
        axes.annotate(
            ", ".join(names),
            (across, up),
            xycoords="axes fraction",
            xytext=(0, 7),
            textcoords="offset points",
            ha="right" if across > 1 - 2 * NEAR else "center",
            fontsize=9,
        )


def _latency(row: BenchmarkRow, batch: int) -> float:
    speed = None if row.timing is None else row.timing.speeds.get(batch)
    return float("nan") if speed is None or speed.doubt else speed.p50_ms


def _throughput(row: BenchmarkRow, batch: int) -> float:
    speed = None if row.timing is None else row.timing.speeds.get(batch)
    return 0.0 if speed is None or speed.doubt else speed.throughput


def _known_ratio(row: BenchmarkRow, batch: int) -> Ratio | None:
    ratio = row.speedup.get(batch)
    return ratio if ratio is not None and ratio.known else None


def _missing_word(row: BenchmarkRow, sizes: Sequence[int]) -> str:
    """Return why a row has no bar at all, or nothing."""
    if row.timing is None or not row.timing.speeds:
        return "failed"
    if all(row.timing.speeds[b].doubt for b in sizes if b in row.timing.speeds):
        return UNKNOWN
    if row.speedup and not any(ratio.known for ratio in row.speedup.values()):
        return UNKNOWN
    return ""
