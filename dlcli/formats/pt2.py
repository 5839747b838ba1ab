"""pt2: a program of torch.export. It runs wherever such a torch runs, without dlcli."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.card import CARD_KEY, Card
from dlcli.formats.base import FORMATS, Artifact, Format, ModelFile, Runtime
from dlcli.formats.torch_export import export_program, module_to_export
from dlcli.formats.torch_program import Program, TorchProgram, open_program
from dlcli.formats.zip_archive import card_in, check_whole, holds, members, write_in_memory
from dlcli.trust import remember

if TYPE_CHECKING:
    import torch

    from dlcli.config import ExportConfig

NAME = "pt2"


def write_pt2(source: Artifact, path: Path, config: ExportConfig) -> None:
    """Write the source's module as an exported program. Raises: DlcliError, UsageError."""
    import torch

    module, card, sizes = module_to_export(source, config)
    program = export_program(module.cpu(), card, sizes)
    program.example_inputs = None  # noise, of the size of a batch
    extra = {CARD_KEY: card.to_json()}
    write_in_memory(path, lambda file: torch.export.save(program, file, extra_files=extra))
    remember(path)


def read_card(path: Path) -> Card:
    """The card among the archive's extra files; nothing of it is run."""
    return card_in(path, NAME)


def open_pt2(file: ModelFile, runtime: Runtime) -> TorchProgram:
    """The program on the device. Loading may run code of the file. Raises: DlcliError."""
    from dlcli.zoo.device import resolve_device

    _ = file.card  # a file without one is of no use, whatever else is wrong with it
    return open_program(file, resolve_device(runtime.device), runtime, _load)


def _load(path: Path, device: torch.device) -> Program:
    import torch

    from dlcli.zoo.forward import keep_contiguous, place

    program: Any = torch.export.load(path)
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, str(device))
    module = program.module()
    if any(node.target is torch.ops.aten.view.default for node in program.graph.nodes):
        keep_contiguous(module)  # the strides that it was exported with
    return place(module, device)


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
        verify=check_whole,
        options=frozenset({"dynamic", "half", "softmax"}),
        runs_code=True,
    )
)
