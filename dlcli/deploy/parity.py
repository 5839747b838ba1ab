"""Does the exported file give the same answers? Measured on the user's own validation samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli import transforms
from dlcli.config import Bound, ExportConfig, parse_bound
from dlcli.data.base import Inputs, Targets
from dlcli.data.prepare import trim
from dlcli.evaluation.agreement import agreement_of
from dlcli.evaluation.evaluate import default_batch_size
from dlcli.evaluation.metrics import default_monitor, direction, make_counts
from dlcli.formats.base import Artifact, Outputs
from dlcli.formats.onnx.format import OnnxArtifact
from dlcli.formats.readable_outputs import has_readable_outputs, to_probabilities
from dlcli.task import TaskSpec

# One sample, as a service sends it; a size that divides nothing, where a graph with a fixed batch fails;
# and one for throughput.
BATCH_SIZES = (1, 7, 32)
# Longer batches have so many more steps of padding: a graph with a fixed length fails, or one that reads
# what lies behind a sample's end.
_MORE_STEPS = 5
_TOLERANCE = 1e-3
_MAX_DROP = 0.005
# Float16 has 2^13 times fewer steps than float32; the tolerance of float32 would refuse every network.
_HALF_TOLERANCE = 20.0
# In int8, a sum in another order may round the other way, and the next layers take that step further.
_INT8_TOLERANCE = 50.0
# Of numbers from raw samples, whose pixels may be rounded otherwise: a share of the largest.
_RAW_SHARE = 0.02


@dataclass(frozen=True)
class BatchParity:
    """The exported file against the original at one batch size.

    ``steps`` is "own" where each batch was as long as its longest sample, "longer" where padding came on
    top (and of texts to write, half of what was written was given), None where nothing varies.
    ``max_abs_diff`` is of logits, probabilities where the file gives those, scaled numbers or
    embeddings; ``relative_diff`` divides it by the largest (at least 1); ``agreement`` is the share of
    equal classes, or of embeddings with the same nearest neighbour among those compared; None where the
    answers are numbers.
    """

    batch_size: int
    steps: str | None
    max_abs_diff: float
    relative_diff: float
    agreement: float | None
    metrics: dict[str, float]


@dataclass(frozen=True)
class RawParity:
    """A file with its preprocessing inside, asked with raw data one by one, against reader and model.

    ``max_abs_diff`` is of probabilities, numbers or embeddings.
    """

    samples: int
    max_abs_diff: float
    agreement: float | None


@dataclass(frozen=True)
class Parity:
    """The comparison. ``data`` is the split, or "random" with the reason in ``note``.

    ``metrics`` are the original's on the same samples; empty without labels. ``raw`` is for files that
    take raw data, where there is some.
    """

    data: str
    samples: int
    note: str
    metrics: dict[str, float]
    batches: tuple[BatchParity, ...]
    missed: tuple[str, ...]
    raw: RawParity | None = None

    @property
    def ok(self) -> bool:
        return not self.missed

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"ok": self.ok, **asdict(self)}


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
    readable = has_readable_outputs(after.card) and not task.targets and task.kind != "embedding"
    tolerance = _tolerance(before, config)
    batches, missed = [], []
    reference, metrics = _reference(before, inputs, targets)
    for steps, asked in _lengths(inputs, task).items():
        if steps == "longer":
            reference, _ = _reference(before, asked, None)
        for batch_size in BATCH_SIZES:
            answers = _answers(after, asked, batch_size, more=_MORE_STEPS if steps == "longer" else 0)
            after_metrics = {} if steps == "longer" else _metrics(answers, asked, targets, task)
            pair = reference, answers
            if readable:
                pair = to_probabilities(reference, task), to_probabilities(answers, task)
            batch = _compare(*pair, batch_size, steps, after_metrics, task)
            batches.append(batch)
            missed += _missed(batch, metrics, tolerance, config, task)
    return Parity(data, len(inputs[0]), note, metrics, tuple(batches), tuple(missed))


def _tolerance(before: Artifact, config: ExportConfig) -> float:
    """What was asked for, else what this arithmetic can keep, as a share of the largest answer."""
    if config.tolerance is not None:
        return config.tolerance
    simulated = transforms.find_record(before.card.transforms, transforms.FAKE_QUANT) is not None
    half = _HALF_TOLERANCE if config.half else 1.0
    return _TOLERANCE * half * (_INT8_TOLERANCE if simulated else 1.0)


def compare_raw(
    before: Artifact,
    after: OnnxArtifact,
    inputs: Inputs,
    feeds: Iterator[tuple[dict[str, npt.NDArray[Any]], int]],
    config: ExportConfig,
) -> tuple[RawParity, tuple[str, ...]]:
    """Ask ``after`` with raw samples, as its graph takes them, and hold it against the model.

    ``feeds`` gives some at a time and how many they are: more may be there to fill a batch.
    ``inputs`` are the same samples as a reader gives them. Also what was missed.
    """
    task = before.card.task
    reference = _answers(before, inputs, default_batch_size(task))
    answers = np.concatenate([after.run_feeds(feed)[:count] for feed, count in feeds])
    agreement = agreement_of(reference, answers, task)
    if not task.targets and task.kind != "embedding":
        reference, answers = to_probabilities(reference, task), to_probabilities(answers, task)
    worst = float(np.abs(reference - answers).max())
    missed = []
    if agreement is not None and agreement < config.agreement:
        missed.append(f"{agreement:.2%} of {len(answers)} raw samples get the same answer")
    elif agreement is None and not worst <= _RAW_SHARE * max(1.0, float(np.abs(reference).max())):
        missed.append(f"{task.output.name} of raw samples differ by {worst:.3g}")
    return RawParity(len(answers), worst, agreement), tuple(missed)


def _lengths(inputs: Inputs, task: TaskSpec) -> dict[str | None, Inputs]:
    """The samples to ask with; where lengths vary, also for longer batches, with shorter prefixes."""
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
    answers = _answers(before, inputs, default_batch_size(task))
    return answers, _metrics(answers, inputs, targets, task)


def _answers(artifact: Artifact, inputs: Inputs, batch_size: int, *, more: int = 0) -> Outputs:
    count, parts, task = len(inputs[0]), [], artifact.card.task
    for start in range(0, count, batch_size):
        rows = np.arange(start, start + batch_size)
        # Too few samples for one batch: they are repeated to fill it.
        rows = rows % count if count < batch_size else rows[rows < count]
        batch = trim(tuple(array[rows] for array in inputs), task)
        parts.append(artifact.predict(_padded(batch, more, task)))
    return np.concatenate(parts)[:count]


def _padded(inputs: Inputs, steps: int, task: TaskSpec) -> Inputs:
    """The batch with up to ``steps`` more of padding behind its longest sequence."""
    first = inputs[0]
    # Some models know no positions behind the longest sample of the training data.
    steps = min(steps, int(task.input.shape[0]) - first.shape[1]) if steps else 0
    if steps < 1:
        return inputs
    padding = [(0, 0), (0, steps), *[(0, 0)] * (first.ndim - 2)]
    return (np.pad(first, padding), *inputs[1:])


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
    reference: Outputs,
    answers: Outputs,
    batch_size: int,
    steps: str | None,
    metrics: dict[str, float],
    task: TaskSpec,
) -> BatchParity:
    difference: npt.NDArray[np.float32] = np.abs(reference - answers)
    # A NaN compares false with every bound; as infinity it misses them.
    worst = float(difference.max()) if np.isfinite(difference).all() else float("inf")
    return BatchParity(
        batch_size=batch_size,
        steps=steps,
        max_abs_diff=worst,
        relative_diff=worst / max(1.0, float(np.abs(reference).max())),
        agreement=agreement_of(reference, answers, task),
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
    found = []
    if batch.relative_diff > tolerance:
        found.append(
            f"{task.output.name} differ by {batch.max_abs_diff:.3g} {at}, "
            f"{batch.relative_diff:.3g} of the largest, where {tolerance:g} is allowed"
        )
    if batch.agreement is not None and batch.agreement < config.agreement:
        what = "nearest neighbour" if task.kind == "embedding" else "class"
        found.append(f"{batch.agreement:.2%} of samples get the same {what} {at}")
    if before and batch.metrics:
        name = default_monitor(task)
        # A share falls by so many points; an error has the data's units and grows by a share of itself.
        bound = parse_bound(config.max_drop) or Bound(_MAX_DROP, relative=direction(name) < 0)
        drop = (before[name] - batch.metrics[name]) * direction(name)
        if not bound.holds(drop, before[name]):
            allowed = bound.allowed(before[name])
            found.append(f"{name} gets worse by {drop:.4g} {at}, where {allowed:.4g} is allowed")
    return found
