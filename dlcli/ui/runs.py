"""The screens of `dlcli runs`: the list of runs, and the differences between some of them."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from dlcli import wording
from dlcli.files import atomic_file
from dlcli.runs.folder import RunFolder, resume_command
from dlcli.runs.unfinished import ENDED
from dlcli.ui import console as consoles
from dlcli.ui import text
from dlcli.ui.folds import mean_and_std
from dlcli.ui.sections import Row, Section, print_sections

if TYPE_CHECKING:
    from dlcli.evaluation.folds import FoldsSummary
    from dlcli.evaluation.run_summaries import RunSummary

GAP = 2
NARROWEST = 12  # characters of a shortened cell
SHORTENED = ("model", "data", "note")  # columns whose cells may be shortened
FEWEST = 3  # columns: the run, its status, its best metric


@dataclass(frozen=True)
class Column:
    """A column of the list; a narrow screen loses the one of the highest ``rank`` first."""

    title: str
    cells: list[str]
    rank: int
    right: bool = False

    @property
    def width(self) -> int:
        return max(len(self.title), *map(len, self.cells))


def print_runs(runs: Sequence[RunSummary], *, sort: str | None = None) -> None:
    """Print a line per run, and the problems of those that cannot be read."""
    from rich.text import Text

    console = consoles.stdout()
    whole = [run for run in runs if not run.problems]
    if whole:
        every = _columns(whole, sort)
        columns = fit_columns(every, console.width)
        console.print(Text(_line([column.title for column in columns], columns), "dim"), soft_wrap=True)
        for cells in zip(*(column.cells for column in columns), strict=True):
            console.print(_line(cells, columns), soft_wrap=True)
        shown = {column.title for column in columns}
        if left := [column.title for column in every if column.title not in shown]:
            note = f"not shown on this width: {', '.join(left)} (--json has all)"
            for line in Text(note, "dim").wrap(console, console.width):
                line.rstrip()
                console.print(line, soft_wrap=True)
    damaged = {run.name: "; ".join(run.problems) for run in runs if run.problems}
    print_problems(damaged, before=bool(whole))
    _print_unfinished([run for run in runs if run.parent and run.status not in ENDED])


def _print_unfinished(runs: Sequence[RunSummary]) -> None:
    """Print the commands that resume fine-tuning of `prune` and `quantize`, which are not theirs."""
    if runs:
        consoles.stdout().print()
        rows = [Row(text.key(run.name), resume_command(RunFolder(Path(run.path)))) for run in runs]
        print_sections([Section(f"fine-tuning to resume: {wording.plural(len(runs), 'run')}", rows)])


def print_cross_validations(groups: Sequence[FoldsSummary]) -> None:
    """Print a line per cross-validation: the mean and std of its held-out folds, or how to go on."""
    rows = [Row(text.key(group.name), _held_out(group)) for group in groups]
    print_sections([Section("cross-validations: dlcli runs NAME", rows)])


def _held_out(group: FoldsSummary) -> str:
    if group.problem:
        return f"damaged: {wording.one_line(group.problem)}"
    folds = wording.plural(group.folds, "fold")
    if group.result is None:
        return f"{group.ended} of {folds} ended; go on with: {group.resume_command}"
    metric = text.SHORT_NAMES.get(group.result.metric, group.result.metric)
    return f"held-out {metric} {mean_and_std(group.result.mean)} over {folds}"


def print_problems(problems: Mapping[str, str], *, before: bool) -> None:
    """Print what could not be read, by name; ``before``: start with a blank line, after other output."""
    if problems:
        if before:
            consoles.stdout().print()
        rows = [Row(text.key(name), wording.one_line(line_text)) for name, line_text in problems.items()]
        print_sections([Section(f"damaged: {wording.plural(len(problems), 'run')}", rows)])


def print_differences(
    runs: Sequence[RunSummary], rows: Mapping[str, Sequence[Any]], *, last: str | None = None
) -> None:
    """Print the settings that differ and the metrics, with a column per run.

    ``last`` heads one more column of ``rows``, which has no metrics: the defaults.
    """
    names = _labels(runs)
    if rows:
        title = "settings that are not the default" if last else "settings that differ"
        table = {key: [_value(value) for value in values] for key, values in rows.items()}
        _print_table(title, [*names, *([last] if last else [])], table)
    else:
        line_text = "all have their defaults" if last else "the same in all of them"
        print_sections([Section("settings", [Row("", line_text)])])
    consoles.stdout().print()
    metrics = dict.fromkeys(name for run in runs for name in run.metrics)
    scores = {name: [_figure(run.metrics.get(name, math.nan)) for run in runs] for name in metrics}
    tests = dict.fromkeys(name for run in runs for name in run.test)
    title = "validation metrics of the best epoch" + (", and of its model on test" if tests else "")
    scores |= {f"test {n}": [_figure(run.test.get(n, math.nan)) for run in runs] for n in tests}
    _print_table(title, names, {**scores, **_facts(runs)})
    notes = [Row(text.key(name), _note(run)) for name, run in zip(names, runs, strict=True) if run.note]
    if notes:
        consoles.stdout().print()
        print_sections([Section("notes", notes)])


def _print_table(title: str, heads: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """Print rows by name. Long cells are shortened; runs that do not fit follow below."""
    from rich.text import Text

    console = consoles.stdout()
    key_width = max(map(len, rows))
    room = max(console.width - key_width - GAP, NARROWEST)
    at_once = max(1, room // (NARROWEST + GAP))
    console.print(Text(title, "bold"), soft_wrap=True)
    for first in range(0, len(heads), at_once):
        part = slice(first, first + at_once)
        width = room // len(heads[part]) - GAP
        lines = [["", *heads[part]], *([key, *values[part]] for key, values in rows.items())]
        cells = [
            [wording.shorten(wording.printable(cell), width) for cell in line[1:]] for line in lines
        ]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for number, (line, values) in enumerate(zip(lines, cells, strict=True)):
            shown = [value.rjust(w) for value, w in zip(values, widths, strict=True)]
            line_text = (" " * GAP).join(["", line[0].ljust(key_width), *shown])
            console.print(Text(line_text, "dim" if number == 0 else ""), soft_wrap=True)


def fit_columns(columns: Sequence[Column], width: int) -> list[Column]:
    """Return the columns that fit: shorten some, then drop columns, last shorten names."""
    shown = list(columns)
    while (over := sum(column.width + GAP for column in shown) - GAP - width) > 0:
        cut = {c.title: max(c.width - NARROWEST, 0) for c in shown if c.title in SHORTENED}
        if sum(cut.values()) >= over:
            return [_narrowed(column, over, cut) for column in shown]
        if len(shown) <= FEWEST:
            return [_narrowed(column, over, {shown[0].title: over}) for column in shown]
        shown.remove(max(shown, key=lambda column: column.rank))
    return shown


def _narrowed(column: Column, over: int, cut: Mapping[str, int]) -> Column:
    """Return a column shortened by its share of the excess; ``cut``: how much columns may shrink."""
    if not cut.get(column.title):
        return column
    width = max(column.width - math.ceil(over * cut[column.title] / sum(cut.values())), 1)
    return replace(column, cells=[wording.shorten(cell, width) for cell in column.cells])


def _columns(runs: Sequence[RunSummary], sort: str | None) -> list[Column]:
    sorted_by = []
    if sort is not None and {run.monitor for run in runs if run.monitor} != {sort}:
        values = [_figure(run.metrics.get(sort, math.nan)) for run in runs]
        sorted_by = [Column(text.SHORT_NAMES.get(sort, sort), values, 1, right=True)]
    return [
        Column("run", [wording.printable(run.name) for run in runs], 0),
        Column("status", [run.status for run in runs], 3),
        *sorted_by,
        Column("best", [_best(run) for run in runs], 1),
        *([Column("test", [_test(run) for run in runs], 2)] if any(run.test for run in runs) else []),
        Column("best epoch", [_epochs(run) for run in runs], 5, right=True),
        Column("time", [text.duration(run.elapsed_s) for run in runs], 6, right=True),
        Column("model", [wording.printable(run.model) or "-" for run in runs], 4),
        Column("data", [_data(run) for run in runs], 7),
        Column("parameters", [_count(run.params) for run in runs], 8, right=True),
        Column("size", [_size(run.best_bytes) for run in runs], 10, right=True),
        Column("started", [_when(run.started_at) for run in runs], 9),
        *([Column("note", [_note(run) for run in runs], 6)] if any(run.note for run in runs) else []),
    ]


def write_csv(path: Path, runs: Sequence[RunSummary]) -> None:
    """Write a line for each run: facts, metrics on val and test as ``val_NAME``, ``test_NAME``.

    Unknown values are empty. Raises: DlcliError when it cannot be written.
    """
    lines = []
    for run in runs:
        facts = run.to_dict()
        val, test = facts.pop("metrics"), facts.pop("test")
        facts["problems"] = "; ".join(run.problems)
        facts |= {f"val_{name}": value for name, value in val.items()}
        facts |= {f"test_{name}": value for name, value in test.items()}
        lines.append({k: "" if v is None or v != v else text.csv_cell(v) for k, v in facts.items()})
    names = dict.fromkeys(name for line in lines for name in line)
    with atomic_file(path) as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(lines)


def _line(cells: Sequence[str], columns: Sequence[Column]) -> str:
    padded = [
        cell.rjust(column.width) if column.right else cell.ljust(column.width)
        for cell, column in zip(cells, columns, strict=True)
    ]
    return (" " * GAP).join(padded).rstrip()


def _facts(runs: Sequence[RunSummary]) -> dict[str, list[str]]:
    return {
        "best epoch": [_epochs(run) for run in runs],
        "status": [run.status for run in runs],
        "parameters": [_count(run.params) for run in runs],
        "size": [_size(run.best_bytes) for run in runs],
        "time": [text.duration(run.elapsed_s) for run in runs],
        "started": [_when(run.started_at) for run in runs],
    }


def _labels(runs: Sequence[RunSummary]) -> list[str]:
    """Names, or paths where two runs of different folders have one name."""
    names = [run.name for run in runs]
    return [run.path if names.count(run.name) > 1 else run.name for run in runs]


def _best(run: RunSummary) -> str:
    if run.best_epoch is None and math.isnan(run.best):
        return "-"
    return f"{text.SHORT_NAMES.get(run.monitor, run.monitor)} {text.figure(run.best)}"


def _test(run: RunSummary) -> str:
    """The metric that selected the best epoch, on the test split: after `eval`."""
    return _figure(run.test.get(run.monitor, math.nan))


def _data(run: RunSummary) -> str:
    """The base name of the data, which tells runs apart: paths of one project begin alike."""
    return wording.printable(PurePath(run.data).name or run.data) or "-"


def _note(run: RunSummary) -> str:
    return wording.printable(wording.one_line(run.note)) or "-"


def _epochs(run: RunSummary) -> str:
    """The best epoch, those done and those planned: ``7 of 12/20``; ``7 of 20`` where all were done."""
    if run.best_epoch is None:
        return "-" if not run.epochs_done else f"of {run.epochs_done}"
    planned = f"/{run.epochs}" if run.epochs not in (None, run.epochs_done) else ""
    return f"{run.best_epoch} of {run.epochs_done}{planned}"


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else text.figure(value)


def _count(number: int | None) -> str:
    return "-" if number is None else wording.count(number)


def _size(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else wording.size(size_bytes)


def _when(started_at: str) -> str:
    """Format a time in the local time zone, to the minute."""
    try:
        return datetime.fromisoformat(started_at).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return "-"


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)
