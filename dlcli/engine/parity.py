"""Does the exported file give the same answers? Measured on the user's own validation samples."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.config import ExportConfig
from dlcli.data.base import Labels, Pixels
from dlcli.engine.evaldata import EvalData
from dlcli.engine.evaluate import default_batch_size
from dlcli.engine.metrics import ClassificationCounts
from dlcli.errors import DlcliError
from dlcli.formats.base import Artifact, Logits

# One sample, as a service sends it, and a size that divides nothing: a graph with a fixed batch fails.
BATCH_SIZES = (1, 7)


@dataclass(frozen=True)
class BatchParity:
    """The exported file against the original at one batch size.

    ``max_abs_diff`` is of logits; ``relative_diff`` divides it by the largest logit (at least 1).
    """

    batch_size: int
    max_abs_diff: float
    relative_diff: float
    agreement: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Parity:
    """The comparison. ``data`` is the split, or "random" with the reason in ``note``.

    ``metrics`` are the original's on the same samples; empty without labels.
    """

    data: str
    samples: int
    note: str
    metrics: dict[str, float]
    batches: tuple[BatchParity, ...]
    missed: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.missed

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"ok": self.ok, **asdict(self)}


def real_samples(data: EvalData, count: int) -> tuple[Pixels, Labels]:
    """Up to ``count`` readable samples, spread evenly over the split. Raises: DlcliError for none."""
    total = len(data.reader)
    indices = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))
    pixels, kept = data.reader.read(indices)
    if not len(kept):
        raise DlcliError(f"none of the samples of the {data.split} split can be read")
    return pixels, data.reader.samples.targets[kept]


def random_samples(artifact: Artifact, count: int) -> Pixels:
    """Noise of the input's shape, uint8 (count, H, W, C)."""
    spec = artifact.card.task.input
    shape = (count, spec.height, spec.width, spec.channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def compare(
    before: Artifact,
    after: Artifact,
    pixels: Pixels,
    targets: Labels | None,
    config: ExportConfig,
    *,
    data: str,
    note: str,
) -> Parity:
    """Run both artifacts on the same pixels and hold the differences against the bounds."""
    size = default_batch_size(before.card.task.input)
    reference = _logits(before, pixels, size)
    metrics = _metrics(reference, targets)
    batches, missed = [], []
    for batch_size in BATCH_SIZES:
        logits = _logits(after, pixels, batch_size)
        batch = _compare(reference, logits, batch_size, _metrics(logits, targets))
        batches.append(batch)
        missed += _missed(batch, metrics, config)
    return Parity(data, len(pixels), note, metrics, tuple(batches), tuple(missed))


def _logits(artifact: Artifact, pixels: Pixels, batch_size: int) -> Logits:
    parts = []
    for start in range(0, len(pixels), batch_size):
        batch = pixels[start : start + batch_size]
        if len(pixels) < batch_size:  # too few samples for one batch: they are repeated to fill it
            batch = np.resize(batch, (batch_size, *batch.shape[1:]))
        parts.append(artifact.predict(batch))
    return np.concatenate(parts)[: len(pixels)]


def _metrics(logits: Logits, targets: Labels | None) -> dict[str, float]:
    if targets is None:
        return {}
    counts = ClassificationCounts(logits.shape[1])
    counts.update(logits, targets)
    found = counts.metrics()
    return {name: found[name] for name in ("accuracy", "loss")}


def _compare(
    reference: Logits, logits: Logits, batch_size: int, metrics: dict[str, float]
) -> BatchParity:
    difference: npt.NDArray[np.float32] = np.abs(reference - logits)
    # A NaN compares false with every bound; as infinity it misses them.
    worst = float(difference.max()) if np.isfinite(difference).all() else float("inf")
    return BatchParity(
        batch_size=batch_size,
        max_abs_diff=worst,
        relative_diff=worst / max(1.0, float(np.abs(reference).max())),
        agreement=float((reference.argmax(1) == logits.argmax(1)).mean()),
        metrics=metrics,
    )


def _missed(batch: BatchParity, before: dict[str, float], config: ExportConfig) -> list[str]:
    at = f"at batch {batch.batch_size}"
    found = []
    if batch.relative_diff > config.tolerance:
        found.append(
            f"logits differ by {batch.max_abs_diff:.3g} {at}, "
            f"{batch.relative_diff:.3g} of the largest, where {config.tolerance:g} is allowed"
        )
    if batch.agreement < config.agreement:
        found.append(f"{batch.agreement:.2%} of samples get the same class {at}")
    drop = before["accuracy"] - batch.metrics["accuracy"] if before else 0.0
    if drop > config.max_drop:
        found.append(f"accuracy falls by {drop:.4f} {at}")
    return found
