"""Results for people, on stdout: what was measured, facts, predictions, before and after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import nsmallest
from itertools import islice
from typing import TYPE_CHECKING, Any

from dlcli.ui import console as consoles
from dlcli.ui import text
from dlcli.ui.lines import GAP
from dlcli.ui.sections import Row, Section, print_sections
from dlcli.ui.text import figure, printable

if TYPE_CHECKING:
    from rich.table import Table

    from dlcli.engine.metrics import ClassRow, EvalResult

MAX_CLASSES = 30  # longer lists show the worst ones
WORST = 20
CONFUSIONS = 5
BAD_SAMPLES = 5
CHUNK = 200  # predictions that share one layout; the width of their columns is found once
_HEADS = ("file", "label", "probability", "then")

# First what people look for, then the rest in the order of the result.
_ORDER = ("accuracy", "top5_accuracy", "loss", "balanced_accuracy", "f1_macro")


def print_eval(result: EvalResult, artifact: str, note: str | None) -> None:
    """Print the metrics, the classes, the most frequent confusions and the samples left out.

    Metrics carry the names that ``--min`` and ``--json`` use. ``note`` says why this split.
    """
    rows = [Row("model", artifact), Row("split", f"{result.split}, {_samples(result)}")]
    if note:
        rows.append(Row("note", note))
    names = sorted(result.metrics, key=lambda n: _ORDER.index(n) if n in _ORDER else len(_ORDER))
    scores = [Row(name, figure(result.metrics[name])) for name in names]
    print_sections([Section("evaluation", rows), Section("metrics", scores)])
    _print_classes(result)
    confusions = [
        Row("", f"{true} -> {guess}  {text.count(n)} ({100 * n / total:.1f}%)")
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
        Section(f"left out: {text.plural(len(result.bad_samples), 'unreadable sample')}", bad),
    ]
    if confusions or bad:
        consoles.stdout().print()
    print_sections(sections)


def print_key_values(title: str, rows: list[tuple[str, str]]) -> None:
    """Print facts under a title; long values are wrapped beside their keys."""
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


def print_predictions(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print one line a file, in chunks: any number of rows in bounded memory.

    A row holds ``file``, ``label``, ``probability`` and ``top_k``, the best classes as mappings of
    ``label`` and ``probability``, the best first.
    """
    console = consoles.stdout()
    stream = iter(rows)
    widths: list[int] | None = None
    while chunk := list(islice(stream, CHUNK)):
        cells = [
            (
                printable(str(row["file"])),
                printable(str(row["label"])),
                f"{float(row['probability']):.4f}",
                _others(row["top_k"]),
            )
            for row in chunk
        ]
        if widths is None:
            widths = _prediction_widths(cells, console.width)
            console.print(
                _prediction_line((*_HEADS[:3], [_HEADS[3]]), widths), style="dim", soft_wrap=True
            )
        for line in cells:
            console.print(_prediction_line(line, widths), soft_wrap=True)


_Prediction = tuple[str, str, str, list[str]]  # file, label, probability, the classes behind it


def _prediction_widths(cells: Sequence[_Prediction], room: int) -> list[int]:
    """The columns' widths: whole names first, then what is left for the classes behind the first.

    Later chunks keep them; a name that is longer then moves its own line only.
    """
    from rich.cells import cell_len

    widths = [max(len(_HEADS[i]), *(cell_len(str(row[i])) for row in cells)) for i in range(3)]
    widths[1] = min(widths[1], max(room // 3, 12))
    widths[0] = min(widths[0], max(room - widths[1] - widths[2] - 2 * len(GAP), 16))
    return [*widths, room - sum(widths) - 3 * len(GAP)]


def _prediction_line(row: _Prediction, widths: Sequence[int]) -> str:
    from rich.cells import cell_len

    names = [name + " " * (width - cell_len(name)) for name, width in zip(row[:2], widths, strict=False)]
    others = ""
    for item in row[3]:  # whole items only
        longer = f"{others}, {item}" if others else item
        if cell_len(longer) > widths[3]:
            break
        others = longer
    return GAP.join([*names, row[2].rjust(widths[2]), others]).rstrip()


def _others(top_k: Sequence[Mapping[str, Any]]) -> list[str]:
    """The classes behind the first, as ``shirt 0.0421``."""
    return [f"{printable(str(item['label']))} {float(item['probability']):.4f}" for item in top_k[1:]]


def _samples(result: EvalResult) -> str:
    bad = len(result.bad_samples)
    return text.plural(result.samples, "sample") + (f", {bad:,} left out" if bad else "")


def _print_classes(result: EvalResult) -> None:
    from rich.padding import Padding
    from rich.text import Text

    rows: Sequence[ClassRow] = result.per_class
    title = text.plural(len(rows), "class")
    if len(rows) > MAX_CLASSES:
        # A class that neither occurs nor is predicted has no F1 to be bad at.
        seen = [row for row in rows if row.samples or row.predicted]
        rows = sorted(seen, key=lambda row: row.f1)[:WORST]
        title += f", the {len(rows)} with the lowest F1"
    table = _table()
    table.add_column("class", overflow="fold")
    for name in ("samples", "predicted", "precision", "recall", "f1"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            printable(row.name),
            text.count(row.samples),
            text.count(row.predicted),
            figure(row.precision) if row.predicted else "-",
            figure(row.recall) if row.samples else "-",
            figure(row.f1) if row.samples or row.predicted else "-",
        )
    console = consoles.stdout()
    console.print()
    console.print(Text(title, "bold"))
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
