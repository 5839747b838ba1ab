"""The confusion matrix as a picture, readable from two classes to some hundred."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.ui.plots.canvas import add_run_name, new_figure, save_figure
from dlcli.ui.text import figure
from dlcli.wording import plural, printable, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dlcli.evaluation.metrics import EvalResult

NAME_WIDTH = 22  # longer class names are cut in the middle
SHARES = (0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1)  # ticks of the colour bar
COUNTED_CLASSES = 20  # up to here the cells hold their counts
LABEL_PT = 7.5  # the least room of a class's label; where cells are smaller, some go without


def save_confusion(path: Path, result: EvalResult, run: str = "") -> Path:
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
    fig, (axes,) = new_figure(side + margin + 1.2, side + margin * 0.85 + 0.5, columns=(1,))
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    image = axes.imshow(
        np.ma.masked_invalid(shares),
        cmap=colormaps["Blues"].with_extremes(bad="#E8E8E8"),  # a class without samples
        # By the square root: an error of 2 % must be seen next to a diagonal of 90 %.
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
    add_run_name(fig, run)
    return save_figure(fig, path)


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
