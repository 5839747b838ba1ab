"""The plan of a run: its data, its model and its initial weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dlcli.card import DataRecord, ModelSpec, TransformRecord
from dlcli.config import TrainConfig
from dlcli.data.base import DataSource
from dlcli.data.text.word_vectors import WordVectors
from dlcli.evaluation.metrics import default_monitor
from dlcli.formats.initial_weights import InitialWeights, load_initial
from dlcli.task import TaskSpec
from dlcli.training.autotune.lr_sweep import LrSweep
from dlcli.training.lora import freeze_base
from dlcli.transforms import LORA, find_record
from dlcli.zoo.base import build_model, find_model
from dlcli.zoo.forward import load_tensors
from dlcli.zoo.matching import LoadedWeights, StateDict
from dlcli.zoo.replay import replay
from dlcli.zoo.saved_optimizer import SavedOptimizer
from dlcli.zoo.token_embedding import TokenEmbedding


@dataclass(frozen=True)
class Plan:
    """What a run trains, on which data, from which weights.

    ``initial`` is None where the weights are random, ``initial_task`` that of their artifact,
    ``initial_optimizers`` the states of optimizers in their file. The
    rows of ``word_vectors`` are put into the embedding of random weights.
    ``user_config`` are the settings without the model's recipe, None for an existing run.
    """

    config: TrainConfig
    source: DataSource
    task: TaskSpec
    model: ModelSpec
    weights_from: str = "scratch"
    initial: StateDict | None = field(default=None, repr=False)
    initial_task: TaskSpec | None = field(default=None, repr=False)
    initial_optimizers: tuple[SavedOptimizer, ...] = field(default=(), repr=False)
    word_vectors: WordVectors | None = field(default=None, repr=False)
    recipe: dict[str, Any] = field(default_factory=dict)  # settings of the model's entry
    user_config: TrainConfig | None = None
    transforms: tuple[TransformRecord, ...] = ()  # changes of the structure, such as pruning
    parent: str | None = None  # the artifact that is fine-tuned
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # sentences of the encoders, for the screen
    lr_sweep: LrSweep | None = field(default=None, repr=False)  # of --lr auto

    @property
    def monitor(self) -> str:
        """The validation metric that selects the best epoch."""
        return self.config.fit.monitor or default_monitor(self.task)

    @property
    def lora(self) -> TransformRecord | None:
        """The record of the low-rank factors that are trained, if any."""
        return find_record(self.transforms, LORA)

    def data_record(self) -> DataRecord:
        """The training data as the card records it."""
        return DataRecord(
            data=self.source.origin,
            data_dir=self.source.data_dir,
            fingerprint=self.source.fingerprint,
            options={**self.source.options, **self.config.data.meaning()},
        )

    def build(self) -> tuple[nn.Module, list[str], LoadedWeights | None]:
        """Build the module with its initial weights; returns it with sentences about what was loaded.

        The last is which tensors of a file these were, None where weights are random or a parent's.
        Random weights are a function of the seed.
        """
        torch.manual_seed(self.config.fit.seed)
        # Files of weights have no factors: those come afterwards.
        structure = [record for record in self.transforms if record is not self.lora]
        module = build_model(self.model, self.task, structure)
        notes: list[str] = []
        if self.parent is not None:
            if self.initial is not None:
                load_tensors(module, self.initial)
            return module, notes, None
        entry = find_model(self.model.name, self.task.input.kind)
        head = entry.head(module)
        initial = InitialWeights(self.initial, self.weights_from, self.initial_task)
        published = self.config.model.weights is None or entry.snapshot is not None
        loaded, notes = load_initial(module, initial, self.task, entry, published=published)
        if self.word_vectors is not None:
            ids, rows = map(torch.from_numpy, (self.word_vectors.ids, self.word_vectors.rows))
            for embedding in module.modules():
                if isinstance(embedding, TokenEmbedding):
                    embedding.set_rows(ids, rows)
        random = self.weights_from == "scratch" and self.config.model.word_vectors is None
        if (self.config.model.freeze != "none" or self.lora is not None) and random:
            all_layers = self.lora is not None or self.config.model.freeze == "backbone"
            layers = "the backbone is" if all_layers else "layers are"
            notes.append(f"{layers} frozen at random weights: nothing was loaded into the model")
        if self.lora is not None:
            replay(module, [self.lora])
            freeze_base(module, head=head)
        return module, notes, loaded
