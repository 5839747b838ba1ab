"""Sensitivity of layers to quantization: each is quantized alone and compared with the float model.

Only outputs are compared, no labels: what is chosen by this was not chosen by the validation metrics.
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
# More layers than this are measured in groups of neighbours: each entry costs a file and its outputs.
MAX_GROUPS = 48


@dataclass(frozen=True)
class LayerSensitivity:
    """The effect of quantizing ``layers`` alone.

    ``error`` is the root mean square error of the outputs over the std of the float outputs;
    ``agreement`` the share of equal predictions, None for regression.
    """

    layers: tuple[str, ...]
    error: float
    agreement: float | None

    @property
    def name(self) -> str:
        """The layer, or the first and the last of a group."""
        first, last = self.layers[0], self.layers[-1]
        return first if len(self.layers) == 1 else f"{first} ... {last}"


def layer_sensitivity(
    reference: Artifact,
    build: Callable[[Collection[str]], Path],
    layers: Sequence[str],
    inputs: Inputs,
    emit: Emit,
) -> list[LayerSensitivity]:
    """Return the sensitivity of layers, the most sensitive first.

    ``build`` writes a file in which the given layers alone are quantized; it is removed after use.
    """
    outputs = reference.predict(inputs)
    std = float(outputs.std()) or 1.0
    results = []
    groups = _groups(layers)
    for number, group in enumerate(groups, 1):
        path = build(group)
        quantized = open_artifact(path, device="cpu", trust=True).predict(inputs)
        path.unlink()
        rmse = np.sqrt(np.mean((quantized.astype(np.float64) - outputs) ** 2))
        error = float(rmse / std) if np.isfinite(rmse) else float("inf")
        agreement = agreement_of(outputs, quantized, reference.card.task)
        results.append(LayerSensitivity(group, error, agreement))
        emit(EvalProgress(split="sensitivity", done=number, total=len(groups), unit="layers"))
    return sorted(results, key=lambda result: -result.error)


def _groups(layers: Sequence[str]) -> list[tuple[str, ...]]:
    """Return each layer alone, or groups of neighbours where there are many."""
    groups = np.array_split(np.arange(len(layers)), min(len(layers), MAX_GROUPS))
    return [tuple(layers[i] for i in group) for group in groups]
