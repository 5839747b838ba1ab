"""What every task's metrics share: names and directions, the result, sums over samples. NumPy only.

N is the number of samples counted, n in a batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Inputs, Targets
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
    "mae": -1,
    "rmse": -1,
    "mse": -1,
    "r2": 1,
    "smape": -1,
    "mase": -1,
    "bleu": 1,
    "recall_at_1": 1,
}

MAX_POINTS = 2000  # of a plot of true against predicted

Outputs = npt.NDArray[Any]  # what the model answers, as `TaskSpec.output` says
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClassRow:
    """One class's line: ``samples`` of it in the split, ``predicted`` as it."""

    name: str
    samples: int
    predicted: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class TargetRow:
    """One predicted number's line, in the data's own units."""

    name: str
    mae: float
    rmse: float
    r2: float


@dataclass(frozen=True)
class BaselineRow:
    """The model against something simple on the same samples.

    ``value`` is the baseline's own ``metric``; ``difference`` is the model's minus it, and ``low`` and
    ``high`` its 95 % interval (without bounds where too few samples say anything). ``better`` is None
    where the interval holds 0. ``note`` says what a reader must know about how it was made.
    """

    name: str
    metric: str
    value: float
    difference: float
    low: float
    high: float
    better: bool | None
    note: str = ""


@dataclass(frozen=True)
class MemberRow:
    """One model of an ensemble, alone on the same samples.

    ``difference`` is the ensemble's ``metric`` minus this model's; ``low``, ``high`` and ``better``
    (of the ensemble) are as in `BaselineRow`.
    """

    artifact: str
    metrics: dict[str, float]
    metric: str
    difference: float
    low: float
    high: float
    better: bool | None


@dataclass(frozen=True)
class EvalResult:
    """The metrics of a model on a split; ``confusion[t][p]`` counts targets t predicted as p.

    ``points`` are up to 2,000 pairs (true, predicted) of the first target in its own units, evenly
    spread over the samples; of a forecast, of the last step of the horizon. Pairs that are not finite
    are left out of them. ``non_finite`` counts the samples with NaN or infinity in the answer: their
    class counts as wrong, and sums that they enter are not finite either. ``members`` are the models
    of an ensemble, none for a model alone.
    """

    split: str
    samples: int
    metrics: dict[str, float]
    task: TaskKind = "classification"
    per_class: tuple[ClassRow, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    per_target: tuple[TargetRow, ...] = ()
    points: tuple[tuple[float, float], ...] = ()
    baselines: tuple[BaselineRow, ...] = ()
    members: tuple[MemberRow, ...] = ()
    bad_samples: dict[str, str] = field(default_factory=dict)
    non_finite: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


class Counts(ABC):
    """What is summed over samples; batches may come in any number, size and order.

    ``scored`` is the metric that `scores` belong to: it is their mean, or the root of it with
    ``rooted``. ``non_finite`` counts the samples whose answer holds NaN or infinity.
    """

    scored: str
    rooted: bool = False
    non_finite: int = 0

    @property
    @abstractmethod
    def samples(self) -> int:
        """How many were counted."""

    @abstractmethod
    def update(self, outputs: Outputs, targets: Targets, inputs: Inputs | None = None) -> None:
        """Count a batch: the model's answers, the targets of the same samples, and what it was given."""

    @abstractmethod
    def merge(self, other: Counts) -> None:
        """Add what ``other``, of the same task, has counted on other samples; its scores come behind.

        The figures are those of one object that saw all samples, bit for bit, in whatever order they
        were merged. ``other`` is left as it is.
        """

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """The derived figures; NaN where nothing was counted."""

    @abstractmethod
    def scores(self) -> Floats:
        """What each sample contributes to ``scored``, (N,), in the order they were counted."""

    @abstractmethod
    def result(self, split: str, bad_samples: dict[str, str] | None = None) -> EvalResult:
        """Everything `eval` reports."""


class PerSample:
    """Numbers of each sample, in the order counted. Kept, not summed, so that every mean is exact."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self._parts: list[Floats] = []

    def add(self, *columns: npt.NDArray[Any]) -> None:
        """One array (n,) for each name."""
        self._parts.append(np.stack(columns, axis=1).astype(np.float64))

    def extend(self, other: PerSample) -> None:
        """The rows of ``other``, of the same names, behind the own ones."""
        assert self.names == other.names
        self._parts = [*self._parts, *other._parts]

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def column(self, name: str) -> Floats:
        """All of one number, (N,)."""
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        if not self._parts:
            return np.zeros(0)
        return self._parts[0][:, self.names.index(name)]

    def mean(self, name: str) -> float:
        """The correctly rounded mean of one number: the same bits in any batching and order."""
        return exact_mean(self.column(name))


def exact_sum(values: Floats) -> float:
    """The correctly rounded sum (`math.fsum`); NaN or infinite where a value or the sum is."""
    if np.isfinite(values).all():
        try:
            return math.fsum(values.tolist())
        except OverflowError:
            pass
    with np.errstate(invalid="ignore", over="ignore"):
        return float(values.sum())


def exact_mean(values: Floats) -> float:
    """`exact_sum` over the number of values; NaN for none."""
    return exact_sum(values) / len(values) if len(values) else math.nan


def r2_score(squared: float, spread: float) -> float:
    """1 - squared errors / squares about the mean. Constant targets: 1 if hit exactly, else 0.

    The convention for constant targets is scikit-learn's.
    """
    if spread == 0:
        return 1.0 if squared == 0 else 0.0 if math.isfinite(squared) else squared * math.nan
    return 1.0 - squared / spread


def pick_points(true: Floats, predicted: Floats) -> tuple[tuple[float, float], ...]:
    """At most `MAX_POINTS` finite pairs of (N,) and (N,), evenly spread."""
    finite = np.flatnonzero(np.isfinite(true) & np.isfinite(predicted))
    if len(finite) > MAX_POINTS:
        finite = finite[np.linspace(0, len(finite) - 1, MAX_POINTS).round().astype(np.int64)]
    return tuple(zip(true[finite].tolist(), predicted[finite].tolist(), strict=True))
