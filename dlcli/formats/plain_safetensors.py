"""A state dict as safetensors in plain layout: the names and shapes of the module, nothing encoded.

It is what other programs expect of a .safetensors file. dlcli's own best.safetensors is one too unless
pruning or quantization stored its tensors another way; this format undoes that, and may halve them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.card import CARD_KEY
from dlcli.formats.base import FORMATS, Artifact, Format
from dlcli.formats.checkpoint import (
    LAYOUT_KEY,
    PLAIN_LAYOUT,
    card_of,
    layout_of,
    looks_like,
    open_checkpoint,
    verify,
    write_tensors,
)
from dlcli.formats.examples.base import Example
from dlcli.formats.pth import plain_state
from dlcli.formats.usage_snippets import state_dict_snippet
from dlcli.trust import names_code, remember

if TYPE_CHECKING:
    from dlcli.config import ExportConfig

NAME = "plain-safetensors"


def write_plain(source: Artifact, path: Path, config: ExportConfig) -> None:
    """Save the source's state dict to ``path``. Raises: DlcliError when it has no module."""
    state, card = plain_state(source, config)
    write_tensors(path, state, {CARD_KEY: card.to_json(), LAYOUT_KEY: PLAIN_LAYOUT})
    if names_code(card.model.name):
        remember(path)


FORMATS.register(NAME)(
    Format(
        name=NAME,
        suffix=".plain.safetensors",
        sniff=lambda path: looks_like(path) and layout_of(path) == PLAIN_LAYOUT,
        read_card=card_of,
        open=open_checkpoint,
        write=write_plain,
        verify=verify,
        options=frozenset({"half"}),
        trainable=True,
        examples={
            "python": Example("py", lambda path, card: state_dict_snippet(path, card, "safetensors"))
        },
    )
)
