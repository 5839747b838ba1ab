"""The result of a quantization: all candidates, and the one that was kept next to its model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dlcli.compress.quantize.base import Backend
from dlcli.deploy.compare import Comparison
from dlcli.deploy.quantize.sensitivity import LayerSensitivity
from dlcli.deploy.search import Candidate
from dlcli.deploy.verdicts import verdict
from dlcli.runs.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class QuantizeCandidate(Candidate):
    """A quantized file, compared with the float model.

    ``unsuited`` are those of ``layers_in_float`` that the method does not support or makes no faster.
    ``run`` is the run that trained it, of QAT.
    """

    method: str
    backend: Backend
    file: Path
    layers_in_float: tuple[str, ...] = ()
    unsuited: tuple[str, ...] = ()
    run: RunFolder | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "method": self.method,
            "backend": self.backend,
            "layers_in_float": list(self.layers_in_float),
            "unsuited": list(self.unsuited),
            "size_bytes": self.size_bytes,
            "metrics": self.delta.metrics,
            "drop": self.delta.drop,
            "agreement": self.delta.agreement,
            "kept_bound": self.within_bound,
        }


@dataclass(frozen=True)
class QuantizeResult:
    """A quantized file next to its model. ``refused`` says why methods gave no candidate, by name.

    ``missed`` is a sentence when the bound was missed; ``notes`` are further sentences.
    """

    source: Path
    output: Path
    chosen: QuantizeCandidate
    comparison: Comparison
    candidates: tuple[QuantizeCandidate, ...]
    refused: dict[str, str]
    sensitivity: tuple[LayerSensitivity, ...]
    notes: tuple[str, ...]
    missed: str | None

    def verdict(self) -> list[str]:
        """Return the verdict in words."""
        sentences = [*verdict(self.comparison), *self.notes]
        if self.chosen.backend == "torch":
            sentences.append("computes in float32: the file is smaller, not the work")
        if len(self.candidates) > 1 and self.comparison.split != "random":
            sentences.append(
                f"chosen among {len(self.candidates)} candidates on these same samples of "
                f"{self.comparison.split}, so its metrics there are slightly optimistic"
            )
        if self.missed is not None:
            sentences.append(f"MISSED: {self.missed}")
        return sentences

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        run = self.chosen.run
        return {
            "artifact": str(self.source),
            "output": str(self.output),
            "run": None if run is None else str(run.path),
            "method": self.chosen.method,
            "backend": self.chosen.backend,
            **self.comparison.to_dict(),
            "verdict": self.verdict(),
            "layers_in_float": list(self.chosen.layers_in_float),
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "refused": self.refused,
            "sensitivity": [asdict(layer) for layer in self.sensitivity],
            "missed": self.missed,
        }
