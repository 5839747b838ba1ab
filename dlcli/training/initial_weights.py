"""The weights that a new run begins with, and what they bring along."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dlcli.card import Card, ModelSpec
from dlcli.config import TrainConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.checkpoint import card_of, verify
from dlcli.formats.zip_archive import check_whole, looks_zipped
from dlcli.task import TaskKind, TaskSpec, TextInput
from dlcli.zoo.base import ModelEntry, Snapshot, build_model
from dlcli.zoo.hub import hub_folder
from dlcli.zoo.matching import StateDict
from dlcli.zoo.names import hub_name
from dlcli.zoo.reference import reference_task
from dlcli.zoo.saved_optimizer import SavedOptimizer
from dlcli.zoo.weights import pretrained_or_reason, read_weights, weights_file


@dataclass(frozen=True)
class InitialWeights:
    """Weights, and where they come from; ``state`` is None where they are random.

    ``task`` is that of an artifact. ``args`` are the arguments of the model that they belong to,
    ``text`` its tokenizer, ``recipes`` settings for a task that follow from them.
    ``optimizers`` are the states of optimizers in the same file.
    """

    state: StateDict | None = None
    source: str = "scratch"
    task: TaskSpec | None = None
    args: dict[str, Any] = field(default_factory=dict)
    text: TextInput | None = None
    recipes: dict[TaskKind, dict[str, Any]] = field(default_factory=dict)
    optimizers: tuple[SavedOptimizer, ...] = ()


def find_initial_weights(entry: ModelEntry, config: TrainConfig, warnings: list[str]) -> InitialWeights:
    """The initial weights that the settings name, or the entry's own.

    Weights that are not available by default add a warning. Raises: UsageError, DlcliError.
    """
    model = config.model
    if model.weights is not None:
        if model.pretrained:
            raise UsageError("--weights and --pretrained exclude each other")
        if entry.snapshot is not None:
            return _of_encoder(entry, model.weights, offline=config.data.offline)
        return _of_file(model.weights)
    if entry.snapshot is not None:
        raise UsageError(
            f"{entry.name} starts from published weights, and --weights is missing",
            hint="--weights FOLDER with config.json, tokenizer.json and model.safetensors, or a name of "
            "the Hugging Face hub: --weights sentence-transformers/all-MiniLM-L6-v2",
        )
    if model.pretrained is False or (model.pretrained is None and entry.weights is None):
        return InitialWeights()
    state = pretrained_or_reason(entry, offline=config.data.offline)
    if not isinstance(state, str):
        assert entry.weights is not None  # `pretrained_or_reason` gives a reason otherwise
        return InitialWeights(state, entry.weights.label)
    if model.pretrained:
        raise DlcliError(
            f"--pretrained: {state}", hint="use --weights FILE, or --no-pretrained to train from scratch"
        )
    warnings.append(f"TRAINING FROM SCRATCH: {state}. Expect less accuracy and more epochs.")
    return InitialWeights()


def _of_file(weights: str) -> InitialWeights:
    path = weights_file(Path(weights))
    card = _card_of(path)
    if card is not None:
        verify(path)  # a file of dlcli's carries a digest
    elif path.is_file() and looks_zipped(path):
        check_whole(path)  # torch does not
    state, optimizers = read_weights(path)
    return InitialWeights(state, weights, None if card is None else card.task, optimizers=optimizers)


def _of_encoder(entry: ModelEntry, weights: str, *, offline: bool) -> InitialWeights:
    """Weights with structure and tokenizer: a folder, a name of the hub, or an artifact of the model."""
    assert entry.snapshot is not None
    path, source = Path(weights), weights
    card = _card_of(weights_file(path)) if path.exists() else None
    if card is not None or path.is_file():
        if card is None or card.model.name != entry.name or not isinstance(card.task.input, TextInput):
            raise DlcliError(
                f"--weights {path} is no model of {entry.name}",
                hint="give the folder that the file is in, with config.json and tokenizer.json",
            )
        positions = card.model.args["positions"]
        text = card.task.input.model_copy(update={"max_length": positions, "column": None})
        return InitialWeights(**{**vars(_of_file(weights)), "args": card.model.args, "text": text})
    if not path.is_dir():
        if hub_name(weights) is None:
            raise DlcliError(f"--weights {weights} does not exist")
        path, source = hub_folder(weights, offline=offline)
    snapshot = entry.snapshot(path)
    _check_complete(entry, snapshot, path)
    return InitialWeights(
        snapshot.state, source, args=snapshot.args, text=snapshot.text, recipes=snapshot.recipes
    )


def _check_complete(entry: ModelEntry, snapshot: Snapshot, path: Path) -> None:
    """Raises: DlcliError unless the tensors are those of the structure that came with them."""
    task = reference_task(entry.kind, entry.needs, entry.tasks)
    args = entry.arguments(snapshot.args).model_dump(mode="json")
    with torch.device("meta"):
        module = build_model(ModelSpec(name=entry.name, args=args), task)
    head = entry.head(module)
    for name, expected in module.state_dict().items():
        tensor = snapshot.state.get(name)
        if name.startswith(f"{head}.") or (tensor is not None and tensor.shape == expected.shape):
            continue
        form = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
        raise DlcliError(
            f"{path}: its config.json does not fit its tensors: {name} is {form}, not "
            f"{tuple(expected.shape)}",
            hint="download the snapshot again",
        )


def _card_of(path: Path) -> Card | None:
    """The card of an artifact of dlcli; None for other files."""
    try:
        return card_of(path)
    except DlcliError:
        return None
