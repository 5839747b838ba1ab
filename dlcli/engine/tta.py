"""Test-time augmentation: the mean answer over views of each input. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from dlcli.data.base import Inputs
from dlcli.engine.metrics import softmax
from dlcli.errors import UsageError
from dlcli.formats.base import Outputs
from dlcli.task import ImageInput, TaskSpec


def averaged(
    predict: Callable[[Inputs], Outputs], task: TaskSpec, tta: Literal["none", "flip"]
) -> Callable[[Inputs], Outputs]:
    """``predict``, or with "flip" the mean over an image and its mirror image.

    Classifiers average probabilities (and answer their logarithm, so that losses stay what they are);
    other tasks average the answers. Raises: UsageError for data that has no mirror image.
    """
    if tta == "none":
        return predict
    if not isinstance(task.input, ImageInput):
        raise UsageError(f"--tta {tta} is for images, and this model takes {task.input.kind} data")

    def both(inputs: Inputs) -> Outputs:
        (pixels,) = inputs
        views = [predict((view,)) for view in (pixels, np.ascontiguousarray(pixels[:, :, ::-1]))]
        if task.kind != "classification":
            mean: Outputs = np.stack(views).mean(axis=0)
            return mean
        shares = np.stack([softmax(view) for view in views]).mean(axis=0)
        logs: Outputs = np.log(np.maximum(shares, np.finfo(np.float32).tiny)).astype(np.float32)
        return logs

    return both
