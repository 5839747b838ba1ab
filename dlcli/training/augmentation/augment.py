"""Variation of training images, as batched operations on the training device.

The same images are never seen twice in the same way, yet what is seen is a function of (seed, epoch,
sample): see `dlcli.training.augmentation.draw`.

In this order: flips, random resized crop, shift, rotation and RandAugment's own geometry in one
interpolation; colours; RandAugment's other operations; erasing; MixUp or CutMix. Crops are of the
image at the model's own size: a crop of half the area is enlarged, not decoded anew.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from dlcli.config import AugmentConfig
from dlcli.data.base import Indices
from dlcli.errors import UsageError
from dlcli.task import ImageInput, TaskSpec
from dlcli.training.augmentation import ops
from dlcli.training.augmentation.draw import OPERATIONS, Draw, Drawn, Policy

# Light and standard are for anything that may be mirrored; digits and letters may not (flip = 0).
LEVELS: dict[str, Policy] = {
    "none": Policy(),
    "light": Policy(flip=0.5, translate=0.1),
    "standard": Policy(flip=0.5, crop_scale=0.5, jitter=0.3),
    "strong": Policy(
        flip=0.5, crop_scale=0.5, jitter=0.2, randaugment=5, erasing=0.25, mixup=0.2, cutmix=1.0
    ),
}

_BITS, _THRESHOLD = 4, 255.0  # bits that posterize takes, and how far solarize goes, at full magnitude


class Augment:
    """Call it with a batch; it gives the varied pixels and their targets.

    RandAugment (arXiv:1909.13719) draws from the operations of `OPERATIONS`, which lack equalize; its
    geometry and its changes of brightness, contrast and saturation are joined with those of the other
    settings, so they come first, whatever their place in the draw. Random erasing (arXiv:1708.04896)
    fills with one colour. MixUp (arXiv:1710.09412) and CutMix (arXiv:1905.04899) draw a share for each
    sample instead of each batch, and the sample keeps the larger part; its partner is the one at the
    same place from the other end of the optimizer step's batch. That alone depends on the batch: give
    it whole.
    """

    def __init__(self, draw: Draw, task: TaskSpec, device: torch.device) -> None:
        self.policy = draw.policy
        self._draw = draw
        self._task = task
        self._device = device
        self._drawn: tuple[int, Drawn] | None = None

    @property
    def mixes(self) -> bool:
        """Whether targets become shares (B, K): hits against them are no accuracy."""
        return self.policy.mixes

    @property
    def sentence(self) -> str:
        """What is done, for the user: "augmentation: flip 0.5, translate 0.1"."""
        plain = asdict(Policy())
        values = {k: v for k, v in asdict(self.policy).items() if v != plain[k]}
        return "augmentation: " + ", ".join(f"{name} {value:g}" for name, value in values.items())

    def __call__(
        self, pixels: Tensor, targets: Tensor, indices: Indices, epoch: int
    ) -> tuple[Tensor, Tensor]:
        """The batch as it is to be learnt in ``epoch``.

        Args:
            pixels: uint8 (B, H, W, C) on the device; left as it is.
            targets: of the batch; float32 (B, K) shares where it is mixed.
            indices: (B,) the samples' positions in the train split.
            epoch: counted from 0.

        Returns:
            Pixels (B, H, W, C) in [0, 255], a new tensor: uint8 where none was interpolated, else
            float32; `dlcli.zoo.forward.input_tensor` takes both. And the targets.
        """
        drawn = self._of(epoch).take(indices)
        if drawn.steps is not None:
            pixels = ops.move_pixels(pixels, self._put(drawn.steps))
        policy = self.policy
        if not (policy.resamples or policy.jitter or policy.erasing or policy.mixes):
            return pixels, targets
        images = ops.to_planes(pixels)
        if drawn.matrix is not None:
            images = ops.resample(images, self._put(drawn.matrix))
        if drawn.factors is not None:
            images = ops.colour(images, self._put(drawn.factors))
        if drawn.operations is not None:
            images = self._operations(images, drawn)
        if drawn.erased is not None and drawn.fill is not None:
            images = ops.fill_boxes(images, self._put(drawn.erased), self._put(drawn.fill))
        if drawn.mixed is not None and drawn.keep is not None and drawn.share is not None:
            images = ops.mix(images, self._put(drawn.mixed), self._put(drawn.keep))
            targets = ops.mix_targets(self._shares(targets), self._put(drawn.share))
        return ops.to_stored(images), targets

    def _operations(self, images: Tensor, drawn: Drawn) -> Tensor:
        """RandAugment's operations that were not joined with others, each on the images that drew it."""
        assert drawn.operations is not None
        assert drawn.sharpness is not None
        for place in range(drawn.operations.shape[1]):
            names = drawn.operations[:, place]
            for name in ("sharpness", "posterize", "solarize", "autocontrast"):
                rows = np.flatnonzero(names == OPERATIONS.index(name))
                if not len(rows):
                    continue
                where = self._put(rows)
                some = images.index_select(0, where)
                if name == "sharpness":
                    some = ops.sharpness(some, self._put(drawn.sharpness[rows, place]))
                else:
                    some = self._at_magnitude(name, some)
                images.index_copy_(0, where, some)
        return images

    def _at_magnitude(self, name: str, images: Tensor) -> Tensor:
        share = self.policy.randaugment / 10
        if name == "posterize":
            return ops.posterize(images, 8 - round(_BITS * share))
        if name == "solarize":
            return ops.solarize(images, 255 - _THRESHOLD * share)
        return ops.autocontrast(images)

    def _shares(self, targets: Tensor) -> Tensor:
        """Targets as float32 (B, K)."""
        if self._task.kind == "classification":
            return F.one_hot(targets, self._task.num_classes).float()
        return targets.float()

    def _of(self, epoch: int) -> Drawn:
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = (epoch, self._draw.epoch(epoch))
        return self._drawn[1]

    def _put(self, array: npt.NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()  # else the copy would wait for the kernels before it
        return tensor.to(self._device, non_blocking=True)


def make_augment(
    config: AugmentConfig, task: TaskSpec, *, samples: int, seed: int, device: torch.device
) -> Augment | None:
    """What the settings ask for, or None where that is nothing.

    ``samples`` is the size of the train split. A level mixes samples only where there are classes or
    labels. Raises: UsageError for data that is no images, and for MixUp or CutMix of numbers.
    """
    asked = {k: v for k, v in config.model_dump(exclude={"level"}).items() if v is not None}
    policy = replace(LEVELS[config.level or "none"], **asked)
    if policy == replace(Policy(), randaugment_ops=policy.randaugment_ops):
        return None
    if not isinstance(task.input, ImageInput):
        raise UsageError(
            f"augmentation is for images, not {task.input.kind} data",
            hint="leave --augment and the augment settings out",
        )
    if task.kind not in ("classification", "multilabel") and policy.mixes:
        if asked.get("mixup") or asked.get("cutmix"):
            raise UsageError(
                "augment.mixup and augment.cutmix mix answers that are classes; "
                f"a {task.kind} task has none",
                hint="leave them out, or use another --task",
            )
        policy = replace(policy, mixup=0.0, cutmix=0.0)
    return Augment(Draw(policy, task.input, samples, seed), task, device)


def preview(
    augment: Augment, pixels: Tensor, targets: Tensor, indices: Indices, epochs: int
) -> list[tuple[Tensor, Tensor]]:
    """A batch as the first ``epochs`` epochs would show it: uint8 (B, H, W, C), and targets."""
    shown = []
    for epoch in range(epochs):
        images, mixed = augment(pixels, targets, indices, epoch)
        images = images if images.dtype == torch.uint8 else images.round().to(torch.uint8)
        shown.append((images, mixed))
    return shown
