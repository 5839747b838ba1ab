"""A run's model with another card and the same tensors: what was fitted on its val split is in it.

The file is written anew, loaded again, compared with what was measured, and only then gets the model's
name.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dlcli import transforms
from dlcli.card import CARD_KEY, Card
from dlcli.config import EvalConfig
from dlcli.data.base import Targets
from dlcli.deploy.export import staging_folder
from dlcli.errors import DlcliError, UsageError
from dlcli.evaluation.eval_data import EvalData, eval_data
from dlcli.evaluation.evaluate import batches, check_counted, default_batch_size
from dlcli.evaluation.metrics import make_counts
from dlcli.events import Emit
from dlcli.formats.base import Artifact, Outputs, open_artifact, recognize
from dlcli.formats.checkpoint import read_tensors, write_tensors
from dlcli.formats.publish import publish
from dlcli.runs.folder import RunFolder, as_typed, run_of

_TOLERANCE = 1e-4  # of the largest logit, when the written model is compared


def temperature_of(card: Card) -> float:
    """The number that the logits of a model are divided by; 1 where it was not calibrated."""
    record = transforms.find_record(card.transforms, transforms.TEMPERATURE)
    return 1.0 if record is None else float(record.args["temperature"])


def run_of_best(model: Artifact, flag: str) -> RunFolder:
    """The run that the model is the best of. Raises: UsageError naming the option."""
    run = run_of(model.path)
    if run is None:
        raise UsageError(
            f"{flag}: {model.path} lies in no run, which would know what its val split is",
            hint="name the run; an export that is made afterwards has it too",
        )
    if model.path != run.best:
        raise UsageError(
            f"{flag}: {model.path.name} is not the run's own model",
            hint=f"dlcli eval {as_typed(run.best)} {flag}, then export it again",
        )
    return run


def validation_data(model: Artifact, config: EvalConfig, flag: str) -> EvalData:
    """The val split of the model's run. Raises: UsageError where the data is not that of the run."""
    data = eval_data(model.card, model.path, config.model_copy(update={"split": "val"}))
    if not data.own:
        raise UsageError(
            f"{flag}: {config.data} is not the data that the model was trained on",
            hint="leave --data out: it is fitted on the val split of the run",
        )
    return data


def outputs_and_targets(model: Artifact, data: EvalData, emit: Emit) -> tuple[Outputs, Targets]:
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


def rewrite_card(model: Artifact, card: Card, data: EvalData, device: str) -> None:
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
            f"the new file does not give the logits of {before.path} divided by {ratio:.4g}; "
            "nothing was written"
        )
