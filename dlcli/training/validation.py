"""Evaluation of a training module on the validation split."""

from __future__ import annotations

from collections.abc import Callable

from dlcli.data.base import Inputs, Reader
from dlcli.evaluation.evaluate import evaluate
from dlcli.evaluation.metrics import EvalResult
from dlcli.events import Emit
from dlcli.formats.base import Outputs
from dlcli.task import TaskSpec
from dlcli.training.distributed.world import World

Validate = Callable[[Callable[[], None]], EvalResult]


def make_validate(
    predict: Callable[[Inputs], Outputs], reader: Reader, task: TaskSpec, world: World, emit: Emit
) -> Validate:
    """Evaluation on the validation split; its argument is called after each batch and may raise."""

    def validate(check_stop: Callable[[], None]) -> EvalResult:
        return evaluate(
            predict, reader, task, split="val", emit=emit, world=world, check_stop=check_stop
        )

    return validate
