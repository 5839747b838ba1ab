"""From outputs to labels: the one place that knows of thresholds. No torch here.

A label is predicted where its probability is above its threshold t, which is where its logit is above
log(t / (1 - t)). So what decides are logits from which these offsets are subtracted: of several labels
those above 0, of two classes the larger. N samples, C classes or labels.
"""

from __future__ import annotations

import math

import numpy as np

from dlcli import wording
from dlcli.formats.base import Outputs
from dlcli.task import TaskSpec, Thresholds

_NEAREST = 1e-15
_NAMED = 12  # labels whose threshold is named


def decision_scores(outputs: Outputs, task: TaskSpec) -> Outputs:
    """Scores (N, C) whose largest class, or whose labels above 0, are predicted.

    The outputs themselves where the task has no thresholds, else float64. NaN and infinity stay.
    """
    if task.thresholds is None:
        return outputs
    offsets = [log_odds(value) for value in task.thresholds.values]
    if task.kind == "classification":
        offsets = [0.0, *offsets]
    scores: Outputs = outputs.astype(np.float64) - np.array(offsets)
    return scores


def log_odds(probability: float) -> float:
    """The logit of a probability above 0 and below 1."""
    return math.log(probability) - math.log1p(-probability)


def probability_of(logit: float) -> float:
    """The probability of a logit, at least 1e-15 away from 0 and 1, so that it has one."""
    probability = 1 / (1 + math.exp(-max(-40.0, min(40.0, logit))))
    return min(max(probability, _NEAREST), 1 - _NEAREST)


def divided(thresholds: Thresholds | None, ratio: float) -> Thresholds | None:
    """The thresholds that predict the same labels when all logits are divided by ``ratio``."""
    if thresholds is None:
        return None
    values = tuple(probability_of(log_odds(value) / ratio) for value in thresholds.values)
    return thresholds.model_copy(update={"values": values})


def aligned_thresholds(task: TaskSpec, reference: TaskSpec) -> Thresholds | None:
    """The thresholds of ``task`` in the order of the classes of ``reference``."""
    thresholds = task.thresholds
    if thresholds is None or task.class_names == reference.class_names:
        return thresholds
    if task.kind == "classification":
        values: tuple[float, ...] = (1 - thresholds.values[0],)
    else:
        values = tuple(thresholds.values[task.class_names.index(n)] for n in reference.class_names)
    return thresholds.model_copy(update={"values": values})


def thresholds_in_words(task: TaskSpec) -> str:
    """The thresholds of a task, and what they were fitted to; "" where it has none."""
    own = task.thresholds
    if own is None:
        return ""
    names = task.class_names[-len(own.values) :]
    pairs = [f"{name} {value:.3g}" for name, value in zip(names, own.values, strict=True)]
    samples = wording.plural(own.samples, "val sample")
    return f"{wording.listed(pairs, _NAMED)}; fitted to {own.metric} on {samples}"
