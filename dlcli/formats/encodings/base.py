"""From a model's tensors to what a file stores of them, and back.

A `TransformRecord` of the card whose kind is a packing says how: ``pack`` gives the stored tensors,
``unpack`` the tensors that the module loads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlcli.card import TransformRecord
from dlcli.registry import Registry

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Packing:
    """``pack(tensors, args)`` and ``unpack(tensors, args)``, both to a new dict of CPU tensors by name.

    ``unpack`` raises ValueError where the stored tensors do not fit each other. ``exact`` is whether
    what comes back is bit for bit what went in. One that is ``last`` packs what the others left,
    wherever its record stands: zeros are found in the tensors that are really stored.
    """

    pack: Callable[[Tensors, Mapping[str, Any]], dict[str, torch.Tensor]]
    unpack: Callable[[Tensors, Mapping[str, Any]], dict[str, torch.Tensor]]
    exact: bool = False
    last: bool = False


PACKINGS: Registry[Packing] = Registry("packing", "dlcli.formats.encodings")


def pack(tensors: Tensors, records: Sequence[TransformRecord]) -> dict[str, torch.Tensor]:
    """What a file stores of a state dict, by the records that are packings, in their order."""
    found = dict(tensors)
    for packing, args in _in_order(records):
        found = packing.pack(found, args)
    return found


def unpack(tensors: Tensors, records: Sequence[TransformRecord]) -> dict[str, torch.Tensor]:
    """The state dict that was stored. Raises: ValueError when the tensors do not fit the records."""
    found = dict(tensors)
    for packing, args in reversed(_in_order(records)):
        found = packing.unpack(found, args)
    return found


def _in_order(records: Sequence[TransformRecord]) -> list[tuple[Packing, Mapping[str, Any]]]:
    found = [(PACKINGS.find(record.kind), record.args) for record in records]
    known = [(packing, args) for packing, args in found if packing is not None]
    return sorted(known, key=lambda pair: pair[0].last)
