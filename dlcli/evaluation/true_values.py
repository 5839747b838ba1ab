"""The true values of samples, as people write them: class names, labels, numbers, texts."""

from __future__ import annotations

import numpy as np

from dlcli.data.base import Listed, Reader
from dlcli.task import PairsInput, TaskSpec


def true_values(reader: Reader, index: int, task: TaskSpec) -> list[list[str | float]]:
    """The cells of each row of a sample: a row for each step of a forecast, one for any other task.

    Numbers are in the data's own units, one for each target; the labels of a sample are joined by "|".
    """
    if isinstance(task.input, PairsInput):
        assert isinstance(reader.samples.items, Listed)
        return [[str(reader.samples.items.values[index][1])]]
    one = np.array([index], np.int64)
    target, series = reader.targets(one)[0], reader.series(one)
    if series is not None:
        target = target * series.std[0] + series.mean[0]
    if task.kind in ("classification", "embedding"):
        return [[task.class_names[int(target)]]]
    if task.kind == "multilabel":
        names = zip(task.class_names, target, strict=True)
        return [["|".join(name for name, yes in names if yes)]]
    numbers: list[list[str | float]] = np.atleast_2d(target).tolist()
    return numbers
