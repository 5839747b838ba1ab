"""Evaluation: answers in, counts out, the same for every artifact format and task. No torch here.

Of several processes each counts its share of the batches; the counts are merged, so a split's figures
do not depend on their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from dlcli.config import EvalConfig
from dlcli.data.base import Indices, Inputs, Reader
from dlcli.data.kinds import ReadOptions, kind_of
from dlcli.data.prefetch import prefetch
from dlcli.errors import DlcliError
from dlcli.evaluation.baselines.compare import compare_with_baselines
from dlcli.evaluation.ensemble import Ensemble, member_row
from dlcli.evaluation.eval_data import EvalData
from dlcli.evaluation.metrics import Counts, EvalResult, make_counts
from dlcli.evaluation.processes import Processes
from dlcli.evaluation.translation import bleu, check_beams
from dlcli.events import Emit, EvalProgress, Warned, ignore
from dlcli.formats.base import Outputs
from dlcli.task import PairsInput, TaskSpec

T = TypeVar("T")


def evaluate(
    predict: Callable[[Inputs], Outputs],
    reader: Reader,
    task: TaskSpec,
    *,
    split: str,
    batch_size: int | None = None,
    emit: Emit = ignore,
    world: Processes | None = None,
) -> EvalResult:
    """The metrics of ``predict`` over a split, each readable sample counted once.

    Every process of ``world`` (None: this one alone) must ask, and gets the same result. Unreadable
    samples are left out, counted and named; none is replaced. Raises: DlcliError, in every process,
    when no sample can be read, or on the first unreadable one where the reader is told to fail.
    """
    part = _share(predict, reader, task, split=split, batch_size=batch_size, emit=emit, world=world)
    return _agreed(part, reader, split, world, lambda counts: counts.result(split, reader.bad))


def count(
    predict: Callable[[Inputs], Outputs],
    reader: Reader,
    task: TaskSpec,
    *,
    split: str,
    batch_size: int | None = None,
    emit: Emit = ignore,
    world: Processes | None = None,
) -> Counts:
    """What `evaluate` derives its figures from. Scores come process by process."""
    part = _share(predict, reader, task, split=split, batch_size=batch_size, emit=emit, world=world)
    return _agreed(part, reader, split, world, lambda counts: counts)


def measure(
    ensemble: Ensemble, data: EvalData, config: EvalConfig, *, emit: Emit = ignore
) -> EvalResult:
    """`evaluate` for one or several artifacts on the split asked for, with baselines beside them.

    Of several each is also measured alone, in the same pass.
    """
    task, several = ensemble.task, len(ensemble.members) > 1
    check_beams(task, config.beams)
    options = ReadOptions(workers=config.workers, on_bad_sample=config.on_bad_sample)

    def read_as(wanted: TaskSpec) -> Reader:
        if wanted.input == task.input:
            return data.reader
        return kind_of(wanted).reader(data.reader.samples, wanted, options)

    reader = ensemble.reader(read_as)
    for notice in reader.notices:
        emit(Warned(notice.message))
    counts = make_counts(task)
    alone = [make_counts(task) for _ in ensemble.members if several]
    size = config.batch_size or batch_size_of(ensemble)
    for inputs, kept in batches(reader, size, data.split, emit):
        answers, targets = ensemble.answers(inputs), reader.targets(kept)
        counts.update(ensemble.mean(answers), targets, inputs)
        for own, answer in zip(alone, answers, strict=several):
            own.update(answer, targets, inputs)
    _refuse_none(counts, reader, data.split)
    members = tuple(
        member_row(artifact, own, counts, task)
        for artifact, own in zip(ensemble.members, alone, strict=several)
    )
    result = replace(counts.result(data.split, reader.bad), members=members)
    if task.kind == "seq2seq":
        score = bleu(ensemble.predict, reader, task, split=data.split, beams=config.beams, emit=emit)
        result = replace(result, metrics={**result.metrics, "bleu": score})
    if data.train is None:
        return result
    # The first member's own reader: a baseline needs no other encoding. It knows what is bad for all.
    rows = compare_with_baselines(task, data.train(), data.reader, counts, fitted=config.baselines)
    return replace(result, baselines=rows)


def default_batch_size(task: TaskSpec) -> int:
    """That of the kind of data, and at most as many samples as have 256 MiB of outputs."""
    return min(kind_of(task).default_batch_size(task.input), answers_within(2**28, task))


def batch_size_of(ensemble: Ensemble) -> int:
    """What suits the member that needs most memory."""
    return min(default_batch_size(member.card.task) for member in ensemble.members)


def answers_within(size: int, task: TaskSpec) -> int:
    """How many samples' answers take at most ``size`` bytes; at least one."""
    length = task.input.target.max_length if isinstance(task.input, PairsInput) else 1
    return max(1, size // (4 * task.num_outputs * length))


def _share(
    predict: Callable[[Inputs], Outputs],
    reader: Reader,
    task: TaskSpec,
    *,
    split: str,
    batch_size: int | None,
    emit: Emit,
    world: Processes | None,
) -> Counts | DlcliError:
    """What this process counts, or why it could not: the others wait for it in any case."""
    counts = make_counts(task)
    try:
        for inputs, kept in batches(reader, batch_size or default_batch_size(task), split, emit, world):
            counts.update(predict(inputs), reader.targets(kept), inputs)
    except DlcliError as exc:
        return exc
    return counts


def _agreed(
    part: Counts | DlcliError,
    reader: Reader,
    split: str,
    world: Processes | None,
    finish: Callable[[Counts], T],
) -> T:
    """What ``finish`` makes of all processes' counts in the main one, in every process.

    Raises: DlcliError, in every process, when one of them had one or nothing was counted.
    """
    if world is None:
        return finish(_merged([part], reader, split))
    parts = world.gather((part, reader.bad))
    outcome: T | DlcliError | None = None
    if world.main:
        for _, bad in parts:
            reader.bad.update(bad)
        try:
            outcome = finish(_merged([counts for counts, _ in parts], reader, split))
        except DlcliError as exc:
            outcome = exc
    outcome, bad = world.broadcast((outcome, reader.bad))
    reader.bad.update(bad)
    if isinstance(outcome, DlcliError):
        raise outcome
    assert outcome is not None
    return outcome


def _merged(parts: list[Counts | DlcliError], reader: Reader, split: str) -> Counts:
    """One process's counts behind the other's. Raises: DlcliError of the first that had one."""
    found: list[Counts] = []
    for part in parts:
        if isinstance(part, DlcliError):
            raise part
        found.append(part)
    for other in found[1:]:
        found[0].merge(other)
    _refuse_none(found[0], reader, split)
    return found[0]


def _refuse_none(counts: Counts, reader: Reader, split: str) -> None:
    if not counts.samples:
        first = next((f"; {name}: {reason}" for name, reason in reader.bad.items()), "")
        raise DlcliError(f"none of the {len(reader)} samples of the {split} split can be read{first}")


def batches(
    reader: Reader, batch_size: int, split: str, emit: Emit = ignore, world: Processes | None = None
) -> Iterator[tuple[Inputs, Indices]]:
    """This process's batches: inputs of the readable samples, and which those are.

    Batch i belongs to process i modulo their number. The shortest samples come first where they vary.
    The main process tells the progress of all, estimated by its own.
    """
    order = reader.by_length()
    rank, processes = (0, 1) if world is None else (world.rank, world.size)
    starts = range(rank * batch_size, len(reader), processes * batch_size)
    spans = (order[start : start + batch_size] for start in starts)
    done = 0
    for indices, inputs, kept in prefetch((span, *reader.read(span)) for span in spans):
        if len(kept):
            yield inputs, kept
        done += len(indices)
        if rank == 0:
            total = len(reader)
            emit(EvalProgress(split=split, done=min(total, done * processes), total=total))
