"""`eval --calibrate`: a temperature fitted on a run's validation samples, written into its model."""

from __future__ import annotations

from dataclasses import dataclass

from dlcli import transforms
from dlcli.card import TransformRecord
from dlcli.config import EvalConfig
from dlcli.deploy.new_card import (
    outputs_and_targets,
    rewrite_card,
    run_of_best,
    temperature_of,
    validation_data,
)
from dlcli.errors import UsageError
from dlcli.evaluation.decisions import divided
from dlcli.evaluation.eval_data import EvalData
from dlcli.evaluation.evaluate import evaluate
from dlcli.evaluation.metrics import EvalResult
from dlcli.evaluation.temperature import CALIBRATED, TemperatureFit, fit_temperature
from dlcli.events import Emit, ignore
from dlcli.formats.base import Artifact, open_artifact
from dlcli.runs.locks import run_lock


@dataclass(frozen=True)
class Calibrated:
    """The model after a calibration, opened; the ``fit``, and the temperature of the model in all.

    ``model`` is the one before, and ``temperature`` too, where ``fit.helps`` is false. ``before`` are
    the metrics of the model before, ``validation`` is the evaluation of a changed one on val.
    """

    model: Artifact
    fit: TemperatureFit
    temperature: float
    before: dict[str, float]
    validation: EvalResult | None = None


def calibrate(model: Artifact, data: EvalData, config: EvalConfig, emit: Emit = ignore) -> Calibrated:
    """Fit a temperature on the val split of the model's run and write the model with it.

    ``data`` is what the model before is evaluated on. A model that has a temperature gets the product of
    both. Raises: UsageError for a model that cannot have one, DlcliError where its validation samples do
    not define one or the model cannot be written.
    """
    kind = model.card.task.kind
    if kind not in CALIBRATED:
        raise UsageError(
            f"--calibrate: a model for {kind} gives no probabilities that a temperature could calibrate",
            hint=f"it is for {' and '.join(CALIBRATED)}",
        )
    run = run_of_best(model, "--calibrate")
    validation = validation_data(model, config, "--calibrate")
    logits, targets = outputs_and_targets(model, validation, emit)
    fit = fit_temperature(logits, targets, kind)
    earlier = temperature_of(model.card)
    before = evaluate(model.predict, data.reader, model.card.task, split=data.split, emit=emit).metrics
    if not fit.helps:
        return Calibrated(model, fit, earlier, before)
    temperature = earlier * fit.temperature
    args = {
        "temperature": temperature,
        "samples": fit.samples,
        "log_loss": fit.log_loss,
        "calibrated": fit.calibrated,
    }
    record = TransformRecord(kind=transforms.TEMPERATURE, args=args)
    own = model.file.card
    others = tuple(r for r in own.transforms if r.kind != transforms.TEMPERATURE)
    # Thresholds are converted, so that every label that is predicted stays the same.
    task = own.task.with_thresholds(divided(own.task.thresholds, fit.temperature))
    card = own.model_copy(update={"transforms": (*others, record), "task": task})
    with run_lock(run.path):
        rewrite_card(model, card, validation, config.device)
    written = open_artifact(model.path, device=config.device)
    result = evaluate(written.predict, validation.reader, written.card.task, split="val", emit=emit)
    return Calibrated(written, fit, temperature, before, result)
