"""The interface of a kind of data. A new kind is a new folder in this package, with a ``kind.py``.

A kind recognises a path, lists the samples, fits its encoders on the training split, and turns samples
into the arrays that a model takes. Models never see a file; readers never see a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from dlcli.data.base import DataSource, Inputs, Items, Reader, Samples
from dlcli.data.notices import Notice
from dlcli.data.occlusion import Occlusion
from dlcli.data.previews import Preview
from dlcli.pixels.cache.folder import CacheFolder
from dlcli.registry import Registry
from dlcli.task import InputSpec, TaskKind, TaskSpec, TextInput

if TYPE_CHECKING:
    from dlcli.config import DataConfig, TrainConfig

SpecT = TypeVar("SpecT", bound=InputSpec)
SpecT_contra = TypeVar("SpecT_contra", bound=InputSpec, contravariant=True)
Facts = tuple[tuple[str, str], ...]  # (name, value) pairs
Measure = Callable[[Samples], Sequence[float]]  # a number of each sample, NaN where it has none


@dataclass(frozen=True)
class DataListing:
    """The samples of a data set on disk: ``splits`` are train, val and test as given, or one "all".

    ``native`` is (C, H, W) of images, or (C, 0, 0) where sizes differ. ``name`` is that of a recognised
    named set. ``options`` are detected settings (such as the target column); reading with them gives the
    same listing. ``own_splits`` are the splits that the kind itself created (by time).
    """

    splits: dict[str, Samples]
    fingerprint: str
    task: TaskKind = "classification"
    class_names: tuple[str, ...] = ()
    target_names: tuple[str, ...] = ()
    native: tuple[int, int, int] = (0, 0, 0)
    options: dict[str, Any] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()
    name: str | None = None
    own_splits: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ModelNeeds:
    """What a model requires of its input; most of it concerns images.

    ``photo_size`` is the default input size for photos of varying size, ``min_size`` the smallest
    side the model accepts, ``size_multiple`` what the side must be a multiple of; ``mean`` and ``std``
    are those of its pretrained weights, or None. ``text`` is the tokenizer of pretrained weights, its
    ``max_length`` the most that the model takes. ``bins`` is into how many the numbers of a table are
    divided by their quantiles; 0: into none.
    """

    name: str = ""  # of the model, for messages
    channels: tuple[int, ...] = (1, 3)
    photo_size: int = 96
    min_size: int = 1
    size_multiple: int = 1
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    text: TextInput | None = None
    bins: int = 0


@dataclass(frozen=True)
class ReadOptions:
    """Options of a reader: threads, caches in memory and on disk, "skip" or "fail" for bad samples.

    ``whole_scale``, of photos for random crops: each is read whole, squashed to so many times the
    model's height and width, with its aspect ratio (n,) as the second of the inputs.
    """

    workers: int | None = None
    cache_bytes: int = 0
    disk: CacheFolder | None = None
    on_bad_sample: str = "skip"
    whole_scale: float | None = None


@dataclass(frozen=True)
class Description:
    """A description of an input: (name, value) pairs, and titled tables of them."""

    facts: Facts = ()
    tables: tuple[tuple[str, Facts], ...] = ()


class Fit(Protocol):
    """Fit the encoders on ``source.splits["train"]`` and nothing else."""

    def __call__(
        self, source: DataSource, config: TrainConfig, needs: ModelNeeds
    ) -> tuple[TaskSpec, list[Notice]]:
        """The task, and notices. Raises: UsageError, DlcliError."""


class Noise(Protocol[SpecT_contra]):
    """Draw random inputs of the form of the reader's."""

    def __call__(
        self, spec: SpecT_contra, count: int, length: int | None, rng: np.random.Generator
    ) -> Inputs:
        """``count`` samples; the longest has ``length`` steps where lengths vary (None: up to 32)."""


@dataclass(frozen=True)
class DataKind(Generic[SpecT]):
    """A kind of data whose input class is ``SpecT``.

    Reading:

    - ``recognises(path, config)``: whether a file or folder is of this kind, by names, a few first
      rows, and settings that only this kind has. Kinds are tried in ascending ``order``.
    - ``read(path, config, other)`` lists the samples. With ``other`` they are for a trained model, so
      one class is enough and a missing train split is not an error.
    - ``fit`` fits the encoders; ``reader`` encodes a split.
    - ``inputs(arguments, task)``: the samples of the arguments of `predict`, without targets (an empty
      array); ids are for the user. ``inputs_by_task``: whether they depend on the task (such as on the
      columns that a model reads). ``why_missing(id)``: the reason why an argument has no sample, if
      known without opening it.

    Models:

    - ``reference_input(needs)``: an input of typical size, to build a model without data;
      ``reference_words`` describe it.
    - ``noise``: random inputs of the form of the reader's.
    - ``to_model(inputs, spec)``: converts the reader's arrays to the model's inputs.
    - ``default_batch_size(spec)``: that of evaluation and prediction.

    Descriptions: ``describe(spec)``; ``size_words``, a format string of the shape of a sample;
    ``unit(task)``, the word for samples. ``preview(samples, inputs, spec)``: the one sample of
    ``samples``, whose `Reader.read` gave ``inputs``, to look at. ``occlude(items, inputs, task)``: the
    parts of one sample, and the sample without each, for explanations; None where it has no parts.
    ``measures``: numbers of samples by which `eval --slice` groups them, by name.
    ``own_settings``: keys of settings that apply to this kind and not to all.
    """

    name: str
    recognises: Callable[[Path, DataConfig], bool]
    read: Callable[[Path, DataConfig, bool], DataListing]
    fit: Fit
    reader: Callable[[Samples, TaskSpec, ReadOptions], Reader]
    inputs: Callable[[Sequence[str], TaskSpec], Samples]
    reference_input: Callable[[ModelNeeds], SpecT]
    reference_words: str
    noise: Noise[SpecT]
    to_model: Callable[[Inputs, SpecT], Inputs] = lambda inputs, spec: inputs
    default_batch_size: Callable[[SpecT], int] = lambda spec: 256
    describe: Callable[[SpecT], Description] = lambda spec: Description()
    size_words: str = "{}"
    unit: Callable[[TaskSpec], str] = lambda task: "samples"
    preview: Callable[[Samples, Inputs, SpecT], Preview] = lambda samples, inputs, spec: Preview()
    occlude: Callable[[Items, Inputs, TaskSpec], Occlusion] | None = None
    measures: Mapping[str, Measure] = field(default_factory=dict)
    own_settings: tuple[str, ...] = ()
    inputs_by_task: bool = True
    why_missing: Callable[[str], str | None] = lambda name: None
    order: int = 10


KINDS: Registry[DataKind[Any]] = Registry("data kind", "dlcli.data", entry_module="kind")


def kinds_in_order() -> list[DataKind[Any]]:
    """All kinds, in the order in which they are tried."""
    return sorted((entry for _, entry in KINDS.entries()), key=lambda entry: entry.order)


def find_kind(path: Path, config: DataConfig) -> DataKind[Any] | None:
    """The kind that recognises ``path``, or None."""
    return next((entry for entry in kinds_in_order() if entry.recognises(path, config)), None)


def kind_of(task: TaskSpec) -> DataKind[Any]:
    """The kind of data of a task."""
    return KINDS.get(task.input.kind)
