"""The screen of `dlcli data`, and its progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli import wording
from dlcli.ui import console as consoles
from dlcli.ui import text
from dlcli.ui.narrow import print_list
from dlcli.ui.sections import Row, Section, print_sections

if TYPE_CHECKING:
    from dlcli.datacheck.base import Cell, DataReport, Finding, Table

MOST_ROWS = 30  # of a table; a longer one shows its beginning and its end
FIRST, LAST = 15, 5
MAX_EXAMPLE = 400  # characters of a sample that a finding points at
NAME_WIDTH, TEXT_WIDTH = 32, 90
NARROW = 60  # columns of a screen: below it, tables that do not fit are lists
EVERY_S = 15.0  # between lines of progress where nothing can be redrawn
_STYLES = {"error": "bold red", "warning": "yellow", "note": ""}


def print_cleared(root: Path, freed: int) -> None:
    """Print on stdout how much was deleted from the cache of decoded images."""
    words = f"{wording.size(freed)} of decoded images deleted from" if freed else "no decoded images in"
    consoles.stdout().print(f"{words} {wording.printable(str(root))}", markup=False, soft_wrap=True)


@contextmanager
def reading_progress(what: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Show on stderr how many of ``what`` were read: a progress bar on a terminal, else lines."""
    screen = consoles.stderr()
    if quiet:
        yield lambda done, total: None
    elif not consoles.on_terminal(screen):
        printed_at = time.monotonic()

        def print_line(done: int, total: int) -> None:
            nonlocal printed_at
            if time.monotonic() - printed_at >= EVERY_S:
                printed_at = time.monotonic()
                screen.print(f"read  {done}/{total} {what}", soft_wrap=True)

        yield print_line
    else:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn(f" reading {what}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=screen, transient=True, redirect_stdout=False) as progress:
            task = progress.add_task("", total=None, visible=False)
            yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)


def print_report(report: DataReport, plots: Sequence[Path]) -> None:
    """Print facts, tables, findings (the worst last) and the paths of plots."""
    rows = [
        Row("data", text.from_here(report.origin)),
        Row("kind", f"{report.kind}, {report.task}"),
        Row("samples", _samples(report)),
        *(Row(text.key(key), value) for key, value in report.facts.items()),
    ]
    print_sections([Section(report.name, rows)])
    for table in report.tables:
        consoles.stdout().print()
        _print_table(table)
    consoles.stdout().print()
    _print_findings(report)
    print_plots(plots)


def print_plots(plots: Sequence[Path]) -> None:
    """Print the paths of plots."""
    if plots:
        consoles.stdout().print()
        print_sections([Section("plots", [Row("", str(plot)) for plot in plots])])


def print_augmented(name: str, sentence: str, shape: Sequence[int], picture: Path) -> None:
    """Print the augmentation of images of ``shape`` (C, H, W), and the path of the plot."""
    size = " x ".join(str(side) for side in shape)
    rows = [Row("images", f"{size} (channels, height, width)"), Row("", sentence)]
    print_sections([Section(name, rows)])
    print_plots([picture])


def verdict(report: DataReport) -> str:
    """``1 error, 2 warnings, no notes``."""
    words = []
    for level in ("error", "warning", "note"):
        number = sum(finding.level == level for finding in report.findings)
        words.append(wording.plural(number, level) if number else f"no {level}s")
    return ", ".join(words)


def _samples(report: DataReport) -> str:
    """``train 80, val 10, test 10 (split by dlcli)``."""
    parts = [f"{split} {facts['samples']:,}" for split, facts in report.splits.items()]
    drawn = [split for split, facts in report.splits.items() if not facts["given"]]
    by = "in the order of time" if report.task == "forecast" else "at random"
    if not drawn:
        how = "as given"
    elif len(drawn) == len(parts):
        how = f"split by dlcli {by}"
    else:
        how = f"{' and '.join(drawn)} held out by dlcli {by}"
    return f"{', '.join(parts)} ({how})"


def _print_findings(report: DataReport) -> None:
    """Print the findings, each with examples and a hint."""
    rows: list[Row] = []
    for finding in report.findings:
        rows += _finding_rows(finding)
    title = f"findings: {verdict(report)}"
    if not rows:
        consoles.stdout().print(title, style="bold")
    print_sections([Section(title, rows)])


def _finding_rows(finding: Finding) -> list[Row]:
    rows = [Row(finding.level, wording.one_line(finding.message), style=_STYLES[finding.level])]
    examples = (wording.shorten(wording.one_line(example), MAX_EXAMPLE) for example in finding.examples)
    rows += [Row("", f"  {example}", style="dim") for example in examples]
    if finding.hint:
        rows.append(Row("", f"-> {wording.one_line(finding.hint)}"))
    return rows


def _print_table(table: Table) -> None:
    """Print as many of the table's columns as fit, from the left."""
    from rich.text import Text

    console = consoles.stdout()
    last_column = len(table.columns) - 1
    cells = [[_cell(c, last=k == last_column) for k, c in enumerate(row)] for row in table.rows]
    title = table.title
    if len(cells) > MOST_ROWS:
        title += f" (the first {FIRST} and the last {LAST}; --json has all)"
        cells = [*cells[:FIRST], *cells[-LAST:]]
    numeric = [
        all(row[k] is None or isinstance(row[k], int | float) for row in table.rows)
        or all(isinstance(row[k], str) and str(row[k]).endswith(" %") for row in table.rows)
        for k in range(len(table.columns))
    ]
    widths = [max([len(head), *(len(row[k]) for row in cells)]) for k, head in enumerate(table.columns)]
    room, shown = console.width - 2, 0
    wraps = not numeric[-1] and len(widths) > 1  # a last column of text may be truncated
    for k, width in enumerate(widths):
        last = k == len(widths) - 1
        if room < (min(width, 20) if last and wraps else width):
            break
        room, shown = room - width - 2, k + 1
    console.print(Text(wording.printable(title), "bold"))
    if shown < len(widths) and console.width < NARROW:
        print_list(table.columns, cells)
        return
    for line, style in ((list(table.columns), "dim"), *((row, "") for row in cells)):
        parts = [
            value.rjust(width) if right else value.ljust(width)
            for value, width, right, _ in zip(line, widths, numeric, range(shown), strict=False)
        ]
        whole = Text("  " + "  ".join(parts).rstrip(), style)
        whole.truncate(console.width, overflow="ellipsis")
        console.print(whole, soft_wrap=True)
    if shown < len(widths):
        left = ", ".join(table.columns[shown:])
        console.print(Text(f"  not shown on this width: {left}", "dim"), soft_wrap=True)


def _cell(cell: Cell, *, last: bool) -> str:
    """Return a cell; texts are shortened, names more than the sentences of a last column."""
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return wording.shorten(
            wording.printable(cell), TEXT_WIDTH if last and " " in cell else NAME_WIDTH
        )
    return (
        wording.count(cell)
        if isinstance(cell, int)
        else f"{cell:.4g}"
        if abs(cell) < 1e4
        else _large(cell)
    )


def _large(value: float) -> str:
    return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.4g}"
