"""ExecuTorch: a program for phones and boards, always of one size; XNNPACK runs its float layers.

The card is appended to the program, where no loader looks: JSON, the SHA-256 of program and card, the
card's length in 8 bytes, and a marker. Earlier files have another marker and a digest of the program.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.card import Card
from dlcli.errors import DlcliError
from dlcli.formats.base import FORMATS, Artifact, Format, ModelFile, Runtime, head_of
from dlcli.formats.torch_export import export_error, export_program, module_to_export, silence_torch
from dlcli.formats.torch_program import TorchProgram
from dlcli.wording import first_line

if TYPE_CHECKING:
    import torch

    from dlcli.config import ExportConfig

NAME = "executorch"
_MARKER, _EARLIER_MARKER = b"dlc-sha2", b"dlc-card"
_DIGEST = 32
_TAIL = _DIGEST + 8 + len(_MARKER)


def write_executorch(source: Artifact, path: Path, config: ExportConfig) -> None:
    """Lower the source's module to ``path``. Raises: DlcliError when ExecuTorch cannot, UsageError."""
    module, card, sizes = module_to_export(source, config, always_static=True)
    program = export_program(module.cpu(), card, sizes)
    try:
        with silence_torch():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            data: bytes = edge.to_executorch().buffer
    except Exception as exc:  # its passes raise what they like
        raise export_error("ExecuTorch", card, exc, static=True) from exc
    path.write_bytes(data + card_suffix(data, card))


def card_suffix(program: bytes, card: Card) -> bytes:
    """The bytes to append to a program."""
    text = card.to_json().encode()
    digest = hashlib.sha256(program + text).digest()
    return b"".join([text, digest, len(text).to_bytes(8, "little"), _MARKER])


def read_card(path: Path) -> Card:
    """The card after the program. Raises: DlcliError when there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            tail = file.read()
            length = int.from_bytes(tail[_DIGEST : -len(_MARKER)], "little")
            if tail[-len(_MARKER) :] not in (_MARKER, _EARLIER_MARKER) or length > size - _TAIL:
                raise DlcliError(
                    f"{path} is an ExecuTorch file without a dlcli card, or it is cut off",
                    hint="copy it again, or export it with dlcli export --format executorch",
                )
            file.seek(size - _TAIL - length)
            text = file.read(length)
    except OSError as exc:
        raise DlcliError(f"cannot read {path}: {exc.strerror}") from exc
    return Card.from_json(text.decode("utf-8", "replace"), source=path)


def open_executorch(file: ModelFile, runtime: Runtime) -> TorchProgram:
    """The program in ExecuTorch's own runtime. Raises: DlcliError when it cannot be loaded."""
    import torch

    from dlcli.zoo.device import set_threads

    path, _ = file.path, file.card  # a file without a card is of no use
    if runtime.device not in ("auto", "cpu"):
        raise DlcliError(
            f"--device {runtime.device}: ExecuTorch files run on cpu here", hint="--device cpu"
        )
    try:
        # From memory: a file that is replaced while it is mapped kills the process.
        data = _program(path)
        with silence_torch():
            from executorch.runtime import Runtime as Loader

            program = Loader.get().load_program(data)
            method: Any = program.load_method("forward")
    except (RuntimeError, OSError, ValueError) as exc:
        raise DlcliError(
            f"ExecuTorch cannot load {path}: {first_line(exc)}",
            hint="copy it again, or export it again",
        ) from exc
    set_threads(runtime.threads)

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = method.execute(tensors)[0]
        return outputs

    run.program = program  # type: ignore[attr-defined]  # the method does not keep it alive
    return TorchProgram(file, run, torch.device("cpu"), contiguous=True)


def verify(path: Path) -> bool:
    """Compare program and card with their digest. Raises: DlcliError when they are damaged."""
    try:
        _program(path)
    except OSError as exc:
        raise DlcliError(f"cannot read {path}: {exc.strerror}") from exc
    return True


def _program(path: Path) -> bytes:
    """The program before the card. Raises: DlcliError when a bit has changed, OSError."""
    data = path.read_bytes()
    tail = data[-_TAIL:]
    program = data[: -_TAIL - int.from_bytes(tail[_DIGEST : -len(_MARKER)], "little")]
    content = program if tail[-len(_MARKER) :] == _EARLIER_MARKER else data[:-_TAIL]
    if hashlib.sha256(content).digest() != tail[:_DIGEST]:
        raise DlcliError(
            f"{path} is damaged: its content does not match the SHA-256 in it",
            hint="copy it again, or export it again",
        )
    return program


def _sniff(path: Path) -> bool:
    return re.fullmatch(rb"ET\d\d", head_of(path, 8)[4:]) is not None  # a text may hold "ET" there


FORMATS.register(NAME)(
    Format(
        name=NAME,
        suffix=".pte",
        sniff=_sniff,
        read_card=read_card,
        open=open_executorch,
        write=write_executorch,
        verify=verify,
        options=frozenset({"dynamic", "half", "softmax"}),
        static=True,
        extra="executorch",
        module="executorch",
    )
)
