"""A few training images before and after augmentation, to look at."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from dlcli.config import TrainConfig
from dlcli.data.base import DataSource, Indices, Inputs, Pixels, Samples, Targets
from dlcli.data.kinds import KINDS, ModelNeeds, ReadOptions
from dlcli.errors import DlcliError, UsageError
from dlcli.task import ImageInput, TaskSpec
from dlcli.training.augmentation.augment import make_augment, preview

ROWS, EPOCHS = 8, 6


@dataclass(frozen=True)
class AugmentationSample:
    """``original`` images and targets, the same augmented for the first epochs, and the policy.

    Pixels are uint8 (n, H, W, C); targets are probabilities (n, K) where samples are mixed.
    """

    task: TaskSpec
    original: tuple[Pixels, Targets]
    varied: tuple[tuple[Pixels, Targets], ...]
    sentence: str
    mixes: bool


def sample_augmented(source: DataSource, config: TrainConfig, needs: ModelNeeds) -> AugmentationSample:
    """Augment eight images, of as many classes as possible, for six epochs.

    The results are those of training, except that MixUp and CutMix mix these images with each other.
    Raises: UsageError for data other than images, DlcliError when none can be read.
    """
    if source.kind != "image":
        raise UsageError(
            f"--show-augment is for images, and this is {source.kind} data", hint="remove it"
        )
    task, _ = KINDS.get("image").fit(source, config, needs)
    train = source.splits["train"]
    options = ReadOptions(workers=config.data.workers, on_bad_sample="skip")
    chosen = _by_class(source, config.fit.seed)
    (pixels,), readable = _read(train, task, options, chosen)
    targets = train.targets[readable]
    augment = make_augment(
        config.augment,
        task,
        samples=len(train),
        seed=config.fit.seed,
        device=torch.device("cpu"),
    )
    if augment is None:
        return AugmentationSample(task, (pixels, targets), (), "augmentation: none", mixes=False)
    inputs: Inputs = (pixels,)
    assert isinstance(task.input, ImageInput)
    if (scale := augment.whole_scale(task.input, train)) is not None:
        inputs, _ = _read(train, task, replace(options, whole_scale=scale), readable)
    tensors = tuple(map(torch.from_numpy, inputs))
    previews = preview(augment, tensors, torch.from_numpy(targets), readable, EPOCHS)
    varied = tuple((images.numpy(), mixed.numpy()) for images, mixed in previews)
    return AugmentationSample(task, (pixels, targets), varied, augment.sentence, augment.mixes)


def _read(
    train: Samples, task: TaskSpec, options: ReadOptions, indices: Indices
) -> tuple[Inputs, Indices]:
    """The inputs of the readable samples, and their indices. Raises: DlcliError without any."""
    reader = KINDS.get("image").reader(train, task, options)
    try:
        inputs, readable = reader.read(indices)
    finally:
        reader.close()
    if not len(readable):
        raise DlcliError(f"none of the selected training images can be read: {_first(reader.bad)}")
    return inputs, readable


def _by_class(source: DataSource, seed: int) -> Indices:
    """Indices of at most `ROWS` training samples, one of each class before a second of any."""
    train = source.splits["train"]
    order = np.random.default_rng(seed).permutation(len(train))
    if source.task in ("classification", "embedding"):
        targets = train.targets[order]
        occurrence = np.zeros(len(order), dtype=np.int64)  # within its class
        for label in np.unique(targets):
            of_class = targets == label
            occurrence[of_class] = np.arange(of_class.sum())
        order = order[np.lexsort((targets, occurrence))]
    return order[:ROWS].astype(np.int64)


def _first(bad: dict[str, str]) -> str:
    name, reason = next(iter(bad.items()))
    return f"{name}: {reason}"
