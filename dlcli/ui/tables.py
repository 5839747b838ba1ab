"""Tables of results on stdout: evaluations, facts, comparisons."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from heapq import nsmallest
from itertools import islice
from typing import TYPE_CHECKING

from dlcli import wording
from dlcli.ui import console as consoles
from dlcli.ui import text
from dlcli.ui.differences import interval, trees_hint, verdict
from dlcli.ui.narrow import least_width, print_list, texts_of
from dlcli.ui.sections import Row, Section, print_sections
from dlcli.ui.text import figure
from dlcli.wording import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dlcli.evaluation.metrics import ClassRow, EvalResult, SeriesRow, TargetRow
    from dlcli.task import TaskKind

MAX_CLASSES = 30  # longer lists show the worst ones
WORST = 20
CONFUSIONS = 5
BAD_SAMPLES = 5

# The most important metrics first, then the rest in the order of the result.
_ORDER = {
    "classification": (
        *("accuracy", "top5_accuracy", "loss", "roc_auc", "average_precision"),
        *("balanced_accuracy", "f1_macro"),
    ),
    "multilabel": ("f1_macro", "average_precision", "roc_auc", "accuracy", "loss"),
    "regression": ("r2", "mae", "rmse", "mse", "loss"),
    "forecast": ("mse", "mae", "r2", "mase", "rmse", "loss", "smape"),
    "seq2seq": ("loss", "accuracy", "bleu"),
    "embedding": ("recall_at_1", "loss"),
}
# Metrics that a table leaves to --json, unless they chose the model: the loss by another name, and the
# curves of each of many classes against the rest.
_LEFT_TO_JSON = frozenset({"log_loss"})
_OF_TWO_CLASSES = frozenset({"roc_auc", "average_precision"})
# Explanations of metrics beyond their names.
_MEANING = {
    "classification": "ece: expected calibration error, how far confidence is from accuracy",
    "multilabel": "accuracy: samples with all labels right (subset accuracy)",
    "regression": "mae, rmse and mse are in the data's own units, loss is on scaled values",
    "forecast": "mse, mae, rmse, loss are on scaled values, (value - mean) / std; r2 and mase are over "
    "all targets and steps; smape is in percent",
    "seq2seq": "accuracy is of tokens, with teacher forcing; bleu is of texts in lower case, unless the "
    "model keeps upper case",
    "embedding": "recall_at_1: share of samples whose nearest neighbour in the split has their class; "
    "classes with one sample are left out",
}


def print_eval(result: EvalResult, artifact: str, note: str | None) -> None:
    """Print the metrics, details by task, the baselines and the samples left out.

    Metrics carry the names that ``--min`` and ``--json`` use. ``note`` says why this split.
    """
    rows = [Row("model", artifact), Row("split", f"{result.split}, {_samples(result)}")]
    if note:
        rows.append(Row("note", note))
    if result.non_finite:
        rows.append(
            Row("not finite", f"{wording.plural(result.non_finite, 'output')} with NaN or infinity")
        )
    chosen = {row.metric for row in result.baselines}
    left = _left_to_json(result) - chosen
    names = metric_order(result.task, {*result.metrics, *result.undefined} - left)
    scores = [Row(name, _metric(result, name)) for name in names]
    meaning = [Row("", text) for text in _meanings(result, names, sorted(left & set(result.metrics)))]
    print_sections([Section("evaluation", rows), Section("metrics", [*scores, *meaning])])
    if result.per_class:
        _print_classes(result)
    if result.per_target:
        _print_targets(result)
    if result.per_series:
        _print_series(result)
    _print_baselines(result)
    _print_rest(result)


def metric_order(task: TaskKind, names: Iterable[str]) -> list[str]:
    """The names of metrics, the most important ones first."""
    order = _ORDER[task]
    return sorted(names, key=lambda n: (order.index(n) if n in order else len(order), n))


def meaning(task: TaskKind) -> str:
    """Explanations of a task's metrics beyond their names."""
    return _MEANING[task]


def _metric(result: EvalResult, name: str) -> str:
    if name in result.undefined:
        return f"undefined: {result.undefined[name]}"
    return figure(result.metrics[name])


def _left_to_json(result: EvalResult) -> frozenset[str]:
    many = result.task == "classification" and len(result.per_class) > 2
    return _LEFT_TO_JSON | _OF_TWO_CLASSES if many else _LEFT_TO_JSON


def _meanings(result: EvalResult, names: Sequence[str], left: Sequence[str]) -> list[str]:
    """Explanations of the metrics shown, and which are not."""
    out = [_MEANING[result.task]] if _MEANING[result.task] else []
    if result.task == "classification" and len(result.per_class) == 2 and "roc_auc" in names:
        negative, positive = (text.class_name(row.name) for row in result.per_class)
        out.append(f"roc_auc and average_precision: {positive} against {negative}")
    return out + ([f"more in --json: {', '.join(left)}"] if left else [])


def _print_rest(result: EvalResult) -> None:
    """The most frequent confusions, and the samples left out."""
    confusions = [
        Row("", f"{true} -> {guess}  {wording.count(n)} ({100 * n / total:.1f}%)")
        for n, total, true, guess in _confusions(result)
    ]
    bad = [
        Row("", f"{name}: {reason}") for name, reason in islice(result.bad_samples.items(), BAD_SAMPLES)
    ]
    if len(result.bad_samples) > BAD_SAMPLES:
        bad.append(Row("", f"and {len(result.bad_samples) - BAD_SAMPLES:,} more"))
    sections = [
        Section(
            "most frequent confusions: true -> predicted, samples, share of the true class", confusions
        ),
        Section(f"left out: {wording.plural(len(result.bad_samples), 'unreadable sample')}", bad),
    ]
    if confusions or bad:
        consoles.stdout().print()
    print_sections(sections)


def print_key_values(title: str, rows: list[tuple[str, str]]) -> None:
    """Print facts under a title; long values are wrapped next to their keys."""
    print_sections([Section(printable(title), [Row(printable(key), value) for key, value in rows])])


def print_comparison(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    words: Collection[int] = (),
    console: Console | None = None,
) -> None:
    """Print a table whose first column names the rows: before and after, formats side by side.

    ``words`` are the numbers of columns of words, which are folded in place of the first; ``console`` is
    stdout's by default.
    """
    from rich.text import Text

    table = _table()
    for number, column in enumerate(columns):
        table.add_column(
            Text(printable(column)),
            justify="right" if number and number not in words else "left",
            no_wrap=number not in words if words else bool(number),
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(printable(value) for value in row))
    console = console or consoles.stdout()
    console.print(Text(printable(title), "bold"), soft_wrap=True)
    _print_trimmed(table, console)


def _samples(result: EvalResult) -> str:
    bad = len(result.bad_samples)
    return wording.plural(result.samples, "sample") + (f", {bad:,} left out" if bad else "")


def _print_classes(result: EvalResult) -> None:
    rows: Sequence[ClassRow] = result.per_class
    noun = "label" if result.task == "multilabel" else "class"
    title = wording.plural(len(rows), noun)
    if len(rows) > MAX_CLASSES:
        # A class that neither occurs nor is predicted has no F1.
        seen = [row for row in rows if row.samples or row.predicted]
        rows = sorted(seen, key=lambda row: row.f1)[:WORST]
        title += f", the {len(rows)} with the lowest F1"
    table = _table()
    table.add_column(noun, overflow="fold")
    for name in ("samples", "predicted", "precision", "recall", "f1"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            text.class_name(row.name),
            wording.count(row.samples),
            wording.count(row.predicted),
            figure(row.precision) if row.predicted else "-",
            figure(row.recall) if row.samples else "-",
            figure(row.f1) if row.samples or row.predicted else "-",
        )
    _print_table(title, table)


def _print_targets(result: EvalResult) -> None:
    """Print a row per target, in its own units; of many, those with the lowest r2."""
    rows: Sequence[TargetRow] = result.per_target
    title = f"{wording.plural(len(rows), 'target')}, in the data's own units"
    if len(rows) > MAX_CLASSES:
        # The r2 of a single sample is NaN: last.
        rows = sorted(rows, key=lambda row: math.inf if math.isnan(row.r2) else row.r2)[:WORST]
        title += f", the {len(rows)} with the lowest r2"
    table = _table()
    table.add_column("target", overflow="fold")
    for name in ("mae", "rmse", "r2"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(printable(row.name), figure(row.mae), figure(row.rmse), figure(row.r2))
    _print_table(title, table)


def _print_series(result: EvalResult) -> None:
    """Print a row per series, with the baselines; of many, those with the highest mse."""
    rows: Sequence[SeriesRow] = result.per_series
    title = f"{len(rows):,} series; mse, mae and r2 on scaled values"
    if len(rows) > MAX_CLASSES:
        rows = sorted(rows, key=lambda row: -row.mse)[:WORST]
        title += f", the {len(rows)} with the highest mse"
    baselines = [row for row in result.baselines if row.by_series]
    table = _table()
    table.add_column("series", overflow="fold")
    for name in ("windows", "mse", *(row.name for row in baselines), "mae", "r2", "smape", "mase"):
        table.add_column(printable(name), justify="right")
    for row in rows:
        simple = [figure(baseline.by_series[row.id]) for baseline in baselines]
        scores = [figure(value) for value in (row.mae, row.r2, row.smape, row.mase)]
        table.add_row(printable(row.id), wording.count(row.samples), figure(row.mse), *simple, *scores)
    _print_table(title, table)


def _print_baselines(result: EvalResult) -> None:
    """Print baselines on the same samples, and whether the model is significantly better."""
    for metric in dict.fromkeys(row.metric for row in result.baselines):
        rows = [row for row in result.baselines if row.metric == metric]
        table = _table()
        table.add_column("baseline", overflow="fold")
        for name in (metric, "difference", "95 % interval"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("the model is", overflow="fold")
        for row in rows:
            table.add_row(
                printable(row.name),
                figure(row.value),
                text.signed(row.difference),
                interval(row),
                verdict(row),
            )
        own = f" {figure(result.metrics[metric])}" if metric in result.metrics else ""
        _print_table(f"baselines by {metric} (difference: the model's{own} minus theirs)", table)
    hint = trees_hint(result.baselines)
    if hint:
        consoles.stdout().print(f"  {hint}\n", soft_wrap=True)
    notes = {row.name: row.note for row in result.baselines if row.note}
    block = max((row.block for row in result.baselines), default=1)
    if block > 1:
        notes["95 % interval"] = f"resamples blocks of {block} windows, since windows overlap"
    if notes:
        consoles.stdout().print()
        explained = [Row(printable(name), wording.one_line(note)) for name, note in notes.items()]
        print_sections([Section("how the baselines predict", explained)])


def _print_table(title: str, table: Table) -> None:
    """Print a blank line, a title and a table."""
    from rich.text import Text

    console = consoles.stdout()
    console.print()
    console.print(Text(printable(title), "bold"))
    _print_trimmed(table)


def _print_trimmed(table: Table, console: Console | None = None) -> None:
    """Print a table, indented, without the blanks that rich adds at the end of lines.

    On a screen that is too narrow for it, it is a list: a row's name, and below it all that was in its
    columns. No figure is cut.
    """
    from rich.padding import Padding
    from rich.text import Text

    console = console or consoles.stdout()
    heads, rows = texts_of(table)
    folding = [not column.no_wrap for column in table.columns]
    if least_width(heads, rows, folding) > console.width - 2:
        print_list(heads, rows, console)
        return
    for segments in console.render_lines(Padding.indent(table, 2), pad=False):
        line = Text.assemble(*((segment.text, segment.style or "") for segment in segments))
        line.rstrip()
        console.print(line, soft_wrap=True)


def _confusions(result: EvalResult) -> list[tuple[int, int, str, str]]:
    """Return the most frequent (count, samples of the true class, true name, predicted name)."""
    wrong = (
        (n, t, p) for t, line in enumerate(result.confusion) for p, n in enumerate(line) if n and t != p
    )
    names = [text.class_name(row.name) for row in result.per_class]
    most = nsmallest(CONFUSIONS, wrong, key=lambda cell: (-cell[0], cell[1], cell[2]))
    return [(n, sum(result.confusion[t]), names[t], names[p]) for n, t, p in most]


def _table() -> Table:
    """Return a table without lines or markup, with two blanks between columns."""
    from rich.table import Table

    return Table(
        box=None,
        header_style="dim",
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
