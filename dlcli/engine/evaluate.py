"""Evaluation: answers in, counts out, the same for every artifact format and task. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from dlcli.config import EvalConfig
from dlcli.data.base import Indices, Inputs, Reader
from dlcli.engine.baselines import baselines, counted_order
from dlcli.engine.evaldata import EvalData
from dlcli.engine.metrics import Counts, EvalResult, make_counts
from dlcli.engine.prefetch import prefetch
from dlcli.engine.translation import bleu, check_beams
from dlcli.engine.tta import averaged
from dlcli.errors import DlcliError
from dlcli.events import Emit, EvalProgress, ignore
from dlcli.formats.base import Artifact, Outputs
from dlcli.task import ImageInput, PairsInput, TaskSpec


def evaluate(
    predict: Callable[[Inputs], Outputs],
    reader: Reader,
    task: TaskSpec,
    *,
    split: str,
    batch_size: int | None = None,
    emit: Emit = ignore,
) -> EvalResult:
    """The metrics of ``predict`` over a split, each readable sample counted once.

    Unreadable samples are left out, counted and named; none is replaced. Raises: DlcliError when no
    sample can be read, or on the first unreadable one where the reader is told to fail.
    """
    counts = count(predict, reader, task, split=split, batch_size=batch_size, emit=emit)
    return counts.result(split, reader.bad)


def measure(model: Artifact, data: EvalData, config: EvalConfig, *, emit: Emit = ignore) -> EvalResult:
    """`evaluate` for an artifact on the split it was asked for, with baselines beside it."""
    task = model.card.task
    check_beams(task, config.beams)
    counts = count(
        averaged(model.predict, task, config.tta),
        data.reader,
        task,
        split=data.split,
        batch_size=config.batch_size,
        emit=emit,
    )
    result = counts.result(data.split, data.reader.bad)
    if task.kind == "seq2seq":
        score = bleu(model.predict, data.reader, task, split=data.split, beams=config.beams, emit=emit)
        result = replace(result, metrics={**result.metrics, "bleu": score})
    if data.train is None:
        return result
    rows = baselines(task, data.train(), data.reader, counts, strong=config.baselines)
    return replace(result, baselines=rows)


def count(
    predict: Callable[[Inputs], Outputs],
    reader: Reader,
    task: TaskSpec,
    *,
    split: str,
    batch_size: int | None = None,
    emit: Emit = ignore,
) -> Counts:
    """What `evaluate` derives its figures from."""
    counts = make_counts(task)
    done = 0
    size = batch_size or default_batch_size(task)
    for indices, inputs, kept in prefetch(_batches(reader, size)):
        if len(kept):
            counts.update(predict(inputs), reader.targets(kept), inputs)
        done += len(indices)
        emit(EvalProgress(split=split, done=done, total=len(reader)))
    if not counts.samples:
        first = next((f"; {name}: {reason}" for name, reason in reader.bad.items()), "")
        raise DlcliError(f"none of the {len(reader)} samples of the {split} split can be read{first}")
    return counts


def default_batch_size(task: TaskSpec) -> int:
    """As many images as 64 photos of 224x224 have pixels, at most 256: memory, not results.

    Of texts to write, as many as have 256 MiB of logits.
    """
    if isinstance(task.input, ImageInput):
        return max(1, min(256, 64 * 224 * 224 // (task.input.height * task.input.width)))
    return min(256, answers_within(2**28, task))


def answers_within(size: int, task: TaskSpec) -> int:
    """How many samples' answers take at most ``size`` bytes; at least one."""
    length = task.input.target.max_length if isinstance(task.input, PairsInput) else 1
    return max(1, size // (4 * task.num_outputs * length))


def _batches(reader: Reader, batch_size: int) -> Iterator[tuple[Indices, Inputs, Indices]]:
    """(indices, inputs of the readable ones, which those are); the shortest first where it varies."""
    order = counted_order(reader)
    for start in range(0, len(reader), batch_size):
        indices = order[start : start + batch_size]
        yield indices, *reader.read(indices)
