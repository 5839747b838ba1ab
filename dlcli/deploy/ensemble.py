"""One model file of several models: their mean, compared with that of their own files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dlcli import transforms
from dlcli.card import Card, TransformRecord
from dlcli.data.base import Samples
from dlcli.data.joint_input import joint_input
from dlcli.data.kinds import ReadOptions, kind_of
from dlcli.deploy.export import staging_folder
from dlcli.errors import DlcliError, UsageError
from dlcli.evaluation.ensemble import Ensemble, check_members
from dlcli.formats.base import Artifact, ModelFile, open_artifact, recognize
from dlcli.formats.checkpoint import save_model
from dlcli.formats.publish import publish
from dlcli.runs.folder import versions
from dlcli.zoo.base import MODELS
from dlcli.zoo.ensemble import MeanOf

# Of float32: the file multiplies a scale into numbers that the encoders divided in float64.
_TOLERANCE = 1e-3
_SAMPLES = 64


def write_ensemble(paths: Sequence[Path], target: Path, samples: Samples) -> ModelFile:
    """Write the models at ``paths`` as one safetensors file, whose card has the structure "ensemble".

    Its predictions of the first ``samples`` are compared with the mean of those of the models, each
    with its own encoders. Raises: UsageError where the models are no one file (of other architectures,
    or encoders that have no joint encoding); DlcliError where the predictions differ.
    """
    models = [open_artifact(recognize(path), device="cpu") for path in paths]
    check_members([(str(model.path), model.card.task) for model in models])
    card = _card(models)
    tasks = [model.card.task for model in models]
    module = MeanOf([model.module() for model in models], tasks, card.task)
    with staging_folder(target) as folder:
        staged = folder / target.name
        save_model(staged, module, card)
        written = recognize(staged)
        _compare(models, open_artifact(written, device="cpu", trust=True), samples)
        return publish(written, target)


def _card(models: Sequence[Artifact]) -> Card:
    """The card of the ensemble: that of the first model but for what is of all. Raises: UsageError."""
    cards = [model.card for model in models]
    first = cards[0]
    for other in cards[1:]:
        entry = MODELS.find(f"{first.task.input.kind}/{first.model.name}")
        if other.model.name == first.model.name and entry is not None and entry.fit is not None:
            raise UsageError(
                f"these models cannot be one file: the structure of {first.model.name} follows from "
                "its fit, so no two are of one"
            )
        if other.model != first.model:
            raise UsageError(
                "these models cannot be one file: their architectures differ, "
                f"{first.model.name} {first.model.args} and {other.model.name} {other.model.args}"
            )
    for own in cards:
        if (record := transforms.not_float(own)) is not None:
            raise UsageError(f"these models cannot be one file: one is no float model ({record.kind})")
    # Thresholds are of the probabilities of one model, not of a mean.
    task = first.task.with_thresholds(None).model_copy(
        update={"input": joint_input([own.task.input for own in cards])}
    )
    members = [
        {
            "task": own.task.model_dump(mode="json"),
            "transforms": [record.model_dump() for record in transforms.of_the_model(own)],
        }
        for own in cards
    ]
    return first.model_copy(
        update={
            "task": task,
            "transforms": (TransformRecord(kind=transforms.ENSEMBLE, args={"members": members}),),
            "metrics": {},
            "params": sum(own.params for own in cards),
            "epoch": None,
            "versions": versions(),
        }
    )


def _compare(models: Sequence[Artifact], written: Artifact, samples: Samples) -> None:
    """Raises: DlcliError where the file does not give the mean of the models."""
    ensemble = Ensemble(models)
    chosen = samples.take(np.arange(min(_SAMPLES, len(samples))))
    kind, options = kind_of(written.card.task), ReadOptions(on_bad_sample="skip")
    reader = ensemble.reader(lambda task: kind.reader(chosen, task, options))
    joint = kind.reader(chosen, written.card.task, options)
    indices = np.arange(len(chosen), dtype=np.int64)
    (inputs, read), (own, own_read) = reader.read(indices), joint.read(indices)
    if not len(read) or not np.array_equal(read, own_read):
        raise DlcliError(f"{written.path.name} could not be compared: no sample can be read")
    expected, actual = ensemble.predict(inputs), written.predict(own)
    scale = max(1.0, float(np.abs(expected).max()))
    difference = float(np.abs(expected - actual).max()) / scale
    if not difference <= _TOLERANCE:
        raise DlcliError(
            f"{written.path.name} does not give the mean of its models: it differs by {difference:.2g}"
        )
