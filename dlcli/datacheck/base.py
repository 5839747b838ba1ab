"""Results of a check: facts, tables, findings, and the arrays that plots are drawn from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dlcli.config import TrainConfig
from dlcli.data.base import DataSource, Samples, SplitName
from dlcli.data.kinds import KINDS, ReadOptions
from dlcli.data.notices import Level, Notice, for_split
from dlcli.registry import Registry
from dlcli.task import TaskSpec

LEVELS: tuple[Level, ...] = ("error", "warning", "note")
EXAMPLES = 5
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")

Numbers = npt.NDArray[Any]  # (n,) of int or float
Cell = str | int | float | None
ProgressCallback = Callable[[int, int], None]  # (samples read so far, of how many)


@dataclass(frozen=True)
class Finding:
    """One problem or fact of the data.

    An error makes `dlcli data` fail: metrics on this data would be wrong. A warning should be looked
    at; a note is information. ``code`` is short and stable, for scripts. ``examples`` are a few samples
    or columns; ``hint`` says what to do.
    """

    level: Level
    code: str
    message: str
    examples: tuple[str, ...] = ()
    hint: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class Table:
    """Rows of facts under ``columns``; ``name`` is its key in JSON.

    The most important columns come first: narrow screens lose the last ones.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def to_dicts(self) -> list[dict[str, Cell]]:
        """One dict for each row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@dataclass(frozen=True)
class Histogram:
    """Histogram of numbers (n,), one for each split."""

    name: str
    title: str
    axis: str
    values: Mapping[str, Numbers]


@dataclass(frozen=True)
class Balance:
    """Samples of each class: counts (K,) by split."""

    name: str
    title: str
    classes: tuple[str, ...]
    counts: Mapping[str, Numbers]


@dataclass(frozen=True)
class Points:
    """Scatter plot of pairs (n, 2) of each split: widths and heights."""

    name: str
    title: str
    axes: tuple[str, str]
    points: Mapping[str, Numbers]


@dataclass(frozen=True)
class Bars:
    """Bar chart: one number for each name."""

    name: str
    title: str
    axis: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Panels:
    """Line plots (T,) in panels above each other, by panel and line name.

    ``marks`` are vertical lines: what begins there, by position.
    """

    name: str
    title: str
    axis: str
    panels: Mapping[str, Mapping[str, Numbers]]
    marks: Mapping[int, str] = field(default_factory=dict)


Chart = Histogram | Balance | Points | Bars | Panels


@dataclass
class CheckResult:
    """Facts, findings and plots of one check.

    ``contents`` has a hash of each sample of a split, None where it could not be read. ``noun`` is the
    word for a sample; ``quote`` returns a short excerpt of one, where its id is only a number.
    ``chance``: equal samples need not be copies, as in tables of few columns. ``notices`` come from
    readers and become findings too.
    """

    facts: dict[str, str] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    contents: dict[str, Sequence[Hashable]] = field(default_factory=dict)
    noun: str = "sample"
    quote: Callable[[Samples, int], str] = lambda samples, index: ""
    chance: bool = False
    notices: list[Notice] = field(default_factory=list)

    def report(
        self,
        level: Level,
        code: str,
        message: str,
        *,
        examples: Sequence[str] = (),
        hint: str | None = None,
    ) -> None:
        """Add a finding, with at most `EXAMPLES` examples and how many more there are."""
        shown, more = list(examples[:EXAMPLES]), len(examples) - EXAMPLES
        if more > 0:
            shown.append(f"and {more:,} more")
        self.findings.append(Finding(level, code, message, tuple(shown), hint))


@dataclass(frozen=True)
class CheckOptions:
    """Settings of a check: ``max_decoded`` photos (None: all); ``progress`` receives the count."""

    config: TrainConfig
    max_decoded: int | None = 20_000
    progress: ProgressCallback = lambda done, total: None


class Check(Protocol):
    """The check of one kind of data. ``task`` is None where no encoder could be fitted."""

    def __call__(self, source: DataSource, task: TaskSpec | None, options: CheckOptions) -> CheckResult:
        """Return facts and findings."""


CHECKS: Registry[Check] = Registry("data check", "dlcli.datacheck")  # by kind of data


@dataclass(frozen=True)
class DataReport:
    """The result of `dlcli data`; findings are sorted by level."""

    name: str
    origin: str
    kind: str
    task: str
    splits: dict[str, dict[str, Any]]
    facts: dict[str, str]
    tables: tuple[Table, ...]
    findings: tuple[Finding, ...]
    charts: tuple[Chart, ...] = field(repr=False, default=())

    def count(self, level: Level) -> int:
        """Return the number of findings of a level."""
        return sum(finding.level == level for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the arrays of the plots."""
        return {
            "name": self.name,
            "data": self.origin,
            "kind": self.kind,
            "task": self.task,
            "splits": self.splits,
            "facts": self.facts,
            "tables": {table.name: table.to_dicts() for table in self.tables},
            "findings": [finding.to_dict() for finding in self.findings],
            "errors": self.count("error"),
            "warnings": self.count("warning"),
        }


def percent(part: int, whole: int) -> str:
    """``4.7 %``; a share above 0 is never shown as 0 %."""
    value = 100 * part / max(whole, 1)
    return f"{value:.1f} %" if value >= 0.1 or not part else "less than 0.1 %"


def reader_notices(source: DataSource, task: TaskSpec) -> list[Notice]:
    """Return what the encoders meet in each split that training did not hold."""
    kind, notices = KINDS.get(source.kind), []
    for split, samples in source.splits.items():
        reader = kind.reader(samples, task, ReadOptions())
        notices += for_split(reader.notices, split)
        reader.close()
    return notices


def target_text(source: DataSource, samples: Samples, index: int) -> str:
    """Return the target of a sample as text: class, labels or numbers; "" where it has none."""
    target = samples.targets[index]
    if source.task == "classification":
        return source.class_names[int(target)]
    if source.task == "multilabel":
        named = zip(source.class_names, target.tolist(), strict=True)
        return "|".join(name for name, has in named if has) or "none"
    return (
        ", ".join(f"{number:.6g}" for number in target.tolist()) if source.task == "regression" else ""
    )


def median_and_range(values: Numbers) -> str:
    """``median 10, 1 to 37``, of integers."""
    return f"median {int(np.median(values)):,}, {int(values.min()):,} to {int(values.max()):,}"
