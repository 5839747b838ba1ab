"""What quantization made: the candidates, and the one that was kept beside its model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dlcli.deploy.compare import Comparison
from dlcli.deploy.export import folder_beside
from dlcli.deploy.quantize.sensitivity import Sensitivity
from dlcli.deploy.quantize.variants import Backend
from dlcli.deploy.reference import MetricDelta
from dlcli.deploy.verdicts import verdict
from dlcli.formats.base import recognize
from dlcli.formats.publish import move, publish
from dlcli.runs.folder import RunFolder


@dataclass(frozen=True)
class Attempt:
    """A candidate: its file, what stayed in float, and how it was held against the float model.

    ``unsuited`` are those of ``layers_in_float`` that the method is not for, or makes no faster.
    """

    method: str
    backend: Backend
    file: Path
    size_bytes: int
    delta: MetricDelta
    kept_bound: bool
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
            "kept_bound": self.kept_bound,
        }


@dataclass(frozen=True)
class QuantizeResult:
    """A quantized file beside its model. ``refused`` says why methods were no candidates, by name.

    ``missed`` says which bound was; ``notes`` are sentences on how it was made.
    """

    source: Path
    output: Path
    chosen: Attempt
    comparison: Comparison
    attempts: tuple[Attempt, ...]
    refused: dict[str, str]
    sensitivity: tuple[Sensitivity, ...]
    notes: tuple[str, ...]
    missed: str | None

    def said(self) -> list[str]:
        """The verdict in words."""
        found = [*verdict(self.comparison), *self.notes]
        if self.chosen.backend == "torch":
            found.append("computes in float32: the file is smaller, not the work")
        if len(self.attempts) > 1 and self.comparison.split != "random":
            found.append(
                f"chosen among {len(self.attempts)} candidates by these very samples of "
                f"{self.comparison.split}, so its figures there flatter it a little"
            )
        if self.missed is not None:
            found.append(f"MISSED: {self.missed}")
        return found

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
            "verdict": self.said(),
            "layers_in_float": list(self.chosen.layers_in_float),
            "candidates": [attempt.to_dict() for attempt in self.attempts],
            "refused": self.refused,
            "sensitivity": [asdict(one) for one in self.sensitivity],
            "missed": self.missed,
        }


def order(attempt: Attempt) -> tuple[bool, float, int]:
    """What is kept: what keeps the bound, then the smallest loss, then the smallest file."""
    drop = attempt.delta.drop
    return (not attempt.kept_bound, drop if drop == drop else float("inf"), attempt.size_bytes)


def place(staged: Path, target: Path) -> None:
    """Give a file its name, on whatever file system that is."""
    with folder_beside(target) as folder:
        publish(move(recognize(staged), folder / target.name), target)
