"""Before and after: what a change did to a model, measured on real samples with both files loaded again.

Accuracy is paired: both models answer the same samples, and the interval is of their difference. Latency
is measured in turns (`dlcli.benchmark`), so that the ratio holds on a busy machine.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.benchmark.interleaved import Candidate, Timing, time_models
from dlcli.benchmark.statistics import Ratio, paired
from dlcli.config import Bound, EvalConfig, MeasureConfig
from dlcli.data.base import Inputs, Samples, Targets
from dlcli.data.prepare import random_inputs, trim
from dlcli.errors import DlcliError, UsageError
from dlcli.evaluation.agreement import agreement_of
from dlcli.evaluation.eval_data import EvalData, eval_data
from dlcli.evaluation.evaluate import answers_within, default_batch_size
from dlcli.evaluation.intervals import of_difference
from dlcli.evaluation.metrics import DIRECTIONS, Counts, default_monitor, make_counts
from dlcli.events import Emit, EvalProgress, Warned, ignore
from dlcli.formats.base import Artifact, Outputs, open_artifact
from dlcli.task import TaskSpec

_ANSWER_BYTES = 2**28


@dataclass(frozen=True)
class Held:
    """One model against the one before it, on the same samples.

    ``difference`` is after minus before in ``metric``, ``low`` and ``high`` its 95 % interval; ``drop``
    is how much worse it got, in the metric's unit, whichever way that metric points. ``agreement`` is
    the share of equal answers, None where they are numbers.
    """

    metrics: dict[str, float]
    metric: str
    before: float
    difference: float
    low: float
    high: float
    drop: float
    agreement: float | None

    def keeps(self, bound: Bound | None) -> bool:
        """Whether the metric got no worse than the bound allows; NaN keeps none."""
        return bound is None or bound.holds(self.drop, self.before)


class Yardstick:
    """Samples, and the answers of the model before: every candidate is held against the same ones.

    ``split`` is "random" where no data can be reached; then there is no metric, and ``note`` says why.
    """

    def __init__(self, before: Artifact, config: MeasureConfig, emit: Emit = ignore) -> None:
        """Read the samples and answer them.

        Raises: DlcliError, UsageError where ``--data`` or ``--batch-sizes`` is wrong.
        """
        _ = config.sizes  # wanted at the very end: a wrong one is refused before anything is made
        self.task: TaskSpec = before.card.task
        self._emit = emit
        self._data, self.note = _reachable(before, config, emit)
        self.split = "random" if self._data is None else self._data.split
        most = answers_within(_ANSWER_BYTES, self.task)
        total = most if self._data is None else len(self._data.reader)
        count = min(total, most, config.samples or (64 if self._data is None else total))
        picked = np.linspace(0, total - 1, count).round().astype(np.int64)
        self.indices: npt.NDArray[np.int64] = np.unique(picked)
        self.metric = default_monitor(self.task)
        self.answers, self._counts = self._ask(before)
        self.samples = len(self.answers)
        self.metrics = {} if self._counts is None else self._counts.metrics()

    def inputs(self, count: int) -> Inputs:
        """``count`` samples as a model is asked, repeated where there are fewer."""
        if self._data is None:
            return random_inputs(self.task, count)
        some = self.indices[np.arange(min(count, len(self.indices)))]
        inputs, kept = self._data.reader.read(some)
        rows = np.arange(count) % len(kept)
        return trim(tuple(array[rows] for array in inputs), self.task)

    def everything(self) -> tuple[Inputs, Targets | None]:
        """All samples in one batch, and what is true of them where it is known."""
        if self._data is None:
            return random_inputs(self.task, len(self.indices)), None
        inputs, kept = self._data.reader.read(self.indices)
        return inputs, self._data.reader.targets(kept)

    def raw(self) -> tuple[Inputs, Samples] | None:
        """All samples as a reader gives them, and before any encoder; None where there are none."""
        if self._data is None:
            return None
        inputs, kept = self._data.reader.read(self.indices)
        return inputs, self._data.reader.samples.take(kept)

    def hold(self, after: Artifact) -> Held:
        """Measure a model that reads the same inputs. Raises: DlcliError when it cannot answer."""
        answers, counts = self._ask(after)
        agreement = agreement_of(self.answers, answers, self.task)
        if counts is None or self._counts is None:
            nan = float("nan")
            return Held({}, self.metric, nan, nan, nan, nan, nan, agreement)
        metrics = counts.metrics()
        before, now = self.metrics[self.metric], metrics[self.metric]
        low, high = -float("inf"), float("inf")
        if counts.scored == self.metric:
            low, high = of_difference(
                counts.scores(),
                self._counts.scores(),
                rooted=counts.rooted,
                block=max(1, self.task.horizon),
            )
        drop = (before - now) * DIRECTIONS[self.metric]
        return Held(metrics, self.metric, before, now - before, low, high, drop, agreement)

    def _ask(self, artifact: Artifact) -> tuple[Outputs, Counts | None]:
        counts = None if self._data is None else make_counts(self.task)
        size, parts = default_batch_size(self.task), []
        for start in range(0, len(self.indices), size):
            rows = self.indices[start : start + size]
            if self._data is None:
                inputs: Inputs = random_inputs(self.task, len(rows), seed=start)
                parts.append(artifact.predict(inputs))
            else:
                inputs, kept = self._data.reader.read(rows)
                if len(kept):
                    inputs = trim(inputs, self.task)
                    parts.append(artifact.predict(inputs))
                    assert counts is not None
                    counts.update(parts[-1], self._data.reader.targets(kept), inputs)
            done = min(start + size, len(self.indices))
            self._emit(EvalProgress(split=self.split, done=done, total=len(self.indices)))
        if not parts:
            raise DlcliError(f"none of the samples of the {self.split} split can be read")
        return _joined(parts), counts


@dataclass(frozen=True)
class Side:
    """One of the two models. ``latency_ms`` and ``throughput`` (samples a second) by batch size."""

    artifact: str
    format: str
    size_bytes: int
    params: int
    latency_ms: dict[str, float]
    throughput: dict[str, float]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """What `quantize`, `prune` and `export` print and give as JSON."""

    before: Side
    after: Side
    held: Held
    split: str
    samples: int
    note: str
    speedup: dict[str, Ratio]  # by batch size; empty where latency was not measured
    device: str

    @property
    def size_ratio(self) -> float:
        """Bytes after over bytes before."""
        return self.after.size_bytes / self.before.size_bytes

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: ``before``, ``after``, ``agreement`` and what they were measured on."""
        held = self.held
        return {
            "before": asdict(self.before),
            "after": asdict(self.after),
            "agreement": held.agreement,
            "metric": held.metric,
            "difference": held.difference,
            "interval": [held.low, held.high],
            "split": self.split,
            "samples": self.samples,
            "note": self.note,
            "size_ratio": self.size_ratio,
            "speedup": {size: asdict(ratio) for size, ratio in self.speedup.items()},
            "device": self.device,
        }


def compare_files(
    before: Path,
    after: Path,
    yardstick: Yardstick,
    config: MeasureConfig,
    *,
    held: Held | None = None,
    trust: bool = False,
    emit: Emit = ignore,
) -> Comparison:
    """Load both files again and hold the second against the first, which the yardstick answered.

    ``held`` is what the yardstick said of ``after`` already, if it did. Latency is measured where
    ``config.latency`` says so.
    """
    if held is None:
        held = yardstick.hold(open_artifact(after, device="cpu", trust=trust))
    timings: list[Timing] = []
    if config.latency:
        sizes = config.sizes
        candidates = [Candidate(path, trust=trust) for path in (before, after)]
        timings = time_models(
            candidates,
            yardstick.inputs(max(sizes)),
            sizes,
            seconds=config.seconds,
            rounds=config.rounds,
            threads=config.threads,
            emit=emit,
        )
        for timing in timings:
            for why in [timing.error] if timing.error else timing.failed.values():
                emit(Warned(f"{timing.candidate.path} was not timed: {why}"))
    sides = [
        _side(path, metrics, timings[i] if timings else None)
        for i, (path, metrics) in enumerate(((before, yardstick.metrics), (after, held.metrics)))
    ]
    return Comparison(
        before=sides[0],
        after=sides[1],
        held=held,
        split=yardstick.split,
        samples=yardstick.samples,
        note=yardstick.note,
        speedup=_speedups(timings),
        device=timings[0].device if timings else "",
    )


def verdict(found: Comparison, *, shrunk: bool = True) -> list[str]:
    """What came of it in words, one sentence a fact; ``shrunk`` is whether a smaller file was wanted."""
    size = found.size_ratio
    said = [_accuracy(found)]
    if size < 0.95:
        said.append(f"{1 / size:.1f} times smaller")
    elif shrunk or size > 1.05:
        said.append(f"{'NOT SMALLER' if shrunk else 'larger'}: {size:.2f} of the size")
    for batch, ratio in found.speedup.items():
        at = f"at batch {batch}"
        if not ratio.steady:
            said.append(
                f"speed {at} NOT KNOWN: {ratio.low:.2f} to {ratio.high:.2f} times as fast from round to "
                "round, as beside other programs (--threads 1 and more --seconds are steadier)"
            )
        elif ratio.low > 1:
            said.append(f"{ratio.median:.2f} times faster {at}")
        elif ratio.high < 1:
            said.append(f"SLOWER {at}: {ratio.median:.2f} of the speed")
        else:
            said.append(f"no difference in speed {at} beyond chance")
    return said


def _accuracy(found: Comparison) -> str:
    held = found.held
    if found.split == "random":
        return f"NOT VERIFIED ON DATA: {found.note}"
    points = f"{held.difference:+.4f} {held.metric} on {found.samples:,} samples of {found.split}"
    if not np.isfinite(held.difference):
        return f"WRONG: {points}"
    if not np.isfinite(held.low):
        return f"{points}; how much of it is chance is not known"
    if held.low > 0 or held.high < 0:
        better = (held.difference > 0) == (DIRECTIONS[held.metric] > 0)
        return f"{points}: {'better' if better else 'WORSE'}, beyond chance"
    return f"{points}: no difference beyond chance"


def _speedups(timings: list[Timing]) -> dict[str, Ratio]:
    if len(timings) != 2:
        return {}
    before, after = timings
    both = [size for size in before.speeds if size in after.speeds]
    return {str(size): paired(before.speeds[size], after.speeds[size]) for size in both}


def _side(path: Path, metrics: dict[str, float], timing: Timing | None) -> Side:
    from dlcli.formats.base import size_of, sniff_format

    entry = sniff_format(path)
    speeds = {} if timing is None else timing.speeds
    return Side(
        artifact=str(path),
        format=entry.name,
        size_bytes=size_of(path),
        params=entry.read_card(path).params,
        latency_ms={str(size): speed.p50_ms for size, speed in speeds.items()},
        throughput={str(size): speed.throughput for size, speed in speeds.items()},
        metrics=metrics,
    )


def _reachable(before: Artifact, config: MeasureConfig, emit: Emit) -> tuple[EvalData | None, str]:
    """The split to measure on and what is to be known of it, or None and the reason."""
    wanted = EvalConfig(
        data=config.data,
        data_dir=config.data_dir,
        split="val" if config.split == "auto" else config.split,
        workers=config.workers,
        offline=config.offline,
    )
    asked = config.data is not None or config.split != "auto"
    try:
        try:
            data = eval_data(before.card, before.path, wanted)
        except UsageError:  # the data brings no validation split and the run's record is gone
            if config.split != "auto":
                raise
            data = eval_data(before.card, before.path, wanted.model_copy(update={"split": "auto"}))
    except DlcliError as exc:
        if asked:
            raise
        return None, exc.message
    for message in data.warnings:
        emit(Warned(message))
    return data, data.note


def _joined(parts: list[Outputs]) -> Outputs:
    """Answers of all batches as one array; those of texts are padded to the longest with zeros."""
    if parts[0].ndim < 3 or len({part.shape[1] for part in parts}) == 1:
        return np.concatenate(parts)
    longest = max(part.shape[1] for part in parts)
    padded = [np.pad(p, [(0, 0), (0, longest - p.shape[1]), (0, 0)]) for p in parts]
    return np.concatenate(padded)
