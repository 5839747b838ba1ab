"""Scales of numeric targets, from the training split alone."""

from __future__ import annotations

import numpy as np

from dlcli.data.base import DataSource
from dlcli.task import TargetNumber


def target_numbers(source: DataSource) -> tuple[TargetNumber, ...]:
    """Name, mean and deviation of each target (N, targets) over the training split.

    A constant target keeps deviation 1: the model can still learn its value.
    """
    values = np.asarray(source.splits["train"].targets, dtype=np.float64).reshape(
        len(source.splits["train"]), -1
    )
    mean, std = values.mean(axis=0), values.std(axis=0)
    return tuple(
        TargetNumber(name=name, mean=float(m), std=float(s) if s > 0 else 1.0)
        for name, m, s in zip(source.target_names, mean, std, strict=True)
    )
