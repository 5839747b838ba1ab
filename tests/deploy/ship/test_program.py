"""The answer of a shipped program is compared with that of `predict` in all that it holds."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import image, make_task

from dlcli.deploy.ship.program import agrees
from dlcli.task import TargetNumber, TaskSpec

TASK = make_task(image(8))
NUMBERS = TaskSpec(
    kind="regression", input=image(8), targets=tuple(TargetNumber(name=n, mean=1, std=10) for n in "ab")
)
NUMBER = NUMBERS.model_copy(update={"targets": NUMBERS.targets[:1]})


@pytest.mark.parametrize(
    ("task", "row", "equal", "other"),
    [
        (TASK, {"label": "a", "probability": 0.5}, {"probability": 0.51}, {"probability": 0.53}),
        (TASK, {"label": "a", "probability": 0.5}, {}, {"label": "b"}),
        (TASK, {"label": "a", "probability": 0.5}, {}, {"probability": float("nan")}),
        (TASK, {"labels": ["a"], "probabilities": {"a": 0.6, "b": 0.1}}, {}, {"labels": []}),
        (
            TASK,
            {"labels": ["a"], "probabilities": {"a": 0.6, "b": 0.1}},
            {"probabilities": {"b": 0.11, "a": 0.6}},
            {"probabilities": {"a": 0.1, "b": 0.6}},
        ),
        (TASK, {"embedding": [0.6, 0.8]}, {"embedding": [0.61, 0.79]}, {"embedding": [0.8, 0.6]}),
        (TASK, {"embedding": [0.6, 0.8]}, {}, {"embedding": [0.6]}),
        (NUMBERS, {"values": {"a": 3.0, "b": 4.0}}, {"a": 3.1, "b": 4.0}, {"a": 3.3, "b": 4.0}),
        (NUMBER, {"value": 3.0}, {"a": 3.1}, {"a": 3.3}),
    ],
)
def test_answers_that_differ_are_told_from_equal_ones(
    task: TaskSpec, row: dict[str, Any], equal: dict[str, Any], other: dict[str, Any]
) -> None:
    own = {} if task.kind == "regression" else row
    assert agrees({**own, **equal}, row, task)
    assert not agrees({**own, **other}, row, task)
