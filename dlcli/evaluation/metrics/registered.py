"""Registry of metrics that are one function of all samples.

A new file in this folder that registers one is imported automatically. Built-in metrics are sums over
samples (`Counts`). A registered metric gets all outputs and targets at once, so any definition is
possible, at the cost of holding the outputs of a split in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dlcli.data.base import Inputs, SeriesRows, Targets
from dlcli.evaluation.metrics.base import DIRECTIONS, Counts, EvalResult, Floats, Outputs
from dlcli.registry import Registry
from dlcli.task import TaskKind, TaskSpec

# (outputs (N, ...), targets (N, ...), task) -> the metric of N samples, at least 1, in any order
Metric = Callable[[Outputs, Targets, TaskSpec], float]


@dataclass(frozen=True)
class MetricEntry:
    """A registered metric; ``direction`` is 1 where higher is better, else -1."""

    name: str
    function: Metric
    tasks: tuple[TaskKind, ...]
    direction: int


METRICS: Registry[MetricEntry] = Registry("metric", "dlcli.evaluation.metrics")


def register_metric(name: str, *tasks: TaskKind, higher_is_better: bool) -> Callable[[Metric], Metric]:
    """Decorator: report a function of (outputs, targets, task) as the metric ``name`` of these tasks.

    Outputs are what the model returns (logits, scaled numbers, embeddings), targets the raw ones, both
    as NumPy arrays; ``task`` has the class names and the scales. ``--monitor``, ``--min`` and `runs`
    accept the metric. Raises: ValueError for a registered name, and for seq2seq, whose logits are too
    large to hold in memory.
    """
    if name in DIRECTIONS:
        raise ValueError(f"metric {name!r} is registered twice")
    if "seq2seq" in tasks:
        raise ValueError(f"metric {name!r}: the logits of seq2seq are too large to hold in memory")

    def add(function: Metric) -> Metric:
        entry = MetricEntry(name, function, tasks, 1 if higher_is_better else -1)
        METRICS.register(name)(entry)
        return function

    return add


def registered_metrics(kind: TaskKind) -> tuple[MetricEntry, ...]:
    """The registered metrics of a task, sorted by name."""
    return tuple(entry for _, entry in METRICS.entries() if kind in entry.tasks)


def directions() -> dict[str, int]:
    """Every metric that dlcli can report: 1 where higher is better, -1 where lower is."""
    return {**DIRECTIONS, **{name: entry.direction for name, entry in METRICS.entries()}}


def direction(metric: str) -> int:
    """1 where a higher value of the metric is better, -1 where a lower one is. Raises: KeyError."""
    return DIRECTIONS[metric] if metric in DIRECTIONS else directions()[metric]


class WithRegistered(Counts):
    """`Counts` of a task that also store all outputs and targets, for the registered metrics."""

    def __init__(self, counts: Counts, task: TaskSpec) -> None:
        self.counts, self.task = counts, task
        self.scored, self.rooted = counts.scored, counts.rooted
        self._outputs: list[Outputs] = []
        self._targets: list[Targets] = []

    @property
    def samples(self) -> int:
        """The number of samples counted."""
        return self.counts.samples

    def update(
        self,
        outputs: Outputs,
        targets: Targets,
        inputs: Inputs | None = None,
        series: SeriesRows | None = None,
    ) -> None:
        """Count and store a batch."""
        if len(targets):
            self._outputs.append(np.array(outputs))
            self._targets.append(np.array(targets))
        self.counts.update(outputs, targets, inputs, series)
        self.non_finite = self.counts.non_finite

    def merge(self, other: Counts) -> None:
        """Add the counts of ``other`` on other samples."""
        assert isinstance(other, WithRegistered)
        self.counts.merge(other.counts)
        self.non_finite = self.counts.non_finite
        self._outputs = [*self._outputs, *other._outputs]
        self._targets = [*self._targets, *other._targets]

    def metrics(self) -> dict[str, float]:
        """The metrics of the wrapped counts, then the registered ones."""
        values = self.counts.metrics()
        for entry in registered_metrics(self.task.kind):
            values[entry.name] = self._value(entry)
        return values

    def scores(self) -> Floats:
        """The scores of the wrapped counts."""
        return self.counts.scores()

    def result(self, split: str, bad_samples: dict[str, str] | None = None) -> EvalResult:
        """The result that `eval` reports."""
        return replace(self.counts.result(split, bad_samples), metrics=self.metrics())

    def _value(self, entry: MetricEntry) -> float:
        if not self._targets:
            return float("nan")
        self._outputs = [np.concatenate(self._outputs)]
        self._targets = [np.concatenate(self._targets)]
        return float(entry.function(self._outputs[0], self._targets[0], self.task))
