"""Sections about what a model reached: metrics, baselines, curves, where it errs, its worst samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from dlcli.data.previews import CELL, CELLS, TEXT, Preview, is_picture
from dlcli.evaluation.intervals import wilson
from dlcli.evaluation.metrics import BaselineRow, EvalResult
from dlcli.evaluation.metrics.base import WorstRow
from dlcli.evaluation.worst import SHOWN
from dlcli.report import charts, class_charts
from dlcli.report.blocks import (
    Block,
    Details,
    Figure,
    Figures,
    Notes,
    Sample,
    Samples,
    Section,
    Table,
    Text,
)
from dlcli.report.charts import Line, Mark
from dlcli.report.reading import RunFacts
from dlcli.ui.differences import baseline_sentence, interval, verdict
from dlcli.ui.intervals import interval_cells, interval_heads, interval_title
from dlcli.ui.plots.run import ERRORS, second_metric
from dlcli.ui.slices import slice_cells, worst_words
from dlcli.ui.tables import meaning, metric_order
from dlcli.ui.text import figure, signed
from dlcli.wording import count, plural, shorten

EPOCH_ROWS = 100  # of the table below the curves
ROWS = 60  # of a table of targets or series
FEW = 12  # forecasts and translations
VALUE = 160  # characters of a target or prediction


def results(facts: RunFacts) -> Section | None:
    """The metrics of each split side by side."""
    evaluations = facts.evaluations()
    if not evaluations:
        if not facts.summary.metrics:
            return None
        rows = [[name, figure(value)] for name, value in facts.summary.metrics.items()]
        note = (
            "Only the metrics of the best epoch are recorded, as of runs of older versions and of those "
            f"that have not ended. After training, dlcli eval {facts.folder.name} records the rest."
        )
        return Section(
            "results", "Results", [Table("Metrics on val", ["metric", "val"], rows), Notes([note])]
        )
    task = next(iter(evaluations.values())).task
    names = metric_order(
        task, {name for one in evaluations.values() for name in (*one.metrics, *one.undefined)}
    )
    heads = ["metric", *(f"{split} ({count(one.samples)})" for split, one in evaluations.items())]
    rows = [[name, *(_metric(one, name) for one in evaluations.values())] for name in names]
    blocks: list[Block] = [Table("Metrics by split (samples)", heads, rows, note=meaning(task))]
    notes = [
        f"{split}: {plural(one.non_finite, 'output')} with NaN or infinity"
        for split, one in evaluations.items()
        if one.non_finite
    ]
    notes += [
        f"{split}: {plural(len(one.bad_samples), 'unreadable sample')} left out"
        for split, one in evaluations.items()
        if one.bad_samples
    ]
    if "val" in evaluations:
        notes.append("val chose the best epoch, so its metrics are slightly optimistic")
    if "test" not in evaluations and facts.record.data.splits.get("test"):
        notes.append(f"not measured on the test split yet: dlcli eval {facts.folder.name}")
    blocks += [Notes(notes)] if notes else []
    for split, one in evaluations.items():
        if table := _baselines(one, split):
            blocks.append(table)
    return Section("results", "Results", blocks)


def _metric(result: EvalResult, name: str) -> str:
    if name in result.undefined:
        return "undefined"
    value = result.metrics.get(name)
    if value is None:
        return "–"
    if name == "accuracy" and result.samples and result.task in ("classification", "multilabel"):
        low, high = wilson(round(value * result.samples), result.samples)
        return f"{figure(value)} ({low:.3f} to {high:.3f})"
    return figure(value)


def _baselines(result: EvalResult, split: str) -> Table | None:
    rows: Sequence[BaselineRow] = result.baselines[:ROWS]
    if not rows:
        return None
    metric = rows[0].metric
    ends = [
        abs(end) for row in rows for end in (row.low, row.high, row.difference) if math.isfinite(end)
    ]
    reach = max(ends, default=0.0) or 1.0
    body: list[list[Text]] = [
        [
            row.name,
            figure(row.value),
            signed(row.difference),
            interval(row),
            charts.interval(row, reach),
            verdict(row),
        ]
        for row in rows
    ]
    heads = ["baseline", metric, "difference", "95 % interval", "", "the model is"]
    own = f" {figure(result.metrics[metric])}" if metric in result.metrics else ""
    note = f"The difference is the model's{own} minus the baseline's, on the same samples."
    notes = [f"{row.name}: {row.note}." for row in rows if row.note]
    return Table(f"Baselines on {split}", heads, body, words=(5,), note=" ".join([note, *notes]))


def headline(result: EvalResult) -> str:
    """In one sentence: the best baseline and whether the model is better; "" without baselines."""
    from dlcli.evaluation.baselines.compare import strongest

    best = strongest(result.baselines)
    return "" if best is None else f"{result.split}: baseline {baseline_sentence(best)}"


def training(facts: RunFacts) -> Section | None:
    """Loss, monitored metric and learning rate over epochs, and a table of the epochs."""
    epochs = facts.epochs
    if not epochs:
        return None
    monitor = epochs[-1].monitor
    best = next((one for one in reversed(epochs) if one.improved), None)
    rows = [one.to_dict() for one in epochs]
    figures = []
    for name in ["loss", *second_metric(monitor, rows)]:
        lines = [Line("val", [(one.epoch, one.val.get(name, math.nan)) for one in epochs], 1)]
        if name == "loss":
            lines.insert(0, Line("train", [(one.epoch, one.loss) for one in epochs], 0))
        if name == "accuracy" and any(one.accuracy is not None for one in epochs):
            own = [(one.epoch, math.nan if one.accuracy is None else one.accuracy) for one in epochs]
            lines.insert(0, Line("train", own, 0))
        mark = None
        if best is not None:
            mark = Mark(best.epoch, best.val.get(name, math.nan), f"best epoch, {best.epoch}")
        figures.append(charts.line_chart(name, lines, "epoch", log=name in ERRORS, mark=mark))
    figures.append(_schedule(facts))
    drawn = [one for one in figures if one is not None]
    return Section("training", "Training", [Figures(drawn), _epochs(facts, monitor)])


def _schedule(facts: RunFacts) -> Figure | None:
    """The learning rate where it was logged within epochs, and at their ends."""
    points = {
        one.epoch - 1 + one.step_in_epoch / max(one.steps_per_epoch, 1): one.lr for one in facts.steps
    }
    points |= {float(one.epoch): one.lr for one in facts.epochs}
    if not any(points.values()):  # a model that was fitted whole has none
        return None
    lines = [Line("", sorted(points.items()), 2)]
    return charts.line_chart("learning rate", lines, "epoch", whole=False)


def _epochs(facts: RunFacts, monitor: str) -> Details:
    """A table of the epochs; of many they are evenly spaced, with the best one."""
    epochs = facts.epochs
    every = -(-len(epochs) // EPOCH_ROWS)
    best = facts.summary.best_epoch
    shown = [one for i, one in enumerate(epochs) if (i + 1) % every == 0 or one.epoch == best]
    names = [name for name in dict.fromkeys(("loss", monitor)) if name in epochs[-1].val]
    rows = [
        [
            f"{one.epoch}{' (best)' if one.epoch == best else ''}",
            figure(one.loss),
            *(figure(one.val.get(name, math.nan)) for name in names),
            f"{one.lr:.2e}",
            f"{one.epoch_s:.1f}",
        ]
        for one in shown
    ]
    heads = ["epoch", "train loss", *(f"val {name}" for name in names), "learning rate", "seconds"]
    note = f"{len(rows)} of {len(epochs):,} epochs" if len(rows) < len(epochs) else ""
    return Details("Figures of the epochs", [Table("Epochs", heads, rows, note=note)])


def errors(result: EvalResult, noun: str) -> Section | None:
    """Where the model errs, by what fits the task: classes, targets, series, forecasts, translations."""
    split, blocks = result.split, list[Block]()
    names = [row.name for row in result.per_class]
    figures: list[Figure | None] = []
    if result.confusion:
        figures.append(class_charts.confusion(f"Confusion on {split}", result.confusion, names))
    figures.append(class_charts.reliability(_calibration(result), result.reliability))
    if result.task in ("regression", "forecast") and result.points:
        figures.append(charts.scatter(_scatter_caption(result), result.points))
    coverage = result.intervals[0].coverage if result.intervals else math.nan
    figures += [charts.forecast(line, coverage) for line in result.forecasts[:FEW]]
    if drawn := [one for one in figures if one is not None]:
        blocks.append(Figures(drawn))
    if result.confusion and (table := class_charts.confusions(result.confusion, names)):
        blocks.append(table)
    if result.per_class:
        first, rest = class_charts.class_table(result.per_class, noun)
        blocks.append(first)
        if rest is not None:
            blocks.append(Details(f"All {plural(len(result.per_class), noun)}", [rest]))
    blocks += _slices(result)
    tables = (_targets(result), _intervals(result), _series(result), _translations(result))
    blocks += [table for table in tables if table]
    return Section("errors", f"Where it errs, on {split}", blocks) if blocks else None


def _slices(result: EvalResult) -> list[Table]:
    """A table for each column of `eval --slice`."""
    tables = []
    for column, group in groupby(result.slices, key=lambda row: row.column):
        rows = list(group)
        heads = [shorten(column, 40), "samples", rows[0].metric, "95 % interval", "than all samples"]
        tables.append(
            Table(f"By {shorten(column, 40)}", heads, slice_cells(rows[:ROWS]), (4,), worst_words(rows))
        )
    return tables


def _calibration(result: EvalResult) -> str:
    ece = result.metrics.get("ece")
    known = "" if ece is None else f", ECE {figure(ece)}"
    return f"Reliability on {result.split}{known}"


def _scatter_caption(result: EvalResult) -> str:
    name = result.per_target[0].name if result.per_target else "target"
    where = ", last step of the horizon" if result.task == "forecast" else ""
    shown = f"{len(result.points):,} of " if len(result.points) < result.samples else ""
    return f"{shorten(name, 40)}{where}: {shown}{plural(result.samples, 'sample')} of {result.split}"


def _intervals(result: EvalResult) -> Table | None:
    """What the intervals of `eval --intervals` contain."""
    rows = result.intervals
    if not rows:
        return None
    return Table(interval_title(rows).capitalize(), interval_heads(result.split), interval_cells(rows))


def _targets(result: EvalResult) -> Table | None:
    rows = sorted(result.per_target, key=lambda row: math.inf if math.isnan(row.r2) else row.r2)
    if len(rows) <= ROWS:
        rows = list(result.per_target)
    body = [[shorten(row.name, 60), *map(figure, (row.mae, row.rmse, row.r2))] for row in rows[:ROWS]]
    few = "" if len(rows) <= ROWS else f"The {ROWS} of {len(rows):,} with the lowest r2."
    heads = ["target", "mae", "rmse", "r2"]
    return Table("Targets, in the data's own units", heads, body, note=few) if body else None


def _series(result: EvalResult) -> Table | None:
    rows = sorted(result.per_series, key=lambda row: -row.mse)
    names = ("mse", "mae", "r2", "smape", "mase")
    body = [
        [shorten(row.id, 60), count(row.samples), *(figure(getattr(row, name)) for name in names)]
        for row in rows[:ROWS]
    ]
    few = f" The {ROWS} of {len(rows):,} with the highest mse." if len(rows) > ROWS else ""
    note = f"mse, mae and r2 are of scaled values.{few}"
    return Table("Series", ["series", "windows", *names], body, note=note) if body else None


def _translations(result: EvalResult) -> Table | None:
    body = [
        [shorten(text, 300) for text in (r.source, r.target, r.prediction)]
        for r in result.translations[:FEW]
    ]
    heads = ["source", "target", "prediction"]
    return (
        Table("Translations, evenly spaced over the split", heads, body, words=(1, 2)) if body else None
    )


def worst(result: EvalResult) -> Section | None:
    """The samples with the largest loss."""
    worst_ones = result.worst[: 2 * SHOWN]
    rows = [row for row in worst_ones if row.forecast or row.preview != Preview()]
    error = "squared error" if result.task in ("regression", "forecast") else "loss"
    shown = [_sample(row, error) for row in rows or worst_ones[:SHOWN]]
    if not shown:
        return None
    title, notes = f"Worst samples of {result.split}", [f"The largest {error} first."]
    if any(sample.heat for sample in shown):
        notes.append("The second picture is light where in the image the prediction was found.")
    if any(row.preview.effects for row in worst_ones):
        notes.append('"depends on": how much the prediction changes without that part.')
    return Section("worst", title, [Notes(notes), Samples(shown)])


def _sample(row: WorstRow, error: str) -> Sample:
    facts = [(error, figure(row.loss))]
    drawn = charts.curves(row.preview.curves) if row.preview.curves else None
    if row.forecast is not None:
        drawn = charts.forecast(row.forecast)
    else:
        facts += [("target", shorten(row.target, VALUE) or "none")]
        facts += [("prediction", shorten(row.prediction, VALUE) or "none")]
    if row.probability is not None:
        facts.append(("probability", f"{row.probability:.3f}"))
    if row.preview.effects:
        most = ", ".join(
            f"{shorten(name, CELL)} {signed(effect)}" for name, effect in row.preview.effects
        )
        facts.append(("depends on", most))
    return Sample(
        name=shorten(row.input, 80),
        facts=facts,
        image=row.preview.image if is_picture(row.preview.image) else "",
        heat=row.preview.heat if is_picture(row.preview.heat) else "",
        text=shorten(row.preview.text, TEXT),
        cells=[(shorten(name, CELL), shorten(value, CELL)) for name, value in row.preview.cells[:CELLS]],
        figure=drawn,
    )
