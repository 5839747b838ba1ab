"""The check of a data set: what its kind says, and what holds for every kind."""

from __future__ import annotations

import re
from dataclasses import replace

from dlcli.config import TrainConfig
from dlcli.data.base import DataSource
from dlcli.data.kinds import KINDS, ModelNeeds
from dlcli.datacheck.base import CHECKS, CheckOptions, DataReport, Finding, Level, Part
from dlcli.datacheck.duplicates import find_duplicates
from dlcli.datacheck.shift import find_shifts
from dlcli.datacheck.targets import check_targets, split_facts
from dlcli.errors import DlcliError, UsageError
from dlcli.task import TaskSpec

# What sentences of the readers are about. None: this check says it itself, with examples. A sentence
# that nothing here knows is a note.
_ABOUT: tuple[tuple[str, Level, str | None], ...] = (
    (r"has no (photos|text|samples) of |too few samples to hold one out", "note", None),
    (r"texts are empty|texts are longer than|lose their? end", "note", None),
    (r"^left out the? columns? |^left out columns ", "note", None),
    (r": vocabulary of ", "note", None),
    (r"the time has .* gaps?\b", "warning", "gapped-time"),
    (r"rows? repeat the time", "warning", "repeated-time"),
    (r"values are missing", "warning", "missing-values"),
    (r"^missing numbers become|^log\(1 \+ x\)", "note", "encoding"),
    (r"not UTF-8", "note", "not-utf-8"),
    (r"left out|left alone|not followed|counts as absent|lack a side", "warning", "left-out"),
)


def check_data(source: DataSource, options: CheckOptions, needs: ModelNeeds | None = None) -> DataReport:
    """Everything that `dlcli data` says of a source. Files are read, never written.

    ``needs`` are of the model that the data is meant for. Raises: UsageError when the settings do not
    suit the data.
    """
    config = options.config
    said = [*source.warnings]
    task, own = _fitted(source, config, needs or ModelNeeds(), said)
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
        *(*find_shifts(charts), *_sentences([*said, *part.said])),
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
    source: DataSource, config: TrainConfig, needs: ModelNeeds, said: list[str]
) -> tuple[TaskSpec | None, list[Finding]]:
    """The task, its notes added to ``said``; or why no encoder can be fitted."""
    try:
        task, notes = KINDS.get(source.kind).fit(source, config, needs)
    except UsageError:
        raise
    except DlcliError as exc:
        return None, [Finding("error", "cannot-be-encoded", exc.message, hint=exc.hint)]
    said += notes
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


def _sentences(said: list[str]) -> list[Finding]:
    """The readers' sentences as findings."""
    found = []
    for sentence in dict.fromkeys(said):
        level, code = _about(sentence)
        if code is not None:
            found.append(Finding(level, code, sentence))
    return found


def _about(sentence: str) -> tuple[Level, str | None]:
    for pattern, level, code in _ABOUT:
        if re.search(pattern, sentence):
            return level, code
    return "note", "reading"
