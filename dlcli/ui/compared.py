"""The screens of `dlcli eval` about several models, and the samples with the largest loss."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli import wording
from dlcli.files import atomic_file
from dlcli.ui.console import stdout
from dlcli.ui.differences import interval, verdict
from dlcli.ui.sections import Row, Section, print_sections
from dlcli.ui.tables import metric_order, print_comparison
from dlcli.ui.text import csv_cell, figure, from_here, signed

if TYPE_CHECKING:
    from dlcli.evaluation.comparing import ModelComparison
    from dlcli.evaluation.metrics import EvalResult
    from dlcli.evaluation.metrics.base import MemberRow, WorstRow

NAME_WIDTH, TEXT_WIDTH = 40, 30  # characters of a sample's name and of its target or prediction
WORST_FIELDS = ("input", "loss", "target", "prediction", "probability")


def print_model_comparison(result: ModelComparison, note: str) -> None:
    """Print the metrics of models side by side, and how each differs from the first."""
    bad = len(result.bad_samples)
    left_out = f", {bad:,} left out" if bad else ""
    rows = [
        *_named(result.models),
        Row("split", f"{result.split}, {wording.plural(result.samples, 'sample')}{left_out}"),
        Row("note", note),
    ]
    print_sections([Section("evaluation: models compared on the same samples", rows)])
    first = result.models[0]
    names = metric_order(result.task, {*first.metrics} - ({"log_loss"} - {first.metric}))
    table = [[name, *(figure(model.metrics[name]) for model in result.models)] for name in names]
    stdout().print()
    print_comparison("metrics", ["", *_numbers(result.models)], table)
    metric = result.models[0].metric
    stdout().print()
    print_comparison(
        f"difference in {metric} from model 1",
        ["model", metric, "difference", "95 % interval", "the model is"],
        [
            [number, figure(row.metrics[metric]), signed(row.difference), interval(row), verdict(row)]
            for number, row in zip(_numbers(result.models), result.models, strict=True)
            if row is not result.models[0]
        ],
    )


def print_members(result: EvalResult) -> None:
    """Print each model of an ensemble alone, and whether the mean prediction is better."""
    metric = result.members[0].metric
    stdout().print()
    print_sections([Section("the models", _named(result.members, key=""))])
    stdout().print()
    print_comparison(
        f"each alone (difference: the mean prediction's {figure(result.metrics[metric])} minus its own)",
        ["model", metric, "difference", "95 % interval", "the mean prediction is"],
        [
            [number, figure(row.metrics[metric]), signed(row.difference), interval(row), verdict(row)]
            for number, row in zip(_numbers(result.members), result.members, strict=True)
        ],
    )


def print_worst(rows: Sequence[WorstRow], path: Path | None) -> None:
    """Print the samples with the largest loss, and the file that holds them."""
    stdout().print()
    shown = [
        [
            wording.shorten(wording.printable(row.input), NAME_WIDTH),
            figure(row.loss),
            wording.shorten(wording.one_line(row.target), TEXT_WIDTH) or "-",
            wording.shorten(wording.one_line(row.prediction), TEXT_WIDTH) or "-",
            "" if row.probability is None else f"{row.probability:.4f}",
        ]
        for row in rows
    ]
    some = any(row.probability is not None for row in rows)
    heads = ["sample", "loss", "target", "prediction", *(["probability"] if some else [])]
    title = f"worst {wording.plural(len(rows), 'sample')}: the largest loss first"
    print_comparison(title, heads, [line[: len(heads)] for line in shown])
    if path is not None:
        stdout().print(f"  written to {wording.printable(str(path))}", soft_wrap=True)


def print_explained(rows: Sequence[WorstRow], report: Path) -> None:
    """Print where the explanations of the worst samples are."""
    explained = sum(bool(row.preview.heat or row.preview.effects) for row in rows)
    samples = wording.plural(explained, "sample")
    stdout().print()
    stdout().print(f"explained in {from_here(str(report))}: the worst {samples}", soft_wrap=True)


def write_worst(path: Path, rows: Sequence[WorstRow]) -> Path:
    """Write the samples as CSV; returns ``path``. Raises: DlcliError when it cannot be written."""
    with (
        atomic_file(path) as tmp,
        tmp.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        out = csv.writer(file, lineterminator="\n")
        out.writerow(WORST_FIELDS)
        for row in rows:
            probability = "" if row.probability is None else f"{row.probability:.6f}"
            cells = [row.input, f"{row.loss:.9g}", row.target, row.prediction, probability]
            out.writerow(map(csv_cell, cells))
    return path


def _numbers(models: Sequence[MemberRow]) -> list[str]:
    return [str(number) for number in range(1, len(models) + 1)]


def _named(models: Sequence[MemberRow], key: str = "models") -> list[Row]:
    """A row for each model: its number and its path."""
    if not key:
        return [Row(n, m.artifact) for n, m in zip(_numbers(models), models, strict=True)]
    return [
        Row("" if position else key, f"{number}  {model.artifact}")
        for position, (number, model) in enumerate(zip(_numbers(models), models, strict=True))
    ]
