"""The copy of a file of another program: written, loaded again, and run as the file itself is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli import transforms
from dlcli.card import Card
from dlcli.deploy.adopt.adapt import adapt
from dlcli.deploy.adopt.graph import ForeignGraph
from dlcli.deploy.adopt.head import Single
from dlcli.deploy.adopt.script import ForeignScript
from dlcli.errors import DlcliError
from dlcli.formats.base import open_artifact, recognize
from dlcli.formats.onnx import file as onnx_file
from dlcli.formats.onnx.postprocess import output_name

_TOLERANCE = 1e-4  # of the largest output


@dataclass(frozen=True)
class Copy:
    """What is written to ``path``: ``batch`` is the only batch size that it takes; None: any.

    ``single`` is what the file's one number for two classes is, which become two outputs.
    """

    card: Card
    path: Path
    batch: int | None
    single: Single | None

    def problem(
        self,
        foreign: ForeignGraph | ForeignScript,
        sample: npt.NDArray[np.float32],
        expected: npt.NDArray[np.float32],
    ) -> str:
        """Write it, open it, and say what is wrong with its outputs; "" where nothing is."""
        try:
            self._write(foreign, expected.shape[1])
            opened: Any = open_artifact(recognize(self.path), device="cpu", trust=True)
            outputs = run_in_batches(lambda part: _outputs(opened, part), sample, self.batch)
        except DlcliError as exc:
            return exc.message
        except Exception as exc:  # ONNX Runtime's errors share no base class but this
            return str(exc)
        return "" if are_same(outputs, expected) else "they differ on random inputs"

    def _write(self, foreign: ForeignGraph | ForeignScript, size: int) -> None:
        if isinstance(foreign, ForeignScript):
            foreign.write(self.path, self.card, self.single)
            return
        card = self.card
        readable = transforms.find_record(card.transforms, transforms.PROBABILITIES) is not None
        (tensor,) = card.task.input.signature
        shape = tuple(side for side in tensor.dims if isinstance(side, int))
        target = output_name(card.task, readable=readable), size
        model = adapt(foreign, (tensor.name, shape), target, self.batch, self.single)
        onnx_file.write(model, self.path, card)


def run_in_batches(
    run: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]],
    sample: npt.NDArray[np.float32],
    batch: int | None,
) -> npt.NDArray[np.float32]:
    """The outputs of a program that takes batches of one size only; the last is padded."""
    if batch is None:
        return run(sample)
    outputs = []
    for start in range(0, len(sample), batch):
        part = sample[start : start + batch]
        padding = np.zeros((batch - len(part), *part.shape[1:]), np.float32)
        rows = run(np.concatenate([part, padding]))
        outputs.append(rows[: len(part)] if len(padding) else rows)
    return np.concatenate(outputs)


def are_same(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> bool:
    """Whether outputs are equal but for rounding."""
    bound = _TOLERANCE * max(1.0, float(np.abs(other).max(initial=0)))
    return one.shape == other.shape and bool(np.abs(one - other).max(initial=0) <= bound)


def _outputs(opened: Any, part: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The file's own outputs for prepared tensors."""
    if hasattr(opened, "session"):
        name = opened.card.task.input.signature[0].name
        return np.asarray(opened.session.run(None, {name: part})[0], np.float32)
    import torch

    with torch.inference_mode():
        outputs: npt.NDArray[np.float32] = opened.program(torch.from_numpy(part)).float().numpy()
    return outputs
