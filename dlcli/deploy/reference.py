"""The model before a change, evaluated once: every candidate is compared with it on the same samples.

Metrics are paired: both models predict the same samples, and the interval is of their difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlcli.config import Bound, EvalConfig, MeasureConfig
from dlcli.data.base import Inputs, Samples, Targets
from dlcli.data.prepare import random_inputs, trim
from dlcli.errors import DlcliError, UsageError
from dlcli.evaluation.agreement import agreement_of
from dlcli.evaluation.differences import compared_metric, difference
from dlcli.evaluation.eval_data import EvalData, eval_data
from dlcli.evaluation.evaluate import default_batch_size, samples_within
from dlcli.evaluation.metrics import Counts, default_monitor, direction, make_counts
from dlcli.events import Emit, EvalProgress, Warned, ignore
from dlcli.formats.base import Artifact, Outputs
from dlcli.task import TaskSpec

_OUTPUT_BYTES = 2**28  # the outputs of all samples are in memory at once
_RANDOM_SAMPLES = 64


@dataclass(frozen=True)
class MetricDelta:
    """A model's metrics compared with those of the reference on the same samples.

    ``difference`` is after minus before in ``metric``, ``low`` and ``high`` its 95 % interval; ``drop``
    is how much worse the metric got, in its own unit, whether higher or lower is better. ``agreement``
    is the share of equal predictions, None for regression.
    """

    metrics: dict[str, float]
    metric: str
    before: float
    difference: float
    low: float
    high: float
    drop: float
    agreement: float | None

    def within(self, bound: Bound | None) -> bool:
        """Whether the drop is within the bound; a NaN never is."""
        return bound is None or bound.holds(self.drop, self.before)


class ReferenceEvaluator:
    """Evaluates models on the samples and against the outputs of a reference model.

    ``split`` is "random" when the data cannot be reached: then there are no metrics, and ``note`` says
    why. ``outputs`` are the reference's, ``metrics`` its metrics on ``samples`` samples.
    """

    def __init__(
        self,
        reference: Artifact,
        config: MeasureConfig,
        emit: Emit = ignore,
        *,
        divide: bool = False,
    ) -> None:
        """Read the samples and evaluate the reference on them.

        With ``divide``, ``--data`` without splits is divided as for training, and val is measured on.
        Raises: DlcliError, UsageError where ``--data`` or ``--batch-sizes`` is wrong.
        """
        _ = config.sizes  # read much later: a wrong one is refused before any work
        self.task: TaskSpec = reference.card.task
        self._emit = emit
        self._data, self.note = _open_data(reference, config, emit, divide)
        self.split = "random" if self._data is None else self._data.split
        limit = samples_within(_OUTPUT_BYTES, self.task)
        total = limit if self._data is None else len(self._data.reader)
        default = _RANDOM_SAMPLES if self._data is None else total
        count = min(total, limit, config.samples or default)
        spaced = np.linspace(0, total - 1, count).round().astype(np.int64)
        self.indices: npt.NDArray[np.int64] = np.unique(spaced)
        self.outputs, self._counts = self._predict(reference)
        self.metric = default_monitor(self.task)
        if self._counts is not None:
            self.metric = compared_metric(reference.card.monitor, self._counts, self.task)
        self.samples = len(self.outputs)
        self.metrics = {} if self._counts is None else self._counts.metrics()

    def inputs(self, count: int) -> Inputs:
        """Return a batch of ``count`` samples, repeated where there are fewer."""
        if self._data is None:
            return random_inputs(self.task, count)
        first = self.indices[: min(count, len(self.indices))]
        inputs, read = self._data.reader.read(first)
        rows = np.arange(count) % len(read)
        return trim(tuple(array[rows] for array in inputs), self.task)

    def all_inputs(self) -> tuple[Inputs, Targets | None]:
        """Return all samples as one batch, and their targets where there are labels."""
        if self._data is None:
            return random_inputs(self.task, len(self.indices)), None
        inputs, read = self._data.reader.read(self.indices)
        return inputs, self._data.reader.targets(read)

    def raw_samples(self, count: int | None = None) -> tuple[Inputs, Samples] | None:
        """Return the samples encoded by the reader, and the same before encoding; None without data.

        ``count`` are the first of them, without those that cannot be read.
        """
        if self._data is None:
            return None
        inputs, read = self._data.reader.read(self.indices[:count])
        return inputs, self._data.reader.samples.take(read)

    def evaluate(self, candidate: Artifact) -> MetricDelta:
        """Compare a model that reads the same inputs. Raises: DlcliError when it cannot predict."""
        outputs, counts = self._predict(candidate)
        agreement = agreement_of(self.outputs, outputs, self.task)
        if counts is None or self._counts is None:
            nan = float("nan")
            return MetricDelta({}, self.metric, nan, nan, nan, nan, nan, agreement)
        metrics = counts.metrics()
        # What the candidate leaves undefined misses every bound.
        before, after = self.metrics[self.metric], metrics.get(self.metric, math.nan)
        own = difference(counts, self._counts, self.metric, self.task)
        drop = (before - after) * direction(self.metric)
        return MetricDelta(metrics, self.metric, before, own.value, own.low, own.high, drop, agreement)

    def _predict(self, artifact: Artifact) -> tuple[Outputs, Counts | None]:
        """Return the outputs for all samples, and the metric counts where there are labels."""
        counts = None if self._data is None else make_counts(self.task)
        size, batches = default_batch_size(self.task), []
        for start in range(0, len(self.indices), size):
            indices = self.indices[start : start + size]
            if self._data is None:
                inputs: Inputs = random_inputs(self.task, len(indices), seed=start)
                batches.append(artifact.predict(inputs))
            else:
                inputs, read = self._data.reader.read(indices)
                if len(read):
                    inputs = trim(inputs, self.task)
                    batches.append(artifact.predict(inputs))
                    assert counts is not None
                    reader = self._data.reader
                    counts.update(batches[-1], reader.targets(read), inputs, reader.series(read))
            done = min(start + size, len(self.indices))
            self._emit(EvalProgress(split=self.split, done=done, total=len(self.indices)))
        if not batches:
            raise DlcliError(f"none of the samples of the {self.split} split can be read")
        return _concatenate(batches), counts


def _open_data(
    reference: Artifact, config: MeasureConfig, emit: Emit, divide: bool
) -> tuple[EvalData | None, str]:
    """Open the split to evaluate on, with a note on it; or None and why it cannot be opened."""
    eval_config = EvalConfig(
        data=config.data,
        data_dir=config.data_dir,
        split="val" if config.split == "auto" else config.split,
        workers=config.workers,
        offline=config.offline,
    )
    requested = config.data is not None or config.split != "auto"
    try:
        try:
            data = eval_data(reference.card, reference.path, eval_config, divide=divide)
        except UsageError:  # the data has no validation split, and the run's record is gone
            if config.split != "auto":
                raise
            auto = eval_config.model_copy(update={"split": "auto"})
            data = eval_data(reference.card, reference.path, auto)
    except DlcliError as exc:
        if requested:
            raise
        return None, exc.message
    for message in data.warnings:
        emit(Warned(message))
    return data, data.note


def _concatenate(batches: list[Outputs]) -> Outputs:
    """Concatenate outputs along the batch; sequences are padded to the longest with zeros."""
    if batches[0].ndim < 3 or len({batch.shape[1] for batch in batches}) == 1:
        return np.concatenate(batches)
    longest = max(batch.shape[1] for batch in batches)
    padded = [np.pad(b, [(0, 0), (0, longest - b.shape[1]), (0, 0)]) for b in batches]
    return np.concatenate(padded)
