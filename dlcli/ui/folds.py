"""The screen of a cross-validation, and its file of out-of-fold predictions."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli import wording
from dlcli.evaluation.ensemble import no_mean
from dlcli.evaluation.label_issues import LabelIssue
from dlcli.files import atomic_file
from dlcli.runs.folder import as_typed
from dlcli.ui.console import stdout
from dlcli.ui.differences import interval, verdict
from dlcli.ui.predict_writers import prediction_cells, prediction_columns
from dlcli.ui.sections import Row, Section, print_sections
from dlcli.ui.tables import metric_order, print_comparison
from dlcli.ui.text import csv_cell, figure, signed

if TYPE_CHECKING:
    from dlcli.evaluation.folds import FoldsResult, MeanRow
    from dlcli.runs.folds import FoldsFolder
    from dlcli.task import TaskSpec

_SCALED = "mse, mae, rmse and loss are of values scaled by each fold's own training rows"
_METRICS = 3  # columns of the table of folds, the metric that chose the models first


def print_folds(
    result: FoldsResult,
    group: FoldsFolder,
    issues: Sequence[LabelIssue],
    *,
    has_test: bool,
    reason: str,
) -> None:
    """Print the metrics of each fold, their mean, the baselines, and what to do next.

    ``has_test``: whether the data has a test split of its own, on which their ensemble can be evaluated.
    ``reason``: why their models are not one file, "" where they are.
    """
    stdout().print()
    rows = [
        Row("predictions", str(group.predictions)),
        Row("report", str(group.report)),
        *_labels(issues, group.label_issues),
        *_next(group, len(result.folds), result.task, has_test=has_test),
        *_ensemble(group, reason),
    ]
    print_held_out(result, group.name, rows)


def print_held_out(result: FoldsResult, name: str, more: Sequence[Row]) -> None:
    """Print the figures of a cross-validation, ``more`` rows below them, and its baselines."""
    print_comparison(f"cross-validation {name}", *fold_table(result, _METRICS))
    stdout().print()
    rows = [
        Row(f"mean {result.mean.name}", f"{mean_and_std(result.mean)} over the folds"),
        Row("", mean_interval(result.mean)),
        *_pooled(result),
        *_tested(result),
        *(Row("note", note) for note in fold_notes(result)),
    ]
    print_sections([Section("held-out folds", [*rows, *more])])
    if result.baselines:
        stdout().print()
        print_comparison(baseline_title(result), *baseline_table(result))


def mean_and_std(mean: MeanRow) -> str:
    """The mean of a metric with its standard deviation, in words."""
    return f"{figure(mean.value)}, std {figure(mean.std)}"


def fold_table(result: FoldsResult, most: int) -> tuple[list[str], list[list[str]]]:
    """The heads and a row for each fold, with up to ``most`` metrics; the first chose the models."""
    others = [n for n in metric_order(result.task, result.folds[0].metrics) if n != result.metric]
    names = [result.metric, *others][:most]
    rows = [
        [str(row.fold), f"{row.train_samples:,}", f"{row.samples:,}"]
        + [figure(row.metrics[name]) if name in row.metrics else "-" for name in names]
        for row in result.folds
    ]
    return ["fold", "train", "held out", *names], rows


def baseline_title(result: FoldsResult) -> str:
    """What `baseline_table` shows."""
    return f"baselines by {result.metric}, on the same folds (difference: the model's minus theirs)"


def baseline_table(result: FoldsResult) -> tuple[list[str], list[list[str]]]:
    """The heads and a row for each baseline."""
    heads = ["baseline", "difference", "95 % interval", "the model is"]
    return heads, [[r.name, signed(r.value), interval(r), verdict(r)] for r in result.baselines]


def fold_notes(result: FoldsResult) -> list[str]:
    """What the figures of held-out folds are of."""
    notes = ["a fold's own val split chose its epoch: what is held out chose nothing"]
    return [_SCALED, *notes] if result.task == "forecast" else notes


def _labels(issues: Sequence[LabelIssue], path: Path) -> list[Row]:
    if not issues:
        return []
    count = wording.plural(len(issues), "label")
    return [
        Row(
            "labels",
            f"{count} contradicted by the model that has not seen the sample, least probable first:",
        ),
        Row("", str(path)),
    ]


def mean_interval(mean: MeanRow) -> str:
    """The 95 % interval of the mean, in words."""
    if math.isnan(mean.low):
        return "no interval: all folds have the same value, which does not tell how values vary"
    return f"95 % interval {figure(mean.low)} to {figure(mean.high)}, for models of such data"


def _tested(result: FoldsResult) -> list[Row]:
    if result.metric not in result.test:
        return []
    value, samples = figure(result.test[result.metric]), wording.plural(result.test_samples, "sample")
    return [Row("test", f"the models' mean: {result.metric} {value} on {samples} that none has seen")]


def _next(group: FoldsFolder, folds: int, task: str, *, has_test: bool) -> list[Row]:
    """The commands that take all models as one, or the first one where they have no mean."""
    model = group.run(1).path if no_mean(task) else group.path
    what = "the model of the first fold" if no_mean(task) else f"the mean of {folds} models"
    data = "" if has_test or no_mean(task) else " --data FILE"
    return [
        Row("next", f"dlcli predict -a {as_typed(model)} FILE     {what}"),
        Row("", f"dlcli eval {as_typed(model)}{data}"),
    ]


def _ensemble(group: FoldsFolder, reason: str) -> list[Row]:
    if group.ensemble.is_file() and not reason:
        return [Row("", f"dlcli export {as_typed(group.path)} --onnx     all models in one file")]
    rows = [Row("", f"dlcli export {as_typed(group.run(1).path)} --onnx")]
    return [*rows, Row("note", reason)] if reason else rows


def _pooled(result: FoldsResult) -> list[Row]:
    if result.metric not in result.pooled:
        return []
    value = figure(result.pooled[result.metric])
    return [Row("out of fold", f"{result.metric} {value} on {wording.plural(result.samples, 'sample')}")]


def write_label_issues(path: Path, issues: Iterable[LabelIssue]) -> None:
    """Write the issues as CSV, in their order. Raises: DlcliError when it cannot be written."""
    with atomic_file(path) as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(field.name for field in fields(LabelIssue))
        for issue in issues:
            out.writerow(map(csv_cell, astuple(issue)))


def write_out_of_fold(path: Path, rows: Iterable[Mapping[str, Any]], task: TaskSpec) -> None:
    """Write `FoldModels.predictions` as CSV: input, fold, true values, and the columns of `predict`.

    Raises: DlcliError when the file cannot be written.
    """
    several = len(task.targets) > 1
    true = [f"true_{target.name}" for target in task.targets] if several else ["true"]
    with atomic_file(path) as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(map(csv_cell, ["input", "fold", *true, *prediction_columns(task, None)]))
        for row in rows:
            cells = [row["input"], row["fold"], *row["true"], *prediction_cells(row, task, None)]
            out.writerow(map(csv_cell, cells))
