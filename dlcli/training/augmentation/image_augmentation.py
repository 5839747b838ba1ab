"""Built-in augmentation of training images, as batched operations on the training device.

The random parameters are a function of (seed, epoch, sample): see
`dlcli.training.augmentation.parameters`.

The order: flips, random resized crop, shift, rotation and RandAugment's geometric
operations in one interpolation; colour jitter; RandAugment's other operations; registered operations;
random erasing; MixUp or CutMix. Random crops of photos are of the whole photo, which is decoded once,
squashed to `whole_scale` times the model's input size, and are undistorted by the same interpolation:
their regions are distributed as those of torchvision's RandomResizedCrop, but that sides are not rounded
to whole pixels. Other images are cropped as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from dlcli.data.base import Indices
from dlcli.task import TaskSpec
from dlcli.training.augmentation import ops
from dlcli.training.augmentation.operations.base import Operation
from dlcli.training.augmentation.parameters import (
    CROP_RATIO,
    OPERATIONS,
    AugmentParameters,
    ParameterSampler,
    Policy,
)

# All but "none" flip images horizontally; for digits and letters set flip = 0.
LEVELS: dict[str, Policy] = {
    "none": Policy(),
    "light": Policy(flip=0.5, translate=0.1),
    "standard": Policy(flip=0.5, crop_scale=0.5, jitter=0.3),
    "strong": Policy(
        flip=0.5, crop_scale=0.5, jitter=0.2, randaugment=5, erasing=0.25, mixup=0.2, cutmix=1.0
    ),
}

# At full magnitude: the number of bits that posterize removes, and by how much solarize lowers its
# threshold.
_POSTERIZE_BITS, _SOLARIZE_RANGE = 4, 255.0


class ImageAugmentation:
    """Augments a batch of images: pixels and targets.

    RandAugment (arXiv:1909.13719) draws from `OPERATIONS`, without equalize; its geometric operations
    and its changes of brightness, contrast and saturation are combined with those of the other settings,
    so they are applied first, regardless of the order drawn. Random erasing (arXiv:1708.04896) fills
    with one colour. MixUp (arXiv:1710.09412) and CutMix (arXiv:1905.04899) draw lambda per sample, not
    per batch, and at least 0.5; samples are mixed with the batch in reverse order. Only mixing depends
    on the batch: pass the whole batch of the optimizer step.
    """

    def __init__(
        self,
        draw: ParameterSampler,
        task: TaskSpec,
        device: torch.device,
        operations: Sequence[Operation] = (),
    ) -> None:
        self.policy = draw.policy
        self._draw = draw
        self._operations = tuple(operations)
        self._task = task
        self._device = device
        self._drawn: tuple[int, AugmentParameters] | None = None

    @property
    def mixes(self) -> bool:
        """Whether targets become probabilities (B, K), for which accuracy is undefined."""
        return self.policy.mixes

    @property
    def whole_scale(self) -> float | None:
        """How large whole photos are for random crops, in units of the model's input; None without.

        A crop of the mean area then has as many pixels as the input.
        """
        scale = self.policy.crop_scale
        return math.sqrt(2 / (1 + scale)) if scale < 1 else None

    @property
    def sentence(self) -> str:
        """A description of the policy for the user: "flip 0.5, translate 0.1"."""
        default = asdict(Policy())
        values = {k: v for k, v in asdict(self.policy).items() if v != default[k]}
        parts = [f"{name} {value:g}" for name, value in values.items()]
        return ", ".join((*parts, *(op.sentence for op in self._operations)))

    def __call__(
        self,
        pixels: Tensor,
        targets: Tensor,
        indices: Indices,
        epoch: int,
        aspect: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Augment a batch for ``epoch``.

        Args:
            pixels: (B, H, W, C) on the device, uint8 or, of the user's own augmentation, float32 in
                [0, 255]; not modified.
            aspect: (B,), width over height of the photos that ``pixels`` show whole and squashed, of any
                H and W; None where they show what the model takes.
            targets: of the batch; returned as float32 (B, K) probabilities if samples are mixed.
            indices: positions of the samples in the train split, (B,).
            epoch: counted from 0.

        Returns:
            Pixels (B, H, W, C) in [0, 255], a new tensor: uint8 without interpolation, else float32
            (`dlcli.zoo.forward.input_tensor` takes both); and the targets.
        """
        drawn = self._of(epoch).select(indices)
        if drawn.steps is not None:
            pixels = ops.move_pixels(pixels, self._put(drawn.steps))
        policy = self.policy
        if not (policy.resamples or policy.jitter or policy.erasing or policy.mixes or self._operations):
            return pixels, targets
        images = ops.to_planes(pixels)
        if drawn.linear is not None:
            size = (self._draw.image.height, self._draw.image.width)
            images = ops.resample(images, self._matrix(drawn, aspect), size)
        if drawn.factors is not None:
            images = ops.colour(images, self._put(drawn.factors))
        if drawn.operations is not None:
            images = self._randaugment(images, drawn)
        if drawn.numbers is not None:
            images = self._registered(images, self._put(drawn.numbers))
        if drawn.erased is not None and drawn.fill is not None:
            images = ops.fill_boxes(images, self._put(drawn.erased), self._put(drawn.fill))
        if drawn.mixed is not None and drawn.keep is not None and drawn.share is not None:
            images = ops.mix(images, self._put(drawn.mixed), self._put(drawn.keep))
            targets = ops.mix_targets(self._probabilities(targets), self._put(drawn.share))
        return ops.to_stored(images), targets

    def _matrix(self, drawn: AugmentParameters, aspect: Tensor | None) -> Tensor:
        """The affine matrix (B, 2, 3) of each image, from output to source coordinates."""
        assert drawn.linear is not None
        assert drawn.shift is not None
        linear, shift = self._put(drawn.linear), self._put(drawn.shift)
        if drawn.crops is not None and drawn.position is not None:
            if aspect is None:
                image = self._draw.image
                aspect = torch.full_like(shift[:, 0], image.width / image.height)
            draws, position = self._put(drawn.crops), self._put(drawn.position)
            crop, centre = ops.crop(draws, position, aspect, CROP_RATIO)
            linear, shift = linear * crop[:, :, None], shift + centre
        return torch.cat((linear, shift[:, :, None]), dim=2)

    def _registered(self, images: Tensor, numbers: Tensor) -> Tensor:
        counts = [operation.numbers for operation in self._operations]
        parts = torch.split(numbers, counts, dim=1)
        for operation, own in zip(self._operations, parts, strict=True):
            images = operation(images, own)
        return images

    def _randaugment(self, images: Tensor, drawn: AugmentParameters) -> Tensor:
        """Apply RandAugment's remaining operations, each to the images that drew it."""
        assert drawn.operations is not None
        assert drawn.sharpness is not None
        for position in range(drawn.operations.shape[1]):
            names = drawn.operations[:, position]
            for name in ("sharpness", "posterize", "solarize", "autocontrast"):
                rows = np.flatnonzero(names == OPERATIONS.index(name))
                if not len(rows):
                    continue
                index = self._put(rows)
                selected = images.index_select(0, index)
                if name == "sharpness":
                    selected = ops.sharpness(selected, self._put(drawn.sharpness[rows, position]))
                else:
                    selected = self._at_magnitude(name, selected)
                images.index_copy_(0, index, selected)
        return images

    def _at_magnitude(self, name: str, images: Tensor) -> Tensor:
        share = self.policy.randaugment / 10
        if name == "posterize":
            return ops.posterize(images, 8 - round(_POSTERIZE_BITS * share))
        if name == "solarize":
            return ops.solarize(images, 255 - _SOLARIZE_RANGE * share)
        return ops.autocontrast(images)

    def _probabilities(self, targets: Tensor) -> Tensor:
        """Targets as float32 (B, K)."""
        if self._task.kind == "classification":
            return F.one_hot(targets, self._task.num_classes).float()
        return targets.float()

    def _of(self, epoch: int) -> AugmentParameters:
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = (epoch, self._draw.epoch(epoch))
        return self._drawn[1]

    def _put(self, array: npt.NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()  # for an asynchronous copy
        return tensor.to(self._device, non_blocking=True)
