"""Replay what was done to a model's structure: a `TransformRecord` in, the same layers and shapes out.

Weights come afterwards, from the file. Kinds that are not registered here (encodings, annotations)
change no structure and are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from dlcli.card import TransformRecord
from dlcli.registry import Registry

Replay = Callable[[nn.Module, dict[str, Any]], None]

STRUCTURES: Registry[Replay] = Registry("structure", "dlcli.zoo.structures")


def replay(module: nn.Module, records: Sequence[TransformRecord]) -> None:
    """Change ``module`` in place as each record says, in order.

    Raises: ValueError when a record names layers or sizes that the model does not have.
    """
    for record in records:
        change = STRUCTURES.find(record.kind)
        if change is not None:
            change(module, record.args)
