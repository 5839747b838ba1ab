"""The pictures of a run, as PNG files: its curves, and what fits the result of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.errors import DlcliError
from dlcli.runs.folder import read_events
from dlcli.ui.plots.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    add_grid,
    add_run_name,
    log_axis,
    new_figure,
    save_figure,
)
from dlcli.ui.plots.confusion import save_confusion
from dlcli.ui.plots.forecast import save_forecasts
from dlcli.ui.text import figure
from dlcli.wording import plural, printable, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dlcli.evaluation.metrics import EvalResult

__all__ = ["save_confusion", "save_curves", "save_result", "save_scatter"]

MARKED_EPOCHS = 30  # more points than this are drawn as a line alone
LOG_RANGE = 20.0  # losses and errors that differ by more than this factor get a logarithmic axis
ERRORS = ("loss", "mse", "mae", "rmse", "smape", "mase")
# The second panel where the loss itself picks the best epoch: the first of these that was measured.
SECOND = ("accuracy", "r2", "f1_macro", "bleu", "mae")
NAME_WIDTH = 40  # of a target


def save_curves(path: Path, metrics_jsonl: Path) -> Path:
    """Draw the loss, the monitored metric and the learning rate by epoch; returns ``path``.

    The loss is of train and val, the metric of val; accuracy also of train, where that has one.
    Raises: DlcliError when the log cannot be read, holds no finished epoch, or the picture cannot be
    written.
    """
    events = read_events(metrics_jsonl)
    # By number, so that an epoch that was repeated after a crash counts once, as it went last.
    by_number = {event["epoch"]: event for event in events if event.get("event") == "EpochDone"}
    epochs = [by_number[number] for number in sorted(by_number)]
    if not epochs:
        raise DlcliError(f"{metrics_jsonl} holds no finished epoch yet, so there is nothing to draw")
    monitor = epochs[-1]["monitor"]
    names = ["loss", *second_metric(monitor, epochs)]
    fig, panels = new_figure(2.5 + 5.0 * len(names), 4.0, columns=(*(3 for _ in names), 2))
    best = next((event for event in reversed(epochs) if event["improved"]), None)
    for axes, name in zip(panels, names, strict=False):
        _draw_metric(axes, epochs, name, best)
    _draw_lr(panels[-1], [event for event in events if event.get("event") == "StepDone"], epochs)
    if best is not None:
        value = best["val"].get(monitor)
        shown = "nan" if value is None else figure(value)
        text = f"best epoch: {best['epoch']} of {epochs[-1]['epoch']}, val {printable(monitor)} {shown}"
        add_run_name(fig, metrics_jsonl.parent.name, text)
    return save_figure(fig, path)


def save_result(folder: Path, result: EvalResult, run: str = "") -> list[Path]:
    """Draw into ``folder`` what fits the task of a result; returns the files, which may be none.

    ``run`` is the name of the run, for the titles.

    Raises: DlcliError when a picture cannot be written.
    """
    if result.task == "classification" and result.confusion:
        return [save_confusion(folder / "confusion.png", result, run)]
    plots = [save_forecasts(folder / "forecast.png", result, run)] if result.forecasts else []
    if result.task in ("regression", "forecast") and result.points:
        plots.append(save_scatter(folder / "scatter.png", result, run))
    return plots


def save_scatter(path: Path, result: EvalResult, run: str = "") -> Path:
    """Draw the predicted against the true values of the first target; returns ``path``.

    Of a forecast they are those of the last step of the horizon. On the line they are equal. Raises:
    DlcliError when the picture cannot be written.
    """
    import numpy as np

    points = np.asarray(result.points, dtype=np.float64).reshape(-1, 2)  # (n, true and predicted)
    fig, (axes,) = new_figure(5.4, 5.6, columns=(1,))
    low, high = _limits(points.min(initial=np.inf), points.max(initial=-np.inf))
    axes.plot([low, high], [low, high], color=GREY, linestyle="--", linewidth=1, zorder=1)
    # Many points lie on each other: the more there are, the fainter, so that dense places show.
    size, alpha = (16, 0.7) if len(points) <= 200 else (9, 0.35)
    axes.scatter(points[:, 0], points[:, 1], s=size, color=BLUE, alpha=alpha, linewidths=0)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    axes.set_xlabel("true", fontsize=10)
    axes.set_ylabel("predicted", fontsize=10)
    add_grid(axes)
    title = axes.set_title(_scatter_title(result, len(points)), fontsize=11)
    title.set_parse_math(False)  # a name with dollar signs is no formula
    add_run_name(fig, run)
    return save_figure(fig, path)


def _limits(low: float, high: float) -> tuple[float, float]:
    """The range of both axes, with some room; of nothing, and of one value, still a range."""
    if not low <= high:
        return 0.0, 1.0
    room = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
    return low - room, high + room


def _scatter_title(result: EvalResult, points: int) -> str:
    shown = plural(result.samples, "sample")
    if points < result.samples:
        shown = f"{points:,} of {shown}"
    if not result.per_target:
        return f"{printable(result.split)}, {shown}"
    first = result.per_target[0]
    name = shorten(printable(first.name), NAME_WIDTH)
    if result.task == "forecast":  # the scores of a row are over all steps
        return f"{name} on {printable(result.split)}, last step of the horizon\n{shown}"
    scores = f"r2 {figure(first.r2)}, mae {figure(first.mae)}"
    return f"{name} on {printable(result.split)}\n{scores}, {shown}"


def second_metric(monitor: str, epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metric next to the loss: the monitored one, unless that is the loss by any name."""
    vals = [event["val"] for event in epochs]
    if any(val.get(monitor) != val.get("loss") for val in vals):
        return [monitor]
    return [name for name in SECOND if name in vals[-1]][:1]


def _draw_metric(
    axes: Axes, epochs: Sequence[dict[str, Any]], name: str, best: dict[str, Any] | None
) -> None:
    numbers = [event["epoch"] for event in epochs]
    # Of training, an epoch knows its loss and perhaps its accuracy.
    train = [_number(event.get(name)) for event in epochs] if name in ("loss", "accuracy") else []
    val = [_number(event["val"].get(name)) for event in epochs]
    marks = len(epochs) <= MARKED_EPOCHS
    if any(value == value for value in train):
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
    if name in ERRORS:
        drawn = [value for value in (*train, *val) if value > 0]  # NaN is not
        if drawn and max(drawn) > LOG_RANGE * min(drawn):
            axes.set_yscale("log")
            log_axis(axes.yaxis)
    _dress(axes, name, numbers[-1])
    axes.legend(fontsize=9, frameon=False)


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
    add_grid(axes)


def _number(value: float | None) -> float:
    """A gap in the line for what was no finite number, or is not there."""
    return float("nan") if value is None else value
