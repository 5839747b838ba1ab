"""`eval --calibrate`: a temperature fitted on a run's validation samples, written into its model.

The file is written anew with another card and the same tensors, loaded again, compared with what was
measured, and only then gets the model's name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlcli import transforms
from dlcli.card import CARD_KEY, Card, TransformRecord
from dlcli.config import EvalConfig
from dlcli.data.base import Targets
from dlcli.deploy.export import staging_folder
from dlcli.errors import DlcliError, UsageError
from dlcli.evaluation.eval_data import EvalData, eval_data
from dlcli.evaluation.evaluate import batches, check_counted, default_batch_size, evaluate
from dlcli.evaluation.metrics import EvalResult, make_counts
from dlcli.evaluation.temperature import CALIBRATED, TemperatureFit, fit_temperature
from dlcli.events import Emit, ignore
from dlcli.formats.base import Artifact, Outputs, open_artifact, recognize
from dlcli.formats.checkpoint import read_tensors, write_tensors
from dlcli.formats.publish import publish
from dlcli.runs.folder import RunFolder, as_typed, run_of
from dlcli.runs.locks import run_lock

_TOLERANCE = 1e-4  # of the largest logit, when the written model is compared


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
    run = _run_of(model)
    validation = _validation(model, config)
    logits, targets = _logits(model, validation, emit)
    fit = fit_temperature(logits, targets, model.card.task.kind)
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
    card = own.model_copy(update={"transforms": (*others, record)})
    with run_lock(run.path):
        _rewrite(model, card, validation, config.device)
    written = open_artifact(model.path, device=config.device)
    result = evaluate(written.predict, validation.reader, written.card.task, split="val", emit=emit)
    return Calibrated(written, fit, temperature, before, result)


def temperature_of(card: Card) -> float:
    """The number that the logits of a model are divided by; 1 where it was not calibrated."""
    record = transforms.find_record(card.transforms, transforms.TEMPERATURE)
    return 1.0 if record is None else float(record.args["temperature"])


def _run_of(model: Artifact) -> RunFolder:
    """The run that the model is the best of. Raises: UsageError."""
    kind = model.card.task.kind
    if kind not in CALIBRATED:
        raise UsageError(
            f"--calibrate: a model for {kind} gives no probabilities that a temperature could calibrate",
            hint=f"it is for {' and '.join(CALIBRATED)}",
        )
    run = run_of(model.path)
    if run is None:
        raise UsageError(
            f"--calibrate: {model.path} lies in no run, which would know what its val split is",
            hint="name the run; an export that is made after it is calibrated too",
        )
    if model.path != run.best:
        raise UsageError(
            f"--calibrate: {model.path.name} is not the run's own model",
            hint=f"dlcli eval {as_typed(run.best)} --calibrate, then export it again",
        )
    return run


def _validation(model: Artifact, config: EvalConfig) -> EvalData:
    """The val split of the model's run. Raises: UsageError where the data is not that of the run."""
    data = eval_data(model.card, model.path, config.model_copy(update={"split": "val"}))
    if not data.own:
        raise UsageError(
            f"--calibrate: {config.data} is not the data that the model was trained on",
            hint="leave --data out: the temperature is fitted on the val split of the run",
        )
    return data


def _logits(model: Artifact, data: EvalData, emit: Emit) -> tuple[Outputs, Targets]:
    """The model's outputs for all readable samples of the split, in their order, and the targets."""
    task = model.card.task
    outputs: list[Outputs] = []
    order: list[npt.NDArray[np.int64]] = []
    for inputs, indices in batches(data.reader, default_batch_size(task), data.split, emit):
        outputs.append(model.predict(inputs))
        order.append(indices)
    if not outputs:
        check_counted(make_counts(task), data.reader, data.split)  # says why
    indices = np.concatenate(order)
    back = np.argsort(indices)
    return np.concatenate(outputs)[back], data.reader.targets(indices[back])


def _rewrite(model: Artifact, card: Card, data: EvalData, device: str) -> None:
    """Write the model with another card; what it computes is compared before. Raises: DlcliError."""
    file = recognize(model.path)
    if file.card != model.file.card:
        raise DlcliError(f"{file.path} has changed since it was opened", hint="try again")
    tensors, metadata = read_tensors(file.path)
    with staging_folder(file.path) as folder:
        staged = folder / file.path.name
        write_tensors(staged, tensors, {**metadata, CARD_KEY: card.to_json()})
        # Its code, if it has some, ran when the model was opened.
        written = open_artifact(staged, device=device, trust=True)
        _check(model, written, data)
        published = publish(recognize(staged), file.path)
    if published.runs_code:
        published.remember()


def _check(before: Artifact, after: Artifact, data: EvalData) -> None:
    """Raises: DlcliError where the outputs are not those before, divided by the temperature."""
    ratio = temperature_of(after.card) / temperature_of(before.card)
    inputs, _ = next(batches(data.reader, default_batch_size(before.card.task), data.split))
    expected, outputs = before.predict(inputs) / np.float32(ratio), after.predict(inputs)
    bound = _TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if not np.abs(expected - outputs).max() <= bound:
        raise DlcliError(
            f"the calibrated model does not give the logits of {before.path} divided by {ratio:.4g}; "
            "nothing was written"
        )
