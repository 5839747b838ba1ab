"""The task of a source, with mean and std of numeric targets fitted on the training split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dlcli.data.base import DataSource
from dlcli.task import InputSpec, TargetNumber, TaskSpec

if TYPE_CHECKING:
    from dlcli.config import ModelConfig


def make_task(source: DataSource, spec: InputSpec, model: ModelConfig) -> TaskSpec:
    """Build the task of a source with one target per sample, for a fitted input."""
    return TaskSpec(
        kind=source.task,
        input=spec,
        class_names=source.class_names,
        targets=target_numbers(source) if source.task == "regression" else (),
        embedding_size=model.embedding_size if source.task == "embedding" else 0,
    )


def target_numbers(source: DataSource) -> tuple[TargetNumber, ...]:
    """Name, mean and std of each target (N, targets) over the training split.

    A constant target gets std 1: the model can still learn its value.
    """
    values = np.asarray(source.splits["train"].targets, dtype=np.float64).reshape(
        len(source.splits["train"]), -1
    )
    mean, std = values.mean(axis=0), values.std(axis=0)
    return tuple(
        TargetNumber(name=name, mean=float(m), std=float(s) if s > 0 else 1.0)
        for name, m, s in zip(source.target_names, mean, std, strict=True)
    )
