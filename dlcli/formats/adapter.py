"""adapter: what a LoRA run trained, without the weights that it began with.

The file has the tensors that differ from those (the low-rank factors, the head, layers that the weights
lack), the card, and in its header where they are, with a SHA-256 over the tensors that are left out.
Opening it reads both and merges them; other weights are refused.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli import transforms
from dlcli.card import CARD_KEY, Card, TransformRecord
from dlcli.config import ModelConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import FORMATS, Artifact, Format, ModelFile, Runtime, recognize
from dlcli.formats.checkpoint import (
    ADAPTER_LAYOUT,
    LAYOUT_KEY,
    Checkpoint,
    build_checkpoint,
    card_of,
    digest,
    layout_of,
    looks_like,
    read_metadata,
    read_tensors,
    verify,
    write_tensors,
)
from dlcli.formats.encodings.base import decode
from dlcli.formats.initial_weights import find_initial_weights, load_initial
from dlcli.runs.folder import run_of
from dlcli.trust import names_code, remember

if TYPE_CHECKING:
    import torch

    from dlcli.config import ExportConfig

NAME = "adapter"
BASE_KEY = "dlcli.base"  # JSON: "weights", a path, a name or null; "sha256"


@dataclass(frozen=True)
class Base:
    """The weights of a run before it: ``label`` for people, ``state`` as the card's model holds them."""

    label: str
    state: dict[str, torch.Tensor]


def has_adapter(card: Card) -> bool:
    """Whether a file of this card has low-rank factors, and began with weights that are elsewhere."""
    return transforms.find_record(card.transforms, transforms.LORA) is not None and (
        card.weights_from != "scratch"
    )


def save_adapter(source: Path, path: Path) -> None:
    """Write the adapter of a run's model file. Raises: DlcliError where the weights are not there."""
    _write(source, card_of(source), path)


def write_adapter(source: Artifact, path: Path, config: ExportConfig) -> None:
    """Write the adapter of an artifact whose file has low-rank factors. Raises: DlcliError."""
    own = source.file.card
    if not has_adapter(own) or source.format.name != "safetensors":
        raise UsageError(
            f"{source.path} has no adapter: only models trained with --lora from given or published "
            "weights have one",
            hint="dlcli train --model NAME --weights FILE --lora 8",
        )
    added = [record for record in source.card.transforms if record.kind in transforms.OF_THE_FILE]
    card = own.model_copy(update={"transforms": (*transforms.of_the_model(own), *added)})
    _write(source.path, card, path)


def _write(source: Path, card: Card, path: Path) -> None:
    import torch

    stored, _ = read_tensors(source)
    state = decode(stored, card.transforms)
    record = _record(card)
    base = _base(card, record.args["weights"], named=source)
    left_out = {
        name: tensor
        for name, tensor in base.state.items()
        if name in state and torch.equal(state[name], tensor)
    }
    tensors = {name: tensor for name, tensor in state.items() if name not in left_out}
    facts = {"weights": record.args["weights"], "sha256": digest(left_out, {})}
    metadata = {CARD_KEY: card.to_json(), LAYOUT_KEY: ADAPTER_LAYOUT, BASE_KEY: json.dumps(facts)}
    write_tensors(path, tensors, metadata)
    if names_code(card.model.name):
        remember(path)


def open_adapter(file: ModelFile, runtime: Runtime) -> Checkpoint:
    """Read the weights that the adapter belongs to, and merge both.

    They are looked for where they were, and next to the adapter. Raises: DlcliError where they are not
    there or are others.
    """
    card, path = file.card, file.path
    tensors, metadata = read_tensors(path)
    facts = json.loads(metadata.get(BASE_KEY, "{}"))
    where = facts.get("weights")
    if where is not None and not os.path.exists(where):
        near = path.parent / Path(where).name
        run = run_of(path)
        is_own = run is not None and near == run.best  # the model of the adapter itself
        where = str(near) if near.exists() and not is_own else where
    base = _base(card, where, named=path)
    left_out = {name: tensor for name, tensor in base.state.items() if name not in tensors}
    if digest(left_out, {}) != facts.get("sha256"):
        raise DlcliError(
            f"{path} is an adapter for other weights than {base.label}: their SHA-256 differs",
            hint=f"it was trained on those of {card.weights_from}, in the version of that time",
        )
    return build_checkpoint(file, {**left_out, **tensors}, runtime)


def _record(card: Card) -> TransformRecord:
    record = transforms.find_record(card.transforms, transforms.LORA)
    assert record is not None  # callers have checked it
    return record


def _base(card: Card, weights: str | None, *, named: Path) -> Base:
    """The weights that a run began with, in its model. Raises: DlcliError saying which are missing."""
    from dlcli.zoo.base import build_model, find_model
    from dlcli.zoo.names import hub_name

    entry = find_model(card.model.name, card.task.input.kind)
    structure = [record for record in card.transforms if record.kind != transforms.LORA]
    label = weights or card.weights_from
    if weights is not None and not os.path.exists(weights) and hub_name(weights) is None:
        raise DlcliError(
            f"{named} is an adapter for the weights {label}, which are not there",
            hint=f"put them there again, or next to a copy of the adapter as {Path(weights).name}",
        )
    model = ModelConfig(weights=weights, pretrained=True if weights is None else None)
    initial = find_initial_weights(entry, model, [], offline=True)
    module = build_model(card.model, card.task, structure)
    load_initial(module, initial, card.task, entry)
    return Base(label, {name: tensor.detach() for name, tensor in module.state_dict().items()})


def facts(path: Path) -> dict[str, str]:
    """What `info` says besides the card: the weights that it needs."""
    where = json.loads(read_metadata(path).get(BASE_KEY, "{}"))
    return {"needs the weights": str(where.get("weights") or recognize(path).card.weights_from)}


FORMATS.register("adapter")(
    Format(
        name=NAME,
        suffix=".adapter.safetensors",
        sniff=lambda path: looks_like(path) and layout_of(path) == ADAPTER_LAYOUT,
        read_card=card_of,
        open=open_adapter,
        write=write_adapter,
        unfit=lambda card: (
            "" if has_adapter(card) else "it was not trained with --lora from given or published weights"
        ),
        verify=verify,
        facts=facts,
        trainable=True,
    )
)
