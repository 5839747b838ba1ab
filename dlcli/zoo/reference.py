"""Reference tasks of typical size, to build a model without data."""

from __future__ import annotations

from dlcli.data.kinds import KINDS, ModelNeeds
from dlcli.task import TargetNumber, TaskKind, TaskSpec

CLASSES, HORIZON = 10, 24


def reference_task(kind: str, needs: ModelNeeds, tasks: tuple[TaskKind, ...]) -> TaskSpec:
    """A classification of ten classes where the model supports it, else its first task.

    The input is the `DataKind.reference_input` of the kind of data.
    """
    task: TaskKind = "classification" if "classification" in tasks else tasks[0]
    spec = KINDS.get(kind).reference_input(needs)
    targets = spec.shape[-1] if task == "forecast" else 1
    has_classes = task in ("classification", "multilabel")
    has_targets = task in ("regression", "forecast")
    return TaskSpec(
        kind=task,
        input=spec,
        class_names=tuple(map(str, range(CLASSES))) if has_classes else (),
        targets=tuple(TargetNumber(name=f"target{i}") for i in range(targets)) if has_targets else (),
        horizon=HORIZON if task == "forecast" else 0,
    )
