"""pth: a state dict in torch's own format, as most tutorials load it. Only tensors and texts are in it.

The file holds the tensors by name, so ``module.load_state_dict(torch.load(path))`` works; the names
are those of the module, and with a torchvision architecture those of torchvision. The card is an
attribute of the dict, as torch's own version metadata is: pickled and restored with it, and no key of
it. Earlier files hold ``{"dlcli.card": JSON, "state_dict": tensors}`` and are read too.
"""

from __future__ import annotations

import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli import transforms
from dlcli.card import CARD_KEY, Card
from dlcli.errors import DlcliError
from dlcli.formats.base import FORMATS, Artifact, Format, ModelFile, Runtime
from dlcli.formats.checkpoint import Checkpoint, build_checkpoint
from dlcli.formats.encodings.base import without_encodings
from dlcli.formats.examples.base import Example
from dlcli.formats.usage_snippets import state_dict_snippet
from dlcli.formats.zip_archive import check_whole, damaged, holds, members, read_member, write_in_memory
from dlcli.trust import names_code, remember
from dlcli.wording import first_line

if TYPE_CHECKING:
    from dlcli.config import ExportConfig

NAME = "pth"
STATE_KEY = "state_dict"


def plain_state(source: Artifact, config: ExportConfig) -> tuple[dict[str, Any], Card]:
    """The module's tensors by name, on the CPU, contiguous, in 16 bits with --half; and their card."""
    card = without_encodings(source.card)
    state = {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in source.module().state_dict().items()
    }
    if config.half:
        card = card.with_record(transforms.HALF, dtype="float16")
        state = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
    return state, card


def write_pth(source: Artifact, path: Path, config: ExportConfig) -> None:
    """Save the source's state dict to ``path``. Raises: DlcliError when it has no module."""
    import torch

    state, card = plain_state(source, config)
    content = OrderedDict(state)
    vars(content)[CARD_KEY] = card.to_json()
    write_in_memory(path, lambda file: torch.save(content, file))
    if names_code(card.model.name):
        remember(path)


def read_card(path: Path) -> Card:
    """The card, from the pickle's strings: its operations are listed, none is executed."""
    data = read_member(path, "data.pkl")
    try:
        texts = (arg for _, arg, _ in pickletools.genops(data or b"") if isinstance(arg, str))
        for text in texts:
            if text == CARD_KEY:
                return Card.from_json(next(texts), source=path)
    except (ValueError, StopIteration, RuntimeError) as exc:
        raise damaged(path, exc) from exc
    raise DlcliError(
        f"{path} is a torch file without a dlcli card",
        hint="to start from its weights: dlcli train --model NAME --weights FILE",
    )


def open_pth(file: ModelFile, runtime: Runtime) -> Checkpoint:
    """Build the card's model and load the tensors. Raises: DlcliError when they do not fit."""
    import torch

    path, _ = file.path, file.card  # a file without a card is of no use
    check_whole(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = content[STATE_KEY] if CARD_KEY in content else content
    except (RuntimeError, pickle.UnpicklingError, KeyError, TypeError, EOFError) as exc:
        raise damaged(path, first_line(exc)) from exc
    return build_checkpoint(file, state, runtime)


def _sniff(path: Path) -> bool:
    names = members(path)
    return holds(names, ["data.pkl"]) and not holds(names, ["constants.pkl"])


FORMATS.register(NAME)(
    Format(
        name=NAME,
        suffix=".pth",
        sniff=_sniff,
        read_card=read_card,
        open=open_pth,
        write=write_pth,
        verify=check_whole,
        options=frozenset({"half"}),
        trainable=True,
        examples={"python": Example("py", lambda path, card: state_dict_snippet(path, card, NAME))},
    )
)
