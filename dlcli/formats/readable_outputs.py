"""Files that answer probabilities, or in the data's own units, instead of the model's own output.

Such a file says so by a remark among its card's records. To the rest of dlcli it still answers as the
model does: `as_model_output` gives back logits (up to a constant a row for classes) or scaled numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dlcli import transforms
from dlcli.card import Card
from dlcli.errors import UsageError

if TYPE_CHECKING:
    from dlcli.formats.base import Outputs
    from dlcli.task import TaskSpec

# Smaller ones are as good as 0; the logarithm of 0 would spoil sums.
_LEAST = np.float32(1e-38)
# Nearer to 1 there is no float32 but 1 itself.
_MOST = np.float32(1) - np.float32(6e-8)


def answers_probabilities(card: Card) -> bool:
    """Whether a file with this card gives probabilities or unscaled numbers."""
    return transforms.find_record(card.transforms, transforms.PROBABILITIES) is not None


def with_probabilities(card: Card) -> Card:
    """The card of a file that gives probabilities."""
    return card if answers_probabilities(card) else card.with_record(transforms.PROBABILITIES)


def refuse_softmax(task: TaskSpec) -> None:
    """Raises: UsageError where ``--softmax`` means nothing, since the answers are numbers or vectors."""
    if task.kind not in ("classification", "multilabel", "seq2seq"):
        raise UsageError(
            f"--softmax: a model for {task.kind} gives no logits that could become probabilities",
            hint="leave --softmax out",
        )


def to_probabilities(logits: Outputs, task: TaskSpec) -> Outputs:
    """Logits as probabilities: of each label alone, else over the last axis, in float32."""
    if task.kind == "multilabel":
        out: Outputs = np.exp(-np.logaddexp(0.0, -logits.astype(np.float64))).astype(np.float32)
        return out
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    out = (shifted / shifted.sum(axis=-1, keepdims=True)).astype(np.float32)
    return out


def as_model_output(answers: Outputs, task: TaskSpec) -> Outputs:
    """Probabilities as logits, and numbers in the data's units as scaled ones, in float32."""
    if task.targets:
        mean = np.array([target.mean for target in task.targets])
        std = np.array([target.std for target in task.targets])
        out: Outputs = ((answers.astype(np.float64) - mean) / std).astype(np.float32)
        return out
    if task.kind == "embedding":
        return answers
    low = np.clip(answers, _LEAST, None)
    if task.kind != "multilabel":
        out = np.log(low)
        return out
    low = np.clip(low, None, _MOST)
    out = np.log(low) - np.log1p(-low)
    return out
