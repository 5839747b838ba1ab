"""`eval --thresholds`: thresholds fitted on a run's validation samples, in its model's card."""

from __future__ import annotations

from dataclasses import dataclass

from dlcli.config import EvalConfig
from dlcli.deploy.new_card import outputs_and_targets, rewrite_card, run_of_best, validation_data
from dlcli.errors import UsageError
from dlcli.evaluation.eval_data import EvalData
from dlcli.evaluation.evaluate import evaluate
from dlcli.evaluation.metrics import EvalResult
from dlcli.evaluation.thresholds import ThresholdFit, fit_thresholds
from dlcli.events import Emit, ignore
from dlcli.formats.base import Artifact, open_artifact
from dlcli.runs.locks import run_lock


@dataclass(frozen=True)
class Thresholded:
    """The model after a fit of thresholds, opened.

    ``model`` is the one before where ``fit.helps`` is false. ``before`` is the evaluation of the model
    before, ``validation`` that of a changed one on val.
    """

    model: Artifact
    fit: ThresholdFit
    before: EvalResult
    validation: EvalResult | None = None


def set_thresholds(
    model: Artifact, data: EvalData, config: EvalConfig, metric: str, emit: Emit = ignore
) -> Thresholded:
    """Fit thresholds to a metric on the val split of the model's run and write the model with them.

    ``data`` is what the model before is evaluated on. Thresholds that it has are replaced, label by
    label, where others are better. Raises: UsageError for a model that cannot have any, DlcliError where
    its validation samples do not define one or the model cannot be written.
    """
    task, flag = model.card.task, f"--thresholds {metric}"
    if not task.num_thresholds:
        classes = f" of {task.num_classes} classes" if task.kind == "classification" else ""
        raise UsageError(
            f"--thresholds: a model for {task.kind}{classes} predicts no label from a threshold",
            hint="it is for classification of two classes and for multilabel",
        )
    run = run_of_best(model, flag)
    validation = validation_data(model, config, flag)
    logits, targets = outputs_and_targets(model, validation, emit)
    fit = fit_thresholds(logits, targets, task, metric)
    before = evaluate(model.predict, data.reader, task, split=data.split, emit=emit)
    if not fit.helps:
        return Thresholded(model, fit, before)
    own = model.file.card
    card = own.model_copy(update={"task": own.task.with_thresholds(fit.thresholds)})
    with run_lock(run.path):
        rewrite_card(model, card, validation, config.device)
    written = open_artifact(model.path, device=config.device)
    result = evaluate(written.predict, validation.reader, written.card.task, split="val", emit=emit)
    return Thresholded(written, fit, before, result)
