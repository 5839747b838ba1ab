"""Models opened from Python."""

from __future__ import annotations

import warnings
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dlcli.api.inputs import samples_of
from dlcli.api.python_words import python_words
from dlcli.card import Card
from dlcli.data.base import Reader, Samples
from dlcli.data.kinds import ReadOptions, kind_of
from dlcli.data.notices import messages
from dlcli.errors import DlcliError
from dlcli.evaluation.evaluate import default_batch_size
from dlcli.evaluation.predict import predict
from dlcli.formats.base import Artifact, open_artifact
from dlcli.runs.folder import DEFAULT_ROOT, find_artifact

if TYPE_CHECKING:
    from torch import nn


class Model:
    """A model file of any format, with the encoders that it was trained with; made by `load`."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact

    @property
    def card(self) -> Card:
        """What the model is, what it predicts, what its data and its metrics were."""
        return self.artifact.card

    @python_words()
    def predict(
        self, values: Any, *, top_k: int | None = 3, batch_size: int | None = None
    ) -> list[dict[str, Any]]:
        """Predict raw values, as `dlcli predict --json` does: a dict for each, with ``input``.

        Args:
            values: of the kind that the model takes; see `dlcli.api.inputs.samples_of`.
            top_k: the number of classes, most likely first; None: the probability of every class.
            batch_size: by default that of the kind of data.

        Returns:
            The rows; a forecast has one for each step. ``input`` is the path, or the index in
            ``values``.

        What `dlcli predict` would warn of, such as unknown categories, is a Python warning. Raises:
        DlcliError when an input cannot be read or is not of the model's kind.
        """
        task, rows, first = self.card.task, [], 0
        if top_k is not None:
            top_k = min(top_k, max(1, task.num_classes))
        for samples in samples_of(values, task):
            reader = self._reader(samples)
            size = batch_size or default_batch_size(task)
            for prediction in predict(self.artifact.predict, reader, task, top_k=top_k, batch_size=size):
                if prediction.error is not None:
                    raise DlcliError(f"{prediction.input}: {prediction.error}")
                numbered = prediction.input.isdecimal() and first
                name = str(int(prediction.input) + first) if numbered else prediction.input
                rows += [{**row, "input": name} for row in prediction.rows]
            first += len(samples)
        return rows

    @python_words()
    def outputs(self, values: Any, *, batch_size: int | None = None) -> npt.NDArray[np.float32]:
        """The model's raw outputs for values, (N, ...): logits, scaled numbers, embeddings.

        Raises: DlcliError as `predict`.
        """
        task, parts = self.card.task, []
        for samples in samples_of(values, task):
            reader = self._reader(samples)
            size = batch_size or default_batch_size(task)
            for start in range(0, len(reader), size):
                indices = np.arange(start, min(start + size, len(reader)))
                inputs, readable = reader.read(indices)
                if len(readable) < len(indices):
                    raise DlcliError(next(f"{name}: {reason}" for name, reason in reader.bad.items()))
                parts.append(self.artifact.predict(inputs))
        return np.concatenate(parts) if parts else np.zeros((0, self.card.task.num_outputs), np.float32)

    def _reader(self, samples: Samples) -> Reader:
        """The reader of samples; what it has to say of them is a Python warning."""
        task = self.card.task
        reader = kind_of(task).reader(samples, task, ReadOptions(on_bad_sample="fail"))
        for message in messages([*samples.notices, *reader.notices]):
            warnings.warn(message, stacklevel=4)
        return reader

    def module(self) -> nn.Module:
        """The PyTorch module, in eval mode. Raises: DlcliError for formats without one, such as ONNX."""
        return self.artifact.module()

    def __repr__(self) -> str:
        task = self.card.task
        return (
            f"<dlcli.Model {self.artifact.path}: {self.card.model.name}, {task.input.kind} {task.kind}>"
        )


@python_words()
def load(
    artifact: str | PathLike[str] | None = None, *, device: str = "auto", trust: bool = False
) -> Model:
    """Open a model: a file of any format, a run folder or a run's name; None is the newest run.

    ``trust`` is for files of others that can run code. Raises: DlcliError.
    """
    path = find_artifact(None if artifact is None else str(artifact), DEFAULT_ROOT)
    opened = open_artifact(path, device=device, trust=trust)
    for note in opened.notes:
        warnings.warn(note, stacklevel=2)
    return Model(opened)
