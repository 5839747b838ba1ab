"""What every model file is to the rest of dlcli: a card and a function from inputs to answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dlcli.card import Card
from dlcli.config import ExportConfig
from dlcli.data.base import Inputs
from dlcli.errors import DlcliError
from dlcli.registry import Registry

if TYPE_CHECKING:
    from torch import nn

Outputs = npt.NDArray[np.float32]  # `TaskSpec.output` of a batch: logits or scaled numbers


class Artifact(ABC):
    """An opened model file."""

    def __init__(self, path: Path, card: Card) -> None:
        self.path = path
        self.card = card

    @abstractmethod
    def predict(self, inputs: Inputs) -> Outputs:
        """The answers for a batch; pixels come as uint8 (n, H, W, C) and are normalised here."""

    def module(self) -> nn.Module:
        """The float model, where the format keeps one. Raises: DlcliError elsewhere."""
        raise DlcliError(f"{self.path} holds no trainable model", hint="use the run's best.safetensors")


@dataclass(frozen=True)
class Format:
    """A file format: ``sniff`` looks at the first bytes, ``read_card`` and ``open`` at the file.

    ``read_card`` imports no torch where the container allows it. ``open(path, device)`` takes a
    device name ("auto", "cpu", "cuda", ...). ``write(source, path, config)`` exports an artifact that
    has a module; formats without it are only read.
    """

    name: str
    suffix: str
    sniff: Callable[[bytes], bool]
    read_card: Callable[[Path], Card]
    open: Callable[[Path, str], Artifact]
    write: Callable[[Artifact, Path, ExportConfig], None] | None = None


FORMATS: Registry[Format] = Registry("format", "dlcli.formats")


def sniff_format(path: Path) -> Format:
    """The format of a file, from its content. Raises: DlcliError when it is none that dlcli reads."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as exc:
        raise DlcliError(f"cannot read {path}: {exc.strerror}") from exc
    if not head:
        raise DlcliError(f"{path} is empty (0 bytes)", hint="export or train it again")
    for _, entry in FORMATS.entries():
        if entry.sniff(head):
            return entry
    known = ", ".join(f"{e.name} ({e.suffix})" for _, e in FORMATS.entries())
    raise DlcliError(f"{path} is not a model file that dlcli reads", hint=f"it reads {known}")


def open_artifact(path: Path, *, device: str = "auto") -> Artifact:
    """Open a model file of any known format."""
    return sniff_format(path).open(path, device)


def read_card(path: Path) -> Card:
    """The card of a model file of any known format, without loading its weights."""
    return sniff_format(path).read_card(path)
