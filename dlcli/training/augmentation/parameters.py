"""The random parameters of augmentation, as functions of (seed, epoch, sample).

The parameters of all samples of an epoch are drawn at once, from one generator per operation, and then
indexed by the sample's position in its split. So the augmentation of a sample does not depend on
batches, workers, resuming, or on which other operations are enabled. A sample that a balanced sampler
draws twice in an epoch is augmented in the same way both times.

N: samples of the split; n: operations of RandAugment; H, W: size of the images in pixels. Boxes are rows
of (top, bottom, left, right) in pixels, ends excluded; an empty box is four zeros.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Indices
from dlcli.task import ImageInput

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Wide = npt.NDArray[np.float64]

# Keys of the generators. Not 0: in NumPy [seed, epoch, 0] gives the same generator as [seed, epoch],
# which shuffles the samples.
_GENERATOR_KEYS = {
    name: number
    for number, name in enumerate(
        ("flip", "crop", "rotation", "translate", "jitter", "randaugment", "erasing", "mix"), start=1
    )
}

# The operations of RandAugment, and their full magnitudes: degrees, shares of a side, or factors.
OPERATIONS = (
    *("identity", "rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
    *("brightness", "contrast", "saturation", "sharpness", "posterize", "solarize", "autocontrast"),
)
_MAX_ROTATE, _MAX_SHEAR, _MAX_TRANSLATE, _MAX_FACTOR = 30.0, 0.3, 0.3, 0.9

CROP_RATIO = (3 / 4, 4 / 3)  # aspect ratio of a crop, in pixels of the image
_CROP_DRAWS = 10  # how often a crop is drawn that does not fit into the image
_ERASED_AREA, _ERASED_RATIO = (0.02, 0.33), (0.3, 1 / 0.3)


@dataclass(frozen=True)
class Policy:
    """The values of `dlcli.config.AugmentConfig` without None; the defaults are the identity."""

    crop_scale: float = 1.0
    flip: float = 0.0
    vertical_flip: float = 0.0
    rotation: float = 0.0
    translate: float = 0.0
    jitter: float = 0.0
    randaugment: float = 0.0
    randaugment_ops: int = 2
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def resamples(self) -> bool:
        """Whether pixels are interpolated; else there are only flips and shifts by whole pixels."""
        return self.crop_scale < 1 or self.rotation > 0 or self.randaugment > 0

    @property
    def mixes(self) -> bool:
        """Whether samples are mixed, so that targets become probabilities."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass(frozen=True)
class AugmentParameters:
    """The parameters of the samples of a split or batch; None for operations not in the policy."""

    # int64 (N, 4): output row i comes from row steps[0] + steps[1] * i; likewise columns.
    steps: Ints | None = None
    # From output to source coordinates, both from -1 to 1, without the crop: (N, 2, 2), and (N, 2).
    linear: Floats | None = None
    shift: Floats | None = None
    # (N, 10, 2): widths and heights of crops, in units of the root of the image's area, of which the
    # first is taken that fits into the image; (N, 2): where it lies, -1 at the left and top, 1 opposite.
    crops: Floats | None = None
    position: Floats | None = None
    factors: Floats | None = None  # (N, 3): of brightness, contrast and saturation
    operations: Ints | None = None  # (N, n): indices into OPERATIONS, applied in this order
    sharpness: Floats | None = None  # (N, n): the factor, where the operation is sharpness
    erased: Ints | None = None  # (N, 4): boxes to erase
    fill: Floats | None = None  # (N, C): their colour
    numbers: Floats | None = None  # (N, ...): in [0, 1), of all registered operations, concatenated
    mixed: Ints | None = None  # (N, 4): boxes that are filled by the partner
    keep: Floats | None = None  # (N,): the weight of the sample itself outside of the box
    share: Floats | None = None  # (N,): the weight of its own target

    def select(self, indices: Indices) -> AugmentParameters:
        """The parameters of the samples at ``indices``."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return AugmentParameters(
            **{k: None if array is None else array[indices] for k, array in arrays.items()}
        )


@dataclass(frozen=True)
class ParameterSampler:
    """Draws the parameters of an epoch for a policy and images of one size.

    ``numbers`` are the names of registered operations and how many random numbers each takes.
    """

    policy: Policy
    image: ImageInput
    samples: int
    seed: int
    numbers: tuple[tuple[str, int], ...] = ()

    def epoch(self, epoch: int) -> AugmentParameters:
        """The parameters of all samples."""
        policy, n = self.policy, self.samples
        chosen = _RandAugment(np.zeros((n, 0), dtype=np.int64), np.zeros((n, 0)))
        if policy.randaugment > 0:
            rng, shape = self._rng(epoch, "randaugment"), (n, policy.randaugment_ops)
            operations = rng.integers(len(OPERATIONS), size=shape)
            chosen = _RandAugment(
                operations, rng.choice((-1.0, 1.0), size=shape) * policy.randaugment / 10
            )
        return AugmentParameters(
            **self._geometry(epoch, chosen),
            **self._colours(epoch, chosen),
            **self._erasing(self._rng(epoch, "erasing")),
            **self._mixing(self._rng(epoch, "mix")),
            numbers=self._registered(epoch),
        )

    def _registered(self, epoch: int) -> Floats | None:
        """The uniform numbers of registered operations, from a generator for each name."""
        if not self.numbers:
            return None
        key = len(_GENERATOR_KEYS) + 1
        draws = [
            np.random.default_rng([self.seed, epoch, key, zlib.crc32(name.encode())]).random(
                (self.samples, count), dtype=np.float32
            )
            for name, count in self.numbers
        ]
        return np.concatenate(draws, axis=1)

    def _rng(self, epoch: int, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch, _GENERATOR_KEYS[name]])

    def _geometry(self, epoch: int, chosen: _RandAugment) -> dict[str, Any]:
        policy, n = self.policy, self.samples
        drawn = self._rng(epoch, "flip").random((n, 2)) < (policy.flip, policy.vertical_flip)
        mirror = np.where(drawn, -1, 1)  # (N, 2): columns are x and y here
        shift = self._rng(epoch, "translate").uniform(-policy.translate, policy.translate, (n, 2))
        if policy.resamples:
            return self._affine(epoch, chosen, mirror, shift) | self._crops(epoch)
        if policy.flip or policy.vertical_flip or policy.translate:
            return {"steps": self._steps(mirror, shift)}
        return {}

    def _steps(self, mirror: Ints, shift: Wide) -> Ints:
        """Flips and shifts by whole pixels as arithmetic on the indices of rows and columns."""
        size = np.array((self.image.width, self.image.height))
        start = np.where(mirror < 0, size - 1, 0) + np.rint(shift * size).astype(np.int64)
        (x0, y0), (dx, dy) = start.T, mirror.T
        return np.stack((y0, dy, x0, dx), axis=1)

    def _affine(self, epoch: int, chosen: _RandAugment, mirror: Ints, shift: Wide) -> dict[str, Any]:
        """Compose flip, shear and rotation of a sample into one matrix, for a single interpolation.

        From output to source they come in this order, then scale to the crop, then shift. Rotation and
        shear are defined in pixels, so the matrix contains the aspect ratio of the output.
        """
        policy, n = self.policy, self.samples
        drawn = np.stack((chosen.sum("translate_x"), chosen.sum("translate_y")), axis=1)
        degrees = self._rng(epoch, "rotation").uniform(-policy.rotation, policy.rotation, n)
        angle = np.deg2rad(degrees + _MAX_ROTATE * chosen.sum("rotate"))
        rotated = _matrices(np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle))
        one, zero = np.ones(n), np.zeros(n)
        sheared = _matrices(one, _MAX_SHEAR * chosen.sum("shear_x"), zero, one)
        sheared = sheared @ _matrices(one, zero, _MAX_SHEAR * chosen.sum("shear_y"), one)
        linear = (rotated @ sheared) * mirror[:, None, :]
        aspect = self.image.height / self.image.width
        linear *= ((1, aspect), (1 / aspect, 1))  # from pixels to coordinates from -1 to 1
        shifts = 2 * shift + 2 * _MAX_TRANSLATE * drawn
        return {"linear": linear.astype(np.float32), "shift": shifts.astype(np.float32)}

    def _crops(self, epoch: int) -> dict[str, Any]:
        """Draw what `ops.crop` needs, as torchvision's RandomResizedCrop draws; {} without crops."""
        policy, n = self.policy, self.samples
        if policy.crop_scale == 1:
            return {}
        rng = self._rng(epoch, "crop")
        position = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
        area = rng.uniform(policy.crop_scale, 1, (n, _CROP_DRAWS))
        ratio = _ratios(rng, CROP_RATIO, (n, _CROP_DRAWS))
        crops = np.sqrt(np.stack((area * ratio, area / ratio), axis=2), dtype=np.float32)
        return {"crops": crops, "position": position}

    def _colours(self, epoch: int, chosen: _RandAugment) -> dict[str, Any]:
        policy = self.policy
        parameters: dict[str, Any] = {}
        if policy.jitter or policy.randaugment:
            rng = self._rng(epoch, "jitter")
            factors = rng.uniform(1 - policy.jitter, 1 + policy.jitter, (self.samples, 3))
            names = ("brightness", "contrast", "saturation")
            drawn = np.stack([chosen.sum(name) for name in names], axis=1)
            parameters["factors"] = (factors * (1 + _MAX_FACTOR * drawn).clip(0)).astype(np.float32)
        if policy.randaugment:
            parameters["operations"] = chosen.operations
            parameters["sharpness"] = (1 + _MAX_FACTOR * chosen.strengths).astype(np.float32)
        return parameters

    def _erasing(self, rng: np.random.Generator) -> dict[str, Any]:
        n, image = self.samples, self.image
        if not self.policy.erasing:
            return {}
        erased = rng.random(n) < self.policy.erasing
        area = rng.uniform(*_ERASED_AREA, n) * image.height * image.width
        ratio = _ratios(rng, _ERASED_RATIO, n)
        height = np.rint(np.sqrt(area * ratio)).clip(1, image.height)
        width = np.rint(np.sqrt(area / ratio)).clip(1, image.width)
        top = np.floor(rng.random(n) * (image.height - height + 1))
        left = np.floor(rng.random(n) * (image.width - width + 1))
        boxes = np.stack((top, top + height, left, left + width), axis=1).astype(np.int64)
        fill = rng.integers(0, 256, (n, image.channels)).astype(np.float32)
        return {"erased": boxes * erased[:, None], "fill": fill}

    def _mixing(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw MixUp or CutMix for each sample, with equal probability if both are enabled.

        lambda is at least 0.5, so that each sample dominates one image per epoch. The two samples of a
        pair are mixed with each other, so this does not change the distribution of the mixtures.
        """
        policy, n = self.policy, self.samples
        if not policy.mixes:
            return {}
        coin = rng.random(n) < 0.5
        by_cutmix = coin if policy.mixup and policy.cutmix else np.full(n, policy.cutmix > 0)
        blend = _larger(rng.beta(policy.mixup or 1.0, policy.mixup or 1.0, n))
        remaining = _larger(rng.beta(policy.cutmix or 1.0, policy.cutmix or 1.0, n))
        size = np.array((self.image.height, self.image.width))
        side = (size * np.sqrt(1 - remaining)[:, None]).astype(np.int64)  # (N, 2), rounded down
        centre = rng.integers(0, size, (n, 2))
        low = (centre - side // 2).clip(0)
        high = np.minimum(centre - side // 2 + side, size)
        boxes = np.stack((low[:, 0], high[:, 0], low[:, 1], high[:, 1]), axis=1) * by_cutmix[:, None]
        area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2]) / size.prod()
        return {
            "mixed": boxes,
            "keep": np.where(by_cutmix, 1.0, blend).astype(np.float32),
            "share": np.where(by_cutmix, 1 - area, blend).astype(np.float32),
        }


@dataclass(frozen=True)
class _RandAugment:
    """RandAugment's operations (N, n) and their signed strengths (N, n)."""

    operations: Ints
    strengths: Wide

    def sum(self, name: str) -> Wide:
        """The total strength of an operation (N,): 0 if not drawn, the sum if drawn several times."""
        drawn = self.operations == OPERATIONS.index(name)
        total: Wide = np.where(drawn, self.strengths, 0.0).sum(axis=1)
        return total


def _ratios(rng: np.random.Generator, bounds: tuple[float, float], size: int | tuple[int, ...]) -> Wide:
    """Aspect ratios between the bounds, log-uniform."""
    return np.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1]), size))


def _larger(share: Wide) -> Wide:
    """max(share, 1 - share)."""
    return np.maximum(share, 1 - share)


def _matrices(a: Wide, b: Wide, c: Wide, d: Wide) -> Wide:
    """Matrices (N, 2, 2) with the rows (a, b) and (c, d)."""
    return np.stack((a, b, c, d), axis=1).reshape(-1, 2, 2)
