"""Retrieval among the samples of a split: is what lies nearest of the same class? NumPy only.

N: samples, D: numbers of an embedding. Near is by cosine, so lengths do not matter.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Inputs, Labels, Targets
from dlcli.evaluation.metrics.base import Counts, EvalResult, Floats, Outputs, exact_mean

BLOCK = 2**24  # cosines that are held at once, whatever N is
# Cosines this close are equal: more than float32 rounds, so that copies of an image do not win by chance
# and embeddings that have all become one find nothing.
TIE = 1e-6

Vectors = npt.NDArray[np.float32]


class EmbeddingCounts(Counts):
    """Embeddings and classes of all samples; the figures need every pair, so they wait for the last one.

    A query is a sample whose class has another sample; the others are candidates only. ``recall_at_1``
    is the share of queries whose nearest other sample is of their class; where the nearest of another
    class is as near, it is not. ``loss`` is the mean over queries of log(1 + exp(p - n)), with p and n
    the Euclidean distances of unit vectors to the nearest of the own class and of all others: ln 2
    where the two are as far, and less where the own is nearer. It is no training loss; it tells epochs
    of equal recall apart (the pairs are those of "easy positive, hard negative", arXiv:1904.04370).
    """

    scored = "recall_at_1"

    def __init__(self) -> None:
        self._vectors: list[Vectors] = []
        self._targets: list[Labels] = []
        self._found: tuple[Floats, Floats] | None = None

    @property
    def samples(self) -> int:
        """How many were counted, queries and others."""
        return sum(map(len, self._targets))

    def update(self, outputs: Outputs, targets: Targets, inputs: Inputs | None = None) -> None:
        """Keep a batch: embeddings (n, D) of any length, class indices (n,)."""
        if not len(targets):
            return
        self.non_finite += int((~np.isfinite(outputs).all(axis=1)).sum())
        self._vectors.append(unit(outputs))
        self._targets.append(np.asarray(targets, dtype=np.int64))
        self._found = None

    def merge(self, other: Counts) -> None:
        """Add what ``other`` has kept of other samples."""
        assert isinstance(other, EmbeddingCounts)
        self.non_finite += other.non_finite
        self._vectors = [*self._vectors, *other._vectors]
        self._targets = [*self._targets, *other._targets]
        self._found = None

    def metrics(self) -> dict[str, float]:
        """The derived figures; NaN where no class has two samples."""
        losses, hits = self._queries()
        return {"loss": exact_mean(losses), "recall_at_1": exact_mean(hits)}

    def scores(self) -> Floats:
        """1 where the nearest is of the class, else 0, for each query in the order counted."""
        return self._queries()[1]

    def result(self, split: str, bad_samples: dict[str, str] | None = None) -> EvalResult:
        """Everything `eval` reports."""
        return EvalResult(
            split=split,
            samples=self.samples,
            metrics=self.metrics(),
            task="embedding",
            bad_samples=dict(bad_samples or {}),
            non_finite=self.non_finite,
        )

    def _queries(self) -> tuple[Floats, Floats]:
        """The loss and the hit (0 or 1) of each query, in the order counted."""
        if self._found is None:
            if not self._targets:
                return np.zeros(0), np.zeros(0)
            vectors, targets = np.concatenate(self._vectors), np.concatenate(self._targets)
            # In an order of their own: a product of matrices rounds by place, and no figure may hang on
            # the order in which samples came.
            order = _canonical(vectors, targets)
            own, other = np.empty(len(order)), np.empty(len(order))
            own[order], other[order] = nearest_cosines(vectors[order], targets[order])
            _, label, sizes = np.unique(targets, return_inverse=True, return_counts=True)
            asked = sizes[label] > 1
            own, other = own[asked], other[asked]
            with np.errstate(invalid="ignore"):
                losses = np.logaddexp(0.0, _distance(own) - _distance(other))
                self._found = losses, (own > other + TIE).astype(np.float64)
        return self._found


def unit(outputs: Outputs) -> Vectors:
    """Rows (n, D) scaled to length 1, of any float type; zeros stay zeros."""
    wide = outputs.astype(np.float64, order="C")  # rows are then summed alike in every batch
    with np.errstate(invalid="ignore", over="ignore"):
        length = np.sqrt((wide**2).sum(axis=1, keepdims=True))
        return (wide / np.where(length == 0, 1.0, length)).astype(np.float32)


def nearest_cosines(vectors: Vectors, targets: Labels) -> tuple[Floats, Floats]:
    """The largest cosine of each unit vector (N, D) with another of its class, and of other classes.

    -inf where there is none; a vector with NaN or infinity is near to nothing, and its own are NaN.
    Memory does not grow with N^2: a block of rows meets all vectors at a time.
    """
    broken = np.logical_not(np.isfinite(vectors).all(axis=1))
    whole = np.where(broken[:, None], np.float32(0), vectors)
    own, other = np.empty(len(vectors)), np.empty(len(vectors))
    rows = max(1, BLOCK // max(1, len(vectors)))
    for start in range(0, len(vectors), rows):
        here = np.arange(start, min(start + rows, len(vectors)))
        cosines = whole[here] @ whole.T  # (n, N)
        cosines[:, broken] = -np.inf
        cosines[np.arange(len(here)), here] = -np.inf
        same = np.equal.outer(targets[here], targets)
        own[here] = np.where(same, cosines, -np.inf).max(axis=1)
        cosines[same] = -np.inf
        other[here] = cosines.max(axis=1)
    own[broken] = other[broken] = np.nan
    return own, other


def _distance(cosines: Floats) -> Floats:
    """Between unit vectors."""
    return np.sqrt(np.maximum(2.0 - 2.0 * cosines, 0.0))


def _canonical(vectors: Vectors, targets: Labels) -> npt.NDArray[np.int64]:
    """An order of the samples by what they are: by the bytes of class and vector."""
    rows = np.concatenate([targets[:, None].view(np.float32), vectors], axis=1)
    whole = np.ascontiguousarray(rows).view(f"V{rows.shape[1] * rows.itemsize}")
    return np.argsort(whole[:, 0], kind="stable")
