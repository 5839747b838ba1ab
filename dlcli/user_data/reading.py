"""Read the samples of a user's data set, each once and in order, into columns.

N samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.errors import DlcliError
from dlcli.pixels.cache.memory import free_memory
from dlcli.user_code import UserObject
from dlcli.user_data.calling import UserSet, is_map_style
from dlcli.user_data.chance import DrawDetector, preserved, seed_generators
from dlcli.user_data.samples import Array, Sample, Value, parse
from dlcli.wording import memory

# An iterable that has not ended by then is taken for an endless one.
MAX_ITERATED = 10_000_000
_MEMORY_SHARE = 0.8  # of what is free, that the samples may take
_MEMORY_CHECKED_EVERY = 256
_READ_TWICE = 8
Rows = Array | list[Value]


class Column:
    """Values of one input: an array of N rows while they have one shape, a list of others."""

    def __init__(self, capacity: int) -> None:
        self._capacity = max(1, capacity)
        self._array: Array | None = None
        self._list: list[Value] = []
        self._count = 0

    def append(self, value: Value) -> None:
        """Add a value; arrays of another type are converted to a common one."""
        if isinstance(value, str):
            self._list.append(value)
        elif self._array is None and not self._list:
            self._array = np.empty((self._capacity, *value.shape), dtype=value.dtype)
            self._array[0] = value
        elif self._array is not None and value.shape == self._array.shape[1:]:
            if self._count == len(self._array):
                self._array = np.concatenate([self._array, np.empty_like(self._array)])
            if value.dtype != self._array.dtype:
                self._array = self._array.astype(np.result_type(value, self._array))
            self._array[self._count] = value
        else:
            if self._array is not None:
                self._list = list(self._array[: self._count])
                self._array = None
            self._list.append(value)
        self._count += 1

    def rows(self) -> Rows:
        """The array (N, ...), or the list of N values."""
        return self._list if self._array is None else self._array[: self._count]


@dataclass
class Columns:
    """A split as it was read; ``indices`` (n,) are those of the readable samples in its data set.

    ``bad`` maps the index of each other sample to the reason; ``length`` is that of the data set.
    ``varies``: samples draw random numbers.
    """

    split: str
    first: Sample
    inputs: dict[str, Rows] = field(default_factory=dict)
    targets: list[Value | tuple[str, ...] | None] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)
    length: int = 0
    varies: bool = False

    def take(self, keep: npt.NDArray[np.bool_]) -> None:
        """Keep only some of the samples."""
        where = np.flatnonzero(keep).tolist()
        self.inputs = {
            name: rows[where] if isinstance(rows, np.ndarray) else [rows[i] for i in where]
            for name, rows in self.inputs.items()
        }
        self.targets = [self.targets[i] for i in where]
        self.indices = [self.indices[i] for i in where]


def sample_key(split: str, index: int, draw: str = "first") -> str:
    """The seed of one sample in one reading."""
    return f"{draw}/{split}/{index}"


def read_split(user: UserSet, split: str, first: Sample | None, *, fail: bool) -> Columns:
    """Read a split. With ``fail`` the first bad sample is an error, else bad ones are left out.

    Samples that draw random numbers are read with the generators seeded by `sample_key`. ``first`` is a
    sample of another split: those of this one have the same structure. Raises: DlcliError where no
    sample can be read, samples differ in structure, or the data set changes its length, gives other
    samples when it is asked again, or does not fit into memory.
    """
    with preserved():
        return _Reading(user, split, fail).read(first)


def read_sample(code: UserObject, data: Any, index: int, where: str) -> Sample:
    """The sample of an index. Raises: DlcliError, with the line of the user's code that failed."""
    with code.errors(where):
        return parse(data[index], where)


def same(one: Sample, other: Sample) -> bool:
    """Whether two readings of a sample are equal."""
    if one.structure != other.structure or not same_target(one.target, other.target):
        return False
    return all(_equal(value, other.inputs[name]) for name, value in one.inputs.items())


def same_target(one: object, other: object) -> bool:
    """Whether two targets are equal."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return _equal(one, other)
    return type(one) is type(other) and one == other


def _equal(one: Value, other: Value) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    return isinstance(one, str) and one == other


class _Reading:
    """One pass over the data set of a split."""

    def __init__(self, user: UserSet, split: str, fail: bool) -> None:
        self._code, self._data, self._split, self._fail = user.code, user.splits[split], split, fail
        self._name = user.code.name if split == "all" else f"{user.code.name} ({split})"
        self._columns: dict[str, Column] = {}
        self._detector = DrawDetector()
        self._bytes = 0
        self._varies = False
        self._error: DlcliError | None = None  # of the first bad sample

    def read(self, first: Sample | None) -> Columns:
        by_index = is_map_style(self._data)
        count = self._length() if by_index else 0
        out: Columns | None = None
        bad: dict[int, str] = {}
        for index, sample in self._by_index(count, bad) if by_index else self._iterated():
            reference = first or (out.first if out is not None else sample)
            self._check_structure(index, sample, reference)
            if out is None:
                out = Columns(self._split, sample, bad=bad)
                capacity = count or 1024
                self._columns = {name: Column(capacity) for name in sample.inputs}
            for name, value in sample.inputs.items():
                self._columns[name].append(value)
            out.targets.append(sample.target)
            out.indices.append(index)
            self._check_memory(sample, len(out.indices), count)
        if out is None:
            raise self._error or DlcliError(f"{self._name} has no sample")
        out.varies, out.length = self._varies, count
        out.inputs = {name: column.rows() for name, column in self._columns.items()}
        if by_index:
            self._check_again(out, count)
        return out

    def _length(self) -> int:
        with self._code.errors(f"the length of {self._name} cannot be known"):
            return len(self._data)

    def _by_index(self, count: int, bad: dict[int, str]) -> Iterator[tuple[int, Sample]]:
        for index in range(count):
            try:
                yield index, self._sample(index)
            except DlcliError as exc:
                if self._fail:
                    raise
                self._error = self._error or exc
                bad[index] = exc.message

    def _sample(self, index: int) -> Sample:
        """A sample, read anew with a seed of its own once samples are known to be random."""
        if not self._varies:
            self._detector.start()
            sample = read_sample(self._code, self._data, index, self._where(index))
            if not self._detector.drew():
                return sample
            self._varies = True
        seed_generators(sample_key(self._split, index))
        return read_sample(self._code, self._data, index, self._where(index))

    def _iterated(self) -> Iterator[tuple[int, Sample]]:
        seed_generators(sample_key(self._split, 0))
        index = -1
        with self._code.errors(f"{self._name} failed at sample {index + 1}"):
            samples = iter(self._data)
        while True:
            index += 1
            if index >= MAX_ITERATED:
                raise DlcliError(
                    f"{self._name} has not ended after {MAX_ITERATED:,} samples",
                    hint="an iterable is read whole, into memory: end it after the samples of an epoch",
                )
            with self._code.errors(f"{self._name} failed at sample {index}"):
                raw = next(samples, self)
                if raw is self:
                    break
                sample = parse(raw, self._where(index))
            yield index, sample
        promised = len(self._data) if hasattr(self._data, "__len__") else index
        if promised != index:
            raise DlcliError(f"{self._name} has a length of {promised:,}, but ended after {index:,}")

    def _where(self, index: int) -> str:
        return f"sample {index:,} of {self._name}"

    def _check_structure(self, index: int, sample: Sample, first: Sample) -> None:
        if sample.structure != first.structure:
            raise DlcliError(
                f"{self._where(index)} is {sample.describe()}, where the first is {first.describe()}",
                hint="samples have the same inputs, of the same type and number of axes",
            )
        one, other = sample.target, first.target
        if one is not None and other is not None and _target_form(one) != _target_form(other):
            raise DlcliError(f"{self._where(index)} has another form of target than the first sample")

    def _check_memory(self, sample: Sample, read: int, count: int) -> None:
        self._bytes += sample.nbytes
        if (read - 1) % _MEMORY_CHECKED_EVERY:
            return
        # An iterable, whose length is not known, may double: so does the array it is read into.
        expected = self._bytes // read * (max(0, count - read) if count else read)
        if expected > _MEMORY_SHARE * free_memory():
            each = memory(self._bytes / read / 2**20)
            raise DlcliError(
                f"{self._name} does not fit into memory: {max(count, read):,} samples of {each}",
                hint="make the samples smaller, as by resizing images in __getitem__, or give --data "
                "a folder of files, which dlcli reads when they are needed",
            )

    def _check_again(self, out: Columns, count: int) -> None:
        """Ask some samples again: only what a seed decides may differ from reading to reading."""
        if self._length() != count:
            raise DlcliError(f"the length of {self._name} changed while it was read, from {count:,}")
        some = np.unique(np.linspace(0, len(out.indices) - 1, _READ_TWICE).round().astype(int))
        for row in some.tolist():
            index = out.indices[row]
            before = Sample(
                {
                    name: np.asarray(rows[row]) if isinstance(rows, np.ndarray) else rows[row]
                    for name, rows in out.inputs.items()
                },
                out.targets[row],
            )
            if not same(before, self._sample(index)):
                raise DlcliError(
                    f"{self._where(index)} differs from reading to reading, and not by a generator "
                    "that can be seeded, so no run could be repeated",
                    hint="draw from torch, random or numpy.random, without a generator of its own; or "
                    "leave the augmentation to --augment",
                )


def _target_form(target: object) -> object:
    return target.shape if isinstance(target, np.ndarray) else type(target)
