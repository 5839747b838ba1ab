"""Cells of a progress line from a run's events, shared by the live view and the plain lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlcli import wording
from dlcli.data.kinds import KINDS
from dlcli.events import EpochDone, Profiled, RunFinished, RunStarted, StepDone
from dlcli.ui import text

GAP = "  "
METRIC_WIDTH = 6  # 0.1234

_PHASES = {"data": "data wait", "evaluation": "eval", "other": "rest"}
# Validation metrics in the order of their columns, and which of them a narrow screen loses first.
_RANKS = {
    "loss": 2, "accuracy": 1, "bleu": 6, "r2": 6, "mae": 7, "rmse": 9, "mse": 10, "smape": 11,
    "mase": 11, "f1_macro": 9, "top5_accuracy": 10, "balanced_accuracy": 12,
}  # fmt: skip
# Metrics without a column, unless one of them selects the best epoch.
_IN_EVAL = frozenset({"log_loss", "roc_auc", "average_precision", "matthews_corrcoef", "ece"})


@dataclass(frozen=True)
class Cell:
    """One value of a line. A narrow screen drops the cell of the highest ``rank`` first.

    ``name`` is the column's heading or prefix; empty for a value that needs none.
    """

    name: str
    text: str
    width: int
    rank: int


def plan(event: RunStarted) -> list[tuple[str, str]]:
    """Return the plan of a run as (key, sentence) rows."""
    trainable = (
        f", {wording.count(event.trainable_params)} trainable"
        if event.trainable_params != event.params
        else ""
    )
    samples = ", ".join(f"{name} {wording.count(n)}" for name, n in event.samples.items())
    by_gradient = bool(event.optimizer)  # else the model is fitted whole
    parameters = f", {wording.plural(event.params, 'parameter')}{trainable}" if by_gradient else ""
    rows = [
        ("model", f"{text.from_here(event.model)}{parameters}"),
        ("data", text.from_here(event.data)),
        ("task", f"{event.kind} data, {_task(event)}"),
        ("samples", samples),
        ("input", _shape(event)),
        *(("note", note) for note in event.notes),
        *(_steps(event) if by_gradient else [("fitted", "whole, on all training rows at once")]),
        ("best by", f"val {event.monitor}{_scale(event)}"),
        ("device", f"{event.device}, amp {event.amp}"),
    ]
    if event.resumed_step:
        rows.append(
            (
                "resumed",
                f"after step {wording.count(event.resumed_step)} of {wording.count(event.total_steps)}",
            )
        )
    return [(word, wording.one_line(value)) for word, value in rows]


def _steps(event: RunStarted) -> list[tuple[str, str]]:
    """Return how a model is trained by gradient: its steps, loss, optimizer and schedule."""
    return [
        (
            "steps",
            f"{wording.plural(event.epochs, 'epoch')} x {wording.count(event.steps_per_epoch)}"
            f"{_total(event)}, batch {event.division or wording.count(event.batch_size)}",
        ),
        *([("loss", event.loss.replace("_", " "))] if event.loss else []),
        ("optimizer", f"{event.optimizer}, lr {event.lr:g}"),
        ("schedule", event.schedule or event.scheduler),
    ]


def epoch_cells(event: EpochDone) -> list[Cell]:
    """Return the cells of a finished epoch; the last one is ``best`` if it improved."""
    cells = [
        _fraction("epoch", event.epoch, event.epochs, rank=0),
        _metric("loss", event.loss, rank=4),
        *_accuracy(event.accuracy, rank=4),
    ]
    order = ["loss", event.monitor, *_RANKS]
    shown = {*event.val} - (_IN_EVAL - {event.monitor})
    for name in sorted(shown, key=lambda n: (order.index(n) if n in order else len(order), n)):
        rank = 0 if name == event.monitor else _RANKS.get(name, 12)
        cells.append(_metric(f"val_{text.SHORT_NAMES.get(name, name)}", event.val[name], rank=rank))
    cells += [
        *([Cell("lr", f"{event.lr:.2e}", 8, rank=7)] if event.lr else []),
        Cell("samples/s", text.rate(event.samples_per_s), 5, rank=8),
        Cell("time", text.duration(event.epoch_s), 5, rank=5),
        Cell("", "best" if event.improved else "", 4, rank=3),
    ]
    return cells


def step_cells(event: StepDone) -> list[Cell]:
    """Return the cells of a step within an epoch."""
    cells = [
        _fraction("step", event.step, event.total_steps, rank=0),
        _fraction("epoch", event.epoch, event.epochs, rank=3),
        _metric("loss", event.loss, rank=1),
        *_accuracy(event.accuracy, rank=1),
        Cell("lr", f"{event.lr:.2e}", 8, rank=5),
        Cell("samples/s", text.rate(event.samples_per_s), 5, rank=4),
        Cell("left", text.duration(event.eta_s), 5, rank=2),
    ]
    if event.memory_mib is not None:
        cells.append(Cell("memory", wording.memory(event.memory_mib), 8, rank=6))
    return cells


def finished(event: RunFinished) -> str:
    """Return one sentence on a run's end."""
    if event.reason == "fitted":
        return (
            f"fitted: {wording.plural(event.step, 'iteration')} in {text.duration(event.elapsed_s)}; "
            f"val {event.monitor} {text.figure(event.best)}"
        )
    early = {
        "patience": "stopped early",
        "steps": "--max-steps reached",
        "time": "--max-time reached",
    }.get(event.reason, "stopped early" if event.stopped_early else "done")
    return wording.one_line(
        f"{early}: {wording.plural(event.epochs_done, 'epoch')}, {wording.plural(event.step, 'step')}"
        f" in {text.duration(event.elapsed_s)}; best val {event.monitor} {text.figure(event.best)}"
        f" in epoch {event.best_epoch}"
    )


def time_spent(event: RunFinished) -> list[str]:
    """Return a line on where the time of training went, and its speed; none where that is unknown."""
    total = sum(event.phase_s.values())
    if not total:
        return []
    shares = ", ".join(
        f"{_PHASES.get(phase, phase)} {seconds / total:.0%}" for phase, seconds in event.phase_s.items()
    )
    return [f"time: {shares}; {text.rate(event.samples_per_s)} {event.unit}/s"]


def profile_lines(event: Profiled, width: int) -> list[str]:
    """Return a title and the table of the operators of a trace; names are shortened to the width."""
    on_device = event.by != "CPU"
    last = event.first_step + event.steps - 1
    heads = ("calls", "self CPU", *(["self CUDA"] if on_device else []), "share")
    rows = [
        (
            wording.count(operator.calls),
            f"{operator.cpu_ms:.2f} ms",
            *([f"{operator.device_ms:.2f} ms"] if on_device else []),
            f"{operator.share:.1%}",
        )
        for operator in event.operators
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    room = width - sum(widths) - len(GAP) * len(widths)
    names = [wording.shorten(operator.name, room) for operator in event.operators]
    names = [name.ljust(max(map(len, names))) for name in ("operator", *names)]
    table = [
        GAP.join([name, *(cell.rjust(size) for cell, size in zip(row, widths, strict=True))])
        for name, row in zip(names, [heads, *rows], strict=True)
    ]
    span = f"step {last}" if event.steps == 1 else f"steps {event.first_step} to {last}"
    return [f"profile of {span}, by {event.by} time: {event.path}", *table]


def fit(cells: Sequence[Cell], width: int, cost: Callable[[Cell], int]) -> list[Cell]:
    """Return the cells that fit ``width``; the least important ones are dropped first."""
    shown = list(cells)
    while len(shown) > 1 and sum(map(cost, shown)) + len(GAP) * (len(shown) - 1) > width:
        last = max(range(len(shown)), key=lambda i: (shown[i].rank, i))
        del shown[last]
    return shown


def _fraction(name: str, number: int, total: int, *, rank: int) -> Cell:
    digits = len(str(total))
    return Cell(name, f"{number}/{total}", 2 * digits + 1, rank)


def _total(event: RunStarted) -> str:
    whole = event.epochs * event.steps_per_epoch == event.total_steps
    return f"{' =' if whole else ', at most'} {wording.count(event.total_steps)}"


def _task(event: RunStarted) -> str:
    if not event.num_classes:
        return event.task
    noun = "label" if event.task == "multilabel" else "class"
    return f"{event.task}, {wording.plural(event.num_classes, noun)}"


def _scale(event: RunStarted) -> str:
    """Say where a forecast's metric is not in the data's units."""
    scaled = event.task == "forecast" and event.monitor in ("mse", "mae", "rmse", "loss")
    return ", on scaled values" if scaled else ""


def _shape(event: RunStarted) -> str:
    """Return the shape of one sample, in the words of its kind of data."""
    size = " x ".join(str(n) for n in event.input_shape)
    return KINDS.get(event.kind).size_words.format(size)


def _accuracy(value: float | None, *, rank: int) -> list[Cell]:
    """Return the training accuracy, if the task has one."""
    return [] if value is None else [_metric("acc", value, rank=rank)]


def _metric(name: str, value: float, *, rank: int) -> Cell:
    return Cell(name, text.figure(value), METRIC_WIDTH, rank)
