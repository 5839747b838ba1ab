"""Does the exported file give the same answers? Measured on the user's own validation samples."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.config import ExportConfig
from dlcli.data.base import Inputs, Targets
from dlcli.engine.evaldata import EvalData
from dlcli.engine.evaluate import default_batch_size
from dlcli.engine.metrics import DIRECTIONS, default_monitor, make_counts
from dlcli.engine.metrics.embedding import unit
from dlcli.errors import DlcliError
from dlcli.formats.base import Artifact, Outputs
from dlcli.task import TaskSpec

# One sample, as a service sends it, and a size that divides nothing: a graph with a fixed batch fails.
BATCH_SIZES = (1, 7)
# Neighbours whose cosines differ by less are as near: on noise, all of a model's embeddings are alike.
_AS_NEAR = 1e-4


@dataclass(frozen=True)
class BatchParity:
    """The exported file against the original at one batch size.

    ``max_abs_diff`` is of logits, scaled numbers or embeddings; ``relative_diff`` divides it by the
    largest (at least 1); ``agreement`` is the share of equal classes, or of embeddings with the same
    nearest neighbour among those compared; None where the answers are numbers.
    """

    batch_size: int
    max_abs_diff: float
    relative_diff: float
    agreement: float | None
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


def real_samples(data: EvalData, count: int) -> tuple[Inputs, Targets]:
    """Up to ``count`` readable samples, spread evenly over the split. Raises: DlcliError for none."""
    total = len(data.reader)
    indices = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))
    inputs, kept = data.reader.read(indices)
    if not len(kept):
        raise DlcliError(f"none of the samples of the {data.split} split can be read")
    return inputs, data.reader.targets(kept)


def compare(
    before: Artifact,
    after: Artifact,
    inputs: Inputs,
    targets: Targets | None,
    config: ExportConfig,
    *,
    data: str,
    note: str,
) -> Parity:
    """Run both artifacts on the same samples and hold the differences against the bounds.

    Batches of sequences are cut to their own longest, so that many lengths are tried.
    """
    task = before.card.task
    reference = _answers(before, inputs, default_batch_size(task))
    metrics = _metrics(reference, inputs, targets, task)
    batches, missed = [], []
    for batch_size in BATCH_SIZES:
        answers = _answers(after, inputs, batch_size)
        after_metrics = _metrics(answers, inputs, targets, task)
        batch = _compare(reference, answers, batch_size, after_metrics, task)
        batches.append(batch)
        missed += _missed(batch, metrics, config, task)
    return Parity(data, len(inputs[0]), note, metrics, tuple(batches), tuple(missed))


def _answers(artifact: Artifact, inputs: Inputs, batch_size: int) -> Outputs:
    count, parts = len(inputs[0]), []
    for start in range(0, count, batch_size):
        rows = np.arange(start, start + batch_size)
        # Too few samples for one batch: they are repeated to fill it.
        rows = rows % count if count < batch_size else rows[rows < count]
        batch = trim(tuple(array[rows] for array in inputs), artifact.card.task)
        parts.append(artifact.predict(batch))
    return np.concatenate(parts)[:count]


def trim(inputs: Inputs, task: TaskSpec) -> Inputs:
    """A batch without the padding behind its longest sequence."""
    names = [tensor.name for tensor in task.input.signature]
    if "lengths" not in names:
        return inputs
    longest = int(inputs[names.index("lengths")].max())
    return (inputs[0][:, :longest], *inputs[1:])


def _metrics(
    answers: Outputs, inputs: Inputs, targets: Targets | None, task: TaskSpec
) -> dict[str, float]:
    if targets is None:
        return {}
    counts = make_counts(task)
    counts.update(answers, targets, inputs)
    found = counts.metrics()
    return {name: found[name] for name in (default_monitor(task), "loss")}


def _compare(
    reference: Outputs, answers: Outputs, batch_size: int, metrics: dict[str, float], task: TaskSpec
) -> BatchParity:
    difference: npt.NDArray[np.float32] = np.abs(reference - answers)
    # A NaN compares false with every bound; as infinity it misses them.
    worst = float(difference.max()) if np.isfinite(difference).all() else float("inf")
    return BatchParity(
        batch_size=batch_size,
        max_abs_diff=worst,
        relative_diff=worst / max(1.0, float(np.abs(reference).max())),
        agreement=_agreement(reference, answers, task),
        metrics=metrics,
    )


def _agreement(reference: Outputs, answers: Outputs, task: TaskSpec) -> float | None:
    """Share of samples (tokens, labels) with the same answer; None where answers are numbers."""
    if task.targets:
        return None
    if task.kind == "embedding":
        return _same_neighbours(unit(reference), unit(answers))
    if task.kind == "multilabel":
        return float(((reference > 0) == (answers > 0)).mean())
    return float((reference.argmax(-1) == answers.argmax(-1)).mean())


def _same_neighbours(reference: Outputs, answers: Outputs) -> float | None:
    """Share of unit vectors (n, D) whose nearest other one is the same before; None for fewer than 2."""
    if len(reference) < 2:
        return None
    before, after = reference @ reference.T, answers @ answers.T  # (n, n)
    for cosines in (before, after):
        np.fill_diagonal(cosines, -np.inf)
    chosen = np.take_along_axis(before, after.argmax(axis=1, keepdims=True), axis=1)[:, 0]
    return float((chosen >= before.max(axis=1) - _AS_NEAR).mean())


def _missed(
    batch: BatchParity, before: dict[str, float], config: ExportConfig, task: TaskSpec
) -> list[str]:
    at = f"at batch {batch.batch_size}"
    found = []
    if batch.relative_diff > config.tolerance:
        found.append(
            f"{task.output.name} differ by {batch.max_abs_diff:.3g} {at}, "
            f"{batch.relative_diff:.3g} of the largest, where {config.tolerance:g} is allowed"
        )
    if batch.agreement is not None and batch.agreement < config.agreement:
        what = "nearest neighbour" if task.kind == "embedding" else "class"
        found.append(f"{batch.agreement:.2%} of samples get the same {what} {at}")
    if before:
        name = default_monitor(task)
        # A share falls by so many points; an error has the data's units and grows by a share of itself.
        unit = 1.0 if DIRECTIONS[name] > 0 else max(abs(before[name]), 1e-12)
        drop = (before[name] - batch.metrics[name]) * DIRECTIONS[name] / unit
        if drop > config.max_drop:
            found.append(f"{name} gets worse by {drop:.4f} {at}")
    return found
