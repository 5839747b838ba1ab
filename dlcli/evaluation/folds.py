"""The result of a cross-validation: each model on its held-out fold, and all of them together.

No torch here. K is the number of folds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dlcli.config import EvalConfig
from dlcli.data.base import Samples
from dlcli.evaluation.baselines.compare import compare_with_baselines
from dlcli.evaluation.differences import compared_metric
from dlcli.evaluation.ensemble import Ensemble, alignment, compare_counts
from dlcli.evaluation.eval_data import EvalData, eval_data, left_out_data
from dlcli.evaluation.evaluate import batches, check_counted, default_batch_size
from dlcli.evaluation.evaluate_artifacts import count_members, evaluate_ensemble
from dlcli.evaluation.metrics import BaselineRow, Counts, EvalResult, direction, make_counts
from dlcli.evaluation.metrics.base import RANGES, MemberRow
from dlcli.evaluation.predict import predict
from dlcli.evaluation.true_values import true_values
from dlcli.events import Emit, ignore
from dlcli.formats.base import Artifact, open_artifact, recognize
from dlcli.runs.folder import RunFolder
from dlcli.task import TaskKind, TaskSpec

# Outputs of models that were fitted on other samples have no metric together: scales of several
# series, vocabularies and embedding spaces are each model's own.
APART = frozenset({"forecast", "seq2seq", "embedding"})


@dataclass(frozen=True)
class FoldRow:
    """A model on the fold that it has not seen; ``baselines`` were fitted on what it was trained on."""

    fold: int
    artifact: str
    samples: int
    train_samples: int
    metrics: dict[str, float]
    baselines: tuple[BaselineRow, ...] = ()


@dataclass(frozen=True)
class MeanRow:
    """The mean over folds of a metric, or of a difference in it, its std and its 95 % interval.

    ``better`` is of a difference: None where the interval contains 0.
    """

    name: str
    value: float
    std: float
    low: float
    high: float
    better: bool | None = None


@dataclass(frozen=True)
class FoldsResult:
    """All folds; ``metric`` is the one that chose the models.

    ``baselines`` are differences, the model's value minus that of each baseline. ``pooled`` are metrics
    over all held-out samples together, none where the models' outputs have no common scale; ``samples``
    is the number of held-out samples that were counted. ``test`` are the metrics of the mean prediction
    on the test split, of ``test_samples``, which no fold has seen; empty without one.
    """

    task: TaskKind
    metric: str
    folds: tuple[FoldRow, ...]
    mean: MeanRow
    baselines: tuple[MeanRow, ...]
    samples: int
    pooled: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    test_samples: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class FoldsSummary:
    """A cross-validation in a list of runs: how many of its ``folds`` have ``ended``, and its result.

    ``result`` is None before the last fold has ended; ``problem`` says why the record cannot be read.
    """

    name: str
    path: str
    resume_command: str
    folds: int = 0
    ended: int = 0
    result: FoldsResult | None = None
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: of the result the metric, its mean and std, and their interval."""
        facts = {"path": self.path, "folds": self.folds, "ended": self.ended, "problem": self.problem}
        mean = None if self.result is None else self.result.mean
        names = ("name", "value", "std", "low", "high")
        return {**facts, "mean": None if mean is None else {n: getattr(mean, n) for n in names}}


@dataclass
class _Fold:
    """The opened model of a fold, with its data."""

    number: int
    artifact: Artifact
    data: EvalData

    @property
    def task(self) -> TaskSpec:
        return self.artifact.card.task


class FoldModels:
    """The models of all folds: `evaluate` and `predictions` read the held-out samples of each."""

    def __init__(self, paths: Sequence[Path], *, device: str) -> None:
        self._device = device
        config = EvalConfig(split="test", device=device)
        self._folds = []
        for number, path in enumerate(paths, 1):
            file = recognize(path)
            data = eval_data(file.card, path, config)
            self._folds.append(_Fold(number, open_artifact(file, device=device), data))

    @property
    def task(self) -> TaskSpec:
        """That of the first model."""
        return self._folds[0].task

    def evaluate(self, emit: Emit = ignore) -> FoldsResult:
        """Compute the metrics of each fold, their mean, and those of all held-out samples."""
        pooled = None if self.task.kind in APART else make_counts(self.task.with_thresholds(None))
        rows: list[FoldRow] = []
        metric = ""
        for fold in self._folds:
            counts = _count(fold, pooled, self.task, emit)
            if not rows:
                metric = compared_metric(fold.artifact.card.monitor, counts, fold.task)
            rows.append(_row(fold, counts, metric))
        shares = [row.samples / row.train_samples for row in rows]

        share, (least, most) = float(np.mean(shares)), RANGES.get(metric, (-math.inf, math.inf))

        def difference(name: str, values: Sequence[float]) -> MeanRow:
            return mean_row(name, values, share, (least - most, most - least))

        names = [row.name for row in rows[0].baselines]
        differences = [[row.baselines[i].difference for row in rows] for i in range(len(names))]
        return FoldsResult(
            task=self.task.kind,
            metric=metric,
            folds=tuple(rows),
            mean=mean_row(
                metric, [row.metrics.get(metric, math.nan) for row in rows], share, (least, most)
            ),
            baselines=tuple(_judged(row, metric) for row in map(difference, names, differences)),
            samples=sum(row.samples for row in rows),
            pooled={} if pooled is None else pooled.metrics(),
        )

    @property
    def held_out(self) -> Samples:
        """The samples that the first fold holds out."""
        return self._folds[0].data.reader.samples

    def test(self, run: RunFolder, emit: Emit = ignore) -> EvalResult:
        """Evaluate the mean prediction on the samples that no fold has seen; ``run`` is one of them."""
        ensemble = Ensemble([fold.artifact for fold in self._folds])
        config = EvalConfig(split="test", ensemble=True, device=self._device)
        split = replace(left_out_data(run, ensemble.members[0].card, config), train=None)
        return evaluate_ensemble(ensemble, split, config, emit=emit)

    def predictions(self) -> Iterator[dict[str, Any]]:
        """The predictions of the held-out samples: a row for each, of forecasts for each step.

        ``input``, ``fold``, ``true`` (a list, as `true_values`) and the keys of `Prediction.rows`, with
        the probabilities of all classes. Samples that cannot be read have none.
        """
        for fold in self._folds:
            reader = fold.data.reader
            predictions = predict(fold.artifact.predict, reader, fold.task, top_k=None)
            for index, prediction in enumerate(predictions):
                if prediction.error is None:
                    truth = true_values(reader, index, fold.task)
                    for row, true in zip(prediction.rows, truth, strict=True):
                        yield {**row, "fold": fold.number, "true": true}


def compare_folds(models: Sequence[Sequence[Path]], *, device: str = "cpu") -> list[MemberRow]:
    """Compare cross-validations on the same folds: the difference of each from the first.

    ``models`` has the paths of the K models of each. Differences are paired over all held-out samples;
    where the models' outputs have no common scale they are means over the folds (`mean_row`).
    """
    config = EvalConfig(split="test", device=device)
    pooled: list[Counts] = []
    values: list[list[float]] = [[] for _ in models]
    task, metric, shares = None, "", list[float]()
    for fold in range(len(models[0])):
        members = [open_artifact(recognize(paths[fold]), device=device) for paths in models]
        first = members[0].card
        task = task or first.task.with_thresholds(None)
        data = eval_data(first, members[0].path, config)
        aligned = task.model_copy(update={"input": first.task.input})
        together = Ensemble(members, averaged=False, task=aligned)
        reader, counts, _ = count_members(together, data, config)
        check_counted(counts[0], reader, data.split)
        metric = metric or compared_metric(first.monitor, counts[0], task)
        assert data.train is not None  # a run's own data has its training split
        shares.append(counts[0].samples / len(data.train()))
        for own, count in zip(values, counts, strict=True):
            own.append(count.metrics().get(metric, math.nan))
        if not pooled:
            pooled = counts
        elif task.kind not in APART:
            for whole, count in zip(pooled, counts, strict=True):
                whole.merge(count)
    assert task is not None
    if task.kind not in APART:
        return [
            compare_counts(str(paths[0].parent.parent), own, pooled[0], metric, task, shown=own)
            for paths, own in zip(models, pooled, strict=True)
        ]
    rows = []
    for paths, own in zip(models, values, strict=True):
        differences = [value - other for value, other in zip(own, values[0], strict=True)]
        row = mean_row(metric, differences, float(np.mean(shares)), (-math.inf, math.inf))
        row = _judged(row, metric)
        shown = {metric: float(np.mean(own))}
        name = str(paths[0].parent.parent)
        rows.append(MemberRow(name, shown, metric, row.value, row.low, row.high, row.better))
    return rows


def _judged(row: MeanRow, metric: str) -> MeanRow:
    """A difference in a metric, with whether it is better where its interval excludes 0."""
    if row.low > 0 or row.high < 0:
        return replace(row, better=(row.low > 0) == (direction(metric) > 0))
    return row


def mean_row(name: str, values: Sequence[float], share: float, limits: tuple[float, float]) -> MeanRow:
    """The mean of the values of K folds; ``share`` is held-out samples over training samples.

    The interval is Student's t with K - 1 degrees of freedom, and a variance of (1 / K + share) times
    that of the values: training sets overlap, so folds are not independent (Nadeau and Bengio,
    "Inference for the Generalization Error", Machine Learning 52, 2003). It ends at the ``limits`` of
    the metric: that covers the mean as often, since the mean is within them. It is NaN where all values
    are equal, as accuracies of 1 on small folds are: these say nothing of how values vary.
    """
    from scipy.special import stdtrit

    numbers = np.array(values, dtype=np.float64)
    value, std, folds = float(numbers.mean()), float(numbers.std(ddof=1)), len(numbers)
    half = float(stdtrit(folds - 1, 0.975)) * std * math.sqrt(1 / folds + share)
    if not std:
        return MeanRow(name, value, std, math.nan, math.nan)
    return MeanRow(name, value, std, max(value - half, limits[0]), min(value + half, limits[1]))


def _count(fold: _Fold, pooled: Counts | None, task: TaskSpec, emit: Emit) -> Counts:
    """The counts of a fold; its outputs, in the scales of ``task``, are added to ``pooled``."""
    counts, reader = make_counts(fold.task), fold.data.reader
    align: Callable[..., Any] = alignment(fold.task, task)
    for inputs, indices in batches(reader, default_batch_size(fold.task), f"fold {fold.number}", emit):
        outputs, targets = fold.artifact.predict(inputs), reader.targets(indices)
        counts.update(outputs, targets, inputs, reader.series(indices))
        if pooled is not None:
            pooled.update(align(outputs), targets, inputs, reader.series(indices))
    check_counted(counts, reader, fold.data.split)
    return counts


def _row(fold: _Fold, counts: Counts, metric: str) -> FoldRow:
    assert fold.data.train is not None  # a run's own data has its training split
    train = fold.data.train()
    return FoldRow(
        fold=fold.number,
        artifact=str(fold.artifact.path),
        samples=counts.samples,
        train_samples=len(train),
        metrics=counts.metrics(),
        baselines=compare_with_baselines(fold.task, train, fold.data.reader, counts, metric=metric),
    )
