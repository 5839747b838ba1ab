"""The pictures of a run, as PNG files: its curves and its confusion matrix.

Drawn with matplotlib's objects on an Agg canvas: no pyplot, no window, nothing global is set, so that
it works in threads, in notebooks and without a display. Colours are of Okabe and Ito's palette, which
colour-blind people tell apart; lines differ in their markers too.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.errors import DlcliError
from dlcli.files import atomic_file
from dlcli.ui.jsonl import read_events
from dlcli.ui.text import figure, plural, printable, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dlcli.engine.metrics import EvalResult

DPI = 150
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"
MARKED_EPOCHS = 30  # more points than this are drawn as a line alone
LOG_RANGE = 20.0  # losses that differ by more than this factor are drawn on a logarithmic axis

NAME_WIDTH = 22  # longer class names are cut in the middle
SHARES = (0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1)  # ticks of the colour bar
COUNTED_CLASSES = 20  # up to here the cells hold their counts
LABEL_PT = 7.5  # the least room of a class's label; where cells are smaller, some go without


def save_curves(path: Path, metrics_jsonl: Path) -> Path:
    """Draw loss and accuracy of train and val by epoch, and the learning rate; returns ``path``.

    Raises: DlcliError when the log cannot be read, holds no finished epoch, or the picture cannot be
    written.
    """
    events = read_events(metrics_jsonl)
    # By number, so that an epoch that was repeated after a crash counts once, as it went last.
    by_number = {event["epoch"]: event for event in events if event.get("event") == "EpochDone"}
    epochs = [by_number[number] for number in sorted(by_number)]
    if not epochs:
        raise DlcliError(f"{metrics_jsonl} holds no finished epoch yet, so there is nothing to draw")
    fig, (loss, accuracy, lr) = _figure(12.5, 4.0, columns=(3, 3, 2))
    best = next((event for event in reversed(epochs) if event["improved"]), None)
    _draw_metric(loss, epochs, "loss", best)
    _draw_metric(accuracy, epochs, "accuracy", best)
    _draw_lr(lr, [event for event in events if event.get("event") == "StepDone"], epochs)
    if best is not None:
        monitor = best["monitor"]
        value = best["val"].get(monitor)
        shown = "nan" if value is None else figure(value)
        text = f"best epoch: {best['epoch']} of {epochs[-1]['epoch']}, val {printable(monitor)} {shown}"
        fig.suptitle(text, fontsize=12)
    return _save(fig, path)


def save_confusion(path: Path, result: EvalResult) -> Path:
    """Draw the confusion matrix, each row as shares of its true class; returns ``path``.

    Raises: DlcliError when the picture cannot be written.
    """
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm

    counts = np.asarray(result.confusion, dtype=np.float64)  # (true, predicted)
    classes = len(counts)
    side = _side(classes)
    names = _short_names([printable(row.name) for row in result.per_class])
    label_pt = _label_size(side, classes)
    margin = max(map(len, names)) * label_pt * 0.6 / 72 + 0.9
    fig, (axes,) = _figure(side + margin + 1.2, side + margin * 0.85 + 0.5, columns=(1,))
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    image = axes.imshow(
        np.ma.masked_invalid(shares),
        cmap=colormaps["Blues"].with_extremes(bad="#E8E8E8"),  # a class without samples
        # By the square root: an error of 2 % must be seen beside a diagonal of 90 %.
        norm=PowerNorm(0.5, vmin=0, vmax=1),
        interpolation="nearest",
    )
    _label_classes(axes, names, side, label_pt)
    if classes <= COUNTED_CLASSES:
        _write_counts(axes, counts, shares, cell_pt=side / classes * 72)
    bar = fig.colorbar(image, ax=axes, fraction=0.045, pad=0.02, aspect=30, ticks=SHARES)
    bar.set_label("share of the true class (square-root scale)", fontsize=9)
    bar.ax.set_yticklabels([f"{share:g}" for share in SHARES])
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    accuracy = figure(result.metrics["accuracy"])
    title = f"confusion on {printable(result.split)}\n"
    axes.set_title(f"{title}accuracy {accuracy}, {plural(result.samples, 'sample')}", fontsize=11)
    return _save(fig, path)


def _figure(width: float, height: float, *, columns: Sequence[int]) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(fig)
    panels = fig.subplots(1, len(columns), squeeze=False, gridspec_kw={"width_ratios": list(columns)})
    return fig, list(panels[0])


def _save(fig: Figure, path: Path) -> Path:
    with atomic_file(path) as tmp, warnings.catch_warnings():
        # Names in scripts that matplotlib's own font lacks show as boxes; that is no reason to fail.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        fig.savefig(tmp, format="png", bbox_inches="tight", pad_inches=0.12)
    return path


def _draw_metric(
    axes: Axes, epochs: Sequence[dict[str, Any]], name: str, best: dict[str, Any] | None
) -> None:
    numbers = [event["epoch"] for event in epochs]
    train = [_number(event[name]) for event in epochs]
    val = [_number(event["val"].get(name)) for event in epochs]
    marks = len(epochs) <= MARKED_EPOCHS
    axes.plot(numbers, train, color=BLUE, marker="o" if marks else "", markersize=4, label="train")
    axes.plot(numbers, val, color=ORANGE, marker="s" if marks else "", markersize=4, label="val")
    if best is not None:
        axes.axvline(best["epoch"], color=GREY, linestyle="--", linewidth=1, zorder=0)
        axes.plot(
            best["epoch"],
            _number(best["val"].get(name)),
            color=ORANGE,
            marker="*",
            markersize=12,
            markeredgecolor="white",
            linestyle="",
            label="best epoch",
        )
    if name == "loss":
        drawn = [value for value in (*train, *val) if value > 0]  # NaN is not
        if drawn and max(drawn) > LOG_RANGE * min(drawn):
            _log_axis(axes)
    _dress(axes, name, numbers[-1])
    axes.legend(fontsize=9, frameon=False)


def _log_axis(axes: Axes) -> None:
    """A logarithmic axis with figures on it that need no powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _draw_lr(axes: Axes, steps: Sequence[dict[str, Any]], epochs: Sequence[dict[str, Any]]) -> None:
    """The learning rate where it was logged within epochs, and at their ends."""
    points = [
        (e["epoch"] - 1 + e["step_in_epoch"] / max(e["steps_per_epoch"], 1), e["lr"]) for e in steps
    ]
    points += [(float(event["epoch"]), event["lr"]) for event in epochs]
    points.sort(key=lambda point: point[0])
    at, values = zip(*points, strict=True)
    axes.plot(at, values, color=GREEN, marker="o" if len(points) <= 3 else "", markersize=4)
    _dress(axes, "learning rate", epochs[-1]["epoch"], first=0)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    axes.yaxis.get_offset_text().set_fontsize(9)


def _dress(axes: Axes, title: str, last: int, *, first: int = 1) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize=11)
    axes.set_xlabel("epoch", fontsize=10)
    pad = max(0.03 * (last - first), 0.3 if first == last else 0.1)
    axes.set_xlim(first - min(pad, 0.5), last + pad)
    ticks = MaxNLocator(nbins=8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
    axes.xaxis.set_major_locator(ticks)
    axes.tick_params(labelsize=9)
    axes.grid(True, color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _number(value: float | None) -> float:
    """A gap in the line for what was no finite number, or is not there."""
    return float("nan") if value is None else value


def _side(classes: int) -> float:
    """The side of the matrix in inches: room for counts where there are any, else for the labels."""
    if classes <= COUNTED_CLASSES:
        return max(0.45 * classes, 2.6)
    return min(max(0.14 * classes, 9.0), 14.0)


def _short_names(names: Sequence[str]) -> list[str]:
    """Names of `NAME_WIDTH` at most. Those that look alike when cut lose what they begin with alike."""
    short = [shorten(name, NAME_WIDTH) for name in names]
    times = Counter(short)
    alike = [name for name, cut in zip(names, short, strict=True) if times[cut] > 1]
    prefix = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*alike, strict=False)))
    return [
        shorten(f"…{name[prefix:]}", NAME_WIDTH) if prefix and times[cut] > 1 else cut
        for name, cut in zip(names, short, strict=True)
    ]


def _label_size(side: float, classes: int) -> float:
    """Points of the labels: large in few, wide cells, and never too small to read."""
    return min(10.0, max(5.5, side * 72 / classes * 0.62))


def _label_classes(axes: Axes, names: Sequence[str], side: float, size: float) -> None:
    """Names on both axes; where cells are too small, every second, third ... class has its name."""
    cell = side * 72 / len(names)
    every = max(1, round(LABEL_PT / cell + 0.499))
    at = range(0, len(names), every)
    shown = [names[i] for i in at]
    axes.set_yticks(list(at), shown, fontsize=size)
    flat = every == 1 and max(map(len, names)) * size * 0.62 < cell
    axes.set_xticks(list(at), shown, fontsize=size, rotation=0 if flat else 90)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)  # a name with dollar signs is no formula
    axes.tick_params(length=2 if len(names) > COUNTED_CLASSES else 0)
    axes.set_xlabel("predicted", fontsize=10)
    axes.set_ylabel("true", fontsize=10)
    axes.spines[:].set_visible(False)


def _write_counts(axes: Axes, counts: Any, shares: Any, *, cell_pt: float) -> None:
    digits = len(f"{counts.max():.0f}")
    size = min(10.0, cell_pt * 0.9 / (0.62 * max(digits, 2)))
    for true, line in enumerate(counts):
        for predicted, number in enumerate(line):
            dark = shares[true, predicted] > 0.35
            axes.text(
                predicted,
                true,
                f"{number:.0f}",
                ha="center",
                va="center",
                fontsize=size,
                color="white" if dark else "#BBBBBB" if not number else "#222222",
            )
