"""From logits to probabilities, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Floats


def softmax(logits: npt.NDArray[np.floating[Any]]) -> Floats:
    """Probabilities in float64. (N, C) -> (N, C); rows with NaN or inf become NaN."""
    with np.errstate(invalid="ignore"):
        wide = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        probabilities: Floats = wide / wide.sum(axis=1, keepdims=True)
    return probabilities


def sigmoid(logits: npt.NDArray[np.floating[Any]]) -> Floats:
    """1 / (1 + exp(-x)) in float64, without an overflow for large -x."""
    probabilities: Floats = np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))
    return probabilities
