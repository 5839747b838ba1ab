"""Types of data sets, samples and readers. NumPy only: prediction with ONNX imports no torch.

N is the number of samples in a split, n in a batch.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from dlcli.data.contents import Keys, array_key, value_keys
from dlcli.data.notices import Notice
from dlcli.data.source_rows import SourceRows
from dlcli.task import TaskKind

SplitName = Literal["train", "val", "test"]

Pixels = npt.NDArray[np.uint8]  # (n, H, W, C) in a batch, (H, W, C) for one image
Labels = npt.NDArray[np.int64]  # (n,)
Indices = npt.NDArray[np.int64]  # (n,) into a split
Floats = npt.NDArray[np.float64]  # of any shape
# Class indices int64 (n,); labels 0 or 1 uint8 (n, labels); numbers float64 (n, targets) or
# (n, horizon, targets) in the data's own units; padded token ids int64 (n, T).
Targets = npt.NDArray[Any]
# The tensors of `TaskSpec.input.signature`, in its order, except that an image is still uint8 pixels
# (n, H, W, C): it is normalised on the device.
Inputs = tuple[npt.NDArray[Any], ...]


class Items(ABC):
    """The raw content of samples, before any encoder.

    ``equal_by_chance``: equal items need not be copies, as the rows of a table of few columns.
    """

    equal_by_chance: ClassVar[bool] = False

    @abstractmethod
    def __len__(self) -> int: ...

    @classmethod
    @abstractmethod
    def gather(cls, parts: Sequence[Any], where: Indices) -> Any:
        """The items at ``where`` in the concatenation of several parts."""

    def take(self, indices: Indices) -> Any:
        """The items at ``indices``, in that order."""
        return self.gather([self], indices)

    @classmethod
    def contents(cls, parts: Sequence[Any]) -> list[Keys] | None:
        """Keys of the items of each part, equal for exact copies; None where that is not cheap."""
        return None


@dataclass(frozen=True)
class Listed(Items):
    """Items of any kind in a tuple: paths of photos, texts, pairs of texts, arrays of unequal shape."""

    values: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def are_files(self) -> bool:
        """Whether the items are paths of files."""
        return bool(self.values) and isinstance(self.values[0], Path)

    @classmethod
    def gather(cls, parts: Sequence[Listed], where: Indices) -> Listed:
        """As `Items.gather`."""
        joined = (
            [value for part in parts for value in part.values] if len(parts) > 1 else parts[0].values
        )
        return cls(tuple(joined[i] for i in where.tolist()))

    @classmethod
    def contents(cls, parts: Sequence[Listed]) -> list[Keys] | None:
        """As `Items.contents`; files by their bytes."""
        keys = value_keys([value for part in parts for value in part.values])
        if keys is None:
            return None
        rest = iter(keys)
        return [list(islice(rest, len(part))) for part in parts]


@dataclass(frozen=True)
class Stacked(Items):
    """Items along the first axis of an array: raw pixels of one size, series of one length."""

    values: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def gather(cls, parts: Sequence[Stacked], where: Indices) -> Stacked:
        """As `Items.gather`, without concatenating the arrays."""
        arrays = [part.values for part in parts]
        out = np.empty((len(where), *arrays[0].shape[1:]), dtype=arrays[0].dtype)
        start = 0
        for array in arrays:
            inside = (where >= start) & (where < start + len(array))
            out[inside] = array[where[inside] - start]
            start += len(array)
        return cls(out)

    @classmethod
    def contents(cls, parts: Sequence[Stacked]) -> list[Keys] | None:
        """As `Items.contents`."""
        return [[array_key(row) for row in part.values] for part in parts]


class LiveSamples(ABC):
    """Samples whose content differs from reading to reading, as by a random transform."""

    @abstractmethod
    def take(self, indices: Indices) -> Any:
        """The samples at ``indices``, in that order."""

    @classmethod
    @abstractmethod
    def gather(cls, parts: Sequence[Any], where: Indices) -> Any:
        """The samples at ``where`` in the concatenation of several parts."""

    @abstractmethod
    def draw(self, indices: Indices, draw: str) -> tuple[Items | None, Indices, dict[int, str]]:
        """Draw samples anew; the same for the same ``draw``, whichever others are asked for.

        Returns the items (None without any), their indices, and the reasons why others have none.
        Global generators are seeded meanwhile, so no other thread may draw from them.
        """


@dataclass(frozen=True)
class Samples:
    """One split of a data set, listed but not encoded.

    ``ids`` are stable names of the samples (a path relative to the root, or ``train/17``); ``targets``
    are `Targets`, where class indices refer to the class names of the source. The samples of a group (a
    patient, a user) stay in one split; ``groups`` is None without groups. ``source_rows`` are the rows
    of tables that texts, images and the inputs of `predict` are, where they are some. ``live`` draws the
    items anew, where they are only one reading of them. ``notices`` are about inputs of `predict` that
    are no samples. ``clock`` (N,) are times, by which samples are divided then.
    """

    ids: tuple[str, ...]
    targets: Targets
    items: Items
    groups: tuple[str, ...] | None = None
    source_rows: SourceRows | None = None
    live: LiveSamples | None = None
    notices: tuple[Notice, ...] = ()
    clock: Floats | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: Indices) -> Samples:
        """The samples at ``indices``, in that order."""
        return Samples(
            ids=tuple(self.ids[i] for i in indices),
            targets=self.targets[indices],
            items=self.items.take(indices),
            groups=None if self.groups is None else tuple(self.groups[i] for i in indices),
            source_rows=None if self.source_rows is None else self.source_rows.take(indices),
            live=None if self.live is None else self.live.take(indices),
            clock=None if self.clock is None else self.clock[indices],
        )


@dataclass(frozen=True)
class DataSource:
    """A data set before encoding: its task, and its splits as listed.

    ``kind`` is the name of its `DataKind`. ``given`` are the splits of the source itself; the others
    were held out by dlcli. ``native`` is (C, H, W) of images of one size known without decoding, else
    (C, 0, 0). ``notices`` are messages of the listing (empty class folders, for instance).
    ``left_out`` are the ids of a given test split that has no part in the folds of cross-validation.
    """

    name: str  # short, for run names: "digits", "imgs"
    origin: str  # the value of --data, absolute if it is a path
    kind: str
    task: TaskKind
    splits: dict[str, Samples]
    given: frozenset[str]
    fingerprint: str
    class_names: tuple[str, ...] = ()
    target_names: tuple[str, ...] = ()
    native: tuple[int, int, int] = (0, 0, 0)
    options: dict[str, Any] = field(default_factory=dict)
    data_dir: str | None = None
    notices: tuple[Notice, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class SeriesRows:
    """Which of the series ``names`` each sample of a batch belongs to, and its scale.

    ``codes`` (n,) are indices into ``names``. In the data's own units, targets and scaled outputs are
    value * ``std`` + ``mean``, (n, targets) each.
    """

    names: tuple[str, ...]
    codes: Indices
    mean: Floats
    std: Floats


class Reader(ABC):
    """Reads the inputs of a model for any samples of a split.

    ``bad`` maps the id of each unreadable sample to the reason, and grows as samples are read.
    ``lengths`` are the lengths of the samples (N,) where they vary: batches then group samples of
    similar length. ``notices`` are messages of the encoder (unknown words, truncated texts).
    ``streams`` is whether samples are decoded at every read, since no cache holds them. ``in_turn``:
    whether it draws from global generators, so that no other thread may read ahead.
    """

    in_turn: ClassVar[bool] = False

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.bad: dict[str, str] = {}
        self.notices: list[Notice] = []
        self.lengths: npt.NDArray[np.int64] | None = None
        self.streams = False

    def __len__(self) -> int:
        return len(self.samples)

    @abstractmethod
    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        """The inputs of the readable samples among ``indices``, and their indices.

        Order and repetitions are kept. Arrays of varying length are padded to the longest of the batch.
        The arrays are copies.
        """

    def at_epoch(self, seed: int, epoch: int) -> Reader:
        """The reader of an epoch of training, where its samples differ from epoch to epoch."""
        return self

    def targets(self, indices: Indices) -> Targets:
        """The targets of samples, one row each."""
        return self.samples.targets[indices]

    def series(self, indices: Indices) -> SeriesRows | None:
        """The series of samples and their scales; None where the data is not of several series."""
        return None

    def row_keys(self, index: int) -> list[dict[str, str]]:
        """What names each row that is predicted for a sample, besides its id; [] for nothing."""
        return []

    def by_length(self) -> Indices:
        """The indices of the split, sorted by length where lengths vary, else in order."""
        if self.lengths is not None:
            return np.argsort(self.lengths, kind="stable").astype(np.int64)
        return np.arange(len(self), dtype=np.int64)

    def array(self) -> Inputs | None:
        """The inputs of the whole split if they are in memory, unpadded and all readable; else None."""
        return None

    def flush(self) -> None:  # noqa: B027 - most readers write nothing
        """Called after each epoch: complete what is written for other processes and later runs."""

    def close(self) -> None:  # noqa: B027 - most readers hold nothing
        """Release threads and other resources; a later read acquires them again."""


class ArrayReader(Reader):
    """A split that is already encoded, as arrays of N rows each."""

    def __init__(self, samples: Samples, inputs: Inputs) -> None:
        super().__init__(samples)
        self._inputs = inputs

    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        """Rows of the arrays."""
        return tuple(np.take(array, indices, axis=0) for array in self._inputs), indices

    def array(self) -> Inputs | None:
        """The whole arrays."""
        return self._inputs


class RaggedReader(Reader):
    """A split of sequences: a batch is (n, longest, ...) padded with 0 at the end, and lengths (n,)."""

    def __init__(self, samples: Samples, sequences: Sequence[npt.NDArray[Any]]) -> None:
        super().__init__(samples)
        self._sequences = sequences
        self.lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)

    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        """Padded sequences and their lengths."""
        assert self.lengths is not None
        lengths = self.lengths[indices]
        return (pad([self._sequences[i] for i in indices.tolist()]), lengths), indices


def pad(sequences: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Pad sequences (T_i, ...) with 0 at the end to one array (n, longest, ...)."""
    longest = max((len(sequence) for sequence in sequences), default=0)
    first = sequences[0] if sequences else np.zeros((0,), dtype=np.int64)
    out = np.zeros((len(sequences), longest, *first.shape[1:]), dtype=first.dtype)
    for row, sequence in zip(out, sequences, strict=True):
        row[: len(sequence)] = sequence
    return out


def random_lengths(rng: np.random.Generator, count: int, longest: int) -> npt.NDArray[np.int64]:
    """Random lengths (n,) from 1 to ``longest``; the first is ``longest``."""
    lengths = rng.integers(1, longest + 1, count)
    lengths[0] = longest
    return lengths


def fingerprint(parts: list[bytes]) -> str:
    """Hex digest of the parts, in order: `eval` compares it to detect changed data."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:32]
