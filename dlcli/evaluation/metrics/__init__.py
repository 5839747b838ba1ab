"""Metrics from counts and sums over samples, exact for any batching. No torch here."""

from __future__ import annotations

from dlcli.evaluation.metrics.base import (
    BaselineRow,
    ClassRow,
    Counts,
    EvalResult,
    SeriesRow,
    TargetRow,
)
from dlcli.evaluation.metrics.classification import (
    ClassificationCounts,
    NamedClasses,
    cross_entropy,
)
from dlcli.evaluation.metrics.embedding import EmbeddingCounts
from dlcli.evaluation.metrics.forecast import ForecastCounts, target_channels
from dlcli.evaluation.metrics.multilabel import MultilabelCounts
from dlcli.evaluation.metrics.registered import MetricEntry, WithRegistered, registered_metrics
from dlcli.evaluation.metrics.regression import RegressionCounts
from dlcli.evaluation.metrics.tokens import TokenCounts
from dlcli.evaluation.metrics.user_metrics import direction, directions, user_metrics
from dlcli.task import SeriesInput, TaskKind, TaskSpec

__all__ = [
    "BaselineRow",
    "ClassRow",
    "ClassificationCounts",
    "Counts",
    "EvalResult",
    "SeriesRow",
    "TargetRow",
    "cross_entropy",
    "default_monitor",
    "direction",
    "directions",
    "make_counts",
    "metric_names",
    "metrics_of",
]

_LABELS = (
    *("loss", "accuracy", "precision_macro", "recall_macro", "f1_macro"),
    *("matthews_corrcoef", "log_loss"),
)
_NAMES: dict[TaskKind, tuple[str, ...]] = {
    "classification": (*_LABELS, "balanced_accuracy", "ece"),
    "multilabel": _LABELS,
    "regression": ("loss", "mae", "rmse", "mse", "r2"),
    "forecast": ("loss", "mse", "mae", "rmse", "r2", "smape", "mase"),
    "seq2seq": ("loss", "accuracy"),
    "embedding": ("loss", "recall_at_1"),
}
_MONITORS: dict[TaskKind, str] = {
    "classification": "accuracy",
    "multilabel": "f1_macro",
    "regression": "rmse",
    "forecast": "mse",
    "seq2seq": "loss",
    "embedding": "recall_at_1",
}


def make_counts(task: TaskSpec) -> Counts:
    """Empty counts for a task."""
    counts = WithRegistered(_own_counts(task), task, metric_entries)
    return counts if counts.entries else counts.counts


def metric_entries(task: TaskSpec) -> tuple[MetricEntry, ...]:
    """The metrics of a task that are functions of all samples: registered ones, and the user's."""
    return (*registered_metrics(task.kind), *user_metrics(task))


def _own_counts(task: TaskSpec) -> Counts:
    match task.kind:
        case "classification":
            return NamedClasses(task)
        case "multilabel":
            return MultilabelCounts(task)
        case "regression":
            return RegressionCounts(task.targets)
        case "forecast":
            return ForecastCounts(task)
        case "seq2seq":
            return TokenCounts()
        case "embedding":
            return EmbeddingCounts()


def default_monitor(task: TaskSpec) -> str:
    """The metric that selects the best epoch unless the user names one."""
    return _MONITORS[task.kind]


def metrics_of(kind: TaskKind) -> tuple[str, ...]:
    """Names of the metrics that a kind of task has whatever its data."""
    return (*_NAMES[kind], *(entry.name for entry in registered_metrics(kind)))


def metric_names(task: TaskSpec) -> tuple[str, ...]:
    """Names of the metrics that `Counts.metrics` reports for a task.

    mase is only reported where `update` is given the inputs. BLEU is not among them: it is added where
    texts are decoded.
    """
    names = _NAMES[task.kind]
    if isinstance(task.input, SeriesInput) and task.kind == "forecast":
        known = target_channels(task) is not None and task.input.length > 1
        names = names if known else tuple(name for name in names if name != "mase")
    if task.kind == "classification" and task.num_classes > 5:
        names = (*names, "top5_accuracy")
    return (*names, *(entry.name for entry in metric_entries(task)))
