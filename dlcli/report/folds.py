"""The page of a cross-validation: its models on their held-out folds, then the runs side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dlcli.errors import DlcliError
from dlcli.evaluation.folds import FoldsResult, FoldsSummary
from dlcli.report import compared_sections
from dlcli.report.blocks import Block, Notes, Page, Section, Table
from dlcli.report.reading import RunFacts, read_facts, valid
from dlcli.runs.folds import FoldsFolder
from dlcli.ui.folds import baseline_table, baseline_title, fold_notes, fold_table, mean_interval
from dlcli.ui.text import figure
from dlcli.wording import plural

_METRICS = 6  # columns of the table of folds


def folds_page(group: FoldsFolder, written: str) -> Page:
    """Return the page of a cross-validation. Raises: DlcliError for a damaged result."""
    runs = [read_facts(run) for run in group.begun()]
    record = group.read()
    result, folds = read_result(record, str(group.record)), record["folds"]
    compared = compared_sections.sections(runs) if runs else []
    if result is None:
        waiting = [f"{len(runs)} of {folds} folds have begun: the result comes with the last of them."]
        held_out, tiles = list[Block]([Notes(waiting, tone="warning")]), []
    else:
        held_out, tiles = _held_out(result), _tiles(result)
    return Page(
        title=group.name,
        subtitle=f"A cross-validation of {folds} folds. {_what(runs)}",
        tiles=tiles,
        sections=[Section("held-out", "Held-out folds", held_out), *compared],
        written=written,
    )


def read_result(record: Mapping[str, Any], where: str) -> FoldsResult | None:
    """Return the result in a cross-validation's record, None before its last fold has ended.

    ``where`` names the record in errors. Raises: DlcliError for a damaged result.
    """
    recorded = record.get("result")
    return None if recorded is None else valid(FoldsResult, _with_nan(recorded), where)


def summarise_folds(group: FoldsFolder) -> FoldsSummary:
    """Return the state of a cross-validation; what cannot be read is its ``problem``."""
    known: dict[str, Any] = {
        "name": group.name,
        "path": str(group.path),
        "resume_command": group.resume_command,
    }
    try:
        record = group.read()
        known["folds"] = record["folds"]
        known["ended"] = sum(group.is_finished(fold) for fold in range(1, record["folds"] + 1))
        return FoldsSummary(**known, result=read_result(record, str(group.record)))
    except DlcliError as exc:
        return FoldsSummary(**known, problem=exc.message)


def _with_nan(value: Any) -> Any:
    """A value of JSON whose numbers that were not finite, and are null in the file, are NaN."""
    if isinstance(value, list):
        return [_with_nan(one) for one in value]
    if not isinstance(value, dict):
        return value
    nan = float("nan")
    return {k: nan if v is None and k != "better" else _with_nan(v) for k, v in value.items()}


def _what(runs: Sequence[RunFacts]) -> str:
    models = dict.fromkeys(run.summary.model for run in runs if run.summary.model)
    data = dict.fromkeys(run.record.data.name for run in runs if run.record.data.name)
    return f"{', '.join(models)} on {', '.join(data)}." if models and data else ""


def _tiles(result: FoldsResult) -> list[tuple[str, str, str]]:
    """Figures at the head of the page, each with its name and what it is of."""
    mean, folds = result.mean, len(result.folds)
    tiles = [(f"mean {mean.name}", figure(mean.value), f"held out, std {figure(mean.std)}")]
    if math.isfinite(mean.low) and math.isfinite(mean.high):
        tiles.append(("95 % interval", f"{figure(mean.low)} to {figure(mean.high)}", "of the mean"))
    if result.metric in result.pooled:
        value = figure(result.pooled[result.metric])
        tiles.append((f"out-of-fold {result.metric}", value, plural(result.samples, "sample")))
    if result.metric in result.test:
        value, samples = figure(result.test[result.metric]), plural(result.test_samples, "sample")
        tiles.append((f"test {result.metric}", value, f"mean of {folds} models, {samples}"))
    return tiles


def _held_out(result: FoldsResult) -> list[Block]:
    heads, rows = fold_table(result, _METRICS)
    blocks: list[Block] = [Table("Each model on the fold that it has not seen", heads, rows)]
    if result.baselines:
        title = baseline_title(result)
        blocks.append(Table(title[:1].upper() + title[1:], *baseline_table(result), words=(3,)))
    mean = f"mean {result.mean.name} {figure(result.mean.value)}: {mean_interval(result.mean)}"
    return [*blocks, Notes([mean, *fold_notes(result)])]
