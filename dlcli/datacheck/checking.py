"""The check of a data set: what its kind checks, and what is checked for every kind."""

from __future__ import annotations

from dataclasses import replace

from dlcli.config import TrainConfig
from dlcli.data.base import DataSource
from dlcli.data.kinds import KINDS, ModelNeeds
from dlcli.data.notices import Notice
from dlcli.datacheck.base import CHECKS, CheckOptions, CheckResult, DataReport, Finding
from dlcli.datacheck.duplicates import find_duplicates
from dlcli.datacheck.shift import find_shifts
from dlcli.datacheck.targets import check_targets, split_facts
from dlcli.errors import DlcliError, UsageError
from dlcli.task import TaskSpec

# Codes of notices on what the checks report themselves, with examples.
_CHECKED = frozenset(
    {"cut-series", "cut-texts", "empty-text", "leak", "missing-class", "unused-column", "vocabulary"}
)


def check_data(source: DataSource, options: CheckOptions, needs: ModelNeeds | None = None) -> DataReport:
    """Check a data set, as `dlcli data` does. Files are read, never written.

    ``needs`` are of the model that the data is meant for. Raises: UsageError when the settings do not
    suit the data.
    """
    config = options.config
    notices = [*source.notices]
    task, encoder_findings = _fitted(source, config, needs or ModelNeeds(), notices)
    requested_task, targets = source.task, check_targets(source)
    if requested_task == "embedding":  # learned from classes, so they are checked as classes
        source = replace(source, task="classification")
    check = CHECKS.find(source.kind)
    result = check(source, task, options) if check is not None else CheckResult()
    find_duplicates(source, result)
    _check_groups(source, result)
    charts = [*targets.charts, *result.charts]
    findings = [
        *(*encoder_findings, *targets.findings, *result.findings),
        *(*find_shifts(charts), *_reported([*notices, *result.notices])),
    ]
    order = {"error": 0, "warning": 1, "note": 2}
    return DataReport(
        name=source.name,
        origin=source.origin,
        kind=source.kind,
        task=requested_task,
        splits=split_facts(source),
        facts={**targets.facts, **result.facts},
        tables=(*targets.tables, *result.tables),
        findings=tuple(sorted(findings, key=lambda finding: order[finding.level])),
        charts=tuple(charts),
    )


def opening_failed(exc: DlcliError) -> Finding:
    """Return the finding for data that could not be listed."""
    return Finding("error", "cannot-be-read", exc.message, hint=exc.hint)


def _fitted(
    source: DataSource, config: TrainConfig, needs: ModelNeeds, notices: list[Notice]
) -> tuple[TaskSpec | None, list[Finding]]:
    """Fit the encoders: the task (its notices go into ``notices``), or the error as a finding."""
    try:
        task, fitted = KINDS.get(source.kind).fit(source, config, needs)
    except UsageError:
        raise
    except DlcliError as exc:
        return None, [Finding("error", "cannot-be-encoded", exc.message, hint=exc.hint)]
    notices += fitted
    return task, []


def _check_groups(source: DataSource, result: CheckResult) -> None:
    """Report groups with samples in train and in a given held-out split."""
    groups: dict[str, set[str]] = {
        split: set(samples.groups or ()) for split, samples in source.splits.items()
    }
    for split in ("val", "test"):
        shared = sorted(groups.get(split, set()) & groups["train"])
        if shared and split in source.given:
            message = f"{len(shared):,} of the groups in {split} are in train too"
            hint = "samples of one group are alike: its metrics are too good"
            result.report("warning", "torn-groups", message, examples=shared, hint=hint)


def _reported(notices: list[Notice]) -> list[Finding]:
    """Return notices as findings, each once, without those that the checks report themselves."""
    return [
        Finding(notice.level, notice.code, notice.message)
        for notice in dict.fromkeys(notices)
        if notice.code not in _CHECKED
    ]
