"""What a kind of data is to the rest of dlcli. A new kind is a new file in this package.

A kind looks at a path, lists the samples, fits its encoders on the training split, and turns samples
into the arrays that a model takes. Models never see a file; readers never see a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dlcli.config import DataConfig, TrainConfig
from dlcli.data.base import DataSource, Reader, Samples
from dlcli.registry import Registry
from dlcli.task import TaskKind, TaskSpec


@dataclass(frozen=True)
class DataListing:
    """What lies on the disk, listed: ``splits`` are train, val and test as given, or one "all".

    ``native`` is (C, H, W) of images, or (C, 0, 0) where sizes differ. ``name`` is the data set's own
    where one was recognised. ``options`` are settings that were found out by looking (the target
    column, say): with them the same data reads the same again. ``made`` are the splits that the kind
    itself divided (by time), not the data.
    """

    splits: dict[str, Samples]
    fingerprint: str
    task: TaskKind = "classification"
    class_names: tuple[str, ...] = ()
    target_names: tuple[str, ...] = ()
    native: tuple[int, int, int] = (0, 0, 0)
    options: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    name: str | None = None
    made: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ModelNeeds:
    """What a model asks of its input; most of it concerns images.

    ``photo_size`` is the default input size for photos of varying size, ``min_size`` the smallest side
    it can digest, ``size_multiple`` what divides it; ``mean`` and ``std`` are those of the published
    weights it starts from, or None.
    """

    name: str = ""  # of the model, for messages
    channels: tuple[int, ...] = (1, 3)
    photo_size: int = 96
    min_size: int = 1
    size_multiple: int = 1
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class ReadOptions:
    """Threads and bytes of memory that a reader may take; what an unreadable sample does."""

    workers: int | None = None
    cache_bytes: int = 0
    on_bad_sample: str = "skip"


class Fit(Protocol):
    """Fit the encoders on ``source.splits["train"]`` and nothing else."""

    def __call__(
        self, source: DataSource, config: TrainConfig, needs: ModelNeeds
    ) -> tuple[TaskSpec, list[str]]:
        """The task, and sentences for the user. Raises: UsageError, DlcliError."""


@dataclass(frozen=True)
class DataKind:
    """A kind of data.

    ``recognises(path, config)`` says whether a file or folder is of this kind; it looks at names, a few
    first rows and settings that only this kind has. ``read(path, config, other)`` lists the samples;
    with ``other`` they are for a model that exists, so one class is enough and a missing train split is
    no error. ``reader`` encodes a split.
    ``inputs(arguments, task)`` are the samples that `predict` was asked for, without targets (an empty
    array); ids are what the user will recognise them by. ``order`` breaks ties: lower is asked first.
    """

    name: str
    recognises: Callable[[Path, DataConfig], bool]
    read: Callable[[Path, DataConfig, bool], DataListing]
    fit: Fit
    reader: Callable[[Samples, TaskSpec, ReadOptions], Reader]
    inputs: Callable[[Sequence[str], TaskSpec], Samples]
    order: int = 10


KINDS: Registry[DataKind] = Registry("data kind", "dlcli.data")


def find_kind(path: Path, config: DataConfig) -> DataKind | None:
    """The kind that recognises ``path``, or None."""
    entries = sorted((entry for _, entry in KINDS.entries()), key=lambda entry: entry.order)
    return next((entry for entry in entries if entry.recognises(path, config)), None)


def kind_of(task: TaskSpec) -> DataKind:
    """The kind that feeds a task."""
    return KINDS.get(task.input.kind)
