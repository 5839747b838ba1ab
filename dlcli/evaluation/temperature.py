"""Temperature scaling: one number that calibrates the probabilities of a classifier. No torch here.

The logits are divided by the temperature with the lowest negative log-likelihood (NLL) on held-out
samples: Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599. The NLL is convex in
the inverse of the temperature, so it has one minimum. N samples, C classes or labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Targets
from dlcli.errors import DlcliError
from dlcli.evaluation.metrics.base import Floats, exact_mean
from dlcli.evaluation.metrics.classification import cross_entropy
from dlcli.evaluation.metrics.multilabel import binary_cross_entropy
from dlcli.task import TaskKind

# The tasks whose outputs are logits of one decision a sample or label.
CALIBRATED: tuple[TaskKind, ...] = ("classification", "multilabel")

# With fewer samples the error of the fit is about as large as what it usually mends.
FEWEST_SAMPLES = 100
# Of the logits that a fit reads, in all: 1,000 classes of 16,000 samples.
MAX_LOGITS = 2**24
_FOLDS = 5
_LIMIT = 50.0  # of the temperature and of its inverse
_TOLERANCE = 1e-5  # of the logarithm of the temperature


@dataclass(frozen=True)
class TemperatureFit:
    """A temperature and the mean NLL, in nats, of the samples that it was fitted on.

    ``log_loss`` is that of the logits as they are, ``calibrated`` that of the logits divided by
    ``temperature``, ``held_out`` the same where each fifth of the samples is divided by the temperature
    of the other four.
    """

    temperature: float
    samples: int
    log_loss: float
    calibrated: float
    held_out: float

    @property
    def helps(self) -> bool:
        """Whether the NLL gets lower on samples that the temperature was not fitted on."""
        return self.held_out < self.log_loss


def fit_temperature(
    logits: npt.NDArray[np.floating], targets: Targets, kind: TaskKind
) -> TemperatureFit:
    """Fit the temperature of logits (N, C) to targets, (N,) classes or (N, C) labels of 0 and 1.

    All samples are read, or evenly spaced ones of them where there are more than `MAX_LOGITS` logits.
    Raises: DlcliError where the samples do not define a temperature.
    """
    if len(logits) < FEWEST_SAMPLES:
        raise DlcliError(
            f"the val split has {len(logits)} samples, and a temperature needs {FEWEST_SAMPLES} or more",
            hint="hold out more: train with a larger --val-fraction",
        )
    broken = int((~np.isfinite(logits).all(axis=1)).sum())
    if broken:
        raise DlcliError(f"the model's output of {broken} val samples is NaN or infinite")
    most = max(FEWEST_SAMPLES, MAX_LOGITS // logits.shape[1])
    chosen = np.unique(np.linspace(0, len(logits) - 1, min(len(logits), most)).round().astype(np.int64))
    wide, targets = logits[chosen].astype(np.float64), targets[chosen]
    temperature = _minimum(wide, targets, kind)
    low, calibrated, high = (
        exact_mean(_losses(wide, targets, kind, each)) for each in (1 / _LIMIT, temperature, _LIMIT)
    )
    if low <= calibrated:
        raise DlcliError(
            f"no temperature is best: the model predicts {len(wide)} val samples so well that the more "
            "certain it is, the lower their NLL",
            hint="hold out samples that are as hard as those to come",
        )
    if high <= calibrated:
        raise DlcliError(
            f"no temperature is best: on {len(wide)} val samples the model's logits are no better than "
            "equal ones",
            hint="train it longer, or see whether val is like train: dlcli data",
        )
    folds = np.arange(len(wide)) % _FOLDS  # classes stand one after the other: each fold has all
    apart = [
        _losses(
            wide[folds == i],
            targets[folds == i],
            kind,
            _minimum(wide[folds != i], targets[folds != i], kind),
        )
        for i in range(_FOLDS)
    ]
    return TemperatureFit(
        temperature=temperature,
        samples=len(wide),
        log_loss=exact_mean(_losses(wide, targets, kind, 1.0)),
        calibrated=calibrated,
        held_out=exact_mean(np.concatenate(apart)),
    )


def _losses(logits: Floats, targets: Targets, kind: TaskKind, temperature: float) -> Floats:
    """The NLL of each sample (N,), of labels their mean."""
    if kind == "multilabel":
        losses: Floats = binary_cross_entropy(logits / temperature, targets).mean(axis=1)
        return losses
    return cross_entropy(logits / temperature, targets)


def _minimum(logits: Floats, targets: Targets, kind: TaskKind) -> float:
    """The temperature with the lowest NLL, from 1 / `_LIMIT` to `_LIMIT`."""
    from scipy.optimize import minimize_scalar

    optimum = minimize_scalar(
        lambda log: float(_losses(logits, targets, kind, math.exp(log)).mean()),
        bounds=(-math.log(_LIMIT), math.log(_LIMIT)),
        method="bounded",
        options={"xatol": _TOLERANCE},
    )
    return math.exp(optimum.x)
