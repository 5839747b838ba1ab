"""The weights that a new run begins with, and what they bring along.

Adapters (`dlcli.formats.adapter`) are of such weights too. Torch is imported where it is used: an ONNX
file is read without.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.card import Card, ModelSpec
from dlcli.config import ModelConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.checkpoint import ADAPTER_LAYOUT, card_of, layout_of, misfit, verify
from dlcli.formats.encodings.base import decode
from dlcli.formats.zip_archive import check_whole, looks_zipped
from dlcli.runs.folder import as_typed
from dlcli.task import TaskKind, TaskSpec, TextInput
from dlcli.zoo.names import HF_PREFIX, hub_name

if TYPE_CHECKING:
    from torch import nn

    from dlcli.zoo.base import ModelEntry, Snapshot
    from dlcli.zoo.matching import LoadedWeights, StateDict
    from dlcli.zoo.saved_optimizer import SavedOptimizer


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


def find_initial_weights(
    entry: ModelEntry, model: ModelConfig, warnings: list[str], *, offline: bool
) -> InitialWeights:
    """The initial weights that the settings name, or the entry's own.

    Weights that are not available by default add a warning. Raises: UsageError, DlcliError.
    """
    from dlcli.zoo.weights import pretrained_or_reason

    if model.weights is not None:
        if model.pretrained:
            raise UsageError("--weights and --pretrained exclude each other")
        if entry.snapshot is not None:
            return _of_encoder(entry, model.weights, offline=offline)
        return _of_file(model.weights)
    if entry.snapshot_from is not None:
        return _of_encoder(entry, entry.snapshot_from, offline=offline)
    if entry.snapshot is not None:
        raise UsageError(
            f"{entry.name} starts from published weights, and --weights is missing",
            hint="--weights FOLDER with config.json, tokenizer.json and model.safetensors, or a name of "
            "the Hugging Face hub: --weights sentence-transformers/all-MiniLM-L6-v2",
        )
    if model.pretrained is False or (model.pretrained is None and entry.weights is None):
        return InitialWeights()
    state = pretrained_or_reason(entry, offline=offline)
    if not isinstance(state, str):
        assert entry.weights is not None  # `pretrained_or_reason` gives a reason otherwise
        return InitialWeights(state, entry.weights.label)
    if model.pretrained:
        raise DlcliError(
            f"--pretrained: {state}", hint="use --weights FILE, or --no-pretrained to train from scratch"
        )
    warnings.append(f"TRAINING FROM SCRATCH: {state}. Expect less accuracy and more epochs.")
    return InitialWeights()


def load_initial(
    module: nn.Module,
    initial: InitialWeights,
    task: TaskSpec,
    entry: ModelEntry,
    *,
    published: bool = True,
) -> tuple[LoadedWeights | None, list[str]]:
    """Load initial weights into a module of ``task``; returns which, and sentences on what does not fit.

    That ``published`` weights have another head needs none. Raises: DlcliError where they are of another
    model.
    """
    from dlcli.zoo.matching import load_matching
    from dlcli.zoo.weights import adapt

    state, head, notes = initial.state, entry.head(module), []
    if state is None:
        return None, []
    if initial.task is not None:
        state, adapted = adapt(module, state, old=initial.task, new=task, head=head)
        notes += [f"{initial.source}: {text}" for text in adapted]
    loaded = load_matching(module, state, source=initial.source, head=head)
    fresh_backbone = [name for name in loaded.fresh if not name.startswith(f"{head}.")]
    incomplete = bool(loaded.fresh or loaded.unused or not loaded.is_plain)
    if fresh_backbone or (incomplete and not published):
        notes.append(f"{initial.source}: {loaded.sentence()}")
    return loaded, notes


def _of_file(weights: str) -> InitialWeights:
    from dlcli.zoo.structures.lora import merged
    from dlcli.zoo.weight_files import weights_file
    from dlcli.zoo.weights import read_state_dict, read_weights

    path = weights_file(Path(weights))
    card = _card_of(path)
    if card is not None and layout_of(path) == ADAPTER_LAYOUT:
        raise DlcliError(
            f"--weights {path} is an adapter, low-rank factors and a head alone",
            hint="give best.safetensors of its run, or the whole model: dlcli export "
            f"{as_typed(path)} --format state-dict",
        )
    if card is None:
        if path.is_file() and looks_zipped(path):
            check_whole(path)  # torch does not
        state, optimizers = read_weights(path)
        return InitialWeights(state, weights, optimizers=optimizers)
    verify(path)  # a file of dlcli's carries a digest
    try:
        _, state = merged(card, decode(read_state_dict(path), card.transforms))
    except ValueError as exc:
        raise misfit(path, exc) from exc
    return InitialWeights(state, weights, card.task)


def _of_encoder(entry: ModelEntry, weights: str, *, offline: bool) -> InitialWeights:
    """Weights with structure and tokenizer: of a snapshot, a name of the hub, or an artifact."""
    from dlcli.zoo.hub import hub_folder
    from dlcli.zoo.weight_files import FILES_WITH_WEIGHTS, unpacked, weights_file

    path, source = Path(weights), weights
    card = _card_of(weights_file(path)) if path.exists() else None
    if card is not None:
        return _of_artifact(entry, card, path)
    with unpacked(path, FILES_WITH_WEIGHTS) as place:
        if place.is_file():
            raise _other_model(entry, path)
        if not place.is_dir():
            if hub_name(weights) is None:
                raise DlcliError(f"--weights {weights} does not exist")
            place, source = hub_folder(weights, offline=offline)
        assert entry.snapshot is not None
        snapshot = entry.snapshot(place)
        _check_complete(entry, snapshot, place)
    return InitialWeights(
        snapshot.state, source, args=snapshot.args, text=snapshot.text, recipes=snapshot.recipes
    )


def _of_artifact(entry: ModelEntry, card: Card, path: Path) -> InitialWeights:
    """Those of a model that dlcli trained. Raises: DlcliError for a model of another entry."""
    if not _is_of(card, entry) or not isinstance(card.task.input, TextInput):
        raise _other_model(entry, path)
    args = card.model.args
    own = {"max_length": args["positions"], "column": None, "token_types": args["types"] > 1}
    text = card.task.input.model_copy(update=own)
    return replace(_of_file(str(path)), args=args, text=text)


def _other_model(entry: ModelEntry, path: Path) -> DlcliError:
    return DlcliError(
        f"--weights {path} is no model of {entry.name}",
        hint="give a snapshot, a folder or zip with config.json, tokenizer.json and its weights",
    )


def _is_of(card: Card, entry: ModelEntry) -> bool:
    """Whether a model is one of an entry: names of transformers' models are places of their weights."""
    names = (card.model.name, entry.name)
    return names[0] == names[1] or all(name.startswith(HF_PREFIX) for name in names)


def _check_complete(entry: ModelEntry, snapshot: Snapshot, path: Path) -> None:
    """Raises: DlcliError unless the tensors are those of the structure that came with them."""
    import torch

    from dlcli.zoo.base import build_model
    from dlcli.zoo.reference import reference_task

    task = reference_task(entry.kind, entry.needs, entry.tasks)
    args = entry.arguments(snapshot.args).model_dump(mode="json")
    with torch.device("meta"):
        module = build_model(ModelSpec(name=entry.name, args=args), task)
    head = entry.head(module)
    expected_state = module.state_dict()
    for name, own in snapshot.state.items():
        bad = None
        if name not in expected_state:
            bad = f"its config.json does not fit its tensors: {name} has no place in the model"
        elif expected_state[name].is_floating_point() and not own.is_floating_point():
            bad = f"its tensor {name} is of {own.dtype}, and weights are floats"
        elif not bool(own.isfinite().all()):
            bad = f"its tensor {name} has values that are NaN or infinite"
        if bad is not None:
            raise DlcliError(f"{path}: {bad}", hint="download the snapshot again")
    for name, expected in expected_state.items():
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
