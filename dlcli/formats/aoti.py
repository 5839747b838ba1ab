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

from dlcli import transforms
from dlcli.card import Card, TransformRecord
from dlcli.errors import DlcliError
from dlcli.files import CannotWrite, temporary_files
from dlcli.formats.base import FORMATS, Artifact, Format, ModelFile, Runtime
from dlcli.formats.examples import cpp
from dlcli.formats.torch_export import export_error, export_program, module_to_export, silence_torch
from dlcli.formats.torch_program import Program, TorchProgram, open_program
from dlcli.formats.zip_archive import (
    CARD_MEMBER,
    add_digest,
    add_member,
    card_in,
    check_whole,
    holds,
    members,
)
from dlcli.trust import remember

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

    from dlcli.config import ExportConfig

NAME = "aoti"
_MODEL = "data/aotinductor/"


def write_aoti(source: Artifact, path: Path, config: ExportConfig) -> None:
    """Compile the source's module, for the device that it lies on, to ``path``; it takes 10 s and more.

    Raises: DlcliError where there is no C++ compiler, or when the model cannot be compiled.
    """
    import torch

    _check_compiler()
    module, card, sizes = module_to_export(source, config)
    program = _with_loops(export_program(module, card, sizes), card)
    device = next((p.device.type for p in module.parameters()), "cpu")
    # The number of threads is otherwise that of this machine, for ever.
    settings = {"cpp.dynamic_threads": True}
    package = io.BytesIO()  # torch's own writer ends the process when the disk is full
    try:  # what it writes is a cache among the temporary files
        with torch.no_grad(), silence_torch(), temporary_files():
            torch._inductor.aoti_compile_and_package(
                program, package_path=package, inductor_configs=settings
            )
    except CannotWrite:
        raise
    except Exception as exc:  # the compiler's errors share no base class but this
        raise export_error("AOTInductor", card, exc, static=sizes is not None) from exc
    path.write_bytes(package.getbuffer())
    card = card.with_record(NAME, **_machine(device))
    add_member(path, CARD_MEMBER, card.to_json().encode())
    add_digest(path)
    remember(path)


def _with_loops(program: ExportedProgram, card: Card) -> ExportedProgram:
    """The program with LSTMs and GRUs as loops over the steps.

    By default the compiler unrolls them silently for the length of the example, and the package then
    reads past the end of a shorter one. Raises: DlcliError where this torch has no such loops.
    """
    import torch
    from torch._export.verifier import SpecViolationError

    operators = {torch.ops.aten.lstm.input: "lstm", torch.ops.aten.gru.input: "gru"}
    if not any(node.target in operators for node in program.graph.nodes):
        return program
    try:
        patches = importlib.import_module("torch.export._patches")
        loops = {op: getattr(patches, f"{name}_while_loop_impl") for op, name in operators.items()}
        # Otherwise the second model in a process gets constant sizes, which its loop cannot take.
        with silence_torch(), torch._dynamo.config.patch(automatic_dynamic_shapes=False):
            looped: ExportedProgram = program.run_decompositions(loops)
    except (ImportError, AttributeError, SpecViolationError) as exc:  # torch 2.11 loses constants
        raise DlcliError(
            f"AOTInductor of torch {torch.__version__} cannot compile the recurrent layers of "
            f"{card.model.name} for any length",
            hint="use torch 2.15, or export to pt2, torchscript or onnx",
        ) from exc
    return looped


def _check_compiler() -> None:
    """Raises: DlcliError where there is no C++ compiler."""
    configured = os.environ.get("CXX")
    usual = {"win32": ["cl"], "darwin": ["clang++", "g++"]}.get(sys.platform, ["g++", "clang++"])
    names = [configured] if configured else usual
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


def open_aoti(file: ModelFile, runtime: Runtime) -> TorchProgram:
    """The compiled model on the device that it was compiled for. Loading runs code of the file.

    Raises: DlcliError where this machine cannot run it.
    """
    from dlcli.zoo.device import resolve_device

    record = transforms.find_record(file.card.transforms, NAME)
    if record is None:
        raise DlcliError(f"{file.path} has no record of the machine that it was compiled for")
    kind = str(record.args.get("device", "cpu"))
    device = resolve_device(kind if runtime.device == "auto" else runtime.device)
    if device.type != kind:
        raise DlcliError(
            f"{file.path} was compiled for {kind} and cannot run on {device}", hint=f"--device {kind}"
        )
    _check_machine(file.path, record)
    return open_program(
        file,
        device,
        runtime,
        _load,
        contiguous=True,
        hint="it belongs to the torch and the machine that compiled it: export it again here",
    )


def _load(path: Path, device: torch.device) -> Program:
    import torch

    index = -1 if device.index is None else device.index
    program: Program = torch._inductor.aoti_load_package(str(path), device_index=index)
    return program


def _check_machine(path: Path, record: TransformRecord) -> None:
    """Machine code for another processor would end the process silently. Raises: DlcliError."""
    here = _machine(str(record.args.get("device")))
    for name in ("system", "machine"):
        if record.args.get(name) != here[name]:
            raise DlcliError(
                f"{path} was compiled for {record.args.get('system')} on {record.args.get('machine')}, "
                f"and this is {here['system']} on {here['machine']}",
                hint="export it again here",
            )
    levels = ["DEFAULT", "NO AVX", "AVX2", "AVX512"]
    required, available = record.args.get("vectors"), here["vectors"]
    if required != available and not (
        required in levels and available in levels and levels.index(required) <= levels.index(available)
    ):
        raise DlcliError(
            f"{path} was compiled for a processor with {required}, and this one has {available}",
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
        verify=check_whole,
        options=frozenset({"dynamic", "half", "softmax"}),
        examples={"cpp": cpp.AOTI},
        runs_code=True,
    )
)
