"""Registry of metrics that are one function of all samples.

A new file in this folder that registers one is imported automatically. Other metrics are sums over
samples (`Counts`). A registered metric gets all outputs and targets at once, gathered from all batches
and processes, so any definition is possible and exact, at the cost of holding the outputs of a split in
memory: at most `MAX_NUMBERS`, beyond which registered metrics are undefined.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dlcli.data.base import Indices, Inputs, SeriesRows, Targets
from dlcli.evaluation.metrics.base import (
    DIRECTIONS,
    Counts,
    EvalResult,
    Floats,
    Outputs,
    Undefined,
)
from dlcli.registry import Registry
from dlcli.task import TaskKind, TaskSpec

# Outputs held in memory: 256 MiB as float32, a thousand classes of 67,000 samples; numbers are float64.
MAX_NUMBERS = 2**26

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

    Outputs are what the model returns (logits, embeddings; numbers in the data's own units), targets the
    raw ones, both as NumPy arrays; ``task`` has the class names. The function raises `Undefined` for
    samples that do not define it. ``--monitor``, ``--min`` and `runs` accept the metric. Raises:
    ValueError for a registered name, and for seq2seq, whose logits are too large to hold in memory.
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


def too_many(samples: int, task: TaskSpec) -> str | None:
    """Why registered metrics are undefined for so many samples, or None."""
    if samples * task.num_outputs <= MAX_NUMBERS:
        return None
    return (
        f"{samples:,} samples of {task.num_outputs:,} outputs are more than the {MAX_NUMBERS:,} numbers "
        "that are held in memory for it"
    )


class WithRegistered(Counts):
    """`Counts` of a task that also store all outputs and targets, for its other metrics.

    ``load(task)`` gives these, in each process: functions of the user's do not travel between them.
    """

    def __init__(
        self, counts: Counts, task: TaskSpec, load: Callable[[TaskSpec], Sequence[MetricEntry]]
    ) -> None:
        self.counts, self.task, self._load = counts, task, load
        self.entries = load(task)
        self._outputs: list[Outputs] = []
        self._targets: list[Targets] = []
        self._values: dict[str, float | str] | None = None  # cache of `_registered`

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
        self.counts.update(outputs, targets, inputs, series)
        self._store(*_in_data_units(outputs, targets, self.task, series))
        self.non_finite = self.counts.non_finite

    def merge(self, other: Counts) -> None:
        """Add the counts of ``other`` on other samples."""
        assert isinstance(other, WithRegistered)
        self.counts.merge(other.counts)
        self.non_finite = self.counts.non_finite
        self._store(other._outputs, other._targets)

    def metrics(self) -> dict[str, float]:
        """The metrics of the wrapped counts, then the registered ones."""
        values = self._registered().items()
        return {**self.counts.metrics(), **{k: v for k, v in values if not isinstance(v, str)}}

    def undefined(self) -> dict[str, str]:
        """The undefined metrics of the wrapped counts and the registered ones."""
        values = self._registered().items()
        return {**self.counts.undefined(), **{k: v for k, v in values if isinstance(v, str)}}

    def scores(self, metric: str) -> Floats | None:
        """The scores of the wrapped counts; None for a registered metric."""
        return None if self._entry(metric) else self.counts.scores(metric)

    def value(self, metric: str, indices: Indices) -> float:
        """A metric of the samples at ``indices``."""
        entry = self._entry(metric)
        if entry is None:
            return self.counts.value(metric, indices)
        self._join()
        value = self._value(entry, self._outputs[0][indices], self._targets[0][indices])
        return math.nan if isinstance(value, str) else value

    def result(self, split: str, bad_samples: dict[str, str] | None = None) -> EvalResult:
        """The result that `eval` reports."""
        result = self.counts.result(split, bad_samples)
        return replace(result, metrics=self.metrics(), undefined=self.undefined())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "entries": (), "_values": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.entries = self._load(self.task)

    def _store(self, outputs: list[Outputs], targets: list[Targets]) -> None:
        """Hold outputs of counted samples, unless there are too many in all."""
        self._values = None
        if too_many(self.samples, self.task):
            self._outputs, self._targets = [], []
        else:
            self._outputs = [*self._outputs, *outputs]
            self._targets = [*self._targets, *targets]

    def held(self) -> tuple[Outputs, Targets] | None:
        """The outputs and targets that registered metrics get; None where there are none."""
        if not self._outputs:
            return None
        self._join()
        return self._outputs[0], self._targets[0]

    def _join(self) -> None:
        self._outputs = [np.concatenate(self._outputs)]
        self._targets = [np.concatenate(self._targets)]

    def _entry(self, metric: str) -> MetricEntry | None:
        return next((entry for entry in self.entries if entry.name == metric), None)

    def _registered(self) -> dict[str, float | str]:
        """The value of each registered metric, or why it is undefined."""
        if self._values is None:
            reason = too_many(self.samples, self.task) or (
                "" if self.samples else "there are no samples"
            )
            if reason:
                self._values = {entry.name: reason for entry in self.entries}
            else:
                self._join()
                data = self._outputs[0], self._targets[0]
                self._values = {entry.name: self._value(entry, *data) for entry in self.entries}
        return self._values

    def _value(self, entry: MetricEntry, outputs: Outputs, targets: Targets) -> float | str:
        try:
            return float(entry.function(outputs, targets, self.task))
        except Undefined as exc:
            return str(exc)


def _in_data_units(
    outputs: Outputs, targets: Targets, task: TaskSpec, series: SeriesRows | None
) -> tuple[list[Outputs], list[Targets]]:
    """Copies of a batch; numbers, which models scale, as float64 in the data's own units."""
    if not task.targets:
        return [np.array(outputs, np.float32)], [np.array(targets)]
    mean = np.array([target.mean for target in task.targets])
    std = np.array([target.std for target in task.targets])
    predicted, true = outputs.astype(np.float64) * std + mean, targets.astype(np.float64)
    if series is not None:
        predicted = predicted * series.std[:, None] + series.mean[:, None]
        true = true * series.std[:, None] + series.mean[:, None]
    return [predicted], [true]
