"""Augmentation of training batches: by the user's own code, then, of images, by built-in operations."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dlcli.config import AugmentConfig
from dlcli.data.base import Indices, Listed, Samples
from dlcli.errors import UsageError
from dlcli.task import ImageInput, TaskSpec
from dlcli.training.augmentation.image_augmentation import LEVELS, ImageAugmentation
from dlcli.training.augmentation.operations.base import Operation, make_operations
from dlcli.training.augmentation.parameters import ParameterSampler, Policy
from dlcli.training.augmentation.user_augmentation import (
    UserAugmentation,
    is_user_augmentation,
    load_augmentation,
)
from dlcli.wording import listed


class Augment:
    """Augments a batch: its inputs, and targets where samples are mixed."""

    def __init__(self, own: UserAugmentation | None, images: ImageAugmentation | None) -> None:
        self.own, self.images = own, images

    @property
    def mixes(self) -> bool:
        """Whether targets become probabilities (B, K), for which accuracy is undefined."""
        return self.images is not None and self.images.mixes

    def whole_scale(self, spec: ImageInput, samples: Samples) -> float | None:
        """The ``whole_scale`` of the reader of ``samples`` that random crops are taken from.

        None for images that are cropped as the model sees them: those of one size, those that it sees
        squashed, those drawn anew in each epoch, and where the user's own code gets them first.
        """
        photos = isinstance(samples.items, Listed) and samples.live is None and spec.resize == "crop"
        return self.images.whole_scale if photos and self.images and self.own is None else None

    @property
    def sentence(self) -> str:
        """A description for the user: "augmentation: flip 0.5, translate 0.1"."""
        return "augmentation: " + ", ".join(part.sentence for part in (self.own, self.images) if part)

    def __call__(
        self, inputs: tuple[Tensor, ...], targets: Tensor, indices: Indices, epoch: int
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Augment a batch for ``epoch``.

        Args:
            inputs: a batch of `dlcli.data.base.Inputs`, on the device; not modified. Of photos also
                pixels and aspect ratios of readers with ``whole_scale``.
            targets: of the batch; returned as float32 (B, K) probabilities if samples are mixed.
            indices: positions of the samples in the train split, (B,).
            epoch: counted from 0.

        Returns:
            The inputs, of images as `ImageAugmentation` returns them, and the targets. Raises:
            DlcliError of the user's code.
        """
        if self.own is not None:
            inputs = self.own(inputs, indices, epoch)
        if self.images is not None:
            pixels, targets = self.images(inputs[0], targets, indices, epoch, *inputs[1:])
            inputs = (pixels,)
        return inputs, targets


def make_augment(
    config: AugmentConfig, task: TaskSpec, *, samples: int, seed: int, device: torch.device
) -> Augment | None:
    """Build the augmentation of the settings; None without augmentation.

    ``samples`` is the size of the train split. Raises: UsageError for built-in operations on data other
    than images, for MixUp or CutMix of tasks without classes, and for the user's own code on data
    without numbers; DlcliError from the user's code.
    """
    own = load_augmentation(config, task.input, seed) if is_user_augmentation(config) else None
    images = _make_images(config, task, own, samples=samples, seed=seed, device=device)
    return None if own is None and images is None else Augment(own, images)


def _make_images(
    config: AugmentConfig,
    task: TaskSpec,
    own: UserAugmentation | None,
    *,
    samples: int,
    seed: int,
    device: torch.device,
) -> ImageAugmentation | None:
    """The built-in operations; a level mixes samples only for classification and multilabel."""
    requested = {k: v for k, v in config.model_dump(exclude={"level", "args"}).items() if v is not None}
    level = "none" if own else config.level or "none"
    policy = replace(LEVELS[level], **requested)
    registered = {name: args for name, args in config.args.items() if not own or name != own.key}
    operations = make_operations(registered)
    if policy == replace(Policy(), randaugment_ops=policy.randaugment_ops) and not operations:
        return None
    if not isinstance(task.input, ImageInput):
        raise UsageError(
            f"built-in augmentation is for images, not {task.input.kind} data",
            hint=f"remove {listed(_named(level, requested, operations), 5)}; a function of your own for "
            "series, tables and tensors is --augment file.py:NAME",
        )
    if task.kind not in ("classification", "multilabel") and policy.mixes:
        if requested.get("mixup") or requested.get("cutmix"):
            raise UsageError(
                f"augment.mixup and augment.cutmix need classes or labels; {task.kind} has none",
                hint="remove them, or use another --task",
            )
        policy = replace(policy, mixup=0.0, cutmix=0.0)
    numbers = tuple((operation.name, operation.numbers) for operation in operations)
    draw = ParameterSampler(policy, task.input, samples, seed, numbers)
    return ImageAugmentation(draw, task, device, operations)


def _named(level: str, requested: dict[str, float], operations: tuple[Operation, ...]) -> list[str]:
    """The settings that ask for built-in operations."""
    settings = [name for name, value in requested.items() if value != getattr(Policy(), name)]
    return [
        *([] if level == "none" else [f"--augment {level}"]),
        *(f"augment.{name}" for name in settings),
        *(f"augment.args.{operation.name}" for operation in operations),
    ]


def preview(
    augment: Augment, inputs: tuple[Tensor, ...], targets: Tensor, indices: Indices, epochs: int
) -> list[tuple[Tensor, Tensor]]:
    """Augment images for each of the first ``epochs`` epochs: uint8 (B, H, W, C), and targets.

    ``inputs`` are as `Augment` takes them.
    """
    previews = []
    for epoch in range(epochs):
        (images,), mixed = augment(inputs, targets, indices, epoch)
        images = images if images.dtype == torch.uint8 else images.round().to(torch.uint8)
        previews.append((images, mixed))
    return previews
