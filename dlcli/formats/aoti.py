"""AOTInductor package: a model compiled to machine code, for this kind of processor and this torch."""

from __future__ import annotations

import importlib
import io
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.card import Card, TransformRecord
from dlcli.config import ExportConfig
from dlcli.errors import DlcliError
from dlcli.formats.base import FORMATS, Artifact, Format, ModelFile, Runtime
from dlcli.formats.torch_program import TorchFile, cannot, captured, quietly, shipped
from dlcli.formats.zip_archive import CARD_MEMBER, add_member, card_in, check_whole, holds, members
from dlcli.trust import remember
from dlcli.wording import first_line

if TYPE_CHECKING:
    from torch.export import ExportedProgram

NAME = "aoti"
_MODEL = "data/aotinductor/"


def write_aoti(source: Artifact, path: Path, config: ExportConfig) -> None:
    """Compile the source's module, for the device that it lies on, to ``path``; it takes 10 s and more.

    Raises: DlcliError where there is no C++ compiler, or when the model cannot be compiled.
    """
    import torch

    _need_compiler()
    module, card, sizes = shipped(source, config)
    program = _with_loops(captured(module, card, sizes), card)
    device = next((p.device.type for p in module.parameters()), "cpu")
    # The number of threads is otherwise that of this machine, for ever.
    settings = {"cpp.dynamic_threads": True}
    made = io.BytesIO()  # torch's own writer ends the process when the disk is full
    try:
        with torch.no_grad(), quietly():
            torch._inductor.aoti_compile_and_package(
                program, package_path=made, inductor_configs=settings
            )
    except Exception as exc:  # the compiler's errors share no base class but this
        raise cannot(card, "AOTInductor compiles", exc, static=sizes is not None) from exc
    path.write_bytes(made.getbuffer())
    card = card.with_record(NAME, **_machine(device))
    add_member(path, CARD_MEMBER, card.to_json().encode())
    remember(path)


def _with_loops(program: ExportedProgram, card: Card) -> ExportedProgram:
    """The program with recurrent nets as loops over the steps.

    By default the compiler unrolls them for the length of the example, without a word, and the package
    then reads behind the end of a shorter one. Raises: DlcliError where this torch has no such loops.
    """
    import torch

    nets = {torch.ops.aten.lstm.input: "lstm", torch.ops.aten.gru.input: "gru"}
    if not any(node.target in nets for node in program.graph.nodes):
        return program
    try:
        patches = importlib.import_module("torch.export._patches")
        loops = {op: getattr(patches, f"{name}_while_loop_impl") for op, name in nets.items()}
    except (ImportError, AttributeError) as exc:
        raise DlcliError(
            f"AOTInductor of torch {torch.__version__} cannot compile the recurrent nets of "
            f"{card.model.name} for any length",
            hint="use torch 2.15, or export to pt2, torchscript or onnx",
        ) from exc
    # Else the second net in a process gets sizes as numbers that its loop cannot take.
    with quietly(), torch._dynamo.config.patch(automatic_dynamic_shapes=False):
        looped: ExportedProgram = program.run_decompositions(loops)
    return looped


def _need_compiler() -> None:
    asked = os.environ.get("CXX")
    usual = {"win32": ["cl"], "darwin": ["clang++", "g++"]}.get(sys.platform, ["g++", "clang++"])
    names = [asked] if asked else usual
    if not any(shutil.which(name) for name in names):
        raise DlcliError(
            f"AOTInductor needs a C++ compiler, and there is no {' or '.join(names)} here",
            hint="install one (apt install g++, xcode-select --install), or export to another format",
        )


def _machine(device: str) -> dict[str, Any]:
    """What compiled code needs: the kind of device, the processor and its vector instructions, torch."""
    import torch

    return {
        "device": device,
        "system": sys.platform,
        "machine": platform.machine(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__.partition("+")[0],
    }


def read_card(path: Path) -> Card:
    """The card in the archive; nothing of it is run."""
    return card_in(path, NAME)


def open_aoti(file: ModelFile, runtime: Runtime) -> TorchFile:
    """The compiled model on the device that it was compiled for. It runs code of the file.

    Raises: DlcliError where this machine cannot run it.
    """
    import torch

    from dlcli.zoo.device import resolve_device

    path, card = file.path, file.card
    made = next((record for record in card.transforms if record.kind == NAME), None)
    if made is None:
        raise DlcliError(
            f"{path} does not say which machine it was compiled for: its card is no package's"
        )
    kind = str(made.args.get("device", "cpu"))
    device = resolve_device(kind if runtime.device == "auto" else runtime.device)
    if device.type != kind:
        raise DlcliError(
            f"{path} was compiled for {kind} and cannot run on {device}", hint=f"--device {kind}"
        )
    _check_machine(path, made)
    check_whole(path)
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    try:
        index = -1 if device.index is None else device.index
        run: Any = torch._inductor.aoti_load_package(str(path), device_index=index)
    except Exception as exc:  # whatever the loader of machine code meets
        first = first_line(exc)
        raise DlcliError(
            f"torch {torch.__version__} cannot load {path}: {first}",
            hint="it belongs to the torch and the machine that compiled it: export it again here",
        ) from exc
    return TorchFile(file, run, device, contiguous=True)


def _check_machine(path: Path, made: TransformRecord) -> None:
    """Machine code for another processor would end the process without a word. Raises: DlcliError."""
    here = _machine(str(made.args.get("device")))
    for name in ("system", "machine"):
        if made.args.get(name) != here[name]:
            raise DlcliError(
                f"{path} was compiled for {made.args.get('system')} on {made.args.get('machine')}, and "
                f"this is {here['system']} on {here['machine']}",
                hint="export it again here",
            )
    levels = ["DEFAULT", "NO AVX", "AVX2", "AVX512"]
    wanted, able = made.args.get("vectors"), here["vectors"]
    if wanted != able and not (
        wanted in levels and able in levels and levels.index(wanted) <= levels.index(able)
    ):
        raise DlcliError(
            f"{path} was compiled for a processor with {wanted}, and this one has {able}",
            hint="export it again here",
        )


def _sniff(path: Path) -> bool:
    names = members(path)
    return holds(names, [_MODEL]) and not holds(names, ["models/"])


FORMATS.register(NAME)(
    Format(
        name=NAME,
        suffix=".aoti.pt2",
        own_suffix=True,
        sniff=_sniff,
        read_card=read_card,
        open=open_aoti,
        write=write_aoti,
        options=frozenset({"dynamic", "half", "softmax"}),
        runs_code=True,
    )
)
