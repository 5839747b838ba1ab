"""Results for people, on stdout: what was measured, facts, before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import nsmallest
from itertools import islice
from typing import TYPE_CHECKING

from dlcli import wording
from dlcli.ui import console as consoles
from dlcli.ui import text
from dlcli.ui.sections import Row, Section, print_sections
from dlcli.ui.text import figure
from dlcli.wording import printable

if TYPE_CHECKING:
    from rich.table import Table

    from dlcli.evaluation.metrics import BaselineRow, ClassRow, EvalResult, TargetRow

MAX_CLASSES = 30  # longer lists show the worst ones
WORST = 20
CONFUSIONS = 5
BAD_SAMPLES = 5

# First what people look for, then the rest in the order of the result.
_ORDER = {
    "classification": ("accuracy", "top5_accuracy", "loss", "balanced_accuracy", "f1_macro"),
    "multilabel": ("f1_macro", "accuracy", "loss"),
    "regression": ("r2", "mae", "rmse", "mse", "loss"),
    "forecast": ("mse", "mae", "rmse", "loss", "smape", "mase"),
    "seq2seq": ("loss", "accuracy", "bleu"),
    "embedding": ("recall_at_1", "loss"),
}
# What a metric's name does not say.
_MEANING = {
    "classification": "",
    "multilabel": "accuracy counts the samples of which every label is right",
    "regression": "mae, rmse and mse are in the data's own units, loss is on scaled values",
    "forecast": "mse, mae, rmse, loss are on scaled values, (value - mean) / std; smape is in percent",
    "seq2seq": "accuracy is of single tokens, each after the true ones before it",
    "embedding": "recall_at_1 counts samples whose nearest other one in the split is of their class; "
    "the only one of its class is left out",
}
_VERDICTS = {True: "better", False: "worse", None: "no difference beyond chance"}


def print_eval(result: EvalResult, artifact: str, note: str | None) -> None:
    """Print the metrics, what fits the task after them, the baselines and the samples left out.

    Metrics carry the names that ``--min`` and ``--json`` use. ``note`` says why this split.
    """
    rows = [Row("model", artifact), Row("split", f"{result.split}, {_samples(result)}")]
    if note:
        rows.append(Row("note", note))
    if result.non_finite:
        rows.append(
            Row("not finite", f"{wording.plural(result.non_finite, 'output')} with NaN or infinity")
        )
    order = _ORDER[result.task]
    names = sorted(result.metrics, key=lambda n: order.index(n) if n in order else len(order))
    scores = [Row(name, figure(result.metrics[name])) for name in names]
    meaning = [Row("", _MEANING[result.task])] if _MEANING[result.task] else []
    print_sections([Section("evaluation", rows), Section("metrics", [*scores, *meaning])])
    if result.per_class:
        _print_classes(result)
    if result.per_target:
        _print_targets(result)
    _print_baselines(result)
    _print_rest(result)


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


def print_comparison(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column names the rows: before and after, formats side by side."""
    from rich.padding import Padding
    from rich.text import Text

    table = _table()
    for number, column in enumerate(columns):
        table.add_column(
            Text(printable(column)),
            justify="right" if number else "left",
            no_wrap=bool(number),
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(printable(value) for value in row))
    console = consoles.stdout()
    console.print(Text(printable(title), "bold"))
    console.print(Padding.indent(table, 2))


def _samples(result: EvalResult) -> str:
    bad = len(result.bad_samples)
    return wording.plural(result.samples, "sample") + (f", {bad:,} left out" if bad else "")


def _print_classes(result: EvalResult) -> None:
    rows: Sequence[ClassRow] = result.per_class
    noun = "label" if result.task == "multilabel" else "class"
    title = wording.plural(len(rows), noun)
    if len(rows) > MAX_CLASSES:
        # A class that neither occurs nor is predicted has no F1 to be bad at.
        seen = [row for row in rows if row.samples or row.predicted]
        rows = sorted(seen, key=lambda row: row.f1)[:WORST]
        title += f", the {len(rows)} with the lowest F1"
    table = _table()
    table.add_column(noun, overflow="fold")
    for name in ("samples", "predicted", "precision", "recall", "f1"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            printable(row.name),
            wording.count(row.samples),
            wording.count(row.predicted),
            figure(row.precision) if row.predicted else "-",
            figure(row.recall) if row.samples else "-",
            figure(row.f1) if row.samples or row.predicted else "-",
        )
    _print_table(title, table)


def _print_targets(result: EvalResult) -> None:
    """A row a target, in its own units; of very many, those that are predicted worst."""
    rows: Sequence[TargetRow] = result.per_target
    title = f"{wording.plural(len(rows), 'target')}, in the data's own units"
    if len(rows) > MAX_CLASSES:
        # NaN, of a single sample, is no score to be bad at.
        rows = sorted(rows, key=lambda row: math.inf if math.isnan(row.r2) else row.r2)[:WORST]
        title += f", the {len(rows)} with the lowest r2"
    table = _table()
    table.add_column("target", overflow="fold")
    for name in ("mae", "rmse", "r2"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(printable(row.name), figure(row.mae), figure(row.rmse), figure(row.r2))
    _print_table(title, table)


def _print_baselines(result: EvalResult) -> None:
    """Print what simple baselines reach on the same samples, and whether the model is really better."""
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
                f"{text.signed(row.low)} to {text.signed(row.high)}" if _bounded(row) else "unknown",
                _VERDICTS[row.better] if _bounded(row) else "not clear from so few samples",
            )
        own = f" {figure(result.metrics[metric])}" if metric in result.metrics else ""
        _print_table(f"baselines by {metric} (difference: the model's{own} minus theirs)", table)
    notes = {row.name: row.note for row in result.baselines if row.note}
    if notes:
        consoles.stdout().print()
        explained = [Row(printable(name), wording.one_line(note)) for name, note in notes.items()]
        print_sections([Section("how the baselines predict", explained)])


def _bounded(row: BaselineRow) -> bool:
    return math.isfinite(row.low) and math.isfinite(row.high)


def _print_table(title: str, table: Table) -> None:
    """A table under its title, a blank line before it."""
    from rich.padding import Padding
    from rich.text import Text

    console = consoles.stdout()
    console.print()
    console.print(Text(printable(title), "bold"))
    console.print(Padding.indent(table, 2))


def _confusions(result: EvalResult) -> list[tuple[int, int, str, str]]:
    """The most frequent (count, samples of the true class, true name, predicted name)."""
    wrong = (
        (n, t, p) for t, line in enumerate(result.confusion) for p, n in enumerate(line) if n and t != p
    )
    names = [printable(row.name) for row in result.per_class]
    most = nsmallest(CONFUSIONS, wrong, key=lambda cell: (-cell[0], cell[1], cell[2]))
    return [(n, sum(result.confusion[t]), names[t], names[p]) for n, t, p in most]


def _table() -> Table:
    """A table without lines or markup, two columns of blanks between its columns."""
    from rich.table import Table

    return Table(
        box=None,
        header_style="dim",
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
