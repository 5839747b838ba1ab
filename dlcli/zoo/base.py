"""The model registry: a name, validated arguments, a builder and defaults for each model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ValidationError
from torch import nn
from torch.nn import functional as F

from dlcli.card import ModelSpec, TransformRecord
from dlcli.data.kinds import ModelNeeds
from dlcli.errors import UsageError, nearest
from dlcli.registry import Registry
from dlcli.settings import merge
from dlcli.task import Frozen, TaskKind, TaskSpec, TextInput
from dlcli.zoo.ensemble import MeanOf, members_of
from dlcli.zoo.replay import replay

# Tasks of any head with ``task.num_outputs`` outputs a sample.
SUPERVISED: tuple[TaskKind, ...] = ("classification", "multilabel", "regression", "embedding")


# What is searched for any model, as `dlcli.tune.space` reads it.
SEARCH = {"optim.lr": "0.1x..10x:log", "optim.weight_decay": "1e-4..0.3:log"}
SEARCH_WITH_DROPOUT = {**SEARCH, "model.args.dropout": "0..0.6"}


class NoArgs(Frozen):
    """A model without arguments of its own."""


@dataclass(frozen=True)
class Weights:
    """Published weights of a model, by URL, with the preprocessing they were trained with.

    ``size`` of the file is in bytes, where the library knows it.
    """

    label: str  # "ResNet18_Weights.IMAGENET1K_V1"
    url: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    recipe: dict[str, Any] = field(default_factory=dict)
    size: int | None = None


@dataclass(frozen=True)
class Snapshot:
    """Published weights with the structure and the tokenizer that belong to them, read from a folder.

    ``args`` are arguments of the model, ``state`` its tensors by name, without the head. ``text`` is the
    tokenizer, ``recipes`` are settings for a task that follow from the structure.
    """

    args: dict[str, Any]
    state: dict[str, torch.Tensor]
    text: TextInput
    recipes: dict[TaskKind, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Rows:
    """Encoded rows (N, F + K) of a table and their targets: (N,) classes, (N, L) labels or numbers."""

    columns: npt.NDArray[np.float32]
    targets: npt.NDArray[Any]

    def columns_of_target(self, i: int, task: TaskSpec) -> Rows:
        """The rows with one label, or with one target in the model's scale, (N,)."""
        own = self.targets[:, i]
        if task.kind == "regression":
            own = (own - task.targets[i].mean) / task.targets[i].std
        return Rows(self.columns, own)


@dataclass(frozen=True)
class FittedModel:
    """The result of a fit: ``args`` that describe its structure, its ``state`` dict, its iterations."""

    args: dict[str, Any]
    state: dict[str, torch.Tensor] = field(repr=False)
    iterations: int


# (task, arguments, train, val, seed) -> model
FitModel = Callable[[TaskSpec, Any, Rows, Rows, int], FittedModel]


@dataclass(frozen=True)
class ModelEntry:
    """A model for one kind of input; the same name may be registered for several kinds.

    ``build(task, args)`` gives a module that takes the tensors of ``task.input.signature`` in order and
    gives ``task.output`` (of an embedding any length: `build_model` scales it to 1); its head is the
    submodule at ``head(module)``. ``tasks`` are those it can be trained for. ``recipe`` holds settings
    that beat the general defaults, and ``recipes`` more of them for one task, which beat ``recipe``.
    ``needs`` is what it asks of its input. ``snapshot`` reads the folder of weights that such a model
    always starts from, with its structure and tokenizer; ``snapshot_from`` is where, if no other folder
    is named. ``word_vectors`` names the argument that is the length of a word vector, of a model with a
    `TokenEmbedding`. ``fit`` makes a model whole that is not trained by gradient: see
    `dlcli.training.estimators`. ``search`` is the search space of `dlcli
    tune`, the domain of each setting as text. ``summary`` is for `dlcli models`.
    """

    name: str
    build: Callable[[TaskSpec, Any], nn.Module]
    head: Callable[[nn.Module], str]
    kind: str = "image"
    tasks: tuple[TaskKind, ...] = SUPERVISED
    args: type[BaseModel] = NoArgs
    recipe: dict[str, Any] = field(default_factory=dict)
    recipes: dict[TaskKind, dict[str, Any]] = field(default_factory=dict)
    needs: ModelNeeds = field(default_factory=ModelNeeds)
    weights: Weights | None = None
    word_vectors: str | None = None
    snapshot: Callable[[Path], Snapshot] | None = None
    snapshot_from: str | None = None
    fit: FitModel | None = None
    search: dict[str, str] = field(default_factory=lambda: dict(SEARCH))
    summary: str = ""

    def recipe_for(self, task: TaskKind) -> dict[str, Any]:
        """The settings over the general defaults for one task."""
        return merge(self.recipe, self.recipes.get(task, {}))

    def arguments(self, values: dict[str, Any]) -> BaseModel:
        """Validated arguments. Raises: UsageError naming the argument."""
        try:
            return self.args.model_validate(values)
        except ValidationError as exc:
            first = exc.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                known = self.args.model_fields
                raise UsageError(
                    f"model {self.name!r} has no argument {key!r}",
                    hint=nearest(key, known) if known else f"{self.name} takes no arguments",
                ) from exc
            raise UsageError(f"model.args.{key} = {first['input']!r}: {first['msg'].lower()}") from exc


MODELS: Registry[ModelEntry] = Registry("model", "dlcli.zoo")  # by "kind/name"


def register(entry: ModelEntry) -> ModelEntry:
    """File a model under its name and kind. Raises: ValueError when both are taken."""
    return MODELS.register(f"{entry.kind}/{entry.name}")(entry)


@dataclass(frozen=True)
class Family:
    """Models that another library or the user names: ``make`` gives the entry of a name for a kind.

    ``owns(name)`` says whether a name belongs here without importing that library where its spelling
    tells (``timm:...``, ``file.py:Class``). ``names`` are those to list; asking may import the library
    (torchvision: 2 s). ``kind`` is the kind of input that most of them take.
    """

    owns: Callable[[str], bool]
    make: Callable[[str, str], ModelEntry]
    names: Callable[[], list[str]]
    title: str = "others"
    kind: str = "image"


FAMILIES: list[Family] = []


def is_fitted_whole(model: str, kind: str) -> bool:
    """Whether a registered model is not trained by gradient."""
    entry = MODELS.find(f"{kind}/{model}")
    return entry is not None and entry.fit is not None


def check_trained_by_gradient(model: str, kind: str, action: str) -> None:
    """Raises: UsageError where a registered model is fitted whole, which ``action`` is not made for."""
    if is_fitted_whole(model, kind):
        raise UsageError(
            f"dlcli {action}: {model} is fitted whole, and has no layers of weights to {action}",
            hint="export it as it is: dlcli export --onnx; fewer or smaller trees are a new run: "
            "--set model.args.max_iter=100",
        )


def own_names(kind: str | None = None) -> list[str]:
    """The names registered here, for one kind of input or for any."""
    names = {entry.name for _, entry in MODELS.entries() if kind in (None, entry.kind)}
    return sorted(names)


def own_kinds(name: str) -> list[str]:
    """The kinds of input that a name takes; of another library's name that of most of its models."""
    kinds: list[str] = [entry.kind for _, entry in MODELS.entries() if entry.name == name]
    return kinds or [next((family.kind for family in FAMILIES if family.owns(name)), "image")]


def check_name(name: str) -> None:
    """Raises: UsageError, naming the nearest known names, for an unknown name."""
    if name in own_names() or any(family.owns(name) for family in FAMILIES):
        return
    known = own_names()
    for family in FAMILIES:
        known += family.names()
    raise UsageError(f"unknown model {name!r}", hint=f"{nearest(name, known)}; see dlcli models")


def find_model(name: str, kind: str) -> ModelEntry:
    """The entry of ``name`` for a kind of input. Raises: UsageError naming what there is."""
    entry = MODELS.find(f"{kind}/{name}")
    if entry is not None:
        return entry
    for family in FAMILIES:
        if family.owns(name):
            return family.make(name, kind)
    check_name(name)
    raise UsageError(
        f"model {name} takes no {kind} data, but {', '.join(own_kinds(name))}",
        hint=f"for {kind}: {', '.join(own_names(kind))}; or --kind, if the data can be read so",
    )


def build_model(
    spec: ModelSpec, task: TaskSpec, transforms: Sequence[TransformRecord] = ()
) -> nn.Module:
    """The module of a card, with fresh weights and the structure that ``transforms`` left it.

    Raises: ValueError when a transform does not fit the model.
    """
    if members := members_of(transforms):
        models = [build_model(spec, member.task, member.transforms) for member in members]
        ensemble = MeanOf(models, [member.task for member in members], task)
        replay(ensemble, transforms)
        return ensemble
    entry = find_model(spec.name, task.input.kind)
    module = entry.build(task, entry.arguments(spec.args))
    if task.kind == "embedding":
        _init_zero_head(module, entry.head(module))
        # A hook, not a layer around it: the tensors keep the names they have in a classifier.
        module.register_forward_hook(_unit_length)
    replay(module, transforms)
    return module


def _unit_length(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
    """Embeddings (B, D) scaled to length 1, in float32: half precision holds no small squares."""
    return F.normalize(output.float(), dim=1)


def _init_zero_head(module: nn.Module, head: str) -> None:
    """Initialise a head that starts at 0, as ViTs' do: a zero vector has no direction."""
    for name, weight in module.named_parameters():
        if name.startswith(f"{head}.") and weight.ndim > 1 and not weight.is_meta and not weight.any():
            nn.init.xavier_uniform_(weight)
