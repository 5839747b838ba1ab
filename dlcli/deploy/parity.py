"""Parity of an exported file with its model: equal outputs, predictions and metrics on real samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli import transforms
from dlcli.card import Card
from dlcli.config import Bound, ExportConfig, parse_bound
from dlcli.data.base import Inputs, Targets
from dlcli.data.prepare import have_steps, trim
from dlcli.evaluation.agreement import agreement_of
from dlcli.evaluation.differences import compared_metric
from dlcli.evaluation.evaluate import default_batch_size
from dlcli.evaluation.metrics import direction, make_counts
from dlcli.formats.base import Artifact, Outputs
from dlcli.formats.onnx.format import OnnxArtifact
from dlcli.formats.readable_outputs import has_readable_outputs, to_probabilities
from dlcli.task import TaskSpec

# One sample, as in serving; an odd size, at which a graph with a fixed batch size fails; and one for
# throughput.
BATCH_SIZES = (1, 7, 32)
# Longer batches have more padding: a graph with a fixed length fails, or one that reads padding.
_EXTRA_STEPS = 5
_TOLERANCE = 1e-3
_MAX_DROP = 0.005
# Factors: float16 has 13 bits less than float32, at whose tolerance every model would fail.
_HALF_TOLERANCE = 20.0
# In int8, a sum in another order may round the other way, and later layers amplify that step.
_INT8_TOLERANCE = 50.0
# For regression on raw samples, whose pixels may be rounded differently: a share of the largest output.
RAW_TOLERANCE = 0.02


@dataclass(frozen=True)
class BatchParity:
    """The exported file compared with the model at one batch size.

    ``steps`` is "own" where each batch was as long as its longest sample, "longer" where padding was
    added (and for seq2seq the prefix was half as long), None where lengths do not vary.
    ``max_abs_diff`` is of logits, probabilities where the file gives those, scaled numbers or
    embeddings; ``relative_diff`` divides it by the largest (at least 1); ``agreement`` is the share of
    equal classes, or of embeddings with the same nearest neighbour among those compared; None for
    regression.
    """

    batch_size: int
    steps: str | None
    max_abs_diff: float
    relative_diff: float
    agreement: float | None
    metrics: dict[str, float]


@dataclass(frozen=True)
class RawParity:
    """A file with embedded preprocessing, run on raw samples, compared with reader and model.

    ``max_abs_diff`` is of probabilities, numbers or embeddings.
    """

    samples: int
    max_abs_diff: float
    agreement: float | None


@dataclass(frozen=True)
class Parity:
    """The result of a parity check. ``data`` is the split, or "random" with the reason in ``note``.

    ``metrics`` are the model's on the same samples; empty without labels. ``missed`` are the bounds that
    were missed, in words. ``one_branch`` are lines of the user's code that branch on values of a tensor:
    the file took one way there, and so did all of these samples, or both ways give the same outputs.
    ``raw`` is for files with embedded preprocessing, where there is raw data.
    """

    data: str
    samples: int
    note: str
    metrics: dict[str, float]
    batches: tuple[BatchParity, ...]
    missed: tuple[str, ...]
    raw: RawParity | None = None
    one_branch: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.missed

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"ok": self.ok, **asdict(self)}


def check_parity(
    before: Artifact,
    after: Artifact,
    inputs: Inputs,
    targets: Targets | None,
    config: ExportConfig,
    *,
    data: str,
    note: str,
) -> Parity:
    """Run both artifacts on the same samples and check the differences against the bounds.

    Batches of sequences are trimmed to their longest, so that many lengths are tried.
    """
    task = before.card.task
    readable = has_readable_outputs(after.card) and not task.targets and task.kind != "embedding"
    tolerance = _tolerance(before, config)
    batches, missed = [], []
    reference, metrics = _reference(before, inputs, targets)
    for steps, variant in _length_variants(inputs, task).items():
        if steps == "longer":
            reference, _ = _reference(before, variant, None)
        extra_steps = _EXTRA_STEPS if steps == "longer" else 0
        for batch_size in BATCH_SIZES:
            outputs = _predict(after, variant, batch_size, extra_steps=extra_steps)
            labels = None if steps == "longer" else targets
            after_metrics = _metrics(outputs, variant, labels, before.card)
            pair = reference, outputs
            if readable:
                pair = to_probabilities(reference, task), to_probabilities(outputs, task)
            batch = _compare(*pair, batch_size, steps, after_metrics, task)
            batches.append(batch)
            missed += _missed(batch, metrics, tolerance, config, task)
    branches = transforms.find_record(after.card.transforms, transforms.ONE_BRANCH)
    return Parity(
        data,
        len(inputs[0]),
        note,
        metrics,
        tuple(batches),
        tuple(missed),
        one_branch=() if branches is None else tuple(branches.args["lines"]),
    )


def _tolerance(before: Artifact, config: ExportConfig) -> float:
    """Return the tolerance relative to the largest output: as requested, or by the number format."""
    if config.tolerance is not None:
        return config.tolerance
    simulated = transforms.find_record(before.card.transforms, transforms.FAKE_QUANT) is not None
    half = _HALF_TOLERANCE if config.half else 1.0
    return _TOLERANCE * half * (_INT8_TOLERANCE if simulated else 1.0)


def check_raw_parity(
    before: Artifact,
    after: OnnxArtifact,
    inputs: Inputs,
    feeds: Iterator[tuple[dict[str, npt.NDArray[Any]], int]],
    config: ExportConfig,
) -> tuple[RawParity, tuple[str, ...]]:
    """Run ``after`` on raw samples and compare it with the model; also return what was missed.

    ``feeds`` yields feeds of its graph, each with the number of samples before any that fill a batch.
    ``inputs`` are the same samples as encoded by the reader.
    """
    task = before.card.task
    reference = _predict(before, inputs, default_batch_size(task))
    outputs = np.concatenate([after.run_feeds(feed)[:count] for feed, count in feeds])
    agreement = agreement_of(reference, outputs, task)
    if not task.targets and task.kind != "embedding":
        reference, outputs = to_probabilities(reference, task), to_probabilities(outputs, task)
    worst = float(np.abs(reference - outputs).max())
    missed = []
    if agreement is not None and agreement < config.agreement:
        missed.append(f"{agreement:.2%} of {len(outputs)} raw samples get the same prediction")
    elif agreement is None and not worst <= RAW_TOLERANCE * max(1.0, float(np.abs(reference).max())):
        missed.append(f"{task.output.name} of raw samples differ by {worst:.3g}")
    return RawParity(len(outputs), worst, agreement), tuple(missed)


def _length_variants(inputs: Inputs, task: TaskSpec) -> dict[str | None, Inputs]:
    """Return the inputs to compare on; where lengths vary, also with padding and shorter prefixes."""
    names = [tensor.name for tensor in task.input.signature]
    if "lengths" not in names:
        return {None: inputs}
    longer = list(inputs)
    if "prefix" in names:
        at = names.index("prefix")
        longer[at] = inputs[at][:, : max(1, inputs[at].shape[1] // 2)]
    return {"own": inputs, "longer": tuple(longer)}


def _reference(
    before: Artifact, inputs: Inputs, targets: Targets | None
) -> tuple[Outputs, dict[str, float]]:
    task = before.card.task
    outputs = _predict(before, inputs, default_batch_size(task))
    return outputs, _metrics(outputs, inputs, targets, before.card)


def _predict(artifact: Artifact, inputs: Inputs, batch_size: int, *, extra_steps: int = 0) -> Outputs:
    count, parts, task = len(inputs[0]), [], artifact.card.task
    for start in range(0, count, batch_size):
        rows = np.arange(start, start + batch_size)
        # Too few samples for one batch: they are repeated to fill it.
        rows = rows % count if count < batch_size else rows[rows < count]
        batch = trim(tuple(array[rows] for array in inputs), task)
        parts.append(artifact.predict(_padded(batch, extra_steps, task)))
    return np.concatenate(parts)[:count]


def _padded(inputs: Inputs, steps: int, task: TaskSpec) -> Inputs:
    """Return the batch with up to ``steps`` more steps of padding after its longest sequence."""
    first = inputs[0]
    # Some models have no positions beyond the longest sample of the training data.
    steps = min(steps, int(task.input.shape[0]) - first.shape[1]) if steps else 0
    if steps < 1:
        return inputs
    return tuple(
        np.pad(x, [(0, 0), (0, steps), *[(0, 0)] * (x.ndim - 2)]) if own else x
        for x, own in zip(inputs, have_steps(task), strict=True)
    )


def _metrics(outputs: Outputs, inputs: Inputs, targets: Targets | None, card: Card) -> dict[str, float]:
    """Return the metric that chose the model, first, and the loss; nothing without labels."""
    if targets is None:
        return {}
    counts = make_counts(card.task)
    counts.update(outputs, targets, inputs)
    metrics = counts.metrics()
    return {name: metrics[name] for name in (compared_metric(card.monitor, counts, card.task), "loss")}


def _compare(
    reference: Outputs,
    outputs: Outputs,
    batch_size: int,
    steps: str | None,
    metrics: dict[str, float],
    task: TaskSpec,
) -> BatchParity:
    difference: npt.NDArray[np.float32] = np.abs(reference - outputs)
    # A NaN compares false with every bound; as infinity it misses them.
    worst = float(difference.max()) if np.isfinite(difference).all() else float("inf")
    return BatchParity(
        batch_size=batch_size,
        steps=steps,
        max_abs_diff=worst,
        relative_diff=worst / max(1.0, float(np.abs(reference).max())),
        agreement=agreement_of(reference, outputs, task),
        metrics=metrics,
    )


def _missed(
    batch: BatchParity,
    before: dict[str, float],
    tolerance: float,
    config: ExportConfig,
    task: TaskSpec,
) -> list[str]:
    at = f"at batch {batch.batch_size}" + (", longer" if batch.steps == "longer" else "")
    missed = []
    if batch.relative_diff > tolerance:
        missed.append(
            f"{task.output.name} differ by {batch.max_abs_diff:.3g} {at}, "
            f"{batch.relative_diff:.3g} of the largest, where {tolerance:g} is allowed"
        )
    if batch.agreement is not None and batch.agreement < config.agreement:
        what = "nearest neighbour" if task.kind == "embedding" else "class"
        missed.append(f"{batch.agreement:.2%} of samples get the same {what} {at}")
    if before and batch.metrics:
        name = next(iter(before))
        # Accuracy has an absolute bound; an error, in the units of the data, a relative one.
        bound = parse_bound(config.max_drop) or Bound(_MAX_DROP, relative=direction(name) < 0)
        drop = (before[name] - batch.metrics.get(name, math.nan)) * direction(name)
        if not bound.holds(drop, before[name]):
            allowed = bound.allowed(before[name])
            missed.append(f"{name} gets worse by {drop:.4g} {at}, where {allowed:.4g} is allowed")
    return missed
