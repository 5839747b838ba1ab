"""Which layers suffer from fewer bits: each alone is put into them and held against float.

No label is looked at, so what is chosen by this has not chosen among the validation metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlcli.data.base import Inputs
from dlcli.evaluation.agreement import agreement_of
from dlcli.events import Emit, EvalProgress
from dlcli.formats.base import Artifact, open_artifact

SAMPLES = 64
# More layers than this are ranked in groups of neighbours: each entry costs a file and its answers.
MOST = 48


@dataclass(frozen=True)
class Sensitivity:
    """``layers`` alone in fewer bits: the root mean square of the answers' change over their spread.

    ``agreement`` is the share of equal answers, None where they are numbers.
    """

    layers: tuple[str, ...]
    error: float
    agreement: float | None

    @property
    def name(self) -> str:
        """The layer, or the first and the last of a group."""
        first, last = self.layers[0], self.layers[-1]
        return first if len(self.layers) == 1 else f"{first} ... {last}"


def rank(
    reference: Artifact,
    make: Callable[[Collection[str]], Path],
    layers: Sequence[str],
    inputs: Inputs,
    emit: Emit,
) -> list[Sensitivity]:
    """The layers, the one that changes the answers most first.

    ``make`` gives a file in which those layers alone are in fewer bits; it is removed when it was
    asked.
    """
    answers = reference.predict(inputs)
    spread = float(answers.std()) or 1.0
    found = []
    groups = _groups(layers)
    for number, group in enumerate(groups, 1):
        path = make(group)
        changed = open_artifact(path, device="cpu", trust=True).predict(inputs)
        path.unlink()
        difference = np.sqrt(np.mean((changed.astype(np.float64) - answers) ** 2)) / spread
        error = float(difference) if np.isfinite(difference) else float("inf")
        found.append(Sensitivity(group, error, agreement_of(answers, changed, reference.card.task)))
        emit(EvalProgress(split="sensitivity", done=number, total=len(groups), unit="layers"))
    return sorted(found, key=lambda one: -one.error)


def _groups(layers: Sequence[str]) -> list[tuple[str, ...]]:
    """Each layer alone, or neighbours together where there are many."""
    count = min(len(layers), MOST)
    parts = np.array_split(np.arange(len(layers)), count)
    return [tuple(layers[i] for i in part) for part in parts]
