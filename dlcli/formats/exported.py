"""What opened exports share, whichever runtime executes them: fixed sizes and readable outputs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from dlcli.card import Card
from dlcli.data.base import Inputs
from dlcli.formats.base import Artifact, ModelFile, Outputs
from dlcli.formats.readable_outputs import has_readable_outputs, to_model_outputs
from dlcli.formats.static_shape import run_static, sizes_of


class ExportedArtifact(Artifact):
    """A program that a runtime executes, perhaps of fixed sizes or with readable outputs."""

    def __init__(self, file: ModelFile, card: Card) -> None:
        super().__init__(file, card)
        self._sizes = sizes_of(card)
        self._readable = has_readable_outputs(card)

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the file takes; None where any will do."""
        return None if self._sizes is None else self._sizes["batch"]

    def predict(self, inputs: Inputs) -> Outputs:
        """The model's outputs for a batch of any size: logits or scaled numbers."""
        if self._sizes is None:
            return self._model_outputs(inputs)
        return run_static(self._model_outputs, inputs, self.card.task, self._sizes)

    def prepare_call(self, inputs: Inputs) -> Callable[[], object]:
        """The program's call on inputs that the runtime has already."""
        if self._sizes is not None:
            return lambda: self.predict(inputs)
        return self._prepare_call(inputs)

    def _model_outputs(self, inputs: Inputs) -> Outputs:
        outputs = self._run(inputs)
        return to_model_outputs(outputs, self.card.task) if self._readable else outputs

    @abstractmethod
    def _run(self, inputs: Inputs) -> Outputs:
        """The program's own outputs in float32."""

    @abstractmethod
    def _prepare_call(self, inputs: Inputs) -> Callable[[], object]:
        """The program's call, with what the host does before it already done."""
