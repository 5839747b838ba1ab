"""The table of a benchmark: a row for each file and backend, with speed-ups and Pareto fronts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dlcli.benchmark.accuracy import EvalGroup
from dlcli.benchmark.slot import Timing
from dlcli.benchmark.statistics import Ratio, paired_ratio, pareto_front
from dlcli.evaluation.metrics import direction


@dataclass(frozen=True)
class BenchmarkRow:
    """A file, run in one way.

    ``macs`` are multiply-adds for one sample, None where they cannot be counted. ``speedup`` is over the
    first row, by batch size; empty for a model of other data. ``front`` names the costs, "latency" at
    the first batch size and "size", for which the row is on the Pareto front with the metric. ``error``
    is the first thing that failed.
    """

    path: Path
    format: str
    backend: str  # of a torch model; empty for a format with a runtime of its own
    amp: str
    size_bytes: int
    params: int = 0
    macs: int | None = None
    metric: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    agreement: float | None = None
    samples: int = 0
    timing: Timing | None = None
    speedup: dict[int, Ratio] = field(default_factory=dict)
    front: tuple[str, ...] = ()
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        timing = self.timing
        speeds = {} if timing is None else timing.speeds
        return {
            "artifact": str(self.path),
            "format": self.format,
            "backend": self.backend or None,
            "amp": self.amp,
            "device": None if timing is None else timing.device,
            "provider": None if timing is None else timing.provider or None,
            "size_bytes": self.size_bytes,
            "params": self.params,
            "macs": self.macs,
            "metric": self.metric or None,
            "metrics": self.metrics,
            "agreement": self.agreement,
            "samples": self.samples,
            "startup_s": None if timing is None else timing.startup_s,
            "peak_mib": None if timing is None else timing.peak_mib,
            "latency_ms": {str(size): speed.p50_ms for size, speed in speeds.items()},
            "throughput": {str(size): speed.throughput for size, speed in speeds.items()},
            "latency": {
                str(size): {
                    "p50_ms": speed.p50_ms,
                    "p95_ms": speed.p95_ms,
                    "p99_ms": speed.p99_ms,
                    "calls": speed.calls,
                    "rounds_ms": list(speed.rounds),
                    "clock": speed.clock,
                    "doubt": speed.doubt or None,
                }
                for size, speed in speeds.items()
            },
            "speedup": {str(size): ratio.to_dict() for size, ratio in self.speedup.items()},
            "front": list(self.front),
            "error": self.error,
            "failed": {}
            if timing is None
            else {str(size): error for size, error in timing.failed.items()},
        }


@dataclass(frozen=True)
class BenchmarkResult:
    """All rows, and how they were measured. ``split`` is empty when no metrics were measured.

    ``busy_cores`` is how many cores other programs used at the time, ``clock`` "wall", or "cpu" where
    they left too few and the CPU time of one thread was taken. ``doubt`` is why the speeds say little,
    empty where they are good.
    """

    rows: tuple[BenchmarkRow, ...]
    batch_sizes: tuple[int, ...]
    threads: int
    seconds: float
    rounds: int
    split: str
    inputs: str  # "real" or "random"
    busy_cores: float = 0.0
    clock: str = "wall"
    doubt: str = ""

    @property
    def failed(self) -> list[BenchmarkRow]:
        """The rows with an error."""
        return [row for row in self.rows if row.error is not None]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "batch_sizes": list(self.batch_sizes),
            "threads": self.threads,
            "seconds": self.seconds,
            "rounds": self.rounds,
            "split": self.split or None,
            "inputs": self.inputs,
            "busy_cores": self.busy_cores,
            "clock": self.clock,
            "doubt": self.doubt or None,
            "rows": [row.to_dict() for row in self.rows],
            "failed": len(self.failed),
        }


def with_comparisons(
    rows: Sequence[BenchmarkRow], groups: Sequence[EvalGroup], batch_sizes: Sequence[int]
) -> list[BenchmarkRow]:
    """Return the rows with speed-ups over the first, and the Pareto fronts among comparable ones."""
    rows = list(rows)
    first = rows[0].timing
    samples = {number: group.samples_key for group in groups for number in group.rows}
    for number, row in enumerate(rows):
        if first is None or row.timing is None:
            continue
        if samples.get(number, samples.get(0)) != samples.get(0, samples.get(number)):
            continue  # a model of other data
        sizes = [s for s in batch_sizes if s in first.speeds and s in row.timing.speeds]
        ratios = {s: paired_ratio(first.speeds[s], row.timing.speeds[s]) for s in sizes}
        rows[number] = replace(row, speedup=ratios)
    for numbers in _comparable(rows, groups):
        costs = {
            "latency": [_latency(rows[n], batch_sizes[0]) for n in numbers],
            "size": [float(rows[n].size_bytes) for n in numbers],
        }
        for name, values in costs.items():
            points = [(_score(rows[n]), cost) for n, cost in zip(numbers, values, strict=True)]
            for n, on_front in zip(numbers, pareto_front(points), strict=True):
                if on_front:
                    rows[n] = replace(rows[n], front=(*rows[n].front, name))
    return rows


def _comparable(rows: Sequence[BenchmarkRow], groups: Sequence[EvalGroup]) -> list[list[int]]:
    """Return the numbers of rows with the same metric on the same samples."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for group in groups:
        for number in group.rows:
            if rows[number].metrics:
                key = (rows[number].metric, group.samples_key)
                numbers.setdefault(key, []).append(number)
    return [sorted(group) for group in numbers.values() if len(group) > 1]


def _score(row: BenchmarkRow) -> float:
    """Return the metric, negated where lower is better."""
    return row.metrics[row.metric] * direction(row.metric)


def _latency(row: BenchmarkRow, batch_size: int) -> float:
    speed = None if row.timing is None else row.timing.speeds.get(batch_size)
    return float("nan") if speed is None or speed.doubt else speed.p50_ms
