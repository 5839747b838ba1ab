"""Agreement of two models' predictions: classes, labels, tokens, nearest neighbours. NumPy only."""

from __future__ import annotations

import numpy as np

from dlcli.evaluation.decisions import decision_scores
from dlcli.evaluation.metrics.embedding import unit
from dlcli.formats.base import Outputs
from dlcli.task import TaskSpec

# Cosine similarities that differ by less count as equal: on noise, all embeddings are nearly the same.
_COSINE_TOLERANCE = 1e-4


def agreement_of(reference: Outputs, candidate: Outputs, task: TaskSpec) -> float | None:
    """Share of samples (tokens, labels) with the same prediction; None where predictions are numbers."""
    if task.targets:
        return None
    if task.kind == "embedding":
        return _same_neighbours(unit(reference), unit(candidate))
    reference, candidate = decision_scores(reference, task), decision_scores(candidate, task)
    if task.kind == "multilabel":
        return float(((reference > 0) == (candidate > 0)).mean())
    return float((reference.argmax(-1) == candidate.argmax(-1)).mean())


def _same_neighbours(reference: Outputs, candidate: Outputs) -> float | None:
    """Share of unit vectors (n, D) whose nearest neighbour is the same; None for fewer than 2."""
    if len(reference) < 2:
        return None
    before, after = reference @ reference.T, candidate @ candidate.T  # (n, n)
    for cosines in (before, after):
        np.fill_diagonal(cosines, -np.inf)
    chosen = np.take_along_axis(before, after.argmax(axis=1, keepdims=True), axis=1)[:, 0]
    return float((chosen >= before.max(axis=1) - _COSINE_TOLERANCE).mean())
