"""Test-time augmentation: the mean prediction over views of each input. No torch here.

B is the number of samples in a batch, K of classes, E the size of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from dlcli.data.base import Inputs
from dlcli.errors import UsageError
from dlcli.evaluation.probabilities import softmax
from dlcli.formats.base import Outputs
from dlcli.task import ImageInput, TaskSpec


def with_tta(
    predict: Callable[[Inputs], Outputs], task: TaskSpec, tta: Literal["none", "flip"]
) -> Callable[[Inputs], Outputs]:
    """``predict``, or with "flip" the mean over an image and its mirror image.

    Classifiers average probabilities (the output is their logarithm, so losses stay comparable);
    embeddings are averaged and normalised to length 1 again; other tasks average the outputs. Raises:
    UsageError for data other than images.
    """
    if tta == "none":
        return predict
    if not isinstance(task.input, ImageInput):
        raise UsageError(f"--tta {tta} is for images, and this model takes {task.input.kind} data")

    def both(inputs: Inputs) -> Outputs:
        (pixels,) = inputs
        views = [predict((view,)) for view in (pixels, np.ascontiguousarray(pixels[:, :, ::-1]))]
        if task.kind == "classification":
            return mean_classes(views)
        mean: Outputs = np.stack(views).mean(axis=0)
        return unit_length(mean) if task.kind == "embedding" else mean

    return both


def mean_classes(views: Sequence[Outputs]) -> Outputs:
    """Log of the mean probabilities of several logits (B, K)."""
    probabilities = np.stack([softmax(view) for view in views]).mean(axis=0)
    logs: Outputs = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)).astype(np.float32)
    return logs


def unit_length(vectors: Outputs) -> Outputs:
    """Vectors (B, E) normalised to length 1; a zero vector stays zero."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    out: Outputs = (vectors / np.maximum(norms, np.finfo(np.float32).tiny)).astype(np.float32)
    return out
