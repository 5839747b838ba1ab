"""ONNX files without a card: timed as they are, on random inputs of the shapes that they declare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from dlcli.benchmark.backends import Runner, TimedCall
from dlcli.data.base import Inputs
from dlcli.errors import DlcliError
from dlcli.formats.base import Artifact, Outputs, Runtime, recognize
from dlcli.formats.onnx import file as onnx_file
from dlcli.formats.onnx.format import open_graph
from dlcli.formats.onnx.raw import RawInput, random_feeds, read_raw


class RawOnnx(Artifact):
    """A session of a file without a card; of its inputs only their number counts."""

    def __init__(self, path: Path, runtime: Runtime) -> None:
        """Open the file. Raises: DlcliError."""
        content = onnx_file.read(path)
        content.check()
        self._session, self._notes = open_graph(content, runtime)
        self._inputs, _ = read_raw(path)
        self._file = recognize(path)

    @property
    def provider(self) -> str:
        """The execution provider that comes first."""
        return str(self._session.get_providers()[0])

    def predict(self, inputs: Inputs) -> Outputs:
        """Refused: nobody knows what its outputs mean."""
        raise DlcliError(f"{self.path} has no card")

    def prepare_call(self, inputs: Inputs) -> Callable[[], object]:
        """A call for so many random samples, or several where it takes fewer at once."""
        count, fixed = len(inputs[0]), fixed_batch(self._inputs)
        feeds = random_feeds(self._inputs, count)
        calls = 1 if fixed is None else -(-count // fixed)

        def call() -> None:
            for _ in range(calls):
                self._session.run(None, feeds)

        return call


class RawRunner(Runner):
    """Times a `RawOnnx`."""

    def prepare(self, inputs: Inputs) -> TimedCall:
        """Prepare a call for so many samples."""
        return self._timed(self.artifact.prepare_call(inputs))


def fixed_batch(inputs: list[RawInput]) -> int | None:
    """The only batch size of a graph; None where an input takes any."""
    sizes = [entry.batch for entry in inputs]
    return None if None in sizes else sizes[0]


def placeholder(count: int) -> Inputs:
    """Inputs that stand for so many random samples."""
    return (np.zeros((count, 1), np.float32),)


def in_words(path: Path, inputs: list[RawInput]) -> str:
    """What a file is timed on."""
    shown = ", ".join(map(str, inputs))
    text = f"{path.name} has no card: timed as it is, on random {shown}"
    if any(entry.assumed for entry in inputs):
        text += "; sizes that vary are assumed"
    fixed = fixed_batch(inputs)
    if fixed is not None:
        text += f"; it takes batches of {fixed} only: more samples are several calls"
    return text
