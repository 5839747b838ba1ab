"""Smaller models of the zoo that are trained with the original as their teacher."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dlcli.card import ModelSpec
from dlcli.config import FinetuneConfig, MeasureConfig, TrainConfig
from dlcli.deploy.prune.transform import layer_macs
from dlcli.deploy.ship.plan import Student
from dlcli.errors import DlcliError
from dlcli.formats.base import Artifact
from dlcli.runs.saved import SavedRun
from dlcli.settings import merge, validate
from dlcli.task import ImageInput, TaskSpec
from dlcli.training.finetune import data_of_run, epoch_seconds
from dlcli.training.plan import Plan
from dlcli.training.planning import make_plan
from dlcli.zoo.base import build_model, find_model

# By kind of input, the more accurate first. Tables have models that are small already.
_NAMES = {"image": ("mobilenet_v3_small", "cnn"), "text": ("cnn",), "series": ("cnn",)}
_TASKS = ("classification", "multilabel", "regression")
_MOST_PARAMS = 0.25  # of the original's: pruning reaches half of it
_FORWARD = 1 / 3  # of a training step is the forward pass, which the teacher does too


def students_of(source: Artifact, run: SavedRun) -> Iterator[Student]:
    """Yield the first model of the zoo that has at most a quarter of the original's parameters."""
    card, epoch_s = source.card, epoch_seconds(run)
    if card.task.kind not in _TASKS:
        return
    for name in _NAMES.get(card.task.input.kind, ()):
        try:
            entry = find_model(name, card.task.input.kind)
            module = build_model(ModelSpec(name=name, args=entry.arguments({}).model_dump()), card.task)
        except (DlcliError, ValueError):  # an image that is too small for it, a task that it lacks
            continue
        if card.task.kind not in entry.tasks or name == card.model.name:
            continue
        if sum(p.numel() for p in module.parameters()) <= _MOST_PARAMS * card.params:
            macs = [sum(layer_macs(one, card.task).values()) for one in (module, source.module())]
            share = _FORWARD + macs[0] / max(macs[1], 1)
            epochs = run.config.fit.epochs
            yield Student(name=name, epochs=epochs, epoch_s=None if epoch_s is None else share * epoch_s)
            return


def student_plan(
    source: Artifact,
    run: SavedRun,
    name: str,
    epochs: int,
    finetune: FinetuneConfig,
    measure: MeasureConfig,
) -> Plan:
    """The plan that trains a student: its model's recipe, the data and splits of the original's run.

    Raises: DlcliError where the data is not available.
    """
    data, samples = data_of_run(source, run, measure)
    own: dict[str, Any] = {
        "data": data.model_dump(),
        "model": {"name": name},
        "loss": {"teacher": str(source.path.resolve())},
        "fit": {
            "epochs": epochs,
            "seed": run.config.fit.seed if finetune.seed is None else finetune.seed,
            "device": finetune.device,
            "amp": finetune.amp,
            "monitor": run.config.fit.monitor,
            "tensorboard": False,
        },
    }
    if finetune.batch_size is not None:
        own["fit"]["batch_size"] = finetune.batch_size
    return make_plan(lambda recipe: validate(TrainConfig, merge(recipe, own)), samples)


def check_same_inputs(task: TaskSpec, own: TaskSpec) -> None:
    """Raises: DlcliError where a student encodes samples otherwise, and is no replacement of the model.

    Images are normalised by each model itself.
    """
    scales = {"mean", "std"} if isinstance(own.input, ImageInput) else set[str]()
    pairs = [one.input.model_dump(exclude=scales) for one in (task, own)]
    if pairs[0] != pairs[1] or task.class_names != own.class_names or task.targets != own.targets:
        raise DlcliError("its inputs or classes are encoded in another way than those of the original")
