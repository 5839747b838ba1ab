"""The check of a data set: what its kind says, and what holds for every kind."""

from __future__ import annotations

from dataclasses import replace

from dlcli.config import TrainConfig
from dlcli.data.base import DataSource
from dlcli.data.kinds import KINDS, ModelNeeds
from dlcli.data.notices import Notice
from dlcli.datacheck.base import CHECKS, CheckOptions, DataReport, Finding, Part
from dlcli.datacheck.duplicates import find_duplicates
from dlcli.datacheck.shift import find_shifts
from dlcli.datacheck.targets import check_targets, split_facts
from dlcli.errors import DlcliError, UsageError
from dlcli.task import TaskSpec

# Notices on what the checks find themselves, with examples, or show as facts.
_CHECKED = frozenset(
    {"cut-series", "cut-texts", "empty-text", "missing-class", "unused-column", "vocabulary"}
)


def check_data(source: DataSource, options: CheckOptions, needs: ModelNeeds | None = None) -> DataReport:
    """Everything that `dlcli data` says of a source. Files are read, never written.

    ``needs`` are of the model that the data is meant for. Raises: UsageError when the settings do not
    suit the data.
    """
    config = options.config
    notices = [*source.notices]
    task, own = _fitted(source, config, needs or ModelNeeds(), notices)
    asked, targets = source.task, check_targets(source)
    if asked == "embedding":  # it is learnt from classes, so what is odd about those matters alike
        source = replace(source, task="classification")
    check = CHECKS.find(source.kind)
    part = check(source, task, options) if check is not None else Part()
    find_duplicates(source, part)
    _groups(source, part)
    charts = [*targets.charts, *part.charts]
    findings = [
        *(*own, *targets.findings, *part.findings),
        *(*find_shifts(charts), *_reported([*notices, *part.notices])),
    ]
    order = {"error": 0, "warning": 1, "note": 2}
    return DataReport(
        name=source.name,
        origin=source.origin,
        kind=source.kind,
        task=asked,
        splits=split_facts(source),
        facts={**targets.facts, **part.facts},
        tables=(*targets.tables, *part.tables),
        findings=tuple(sorted(findings, key=lambda finding: order[finding.level])),
        charts=tuple(charts),
    )


def opening_failed(exc: DlcliError) -> Finding:
    """Data that could not even be listed, as a finding."""
    return Finding("error", "cannot-be-read", exc.message, hint=exc.hint)


def _fitted(
    source: DataSource, config: TrainConfig, needs: ModelNeeds, notices: list[Notice]
) -> tuple[TaskSpec | None, list[Finding]]:
    """The task, its notices added to ``notices``; or why no encoder can be fitted."""
    try:
        task, fitted = KINDS.get(source.kind).fit(source, config, needs)
    except UsageError:
        raise
    except DlcliError as exc:
        return None, [Finding("error", "cannot-be-encoded", exc.message, hint=exc.hint)]
    notices += fitted
    return task, []


def _groups(source: DataSource, part: Part) -> None:
    """Groups that given splits tear apart."""
    seen: dict[str, set[str]] = {
        split: set(samples.groups or ()) for split, samples in source.splits.items()
    }
    for split in ("val", "test"):
        torn = sorted(seen.get(split, set()) & seen["train"])
        if torn and split in source.given:
            message = f"{len(torn):,} of the groups in {split} are in train too"
            hint = "samples of one group are alike: its figures are too good"
            part.find("warning", "torn-groups", message, examples=torn, hint=hint)


def _reported(notices: list[Notice]) -> list[Finding]:
    """The notices as findings, each once, without those on what the checks find themselves."""
    return [
        Finding(notice.level, notice.code, notice.message)
        for notice in dict.fromkeys(notices)
        if notice.code not in _CHECKED
    ]
