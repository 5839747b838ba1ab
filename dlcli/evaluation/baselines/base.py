"""The type of a baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dlcli.data.base import Indices
from dlcli.evaluation.metrics.base import Floats, Outputs

BOOSTING = "gradient boosting"  # the baseline that `--model trees` is


@dataclass(frozen=True)
class Baseline:
    """A predictor to compare a model with.

    ``predict(indices)`` gives outputs in the form of the model, for samples of the evaluated split.
    """

    name: str
    predict: Callable[[Indices], Outputs]
    note: str = ""


def constant(name: str, output: Floats) -> Baseline:
    """A baseline of the same output for all samples."""
    return Baseline(name, lambda indices: np.broadcast_to(output, (len(indices), *output.shape)))
