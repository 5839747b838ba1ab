"""Before and after: metrics, size and latency of two model files, both read again from disk.

Latency is measured in interleaved rounds (`dlcli.benchmark`), with a doubt where that says little.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from dlcli.benchmark.interleaved import InterleavedTimer, time_models
from dlcli.benchmark.slot import RunSpec, Timing
from dlcli.benchmark.statistics import Ratio, paired_ratio
from dlcli.config import MeasureConfig
from dlcli.deploy.reference import MetricDelta, ReferenceEvaluator
from dlcli.evaluation.decisions import thresholds_in_words
from dlcli.events import Emit, Warned, ignore
from dlcli.formats.base import ModelFile, open_artifact


@dataclass(frozen=True)
class MeasuredModel:
    """One of the two models. ``latency_ms`` and ``throughput`` (samples per second) by batch size."""

    artifact: str
    format: str
    size_bytes: int
    params: int
    latency_ms: dict[str, float]
    throughput: dict[str, float]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """What `quantize`, `prune` and `export` print and give as JSON.

    ``speedup`` is by batch size, empty when latency was not measured; ``untimed`` is why, where it was
    asked for. ``clock`` is "cpu" where other programs had the cores and the CPU time of one thread was
    taken; ``busy_cores`` are those that they used. ``thresholds`` are those that labels go by, in words.
    """

    before: MeasuredModel
    after: MeasuredModel
    delta: MetricDelta
    split: str
    samples: int
    note: str
    speedup: dict[str, Ratio]
    device: str
    clock: str = "wall"
    busy_cores: float = 0.0
    untimed: str = ""
    thresholds: str = ""

    @property
    def size_ratio(self) -> float:
        """Bytes after over bytes before."""
        return self.after.size_bytes / self.before.size_bytes

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: ``before``, ``after``, ``agreement`` and what they were measured on."""
        delta = self.delta
        return {
            "before": asdict(self.before),
            "after": asdict(self.after),
            "agreement": delta.agreement,
            "metric": delta.metric,
            "difference": delta.difference,
            "interval": [delta.low, delta.high],
            "split": self.split,
            "samples": self.samples,
            "note": self.note,
            "size_ratio": self.size_ratio,
            "speedup": {size: ratio.to_dict() for size, ratio in self.speedup.items()},
            "device": self.device,
            "clock": self.clock,
            "busy_cores": self.busy_cores,
            "untimed": self.untimed or None,
            "thresholds": self.thresholds or None,
        }


def compare_files(
    before: ModelFile,
    after: ModelFile,
    reference: ReferenceEvaluator,
    config: MeasureConfig,
    *,
    delta: MetricDelta | None = None,
    untimed: str = "",
    device: str = "cpu",
    trust: bool = False,
    emit: Emit = ignore,
) -> Comparison:
    """Compare the file ``after`` with ``before``, the model that ``reference`` evaluated.

    ``delta`` is the evaluation of ``after``, where it was evaluated before. Latency is measured on
    ``device`` if ``config.latency``, unless ``untimed`` says why that would mean nothing.
    """
    if delta is None:
        delta = reference.evaluate(open_artifact(after, device="cpu", trust=trust))
    timer, timings = None, []
    if config.latency and not untimed:
        timer = _time((before, after), reference, config, device=device, trust=trust, emit=emit)
        timings = timer.timings()
        untimed = "; ".join(_failures(timings))
        if untimed:
            emit(Warned(f"not timed: {untimed}"))
    models = [
        _measured(file, metrics, timings[i] if timings else None)
        for i, (file, metrics) in enumerate(((before, reference.metrics), (after, delta.metrics)))
    ]
    return Comparison(
        before=models[0],
        after=models[1],
        delta=delta,
        split=reference.split,
        samples=reference.samples,
        note=reference.note,
        speedup=_speedups(timings),
        device=timings[0].device if timings else "",
        clock=timer.clock if timer else "wall",
        busy_cores=round(statistics.median(timer.busy_cores or [0.0]), 2) if timer else 0.0,
        untimed=untimed if config.latency else "",
        thresholds=thresholds_in_words(after.card.task),
    )


def _time(
    files: tuple[ModelFile, ModelFile],
    reference: ReferenceEvaluator,
    config: MeasureConfig,
    *,
    device: str,
    trust: bool,
    emit: Emit,
) -> InterleavedTimer:
    sizes = config.sizes
    return time_models(
        [RunSpec(file.path, device=device, trust=trust) for file in files],
        reference.inputs(max(sizes)),
        sizes,
        seconds=config.seconds,
        rounds=config.rounds,
        threads=config.threads,
        limit_s=config.time_limit,
        emit=emit,
    )


def _failures(timings: list[Timing]) -> list[str]:
    """Return what could not be timed, each with its reason."""
    return [
        f"{timing.spec.path}: {error}"
        for timing in timings
        for error in (
            [timing.error]
            if timing.error
            else [f"batch {size}: {why}" for size, why in timing.failed.items()]
        )
    ]


def _speedups(timings: list[Timing]) -> dict[str, Ratio]:
    if len(timings) != 2:
        return {}
    before, after = timings
    both = [size for size in before.speeds if size in after.speeds]
    return {str(size): paired_ratio(before.speeds[size], after.speeds[size]) for size in both}


def _measured(file: ModelFile, metrics: dict[str, float], timing: Timing | None) -> MeasuredModel:
    speeds = {} if timing is None else timing.speeds
    return MeasuredModel(
        artifact=str(file.path),
        format=file.format.name,
        size_bytes=file.size,
        params=file.card.params,
        latency_ms={str(size): speed.p50_ms for size, speed in speeds.items()},
        throughput={str(size): speed.throughput for size, speed in speeds.items()},
        metrics=metrics,
    )
