"""What a run trains, on which data, from which weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dlcli.card import DataRecord, ModelSpec, TransformRecord
from dlcli.config import TrainConfig
from dlcli.data.base import DataSource
from dlcli.evaluation.metrics import default_monitor
from dlcli.task import TaskSpec
from dlcli.training.autotune.lr_sweep import LrSweep
from dlcli.zoo.base import build_model, find_model
from dlcli.zoo.forward import load_tensors
from dlcli.zoo.weights import StateDict, adapt, load_matching


@dataclass(frozen=True)
class Plan:
    """What a run trains, on what, from which weights. ``initial`` is None where they are fresh."""

    config: TrainConfig
    source: DataSource
    task: TaskSpec
    model: ModelSpec
    weights_from: str = "scratch"
    initial: StateDict | None = field(default=None, repr=False)
    initial_task: TaskSpec | None = field(default=None, repr=False)  # of the artifact they come from
    recipe: dict[str, Any] = field(default_factory=dict)  # settings that the model's entry brought
    said: TrainConfig | None = None  # the settings without the recipe, of a new run
    transforms: tuple[TransformRecord, ...] = ()  # what was done to the structure
    parent: str | None = None  # the artifact that is fine-tuned
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what the encoders did, for the plan on the screen
    lr_sweep: LrSweep | None = field(default=None, repr=False)  # what --lr auto saw

    @property
    def monitor(self) -> str:
        """The validation metric that picks the best epoch."""
        return self.config.fit.monitor or default_monitor(self.task)

    def data_record(self) -> DataRecord:
        """What the card says of the training data."""
        return DataRecord(
            data=self.source.origin,
            data_dir=self.source.data_dir,
            fingerprint=self.source.fingerprint,
            options={**self.source.options, **self.config.data.meaning()},
        )

    def build(self) -> tuple[nn.Module, list[str]]:
        """The module with its first weights; sentences about what was loaded.

        The fresh weights are a function of the seed.
        """
        torch.manual_seed(self.config.fit.seed)
        module = build_model(self.model, self.task, self.transforms)
        said: list[str] = []
        if self.parent is not None:
            if self.initial is not None:
                load_tensors(module, self.initial)
            return module, said
        head = find_model(self.model.name, self.task.input.kind).head(module)
        if self.initial is not None:
            initial = self.initial
            if self.initial_task is not None:
                initial, adapted = adapt(
                    module, initial, old=self.initial_task, new=self.task, head=head
                )
                said += [f"{self.weights_from}: {text}" for text in adapted]
            loaded = load_matching(module, initial, source=self.weights_from)
            strange = [k for k in loaded.fresh if not k.startswith(f"{head}.")]
            # That published weights bring a head of other classes goes without saying.
            if strange or (self.config.model.weights is not None and (loaded.fresh or loaded.unused)):
                said.append(f"{self.weights_from}: {loaded.sentence()}")
        if self.config.model.freeze != "none" and self.weights_from == "scratch":
            what = "the backbone is" if self.config.model.freeze == "backbone" else "layers are"
            said.append(f"{what} frozen at random weights: nothing was loaded into the model")
        return module, said
