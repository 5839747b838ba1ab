"""TorchScript of other programs: run as it is, and copied with a card among its extra files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.card import Card
from dlcli.deploy.adopt.form import Form
from dlcli.errors import DlcliError
from dlcli.formats.torchscript import load_script
from dlcli.formats.zip_archive import CARD_MEMBER, add_digest, add_member, check_whole
from dlcli.wording import first_line


class ForeignScript:
    """A TorchScript file without a card. Loading it may run code of the file.

    It says nothing of its shapes, so its form is empty but for the number of its parameters.
    """

    def __init__(self, path: Path) -> None:
        """Load the file on the CPU. Raises: DlcliError where torch cannot."""
        import torch

        check_whole(path)
        self.path = path
        try:
            program: Any = load_script(path, torch.device("cpu"))
        except Exception as exc:  # whatever is wrong with the file or with its torch's version
            raise DlcliError(
                f"torch {torch.__version__} cannot load {path}: {first_line(exc)}",
                hint="save it again with this torch, or export it as ONNX",
            ) from exc
        self._program = program
        self.form = Form(producer="torch.jit", params=sum(p.numel() for p in program.parameters()))

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The file's outputs (n, outputs). Raises: DlcliError where it takes or gives another form."""
        import torch

        try:
            with torch.inference_mode():
                outputs = self._program(torch.from_numpy(batch))
        except Exception as exc:  # of code of any sort
            raise DlcliError(
                f"{self.path} cannot run float32 {tuple(batch.shape)}: {_last_line(exc)}",
                hint="--kind and --img-size say what it takes: one tensor, images (batch, C, H, W)",
            ) from exc
        if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2:
            shape = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
            raise DlcliError(
                f"{self.path} gives {shape}, and a card describes one tensor (batch, outputs)",
                hint="trace a model whose forward gives the classes' logits alone",
            )
        array: npt.NDArray[np.float32] = outputs.float().numpy()
        return array

    def write(self, path: Path, card: Card) -> None:
        """Copy the file to ``path`` with a card and a digest."""
        shutil.copyfile(self.path, path)
        add_member(path, CARD_MEMBER, card.to_json().encode())
        add_digest(path)


def _last_line(exc: Exception) -> str:
    """The line of an error of TorchScript that is not its stack."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[-1]
