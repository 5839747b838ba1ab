"""Evaluation of artifacts and modules on a split, the same for every format and task. No torch here.

Each process counts its share of the batches; the counts are merged, so metrics do not depend on the
number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from dlcli.data.base import Indices, Inputs, Reader, Targets
from dlcli.data.kinds import kind_of
from dlcli.data.prefetch import prefetch
from dlcli.errors import DlcliError
from dlcli.evaluation.ensemble import Ensemble
from dlcli.evaluation.processes import Processes
from dlcli.events import Emit, EvalProgress, ignore
from dlcli.formats.base import Outputs
from dlcli.task import PairsInput, TaskSpec

if TYPE_CHECKING:
    from dlcli.evaluation.metrics import Counts, EvalResult

T = TypeVar("T")
Each = Callable[[Outputs, Targets, Indices], None]


def _ignore_batch(outputs: Outputs, targets: Targets, indices: Indices) -> None:
    """Do nothing with a batch."""


def evaluate(
    predict: Callable[[Inputs], Outputs],
    reader: Reader,
    task: TaskSpec,
    *,
    split: str,
    batch_size: int | None = None,
    emit: Emit = ignore,
    world: Processes | None = None,
    check_stop: Callable[[], None] = lambda: None,
) -> EvalResult:
    """Compute the metrics of ``predict`` over a split; each readable sample counts once.

    Every process of ``world`` (None: this one alone) must call it, and gets the same result. Unreadable
    samples are skipped, counted and named. ``check_stop`` is called after each batch, as often in each
    process, so that it may be a collective; what it raises ends the evaluation. Raises: DlcliError, in
    every process, when no sample can be read, or on the first unreadable one where the reader is set to
    fail.
    """
    part = _share(
        predict, reader, task, split, batch_size, emit=emit, world=world, check_stop=check_stop
    )
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
    each: Each = _ignore_batch,
) -> Counts:
    """The counts that `evaluate` computes metrics from. Scores are in the order of the ranks.

    ``each`` is called with the outputs, targets and indices of every batch of this process.
    """
    part = _share(predict, reader, task, split, batch_size, emit=emit, world=world, each=each)
    return _agreed(part, reader, split, world, lambda counts: counts)


def default_batch_size(task: TaskSpec) -> int:
    """The batch size of the kind of data, at most as many samples as have 256 MiB of outputs."""
    return min(kind_of(task).default_batch_size(task.input), samples_within(2**28, task))


def batch_size_of(ensemble: Ensemble) -> int:
    """The smallest default batch size of the members."""
    return min(default_batch_size(member.card.task) for member in ensemble.members)


def samples_within(size: int, task: TaskSpec) -> int:
    """The number of samples whose outputs take at most ``size`` bytes; at least one."""
    length = task.input.target.max_length if isinstance(task.input, PairsInput) else 1
    return max(1, size // (4 * task.num_outputs * length))


def _share(
    predict: Callable[[Inputs], Outputs],
    reader: Reader,
    task: TaskSpec,
    split: str,
    batch_size: int | None,
    *,
    emit: Emit,
    world: Processes | None,
    check_stop: Callable[[], None] = lambda: None,
    each: Each = _ignore_batch,
) -> Counts | DlcliError:
    """The counts of this process, or its error, which is gathered like counts: others wait for it."""
    from dlcli.evaluation.metrics import make_counts

    counts = make_counts(task)
    error: DlcliError | None = None
    size = batch_size or default_batch_size(task)
    processes = 1 if world is None else world.size
    checks = iter(range(-(-len(reader) // (size * processes))))  # as many as rank 0 has batches

    def check() -> None:
        next(checks)
        check_stop()

    try:
        for inputs, indices in batches(reader, size, split, emit, world, check):
            outputs, targets = predict(inputs), reader.targets(indices)
            counts.update(outputs, targets, inputs, reader.series(indices))
            each(outputs, targets, indices)
    except DlcliError as exc:
        error = exc
    for _ in checks:  # those of the other processes, which may have more batches
        check_stop()
    return error or counts


def _agreed(
    part: Counts | DlcliError,
    reader: Reader,
    split: str,
    world: Processes | None,
    finish: Callable[[Counts], T],
) -> T:
    """Merge the counts in the main process, apply ``finish`` and broadcast the result.

    Raises: DlcliError, in every process, when one of them failed or nothing was counted.
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
    """Counts of all processes, in order. Raises: DlcliError of the first that failed."""
    counts: list[Counts] = []
    for part in parts:
        if isinstance(part, DlcliError):
            raise part
        counts.append(part)
    for other in counts[1:]:
        counts[0].merge(other)
    check_counted(counts[0], reader, split)
    return counts[0]


def check_counted(counts: Counts, reader: Reader, split: str) -> None:
    """Raises: DlcliError where no sample of the split could be read."""
    if not counts.samples:
        first = next((f"; {name}: {reason}" for name, reason in reader.bad.items()), "")
        raise DlcliError(f"none of the {len(reader)} samples of the {split} split can be read{first}")


def batches(
    reader: Reader,
    batch_size: int,
    split: str,
    emit: Emit = ignore,
    world: Processes | None = None,
    after_batch: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Inputs, Indices]]:
    """Iterate over this process's batches: inputs of the readable samples, and their indices.

    Batch i belongs to rank i % size. The shortest samples come first where lengths vary. Rank 0 emits
    the progress of all, estimated by its own. ``after_batch`` is called after each batch, also where
    none of its samples could be read.
    """
    order = reader.by_length()
    rank, processes = (0, 1) if world is None else (world.rank, world.size)
    starts = range(rank * batch_size, len(reader), processes * batch_size)
    spans = (order[start : start + batch_size] for start in starts)
    done = 0
    for indices, inputs, readable in prefetch((span, *reader.read(span)) for span in spans):
        if len(readable):
            yield inputs, readable
        done += len(indices)
        if rank == 0:
            total = len(reader)
            emit(EvalProgress(split=split, done=min(total, done * processes), total=total))
        after_batch()
