"""TorchScript of other programs: run as it is, and copied with a card among its extra files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.card import Card
from dlcli.deploy.adopt.form import Form
from dlcli.deploy.adopt.head import Single
from dlcli.errors import DlcliError
from dlcli.formats.torchscript import load_script, save_script, with_forward
from dlcli.formats.zip_archive import CARD_MEMBER, add_digest, add_member, check_whole
from dlcli.wording import first_line

_SHAPE_ONLY = (
    *("aten::squeeze", "aten::unsqueeze", "aten::flatten", "aten::view", "aten::reshape"),
    *("aten::select", "aten::slice", "aten::to", "aten::contiguous"),
)


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
        self._is_list = self._is_row = False
        self.output = ""  # the name of the one that is adopted: a key, or a position
        self.form = Form(producer="torch.jit", params=sum(p.numel() for p in program.parameters()))

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The chosen output (n, outputs). Raises: DlcliError where it takes another form."""
        array = np.asarray(self.outputs(batch)[self.output], np.float32)
        return array.reshape(len(array), -1) if array.ndim < 2 else array

    def outputs(self, batch: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
        """Its tensors by key, or by position; "" for the only one. Raises: DlcliError."""
        import torch

        try:
            with torch.inference_mode():
                outputs = self._program(torch.from_numpy(batch))
        except Exception as exc:  # of code of any sort
            raise DlcliError(
                f"{self.path} cannot run float32 {tuple(batch.shape)}: {_last_line(exc)}",
                hint="--kind and --img-size say what it takes: one tensor, images (batch, C, H, W)",
            ) from exc
        self._is_list = isinstance(outputs, list | tuple)
        entries: Any = enumerate(outputs) if self._is_list else getattr(outputs, "items", dict)()
        named = {"": outputs} if isinstance(outputs, torch.Tensor) else {str(k): v for k, v in entries}
        tensors = {
            name: value
            for name, value in named.items()
            if isinstance(value, torch.Tensor) and value.is_floating_point()
        }
        if not tensors:
            raise DlcliError(
                f"{self.path} gives {type(outputs).__name__}, and a card describes one tensor "
                "(batch, outputs)",
                hint="trace a model whose forward gives the classes' logits alone",
            )
        self._is_row = {name: value.ndim for name, value in tensors.items()} == {"": 2}
        return {name: value.float().numpy() for name, value in tensors.items()}

    def ends_in_sigmoid(self) -> bool:
        """Whether the chosen output is a probability: a sigmoid's or softmax's, but for its shape."""
        graph = self._program.inlined_graph
        value = next(graph.outputs())
        if self.output:
            if not value.node().kind().endswith("Construct"):  # made by branches
                return False
            parts = list(value.node().inputs())
            keys = [part.toIValue() for part in parts]
            value = parts[int(self.output) if self._is_list else keys.index(self.output) + 1]
        while value.node().kind() in _SHAPE_ONLY:
            value = next(value.node().inputs())
        return value.node().kind() in ("aten::sigmoid", "aten::softmax")

    def write(self, path: Path, card: Card, single: Single | None) -> None:
        """Copy the file to ``path`` with a card and a digest; of another form, around its program."""
        if self._is_row and single is None:
            shutil.copyfile(self.path, path)
            add_member(path, CARD_MEMBER, card.to_json().encode())
            add_digest(path)
            return
        part = "" if not self.output else f"[{self.output if self._is_list else repr(self.output)}]"
        outputs = {
            None: "z",
            "logit": "torch.cat([torch.zeros_like(z), z], 1)",
            "probability": "torch.cat([1 - z, z], 1)",
        }[single]
        scripted = with_forward(
            self._program,
            "def forward(self, x):\n"
            f"    z = self.program(x){part}.float().reshape(x.shape[0], -1)\n"
            f"    return {outputs}\n",
        )
        save_script(scripted, card, path)


def _last_line(exc: Exception) -> str:
    """The line of an error of TorchScript that is not its stack."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[-1]
