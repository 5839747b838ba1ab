"""Reading the files that torch or ExecuTorch execute: a function of tensors, opened on a device.

Their inputs are the tensors of ``task.input.signature`` in order (an image is normalised float32), their
output is ``task.output``. Annotations of the card say where a file differs: of one size
(`dlcli.formats.static_shape`), with readable outputs, or in 16 bits inside (kind "half").
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.data.base import Inputs
from dlcli.errors import DlcliError
from dlcli.formats.base import ModelFile, Outputs, Runtime
from dlcli.formats.exported import ExportedArtifact
from dlcli.formats.zip_archive import check_whole
from dlcli.wording import first_line

if TYPE_CHECKING:
    import torch

Tensors = tuple["torch.Tensor", ...]
Program = Callable[..., "torch.Tensor"]


class TorchProgram(ExportedArtifact):
    """A function of tensors on one device.

    ``contiguous`` is whether it needs contiguous tensors: compiled code assumes these strides, and
    pixels have others (`dlcli.zoo.forward.input_tensor`).
    """

    def __init__(
        self, file: ModelFile, program: Program, device: torch.device, *, contiguous: bool = False
    ) -> None:
        super().__init__(file, file.card)
        self.program, self.device = program, device
        self._contiguous = contiguous

    def _run(self, inputs: Inputs) -> Outputs:
        import torch

        with torch.inference_mode():
            outputs: Outputs = self.program(*self._tensors(inputs)).float().cpu().numpy()
        return outputs

    def _prepare_call(self, inputs: Inputs) -> Callable[[], object]:
        import torch

        tensors = self._tensors(inputs)

        def call() -> torch.Tensor:
            with torch.inference_mode():
                return self.program(*tensors)

        return call

    def _tensors(self, inputs: Inputs) -> Tensors:
        import torch

        from dlcli.zoo.forward import model_inputs

        on_device = [torch.from_numpy(array).to(self.device) for array in inputs]
        tensors = model_inputs(on_device, self.card.task)
        return tuple(_contiguous(tensor) for tensor in tensors) if self._contiguous else tensors


def open_program(
    file: ModelFile,
    device: torch.device,
    runtime: Runtime,
    load: Callable[[Path, torch.device], Program],
    *,
    contiguous: bool = False,
    hint: str = "a newer torch may have written it; export it again",
) -> TorchProgram:
    """Check a zip archive of torch and load its program on the device.

    Raises: DlcliError when it is damaged, or when this torch cannot load it, with ``hint``.
    """
    import torch

    from dlcli.zoo.device import set_threads

    check_whole(file.content)
    set_threads(runtime.threads)
    try:
        program = load(file.content, device)
    except Exception as exc:  # whatever is wrong with the file or with its torch's version
        raise DlcliError(
            f"torch {torch.__version__} cannot load {file.path}: {first_line(exc)}", hint=hint
        ) from exc
    return TorchProgram(file, program, device, contiguous=contiguous)


def _contiguous(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with default strides: ``contiguous()`` leaves those of dimensions of size 1."""
    return tensor.contiguous().view(-1).view(tensor.shape)
