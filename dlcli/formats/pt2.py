"""pt2: a graph that torch.export took down. It runs wherever such a torch runs, without dlcli."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlcli.card import CARD_KEY, Card
from dlcli.config import ExportConfig
from dlcli.errors import DlcliError
from dlcli.formats.base import FORMATS, Artifact, Format, ModelFile, Runtime
from dlcli.formats.torch_program import TorchFile, captured, shipped
from dlcli.formats.zip_archive import card_in, check_whole, holds, members, write_whole
from dlcli.trust import remember
from dlcli.wording import first_line

NAME = "pt2"


def write_pt2(source: Artifact, path: Path, config: ExportConfig) -> None:
    """Take the source's module down to ``path``. Raises: DlcliError, UsageError."""
    import torch

    module, card, sizes = shipped(source, config)
    program = captured(module.cpu(), card, sizes)
    program.example_inputs = None  # noise, of the size of a batch
    extra = {CARD_KEY: card.to_json()}
    write_whole(path, lambda file: torch.export.save(program, file, extra_files=extra))
    remember(path)


def read_card(path: Path) -> Card:
    """The card among the archive's extra files; nothing of it is run."""
    return card_in(path, NAME)


def open_pt2(file: ModelFile, runtime: Runtime) -> TorchFile:
    """The graph on the device. It may run code of the file. Raises: DlcliError."""
    import torch

    from dlcli.zoo.device import resolve_device
    from dlcli.zoo.forward import place

    path, _ = file.path, file.card  # without a card it is of no use
    check_whole(path)
    device = resolve_device(runtime.device)
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    try:
        program: Any = torch.export.load(path)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, str(device))
        run = program.module()
    except Exception as exc:  # whatever is wrong with the file or with its torch's version
        first = first_line(exc)
        raise DlcliError(
            f"torch {torch.__version__} cannot load {path}: {first}",
            hint="a newer torch may have written it; export it again",
        ) from exc
    return TorchFile(file, place(run, device), device)


def _sniff(path: Path) -> bool:
    return holds(members(path), ["archive_format", "models/"])


FORMATS.register(NAME)(
    Format(
        name=NAME,
        suffix=".pt2",
        own_suffix=True,
        sniff=_sniff,
        read_card=read_card,
        open=open_pt2,
        write=write_pt2,
        options=frozenset({"dynamic", "half", "softmax"}),
        runs_code=True,
    )
)
