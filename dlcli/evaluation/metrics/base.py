"""Metric directions, evaluation results and the base class of metric accumulators. NumPy only.

N is the number of samples counted, n in a batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Indices, Inputs, SeriesRows, Targets
from dlcli.data.previews import Preview
from dlcli.evaluation.metrics.reliability import ReliabilityBin
from dlcli.task import TaskKind

# Direction of every metric that dlcli reports: +1 higher is better, -1 lower is better.
DIRECTIONS = {
    "loss": -1,
    "accuracy": 1,
    "top5_accuracy": 1,
    "precision_macro": 1,
    "recall_macro": 1,
    "f1_macro": 1,
    "balanced_accuracy": 1,
    "matthews_corrcoef": 1,
    "log_loss": -1,
    "ece": -1,
    "mae": -1,
    "rmse": -1,
    "mse": -1,
    "r2": 1,
    "smape": -1,
    "mase": -1,
    "bleu": 1,
    "recall_at_1": 1,
}

# The lowest and the highest value of those that have one.
RANGES = {
    **dict.fromkeys(
        (
            *("accuracy", "top5_accuracy", "precision_macro", "recall_macro", "f1_macro"),
            *("balanced_accuracy", "ece", "roc_auc", "average_precision", "recall_at_1"),
        ),
        (0.0, 1.0),
    ),
    **dict.fromkeys(("log_loss", "mae", "rmse", "mse", "smape", "mase"), (0.0, math.inf)),
    "matthews_corrcoef": (-1.0, 1.0),
    "r2": (-math.inf, 1.0),
}

# Metrics that are the root of a mean of the samples' scores.
ROOTED = frozenset({"rmse"})

MAX_POINTS = 2000  # in a scatter plot of predicted against true values

Outputs = npt.NDArray[Any]  # outputs of a model, described by `TaskSpec.output`
Floats = npt.NDArray[np.float64]


class Undefined(Exception):
    """The samples do not define a metric; the text says why."""


@dataclass(frozen=True)
class ClassRow:
    """The metrics of a class: ``samples`` is its support, ``predicted`` the number of predictions."""

    name: str
    samples: int
    predicted: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class TargetRow:
    """The metrics of one regression target, in the data's own units."""

    name: str
    mae: float
    rmse: float
    r2: float


@dataclass(frozen=True)
class IntervalStep:
    """Intervals of one step of a horizon, from 1, and the share of the true values they contain."""

    step: int
    half_width: float
    covered: float


@dataclass(frozen=True)
class IntervalRow:
    """Intervals of one target, the prediction +- ``half_width``, in the data's own units.

    They are for a share ``coverage`` of the samples, by the errors of ``val_samples``. ``covered`` is
    the share of the true values of the samples evaluated that they contain, ``low`` and ``high`` its
    95 % interval (infinite for too few windows). Of a forecast ``half_width`` is the mean over
    ``steps``, and over windows where it is ``by_window``; where each of several series has a scale of
    its own, widths are in that scale.
    """

    name: str
    coverage: float
    half_width: float
    val_samples: int
    covered: float
    low: float
    high: float
    steps: tuple[IntervalStep, ...] = ()
    by_window: bool = False


@dataclass(frozen=True)
class SliceRow:
    """The ``metric`` of the samples whose ``column`` has a value, or lies in a range: ``name``.

    ``low`` and ``high`` are its 95 % interval, infinite for too few samples; ``worse``: whether all of
    it is worse than the metric of the whole split.
    """

    column: str
    name: str
    samples: int
    metric: str
    value: float
    low: float
    high: float
    worse: bool


@dataclass(frozen=True)
class SeriesRow:
    """The metrics of one of several series; mse, mae and r2 are of scaled values."""

    id: str
    samples: int
    mse: float
    mae: float
    r2: float
    smape: float
    mase: float


@dataclass(frozen=True)
class BaselineRow:
    """Comparison of a model with a baseline on the same samples.

    ``value`` is the ``metric`` of the baseline; ``difference`` is that of the model minus ``value``, and
    ``low`` and ``high`` its 95 % interval (infinite for too few samples). ``better`` is None where the
    interval contains 0. ``note`` describes how the baseline was fitted, where that limits it.
    ``by_series`` is the metric of the baseline on each of several series. The interval resamples
    ``block`` consecutive samples together, since they overlap.
    """

    name: str
    metric: str
    value: float
    difference: float
    low: float
    high: float
    better: bool | None
    note: str = ""
    by_series: dict[str, float] = field(default_factory=dict)
    block: int = 1


@dataclass(frozen=True)
class MemberRow:
    """The metrics of one of several models, on the same samples.

    ``difference`` is of ``metric``: the ensemble's minus this model's, or, of models that are compared,
    this model's minus the first's; ``low``, ``high`` and ``better`` (of the minuend) are as in
    `BaselineRow`. ``undefined`` is as in `EvalResult`.
    """

    artifact: str
    metrics: dict[str, float]
    metric: str
    difference: float
    low: float
    high: float
    better: bool | None
    undefined: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ForecastLine:
    """A window of one target in the data's own units: the last ``predicted`` steps of ``true``.

    ``true`` begins with rows of the input; ``times`` name its steps. ``low`` and ``high``, where there
    are intervals, are their ends for each of the predicted steps.
    """

    name: str
    times: tuple[str, ...]
    true: tuple[float, ...]
    predicted: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class WorstRow:
    """A sample with a large loss: its target and the prediction as text.

    ``probability`` is that of the predicted class; None for other tasks. ``preview`` is the sample to
    look at, ``forecast`` its window where it is one; both are left out of `EvalResult.to_dict`.
    """

    input: str
    loss: float
    target: str
    prediction: str
    probability: float | None = None
    preview: Preview = field(default_factory=Preview)
    forecast: ForecastLine | None = None


@dataclass(frozen=True)
class TranslationRow:
    """A sample of a sequence model: its source, its target and the decoded prediction."""

    input: str
    source: str
    target: str
    prediction: str


@dataclass(frozen=True)
class EvalResult:
    """The metrics of a model on a split; ``confusion[t][p]`` counts targets t predicted as p.

    ``points`` are up to 2,000 evenly spaced pairs (true, predicted) of the first target in its own
    units, for a forecast at the last step of the horizon; pairs that are not finite are left out.
    ``undefined`` are the metrics that these samples do not define, with the reason.
    ``non_finite`` is the number of samples with NaN or infinity in the output: they count as
    misclassified, and sums over them are not finite either. ``members`` are the models of an ensemble;
    empty for a single model. ``per_series`` is empty for data of one series. ``worst``
    are the samples with the largest loss, if they were requested. ``translations`` and ``forecasts`` are
    those of a few samples. ``reliability`` are the bins of a classifier's confidence.
    """

    split: str
    samples: int
    metrics: dict[str, float]
    task: TaskKind = "classification"
    per_class: tuple[ClassRow, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    per_target: tuple[TargetRow, ...] = ()
    per_series: tuple[SeriesRow, ...] = ()
    intervals: tuple[IntervalRow, ...] = ()
    slices: tuple[SliceRow, ...] = ()
    points: tuple[tuple[float, float], ...] = ()
    baselines: tuple[BaselineRow, ...] = ()
    members: tuple[MemberRow, ...] = ()
    worst: tuple[WorstRow, ...] = ()
    translations: tuple[TranslationRow, ...] = ()
    forecasts: tuple[ForecastLine, ...] = ()
    reliability: tuple[ReliabilityBin, ...] = ()
    bad_samples: dict[str, str] = field(default_factory=dict)
    non_finite: int = 0
    undefined: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without what only a page can show of the worst samples."""
        out = asdict(self)
        for row in out["worst"]:
            del row["preview"], row["forecast"]
        return out


class Counts(ABC):
    """Accumulates a task's metrics over batches of any number, size and order.

    ``non_finite`` is the number of samples whose output has NaN or infinity.
    """

    non_finite: int = 0

    @property
    @abstractmethod
    def samples(self) -> int:
        """The number of samples counted."""

    @abstractmethod
    def update(
        self,
        outputs: Outputs,
        targets: Targets,
        inputs: Inputs | None = None,
        series: SeriesRows | None = None,
    ) -> None:
        """Add a batch: outputs of the model, targets, and optionally the inputs and `Reader.series`."""

    @abstractmethod
    def merge(self, other: Counts) -> None:
        """Add the counts of ``other``, of the same task, on other samples; its scores are appended.

        The metrics equal, bit for bit, those of a single object that counted all samples, in any order
        of merging. ``other`` is not modified.
        """

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """The metrics by name; NaN where nothing was counted."""

    def undefined(self) -> dict[str, str]:
        """The metrics that the samples do not define, which `metrics` leaves out, and why."""
        return {}

    @abstractmethod
    def scores(self, metric: str) -> Floats | None:
        """The contribution of each sample to ``metric``, (N,), in the order of `update`.

        The metric is their mean, or of `ROOTED` ones the root of it. None for a metric that is no mean
        over samples.
        """

    def value(self, metric: str, indices: Indices) -> float:
        """A metric that is no mean, of the samples at ``indices`` (in the order of `update`).

        Samples may come repeatedly. NaN where they do not define it. Raises: KeyError for other metrics.
        """
        raise KeyError(metric)

    @abstractmethod
    def result(self, split: str, bad_samples: dict[str, str] | None = None) -> EvalResult:
        """The result that `eval` reports."""


class PerSample:
    """Columns of values per sample, stored rather than summed so that every mean is exact."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self._parts: list[Floats] = []

    def add(self, *columns: npt.NDArray[Any]) -> None:
        """Append a batch: one array (n,) for each name."""
        self._parts.append(np.stack(columns, axis=1).astype(np.float64))

    def extend(self, other: PerSample) -> None:
        """Append the rows of ``other``, which has the same names."""
        assert self.names == other.names
        self._parts = [*self._parts, *other._parts]

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def column(self, name: str) -> Floats:
        """The values of one column, (N,)."""
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        if not self._parts:
            return np.zeros(0)
        return self._parts[0][:, self.names.index(name)]

    def mean(self, name: str) -> float:
        """The correctly rounded mean of a column: the same bits for any batching and order."""
        return exact_mean(self.column(name))


def exact_sum(values: Floats) -> float:
    """The correctly rounded sum (`math.fsum`); NaN or infinite where a value or the sum is so."""
    if np.isfinite(values).all():
        try:
            return math.fsum(values.tolist())
        except OverflowError:
            pass
    with np.errstate(invalid="ignore", over="ignore"):
        return float(values.sum())


def exact_mean(values: Floats) -> float:
    """`exact_sum` divided by the number of values; NaN for an empty array."""
    return exact_sum(values) / len(values) if len(values) else math.nan


def r2_score(residual: float, total: float) -> float:
    """1 - residual / total sum of squares.

    For constant targets 1 if every prediction is exact, else 0, as in scikit-learn.
    """
    if total == 0:
        return 1.0 if residual == 0 else 0.0 if math.isfinite(residual) else residual * math.nan
    return 1.0 - residual / total


def pick_points(true: Floats, predicted: Floats) -> tuple[tuple[float, float], ...]:
    """At most `MAX_POINTS` finite pairs of (N,) and (N,), evenly spaced."""
    finite = np.flatnonzero(np.isfinite(true) & np.isfinite(predicted))
    if len(finite) > MAX_POINTS:
        finite = finite[np.linspace(0, len(finite) - 1, MAX_POINTS).round().astype(np.int64)]
    return tuple(zip(true[finite].tolist(), predicted[finite].tolist(), strict=True))
