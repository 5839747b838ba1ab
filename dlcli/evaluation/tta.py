"""Test-time augmentation: the mean answer over views of each input. No torch here.

B is the number of samples in a batch, K of classes, E the size of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from dlcli.data.base import Inputs
from dlcli.errors import UsageError
from dlcli.evaluation.metrics import softmax
from dlcli.formats.base import Outputs
from dlcli.task import ImageInput, TaskSpec


def averaged(
    predict: Callable[[Inputs], Outputs], task: TaskSpec, tta: Literal["none", "flip"]
) -> Callable[[Inputs], Outputs]:
    """``predict``, or with "flip" the mean over an image and its mirror image.

    Classifiers average probabilities (and answer their logarithm, so that losses stay what they are);
    embeddings are averaged and have length 1 again; other tasks average the answers. Raises: UsageError
    for data that has no mirror image.
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
    """Logarithms of the mean probabilities of several logits (B, K): logits of the mean."""
    shares = np.stack([softmax(view) for view in views]).mean(axis=0)
    logs: Outputs = np.log(np.maximum(shares, np.finfo(np.float32).tiny)).astype(np.float32)
    return logs


def unit_length(vectors: Outputs) -> Outputs:
    """Vectors (B, E) at length 1; one that is 0 stays so."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    out: Outputs = (vectors / np.maximum(norms, np.finfo(np.float32).tiny)).astype(np.float32)
    return out
