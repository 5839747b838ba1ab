"""Render pages, and write them: of a run into its folder, of several runs side by side."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from dlcli import __version__
from dlcli.evaluation.metrics import EvalResult
from dlcli.files import write_text
from dlcli.report import compared_sections, record_sections, result_sections
from dlcli.report.blocks import Notes, Page, Section
from dlcli.report.folds import folds_page
from dlcli.report.reading import RunFacts, read_facts
from dlcli.report.record_sections import when
from dlcli.report.study import study_page
from dlcli.runs.folder import RunFolder
from dlcli.runs.folds import FoldsFolder
from dlcli.tune.study import StudyFolder
from dlcli.ui.text import duration, figure
from dlcli.wording import count, plural, printable_lines, shorten, size

if TYPE_CHECKING:
    from jinja2 import Environment

LIMIT = 3_000_000  # bytes of a page


def write_report(run: RunFolder, target: Path | None = None) -> Path:
    """Write the page of a run, by default to its report.html; returns the path. Raises: DlcliError."""
    return write_page(target or run.report, run_page(read_facts(run)))


def write_comparison(runs: Sequence[RunFolder], target: Path) -> Path:
    """Write a page with several runs side by side; returns the path. Raises: DlcliError."""
    facts = [read_facts(run) for run in runs]
    sections = compared_sections.sections(facts)
    names = ", ".join(one.folder.name for one in facts)
    page = Page(
        title=f"{len(facts)} runs",
        subtitle=shorten(names, 300),
        tiles=(),
        sections=sections,
        written=written_now(),
    )
    return write_page(target, page)


def write_study(folder: StudyFolder, target: Path | None = None) -> Path:
    """Write the page of a study, by default into its folder; returns the path. Raises: DlcliError."""
    return write_page(target or folder.path / "report.html", study_page(folder, written_now()))


def write_folds(group: FoldsFolder, target: Path | None = None) -> Path:
    """Write the page of a cross-validation, by default to its report.html. Raises: DlcliError."""
    return write_page(target or group.report, folds_page(group, written_now()))


def run_page(facts: RunFacts) -> Page:
    """Return the page of a run: what is not recorded has no section."""
    summary, evaluations = facts.summary, facts.evaluations()
    first = next(iter(evaluations.values()), None)
    noun = "label" if summary.task == "multilabel" else "class"
    sections: list[Section | None] = [
        result_sections.results(facts),
        result_sections.training(facts),
        result_sections.errors(first, noun) if first else None,
        result_sections.worst(first) if first else None,
        record_sections.changes(facts),
        record_sections.data(facts),
        record_sections.model(facts),
        record_sections.settings(facts),
        record_sections.environment(facts),
        _problems(facts),
    ]
    return Page(
        title=facts.folder.name,
        subtitle=_subtitle(facts, evaluations),
        tiles=_tiles(facts, evaluations),
        sections=[one for one in sections if one is not None],
        written=written_now(),
    )


def render(page: Page) -> str:
    """Return a page as HTML."""
    return _environment().get_template("page.html.j2").render(page=page, version=__version__)


def write_page(target: Path, page: Page) -> Path:
    """Write a page; where it would be too large, without the sections that may be long.

    Raises: DlcliError.
    """
    html = render(page)
    omitted: list[Section] = []
    while len(html.encode()) >= LIMIT and (long := _longest(page)):
        omitted.append(long)
        titles = ", ".join(section.title for section in omitted)
        note = Section("omitted", "Left out", [Notes([f"{titles}: the page would be too large."])])
        rest = [one for one in page.sections if one is not long and one.anchor != "omitted"]
        page = replace(page, sections=[*rest, note])
        html = render(page)
    write_text(target, html)
    return target


def _longest(page: Page) -> Section | None:
    """The section that takes the most bytes, of those that can be left out."""
    sections = [section for section in page.sections if section.anchor not in ("omitted", "environment")]
    sizes = [len(render(replace(page, sections=[section]))) for section in sections]
    return sections[sizes.index(max(sizes))] if sections else None


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("dlcli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _clean(value: Any) -> Any:
    """Escape what no page may hold, such as NUL and direction marks; markup is made of clean texts."""
    return printable_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _subtitle(facts: RunFacts, evaluations: dict[str, EvalResult]) -> str:
    summary = facts.summary
    data = facts.record.data.name or summary.data
    parts = [
        f"{summary.model} on {data}" if summary.model and data else summary.model or data,
        summary.task,
        "" if summary.status == "finished" else summary.status,
        f"started {when(summary.started_at)} UTC" if summary.started_at else "",
    ]
    sentence = next(
        (text for one in evaluations.values() if (text := result_sections.headline(one))), ""
    )
    return ". ".join(part for part in [", ".join(part for part in parts if part), sentence] if part)


def _tiles(facts: RunFacts, evaluations: dict[str, EvalResult]) -> list[tuple[str, str, str]]:
    """The figures that matter most."""
    summary, tiles = facts.summary, list[tuple[str, str, str]]()
    monitor = summary.monitor
    for split, one in evaluations.items():
        if monitor in one.metrics:
            value = figure(one.metrics[monitor])
            tiles.append((f"{split} {monitor}", value, plural(one.samples, "sample")))
    if not tiles and monitor in summary.metrics:
        tiles.append((f"val {monitor}", figure(summary.metrics[monitor]), "best epoch"))
    if summary.best_epoch:
        tiles.append(("best epoch", str(summary.best_epoch), f"of {summary.epochs_done}"))
    if summary.params is not None:
        file = "" if summary.best_bytes is None else size(summary.best_bytes)
        tiles.append(("parameters", count(summary.params), file))
    if summary.elapsed_s == summary.elapsed_s:
        tiles.append(("training", duration(summary.elapsed_s), ""))
    return tiles


def _problems(facts: RunFacts) -> Section | None:
    if not facts.problems:
        return None
    return Section("problems", "Not shown", [Notes(facts.problems, tone="warning")])


def written_now() -> str:
    """When a page is written, for its footer."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
