"""Files whose outputs are probabilities, or numbers in the data's own units, instead of the model's.

An annotation of the card says so. To the rest of dlcli their outputs are still the model's:
`to_model_outputs` gives back logits (up to a constant a row for classes) or scaled numbers.
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

# The logarithm of 0 would spoil sums.
_MIN_PROBABILITY = np.float32(1e-38)
# The largest float32 below 1.
_MAX_PROBABILITY = np.float32(1) - np.float32(6e-8)


def has_readable_outputs(card: Card) -> bool:
    """Whether a file with this card gives probabilities or unscaled numbers."""
    return transforms.find_record(card.transforms, transforms.PROBABILITIES) is not None


def with_readable_outputs(card: Card) -> Card:
    """The card of a file that gives probabilities."""
    return card if has_readable_outputs(card) else card.with_record(transforms.PROBABILITIES)


def check_softmax(task: TaskSpec) -> None:
    """Raises: UsageError where ``--softmax`` means nothing, since the outputs are numbers or vectors."""
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


def to_model_outputs(outputs: Outputs, task: TaskSpec) -> Outputs:
    """Probabilities as logits, and numbers in the data's units as scaled ones, in float32."""
    if task.targets:
        mean = np.array([target.mean for target in task.targets])
        std = np.array([target.std for target in task.targets])
        out: Outputs = ((outputs.astype(np.float64) - mean) / std).astype(np.float32)
        return out
    if task.kind == "embedding":
        return outputs
    low = np.clip(outputs, _MIN_PROBABILITY, None)
    if task.kind != "multilabel":
        out = np.log(low)
        return out
    low = np.clip(low, None, _MAX_PROBABILITY)
    out = np.log(low) - np.log1p(-low)
    return out
