"""How a file stores tensors: the registry of encodings, applied by the records of a card.

Records of other kinds (structures, annotations) are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlcli.card import Card, TransformRecord
from dlcli.registry import Registry

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Encoding:
    """How tensors are stored, and how they are restored.

    Attributes:
        encode: The stored tensors of a state dict, a new dict of CPU tensors by name.
        decode: The state dict of stored tensors. Raises: ValueError where they do not fit each other.
        lossless: Whether decoding restores every bit.
        last: Whether it is applied after the others, wherever its record is: zeros are looked for in
            the tensors that are really stored.
    """

    encode: Callable[[Tensors, Mapping[str, Any]], dict[str, torch.Tensor]]
    decode: Callable[[Tensors, Mapping[str, Any]], dict[str, torch.Tensor]]
    lossless: bool = False
    last: bool = False


ENCODINGS: Registry[Encoding] = Registry("encoding", "dlcli.formats.encodings")


def encode(tensors: Tensors, records: Sequence[TransformRecord]) -> dict[str, torch.Tensor]:
    """The tensors that a file stores of a state dict, by the encodings among the records, in order."""
    stored = dict(tensors)
    for encoding, args in _in_order(records):
        stored = encoding.encode(stored, args)
    return stored


def decode(stored: Tensors, records: Sequence[TransformRecord]) -> dict[str, torch.Tensor]:
    """The state dict that was stored. Raises: ValueError when the tensors do not fit the records."""
    tensors = dict(stored)
    for encoding, args in reversed(_in_order(records)):
        tensors = encoding.decode(tensors, args)
    return tensors


def without_encodings(card: Card) -> Card:
    """The card of a file that stores tensors as they are, however the source's file stored them."""
    others = tuple(record for record in card.transforms if ENCODINGS.find(record.kind) is None)
    return card.model_copy(update={"transforms": others})


def _in_order(records: Sequence[TransformRecord]) -> list[tuple[Encoding, Mapping[str, Any]]]:
    pairs = [(ENCODINGS.find(record.kind), record.args) for record in records]
    known = [(encoding, args) for encoding, args in pairs if encoding is not None]
    return sorted(known, key=lambda pair: pair[0].last)
