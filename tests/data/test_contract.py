"""The contract of every registered kind of data, on tiny data sets of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from tiny_data import DATA, TinyData

from dlcli.config import DataConfig, TrainConfig
from dlcli.data.base import DataSource, Inputs, Reader, Samples
from dlcli.data.kinds import KINDS, DataKind, ModelNeeds, ReadOptions, find_kind
from dlcli.data.prepare import prepare
from dlcli.data.sources import open_source, open_undivided
from dlcli.settings import fields_of, validate
from dlcli.task import INPUTS, TaskSpec
from dlcli.zoo.base import MODELS
from dlcli.zoo.reference import reference_task

NAMES = tuple(DATA)
EACH_KIND = pytest.mark.parametrize("kind", KINDS.names())


@dataclass(frozen=True)
class Opened:
    """A tiny data set, opened, and the task that was fitted on it."""

    data: TinyData
    path: Path
    config: TrainConfig
    source: DataSource
    task: TaskSpec

    @property
    def kind(self) -> DataKind[Any]:
        return KINDS.get(self.data.kind)

    def reader(self, samples: Samples) -> Reader:
        return self.kind.reader(samples, self.task, ReadOptions())


@cache
def opened(name: str, folder: Path) -> Opened:
    data = DATA[name]
    folder.mkdir()
    path = data.write(folder)
    config = validate(TrainConfig, {**data.settings, "data": {**data.data_settings, "data": str(path)}})
    source = open_source(config.data, seed=0)
    task, _ = KINDS.get(data.kind).fit(source, config, ModelNeeds())
    return Opened(data, path, config, source, task)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest, root: Path) -> Opened:
    return opened(request.param, root / request.param)


def check_signature(inputs: Inputs, task: TaskSpec, count: int) -> None:
    """The arrays of a reader become ``task.input.signature``, with dimensions of one name equal."""
    sizes = {"batch": count}
    arrays = prepare(inputs, task)
    assert list(arrays) == [tensor.name for tensor in task.input.signature]
    for tensor in task.input.signature:
        array = arrays[tensor.name]
        assert array.dtype == tensor.dtype
        assert len(array.shape) == len(tensor.dims)
        for dim, size in zip(tensor.dims, array.shape, strict=True):
            assert size == (sizes.setdefault(dim, size) if isinstance(dim, str) else dim), tensor
        assert np.isfinite(array).all()


def assert_same(one: Inputs, other: Inputs) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@EACH_KIND
def test_there_is_tiny_data_and_a_model_of_the_kind(kind: str) -> None:
    assert kind in {data.kind for data in DATA.values()}, "write one in tests/helpers/tiny_data.py"
    assert kind in {task.input.kind for _, task in tiny.MODELS.values()}, "tests/helpers/tiny.py"
    assert kind in tiny.INPUTS, "tests/helpers/tiny.py"
    assert kind in {entry.kind for _, entry in MODELS.entries()}


def test_it_is_recognised_and_no_kind_before_it_takes_it(case: Opened) -> None:
    config = case.config.data
    assert case.kind.recognises(case.path, config)
    assert find_kind(case.path, config) is case.kind
    assert (case.source.kind, case.source.task) == (case.data.kind, case.data.task)


@EACH_KIND
def test_what_is_no_data_is_not_recognised(kind: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "noise.bin").write_bytes(bytes(range(256)))
    (tmp_path / "empty.txt").touch()
    for name in ("empty", "noise.bin", "empty.txt", "missing", "missing.bin"):
        assert not KINDS.get(kind).recognises(tmp_path / name, DataConfig()), name


def test_a_reader_gives_the_signature_and_a_target_for_each_row(case: Opened) -> None:
    assert case.task.kind == case.data.task
    assert case.task.input.kind == case.data.kind
    assert {"train", "val"} <= set(case.source.splits)
    for samples in case.source.splits.values():
        reader = case.reader(samples)
        indices = np.array([len(samples) - 1, 0, 0], dtype=np.int64)
        inputs, read = reader.read(indices)
        np.testing.assert_array_equal(read, indices)
        check_signature(inputs, case.task, 3)
        assert len(reader.targets(indices)) == 3
        assert sorted(reader.by_length().tolist()) == list(range(len(samples)))
        assert reader.bad == {}


def test_a_task_survives_json(case: Opened) -> None:
    assert TaskSpec.model_validate_json(case.task.model_dump_json()) == case.task
    assert INPUTS.get(case.data.kind) is type(case.task.input)


def test_opening_fitting_and_reading_are_repeatable(case: Opened) -> None:
    again = open_source(case.config.data, seed=0)
    assert again.fingerprint == case.source.fingerprint
    assert case.kind.fit(again, case.config, ModelNeeds())[0] == case.task
    for split, samples in case.source.splits.items():
        assert again.splits[split].ids == samples.ids
        np.testing.assert_array_equal(again.splits[split].targets, samples.targets)
    reader, indices = case.reader(case.source.splits["val"]), np.array([1, 0], dtype=np.int64)
    first, _ = reader.read(indices)
    kept = tuple(array.copy() for array in first)
    for array in first:
        array.fill(1)  # the caller's own copy
    assert_same(reader.read(indices)[0], kept)


def test_the_order_of_a_batch_is_that_of_its_indices(case: Opened) -> None:
    reader = case.reader(case.source.splits["train"])
    both, _ = reader.read(np.array([0, 3], dtype=np.int64))
    swapped, _ = reader.read(np.array([3, 0], dtype=np.int64))
    assert_same(tuple(array[::-1] for array in swapped), both)


def test_what_predict_is_given_is_encoded_like_training_rows(case: Opened) -> None:
    samples = open_undivided(case.config.data).splits[case.data.split]
    given = case.kind.inputs(case.data.arguments(case.path), case.task)
    if case.task.kind == "forecast":  # the last window of the file
        samples = samples.take(np.array([len(samples) - 1]))
    assert len(given) == len(samples)
    assert given.targets.size == 0
    indices = np.arange(len(samples), dtype=np.int64)
    expected, _ = case.reader(samples).read(indices)
    inputs, _ = case.reader(given).read(indices)
    check_signature(inputs, case.task, len(samples))
    known = len(expected) - (case.task.kind == "seq2seq")  # its last input is what was written so far
    assert_same(inputs[:known], expected[:known])


def test_random_inputs_are_of_the_readers_form(case: Opened) -> None:
    reader = case.reader(case.source.splits["train"])
    read, _ = reader.read(np.arange(3, dtype=np.int64))
    noise = case.kind.noise(case.task.input, 3, 5, np.random.default_rng(0))
    check_signature(noise, case.task, 3)
    assert [(a.dtype, a.ndim) for a in noise] == [(a.dtype, a.ndim) for a in read]
    assert_same(noise, case.kind.noise(case.task.input, 3, 5, np.random.default_rng(0)))


@EACH_KIND
def test_the_reference_task_has_the_signature(kind: str) -> None:
    tasks = next(entry.tasks for _, entry in MODELS.entries() if entry.kind == kind)
    task = reference_task(kind, ModelNeeds(), tasks)
    check_signature(KINDS.get(kind).noise(task.input, 2, None, np.random.default_rng(0)), task, 2)


@EACH_KIND
def test_there_are_words_for_the_screen(kind: str) -> None:
    entry, spec = KINDS.get(kind), tiny.INPUTS[kind]
    assert entry.name == kind
    assert entry.reference_words
    description = entry.describe(spec)
    assert description.facts or description.tables
    assert any(character.isdigit() for character in entry.size_words.format(spec.shape))
    assert set(entry.own_settings) <= set(fields_of(TrainConfig))
    assert entry.default_batch_size(spec) >= 1
