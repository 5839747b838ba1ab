"""What a check answers: facts, tables, findings, and the arrays that plots are drawn from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dlcli.config import TrainConfig
from dlcli.data.base import DataSource, Samples, SplitName
from dlcli.data.kinds import KINDS, ReadOptions
from dlcli.data.notices import Level, Notice
from dlcli.registry import Registry
from dlcli.task import TaskSpec

LEVELS: tuple[Level, ...] = ("error", "warning", "note")
EXAMPLES = 5
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")

Numbers = npt.NDArray[Any]  # (n,) of int or float
Cell = str | int | float | None
Watch = Callable[[int, int], None]  # (samples read so far, of how many)


@dataclass(frozen=True)
class Finding:
    """One thing to know about the data.

    An error makes `dlcli data` fail: results on this data would not mean what they say. A warning is
    worth a look; a note is a fact. ``code`` is short and stays the same, for scripts. ``examples`` are
    a few samples or columns; ``hint`` is the way out.
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

    Columns are in the order of their worth: narrow screens lose the last ones.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def to_dicts(self) -> list[dict[str, Cell]]:
        """A dict a row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@dataclass(frozen=True)
class Histogram:
    """Numbers (n,) of each split on one axis."""

    name: str
    title: str
    axis: str
    values: Mapping[str, Numbers]


@dataclass(frozen=True)
class Balance:
    """Samples of each class: split to counts (K,)."""

    name: str
    title: str
    classes: tuple[str, ...]
    counts: Mapping[str, Numbers]


@dataclass(frozen=True)
class Points:
    """Pairs of numbers (n, 2) of each split: widths and heights."""

    name: str
    title: str
    axes: tuple[str, str]
    points: Mapping[str, Numbers]


@dataclass(frozen=True)
class Bars:
    """One number a name."""

    name: str
    title: str
    axis: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Panels:
    """Lines in panels below each other: panel to line's name to values (T,).

    ``marks`` are vertical lines: position to what begins there.
    """

    name: str
    title: str
    axis: str
    panels: Mapping[str, Mapping[str, Numbers]]
    marks: Mapping[int, str] = field(default_factory=dict)


Chart = Histogram | Balance | Points | Bars | Panels


@dataclass
class Part:
    """What one check has to say.

    ``contents`` are what tells the samples of a split apart: a key each, None where it could not be
    read. ``noun`` is what a sample is called, ``quote`` gives a few words of its content where the id
    says nothing. ``chance``: whether samples may well be equal without being copies, as rows of a few
    columns may. ``notices`` are of readers, and become findings too.
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

    def find(
        self,
        level: Level,
        code: str,
        message: str,
        *,
        examples: Sequence[str] = (),
        hint: str | None = None,
    ) -> None:
        """Add a finding; at most `EXAMPLES` of the examples are kept."""
        self.findings.append(Finding(level, code, message, tuple(examples[:EXAMPLES]), hint))


@dataclass(frozen=True)
class CheckOptions:
    """How far to look: at most ``most_read`` photos are decoded (None: all); ``watch`` counts them."""

    config: TrainConfig
    most_read: int | None = 20_000
    watch: Watch = lambda done, total: None


class Check(Protocol):
    """What is particular to one kind of data. ``task`` is None where no encoder could be fitted."""

    def __call__(self, source: DataSource, task: TaskSpec | None, options: CheckOptions) -> Part:
        """The facts and findings."""


CHECKS: Registry[Check] = Registry("data check", "dlcli.datacheck")  # by kind of data


@dataclass(frozen=True)
class DataReport:
    """All that was found, in the order in which it is shown."""

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
        """How many findings are of a level."""
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


def counted(number: int, noun: str) -> str:
    """``1 photo``, ``2,000 photos``, ``3 classes``."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}{'es' if noun.endswith('s') else 's'}"
    return f"{number:,} {noun if number == 1 else many}"


def share(part: int, whole: int) -> str:
    """``4.7 %``; a little of something is never 0 %."""
    percent = 100 * part / max(whole, 1)
    return f"{percent:.1f} %" if percent >= 0.1 or not part else "less than 0.1 %"


def reader_notices(source: DataSource, task: TaskSpec) -> list[Notice]:
    """Return what the encoders meet in each split that training did not hold."""
    kind, notices = KINDS.get(source.kind), []
    for split, samples in source.splits.items():
        reader = kind.reader(samples, task, ReadOptions())
        notices += [notice.prefixed(split) for notice in reader.notices]
        reader.close()
    return notices


def class_of(source: DataSource, samples: Samples, index: int) -> str:
    """The target of a sample for people: its class, its labels, its numbers; "" where it has none."""
    target = samples.targets[index]
    if source.task == "classification":
        return source.class_names[int(target)]
    if source.task == "multilabel":
        named = zip(source.class_names, target.tolist(), strict=True)
        return "|".join(name for name, has in named if has) or "none"
    return (
        ", ".join(f"{number:.6g}" for number in target.tolist()) if source.task == "regression" else ""
    )


def spread(values: Numbers) -> str:
    """``median 10, 1 to 37``, of whole numbers."""
    return f"median {int(np.median(values)):,}, {int(values.min()):,} to {int(values.max()):,}"
