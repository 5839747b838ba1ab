"""Evaluation by several processes: each counts its share, and all get what one alone would get.

The processes are threads here, and what they tell each other goes through pickle as between real ones.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import pytest

from dlcli.data.base import ArrayReader, Indices, Inputs, Listed, RaggedReader, Samples, Stacked
from dlcli.errors import DlcliError, UsageError
from dlcli.evaluation.evaluate import count, evaluate
from dlcli.evaluation.metrics import EvalResult
from dlcli.events import EvalProgress, Event
from dlcli.task import NumberColumn, SeriesInput, TabularInput, TargetNumber, TaskSpec
from dlcli.training.distributed.world import ALONE, World

T = TypeVar("T")
CLASSES = TaskSpec(
    input=TabularInput(numbers=(NumberColumn(name="x"), NumberColumn(name="y"))),
    class_names=tuple("abc"),
)
FORECAST = TaskSpec(
    kind="forecast",
    input=SeriesInput(channels=("v",), mean=(3.0,), std=(2.0,), length=5),
    targets=(TargetNumber(name="v", mean=3.0, std=2.0),),
    horizon=2,
)


class Post:
    """How the threads of one world meet."""

    def __init__(self, size: int) -> None:
        self.letters: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=20)

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.letters[rank] = pickle.dumps(value)
        self.barrier.wait()
        found = [pickle.loads(letter) for letter in self.letters]
        self.barrier.wait()
        return found


@dataclass(frozen=True)
class Process:
    """One of the processes, as far as evaluation knows it."""

    rank: int
    size: int
    post: Post

    @property
    def main(self) -> bool:
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        found = self.post.exchange(self.rank, value)
        return found if self.main else []

    def broadcast(self, value: T) -> T:
        return cast(T, self.post.exchange(self.rank, value)[0])


def in_processes(size: int, work: Callable[[World], T]) -> list[T | DlcliError]:
    """What ``work`` gives or raises in each of ``size`` processes."""
    post = Post(size)
    found: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            found[rank] = work(cast(World, Process(rank, size, post)))
        except DlcliError as exc:
            found[rank] = exc

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a process waits for ever"
    return found


class Damaged(ArrayReader):
    """Rows of which some cannot be read, as they are found; or the first of them ends it."""

    def __init__(
        self, samples: Samples, inputs: Inputs, broken: set[int], *, fail: bool = False
    ) -> None:
        super().__init__(samples, inputs)
        self.broken, self.fail = broken, fail

    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        bad = [i for i in indices.tolist() if i in self.broken]
        if bad and self.fail:
            raise UsageError(f"cannot read {bad[0]}", hint="repair it")
        self.bad.update({str(i): "damaged" for i in bad})
        return super().read(indices[~np.isin(indices, bad)])


def table(samples: int, broken: set[int] | None = None, *, fail: bool = False) -> Damaged:
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(samples, 2)).astype(np.float32)
    targets = rng.integers(0, 3, samples)
    listed = Samples(tuple(map(str, range(samples))), targets, Stacked(columns))
    return Damaged(listed, (columns,), broken or set(), fail=fail)


def answer(inputs: Inputs) -> np.ndarray:
    x, y = inputs[0].T
    return np.stack([x, y, x - y], axis=1)


def measured(world: World | None, broken: set[int], samples: int = 23) -> EvalResult:
    return evaluate(answer, table(samples, broken), CLASSES, split="val", batch_size=4, world=world)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("broken", [set(), {0, 1, 2, 3, 9, 22}], ids=["whole", "damaged"])
def test_any_number_of_processes_gives_the_figures_of_one(size: int, broken: set[int]) -> None:
    """23 samples in 6 batches: with 7 processes one has none, and the first has one unreadable batch."""
    one = measured(None, broken)
    assert one.samples == 23 - len(broken)
    assert set(one.bad_samples) == set(map(str, broken))
    for result in in_processes(size, lambda world: measured(world, broken)):
        assert result == one


def test_the_world_of_one_is_no_world() -> None:
    assert measured(ALONE, {3}) == measured(None, {3})


def test_a_forecast_has_the_same_figures_to_the_last_bit() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(31, 5, 1)).astype(np.float32)
    samples = Samples(tuple(map(str, range(31))), rng.normal(size=(31, 2, 1)) + 3, Stacked(values))

    def work(world: World | None) -> EvalResult:
        return evaluate(
            lambda inputs: inputs[0][:, -2:],
            ArrayReader(samples, (values,)),
            FORECAST,
            split="val",
            batch_size=4,
            world=world,
        )

    one = work(None)
    assert "mase" in one.metrics
    for size in (2, 3):
        for result in in_processes(size, work):
            assert isinstance(result, EvalResult)
            assert result.metrics == one.metrics
            assert result.per_target == one.per_target


def test_samples_of_unequal_length_are_counted_once() -> None:
    rng = np.random.default_rng(2)
    series = [rng.normal(size=(n, 1)).astype(np.float32) for n in rng.integers(1, 9, 17)]
    samples = Samples(tuple(map(str, range(17))), rng.integers(0, 2, 17), Listed(tuple(series)))
    spec = SeriesInput(channels=("v",), mean=(0.0,), std=(1.0,), length=9, varies=True)
    task = TaskSpec(input=spec, class_names=("no", "yes"))

    def work(world: World | None) -> dict[str, float]:
        counts = count(
            lambda inputs: np.stack([inputs[0].sum((1, 2)), inputs[1] / 9], 1).astype(np.float32),
            RaggedReader(samples, series),
            task,
            split="val",
            batch_size=3,
            world=world,
        )
        assert counts.samples == 17
        return counts.metrics()

    assert in_processes(3, work) == [work(None)] * 3


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("fail", [False, True], ids=["whole", "failing"])
def test_every_process_checks_for_a_stop_equally_often(size: int, fail: bool) -> None:
    """6 batches, also where one process has fewer than others or fails on its first."""

    def work(world: World) -> int:
        checks: list[int] = []
        reader = table(23, {9}, fail=fail)  # of batch 2
        try:
            evaluate(
                answer, reader, CLASSES, split="val", batch_size=4, world=world,
                check_stop=lambda: checks.append(1),
            )  # fmt: skip
        except DlcliError:
            assert fail
        return len(checks)

    assert in_processes(size, work) == [-(-6 // size)] * size


def test_every_process_hears_that_no_sample_can_be_read() -> None:
    found = in_processes(3, lambda world: measured(world, set(range(23))))
    assert [type(error) for error in found] == [DlcliError] * 3
    assert len({str(error) for error in found}) == 1
    assert "none of the 23 samples of the val split can be read" in str(found[0])
    found = in_processes(2, lambda world: measured(world, set(), samples=0))
    assert all("none of the 0 samples" in str(error) for error in found)


def test_one_readable_sample_is_enough_wherever_it_is() -> None:
    for place in (0, 5, 22):
        broken = set(range(23)) - {place}
        results = in_processes(3, partial(measured, broken=broken))
        assert [result.samples for result in results if isinstance(result, EvalResult)] == [1, 1, 1]


def test_an_error_of_one_process_ends_all_of_them_alike() -> None:
    def work(world: World) -> EvalResult:
        reader = table(23, {6}, fail=True)  # of the second batch, the second process's
        return evaluate(answer, reader, CLASSES, split="val", batch_size=4, world=world)

    for error in in_processes(3, work):
        assert isinstance(error, UsageError)
        assert (error.message, error.hint) == ("cannot read 6", "repair it")


def test_readers_of_all_processes_know_what_is_bad() -> None:
    def work(world: World) -> dict[str, str]:
        reader = table(23, {1, 5, 20})
        count(answer, reader, CLASSES, split="val", batch_size=4, world=world)
        return reader.bad

    for bad in in_processes(3, work):
        assert isinstance(bad, dict)
        assert set(bad) == {"1", "5", "20"}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_main_process_alone_tells_the_progress_of_all(size: int) -> None:
    told: list[list[Event]] = [[] for _ in range(size)]

    def work(world: World) -> None:
        emit = told[world.rank].append
        evaluate(answer, table(22), CLASSES, split="val", batch_size=4, emit=emit, world=world)

    in_processes(size, work)
    assert told[1:] == [[]] * (size - 1)
    done = [event.done for event in told[0] if isinstance(event, EvalProgress)]
    assert done == sorted(done)
    assert done[-1] == 22
    assert all(isinstance(event, EvalProgress) and event.total == 22 for event in told[0])
