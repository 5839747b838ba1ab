"""Retrieval metrics of embeddings, between the samples of a split. NumPy only.

N: samples, D: dimensions of an embedding. Similarity is the cosine, so lengths do not matter.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Inputs, Labels, SeriesRows, Targets
from dlcli.evaluation.metrics.base import Counts, EvalResult, Floats, Outputs, exact_mean

BLOCK = 2**24  # cosines in memory at a time, for any N
# Cosines that differ by less are equal. It is above the rounding error of float32, so that duplicate
# images are not ranked by chance and collapsed embeddings have a recall of 0.
TIE = 1e-6

Vectors = npt.NDArray[np.float32]


class EmbeddingCounts(Counts):
    """Recall at 1 over all pairs of samples, whose embeddings and classes are stored.

    A query is a sample whose class has another sample; the rest only serve as candidates.
    ``recall_at_1`` is the share of queries whose nearest other sample has their class; a tie with
    another class is a miss. ``loss`` is the mean over queries of log(1 + exp(p - n)), with p and n the
    Euclidean distances of unit vectors to the nearest sample of the same class and of any other class:
    ln 2 where the two are equal, less where the same class is nearer. It is not a training loss; it
    ranks epochs of equal recall (easy positive, hard negative pairs, arXiv:1904.04370).
    """

    def __init__(self) -> None:
        self._vectors: list[Vectors] = []
        self._targets: list[Labels] = []
        self._scored: tuple[Floats, Floats] | None = None  # cache of `_queries`

    @property
    def samples(self) -> int:
        """The number of samples counted, queries and others."""
        return sum(map(len, self._targets))

    def update(
        self,
        outputs: Outputs,
        targets: Targets,
        inputs: Inputs | None = None,
        series: SeriesRows | None = None,
    ) -> None:
        """Store a batch: embeddings (n, D) of any length, class indices (n,)."""
        if not len(targets):
            return
        self.non_finite += int((~np.isfinite(outputs).all(axis=1)).sum())
        self._vectors.append(unit(outputs))
        self._targets.append(np.asarray(targets, dtype=np.int64))
        self._scored = None

    def merge(self, other: Counts) -> None:
        """Add the samples of ``other``."""
        assert isinstance(other, EmbeddingCounts)
        self.non_finite += other.non_finite
        self._vectors = [*self._vectors, *other._vectors]
        self._targets = [*self._targets, *other._targets]
        self._scored = None

    def metrics(self) -> dict[str, float]:
        """The metrics by name; NaN where no class has two samples."""
        losses, correct = self._queries()
        return {"loss": exact_mean(losses), "recall_at_1": exact_mean(correct)}

    def scores(self, metric: str) -> Floats | None:
        """Of each query its loss, or 1 where its nearest sample has its class, else 0."""
        return self._queries()[0 if metric == "loss" else 1]

    def result(self, split: str, bad_samples: dict[str, str] | None = None) -> EvalResult:
        """The result that `eval` reports."""
        return EvalResult(
            split=split,
            samples=self.samples,
            metrics=self.metrics(),
            task="embedding",
            bad_samples=dict(bad_samples or {}),
            non_finite=self.non_finite,
        )

    def _queries(self) -> tuple[Floats, Floats]:
        """Losses of the queries, and 1 for correct ones, else 0, in the order of `update`."""
        if self._scored is None:
            if not self._targets:
                return np.zeros(0), np.zeros(0)
            vectors, targets = np.concatenate(self._vectors), np.concatenate(self._targets)
            # Rounding of a matrix product depends on the order of rows; a canonical order makes the
            # metrics independent of the order of samples.
            order = _canonical(vectors, targets)
            own, other = np.empty(len(order)), np.empty(len(order))
            own[order], other[order] = nearest_cosines(vectors[order], targets[order])
            _, label, sizes = np.unique(targets, return_inverse=True, return_counts=True)
            is_query = sizes[label] > 1
            own, other = own[is_query], other[is_query]
            with np.errstate(invalid="ignore"):
                losses = np.logaddexp(0.0, _distance(own) - _distance(other))
                self._scored = losses, (own > other + TIE).astype(np.float64)
        return self._scored


def unit(outputs: Outputs) -> Vectors:
    """Rows (n, D) of any float dtype, scaled to length 1; zero vectors stay zero."""
    wide = outputs.astype(np.float64, order="C")  # so that a row's sum does not depend on the batch
    with np.errstate(invalid="ignore", over="ignore"):
        length = np.sqrt((wide**2).sum(axis=1, keepdims=True))
        return (wide / np.where(length == 0, 1.0, length)).astype(np.float32)


def nearest_cosines(vectors: Vectors, targets: Labels) -> tuple[Floats, Floats]:
    """The largest cosine of each unit vector (N, D) within its class, and with other classes.

    -inf where there is no such vector; NaN for a vector with NaN or infinity, which is a neighbour of
    none. Computed in blocks of rows, so memory does not grow with N^2.
    """
    broken = np.logical_not(np.isfinite(vectors).all(axis=1))
    finite = np.where(broken[:, None], np.float32(0), vectors)
    own, other = np.empty(len(vectors)), np.empty(len(vectors))
    rows = max(1, BLOCK // max(1, len(vectors)))
    for start in range(0, len(vectors), rows):
        block = np.arange(start, min(start + rows, len(vectors)))
        cosines = finite[block] @ finite.T  # (n, N)
        cosines[:, broken] = -np.inf
        cosines[np.arange(len(block)), block] = -np.inf
        same = np.equal.outer(targets[block], targets)
        own[block] = np.where(same, cosines, -np.inf).max(axis=1)
        cosines[same] = -np.inf
        other[block] = cosines.max(axis=1)
    own[broken] = other[broken] = np.nan
    return own, other


def _distance(cosines: Floats) -> Floats:
    """Euclidean distances of unit vectors, from their cosines."""
    return np.sqrt(np.maximum(2.0 - 2.0 * cosines, 0.0))


def _canonical(vectors: Vectors, targets: Labels) -> npt.NDArray[np.int64]:
    """Indices that sort the samples by their bytes (class, vector)."""
    rows = np.concatenate([targets[:, None].view(np.float32), vectors], axis=1)
    keys = np.ascontiguousarray(rows).view(f"V{rows.shape[1] * rows.itemsize}")
    return np.argsort(keys[:, 0], kind="stable")
