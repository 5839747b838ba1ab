"""Sections of a page with several runs side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dlcli.evaluation.metrics import EvalResult
from dlcli.evaluation.run_summaries import differences
from dlcli.report import charts
from dlcli.report.blocks import Block, Figures, Notes, Section, Table
from dlcli.report.charts import COLOURS, Line
from dlcli.report.reading import RunFacts
from dlcli.report.record_sections import when
from dlcli.ui.plots.run import ERRORS
from dlcli.ui.tables import metric_order
from dlcli.ui.text import duration, figure
from dlcli.wording import count, shorten, size

NAME, VALUE = 40, 120  # characters of a run's name and of a setting


def sections(runs: Sequence[RunFacts]) -> list[Section]:
    """Return the sections; runs without a thing have a dash."""
    parts = [
        _overview(runs),
        _metrics(runs),
        _curves(runs),
        _classes(runs),
        _settings(runs),
        _problems(runs),
    ]
    return [one for one in parts if one is not None]


def _names(runs: Sequence[RunFacts]) -> list[str]:
    return [shorten(run.folder.name, NAME) for run in runs]


def _overview(runs: Sequence[RunFacts]) -> Section:
    rows = []
    for name, run in zip(_names(runs), runs, strict=True):
        one = run.summary
        best = figure(one.best) if math.isfinite(one.best) else "–"
        rows.append(
            [
                name,
                one.model or "–",
                run.record.data.name or one.data or "–",
                one.status,
                f"{one.monitor} {best}" if one.monitor else "–",
                f"{one.best_epoch or '–'} of {one.epochs_done}",
                "–" if one.params is None else count(one.params),
                "–" if one.best_bytes is None else size(one.best_bytes),
                duration(one.elapsed_s) if math.isfinite(one.elapsed_s) else "–",
                when(one.started_at) or "–",
            ]
        )
    heads = ["run", "model", "data", "status", "best on val", "best epoch", "parameters", "file"]
    heads += ["training", "started (UTC)"]
    blocks: list[Block] = [Table("Runs", heads, rows, words=(1, 2, 3))]
    prints = {run.record.fingerprint for run in runs}
    if len(prints) > 1:
        blocks.append(
            Notes(["The runs are not all of the same data: figures of other data do not compare."])
        )
    return Section("runs", "Runs", blocks)


def _metrics(runs: Sequence[RunFacts]) -> Section | None:
    """The metrics of each split that any of the runs was evaluated on."""
    blocks: list[Block] = []
    evaluations = [run.evaluations() for run in runs]
    for split in ("test", "val"):
        columns = [dict(own[split].metrics) if split in own else {} for own in evaluations]
        if split == "val":  # recorded in each epoch, also by older versions
            columns = [own or run.summary.metrics for own, run in zip(columns, runs, strict=True)]
        names = list(dict.fromkeys(name for column in columns for name in column))
        tasks = {one.task for own in evaluations for one in own.values()}
        if len(tasks) == 1:
            names = metric_order(tasks.pop(), names)
        rows = [[name, *(_figure(column.get(name)) for column in columns)] for name in names]
        if rows:
            blocks.append(Table(f"Metrics on {split}", ["metric", *_names(runs)], rows))
    return Section("results", "Results", blocks) if blocks else None


def _figure(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else figure(value)


def _curves(runs: Sequence[RunFacts]) -> Section | None:
    """The monitored metric and the loss on val of each run; at most as many as there are colours."""
    drawn = [run for run in runs if run.epochs][:COLOURS]
    if not drawn:
        return None
    monitors = dict.fromkeys(run.epochs[-1].monitor for run in drawn)
    figures = []
    for name in dict.fromkeys([*monitors, "loss"]):
        lines = [
            Line(label, [(one.epoch, one.val.get(name, math.nan)) for one in run.epochs], i)
            for i, (label, run) in enumerate(zip(_names(drawn), drawn, strict=True))
            if any(name in one.val for one in run.epochs)
        ]
        figures.append(charts.line_chart(f"val {name}", lines, "epoch", log=name in ERRORS))
    blocks: list[Block] = [Figures([one for one in figures if one is not None])]
    if len(drawn) < len(runs):
        blocks.append(Notes([f"{len(drawn)} of {len(runs)} runs are drawn."]))
    return Section("training", "Training", blocks)


def _classes(runs: Sequence[RunFacts]) -> Section | None:
    """Recall of each class, where all runs were evaluated on one split with the same classes."""
    for split in ("test", "val"):
        results = [run.evaluations().get(split) for run in runs]
        known = [one for one in results if isinstance(one, EvalResult) and one.per_class]
        names = [[row.name for row in one.per_class] for one in known]
        if len(known) < len(runs) or any(own != names[0] for own in names):
            continue
        rows = [
            [shorten(name, 60), *(figure(one.per_class[i].recall) for one in known)]
            for i, name in enumerate(names[0][:1000])
        ]
        table = Table(f"Recall of each class on {split}", ["class", *_names(runs)], rows)
        return Section("classes", "Classes", [table])
    return None


def _settings(runs: Sequence[RunFacts]) -> Section | None:
    rows, _ = differences([run.folder for run in runs])
    body = [[key, *map(_value, values)] for key, values in rows.items()]
    if not body or len(runs) < 2:
        return None
    words = tuple(range(1, len(runs) + 1))
    table = Table("Settings that differ", ["setting", *_names(runs)], body, words=words)
    return Section("settings", "Settings", [table])


def _value(value: Any) -> str:
    return "–" if value is None else shorten(str(value), VALUE)


def _problems(runs: Sequence[RunFacts]) -> Section | None:
    lines = [f"{run.folder.name}: {text}" for run in runs for text in run.problems]
    return Section("problems", "Not shown", [Notes(lines, tone="warning")]) if lines else None
