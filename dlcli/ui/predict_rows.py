"""What predictions of any inputs have in common, and their rows: of screens, files and replies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dlcli.errors import UsageError
from dlcli.events import EvalProgress, Warned
from dlcli.ui.predict_writers import Head, cell_text, reserved_names

if TYPE_CHECKING:
    from dlcli.config import PredictConfig
    from dlcli.data.base import Samples
    from dlcli.data.tables.carried import CarriedColumns
    from dlcli.evaluation.predict import Prediction
    from dlcli.events import Emit
    from dlcli.task import TaskSpec


def prediction_head(
    facts: Mapping[str, Any], task: TaskSpec, samples: Samples, config: PredictConfig
) -> tuple[Head, CarriedColumns]:
    """What is known before the first row, and the columns of the input that its rows carry.

    ``facts`` are the first keys of the JSON object. Raises: UsageError, DlcliError for a column that
    there is not.
    """
    from dlcli.data.tables.carried import carry_columns

    if config.probabilities and task.kind not in ("classification", "multilabel"):
        raise UsageError(f"--probabilities is for classes, and this model does {task.kind}")
    classes = None if config.probabilities else min(config.top_k, task.num_classes)
    reserved = reserved_names(task, classes)
    carried = carry_columns(samples, config.id_column, config.keep_columns, reserved)
    names: Sequence[str] = samples.ids
    if carried.id_column is not None:
        names = [cell_text(cell) for cell in carried.columns[carried.id_column]]
    top_k = {"top_k": classes} if task.kind == "classification" and classes is not None else {}
    head = Head(
        facts={
            **facts,
            "task": task.kind,
            **top_k,
            **({"amp": config.amp} if config.amp != "none" else {}),
        },
        task=task,
        inputs=names,
        top_k=classes,
        failed=[],
        keys=tuple(carried.columns),
        id_column=carried.id_column,
    )
    return head, carried


def prediction_rows(
    predictions: Iterable[Prediction], head: Head, carried: CarriedColumns, emit: Emit
) -> Iterator[dict[str, Any]]:
    """The rows of the predictions; inputs without one are warned of and added to ``head.failed``."""
    total = len(head.inputs)
    for done, prediction in enumerate(predictions, 1):
        if prediction.error is None:
            yield from prediction.rows
        else:
            named = {"input": prediction.input, **carried.cells(done - 1)}
            head.failed.append({**named, "error": prediction.error})
            emit(Warned(f"{prediction.input}: {prediction.error}"))
        if done % 64 == 0 or done == total:
            emit(EvalProgress(split="predict", done=done, total=total))
