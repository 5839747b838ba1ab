"""Image augmentation by the user's own code, ``--augment aug.py:make``, or by a package's.

The name is that of one of these; ``augment.args.make`` are the keyword arguments of a function or class:

- a function of an image;
- a pipeline, an object that is called with an image: `torchvision.transforms.v2.Compose`, an nn.Module;
- a class, or a function whose first parameter is no image (it has none, or one with a default), which
  returns a pipeline.

An image is a tensor uint8 (C, H, W) on the training device. What returns has its shape: uint8, or
floats in [0, 1]. Pipelines of albumentations are called with ``image=`` an array uint8 (H, W, C), those
of kornia with floats in [0, 1], (1, C, H, W). An attribute ``batched = True`` of a function or pipeline
asks for the images of a micro-batch together, (B, C, H, W).

Before each call the generators of torch, `random` and NumPy, and of albumentations, are seeded by
(seed, epoch, sample), of a batch by its first sample, and they are restored afterwards. So a sample is
augmented alike in a resumed run and however a batch is divided; with ``batched`` that holds for the
former alone. It takes the place of a level; settings such as ``augment.mixup`` are applied after it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlcli.call_arguments import check_arguments, signature_of
from dlcli.config import AugmentConfig
from dlcli.config.augment import LEVELS
from dlcli.data.base import Indices
from dlcli.errors import DlcliError
from dlcli.training.loop.determinism import derive_seed, preserved_rng, seed_generators
from dlcli.trust import AUGMENTATIONS_GROUP, names_code
from dlcli.user_code import UserObject, load_object

_KEY = 77  # of the seeds, next to those of the built-in operations
# By interpolation or noise floats leave [0, 1] a little; normalised images and [0, 255] leave it far.
_OVERSHOOT = 0.2

Pipeline = Callable[..., Any]


def is_user_augmentation(config: AugmentConfig) -> bool:
    """Whether the settings name an augmentation of the user's own code."""
    name = config.level
    return name is not None and name not in LEVELS and names_code(name, AUGMENTATIONS_GROUP)


class UserAugmentation:
    """An augmentation of the user's own code, on stored pixels."""

    def __init__(self, code: UserObject, pipeline: Pipeline, seed: int) -> None:
        self._code, self._pipeline, self._seed = code, pipeline, seed
        self._label = code.label
        self._call = _CONVENTIONS.get(_library(pipeline), _call_with_tensor)
        self.batched = bool(getattr(pipeline, "batched", False))

    @property
    def key(self) -> str:
        """The name of its arguments in ``augment.args``."""
        return key_of(self._code.name)

    @property
    def sentence(self) -> str:
        """A description for the user."""
        divided = ", whose chance depends on how a batch is divided" if self.batched else ""
        return f"{self._label}{divided}"

    def __call__(self, pixels: Tensor, indices: Indices, epoch: int) -> Tensor:
        """Augment uint8 pixels (B, H, W, C) to new ones, uint8 or float32 in [0, 255].

        Raises: DlcliError.
        """
        images = pixels.permute(0, 3, 1, 2).contiguous()
        with preserved_rng(pixels.device):
            if self.batched:
                augmented = self._augmented(images, int(indices[0]), epoch)
            else:
                samples = zip(images, indices.tolist(), strict=True)
                augmented = torch.stack([self._augmented(x, index, epoch) for x, index in samples])
        return augmented.permute(0, 2, 3, 1).contiguous()

    def _augmented(self, image: Tensor, index: int, epoch: int) -> Tensor:
        """The image or batch: uint8, or float32 in [0, 255]."""
        seed = derive_seed(self._seed, epoch, index, _KEY)
        seed_generators(seed, image.device)
        if hasattr(self._pipeline, "set_random_seed"):  # of albumentations
            self._pipeline.set_random_seed(seed % 2**32)
        label = self._label
        with self._code.errors(f"the augmentation {label} failed on a uint8 image {tuple(image.shape)}"):
            value = self._call(self._pipeline, image.clone())
        if not isinstance(value, Tensor):
            raise DlcliError(
                f"the augmentation {label} returned a {type(value).__name__}, not a tensor",
                hint="return the augmented image; a function without a parameter for it is called once, "
                "and returns a pipeline",
            )
        value = value.detach().as_subclass(Tensor)
        if value.shape != image.shape:
            raise DlcliError(
                f"the augmentation {label} returned the shape {tuple(value.shape)} for an image of "
                f"{tuple(image.shape)}",
                hint="return images of the same size; --img-size sets that of the model",
            )
        if value.dtype == torch.uint8:
            return value.to(image.device)
        return _scaled(value, label).to(image.device)


def load_augmentation(config: AugmentConfig, seed: int) -> UserAugmentation:
    """Run the code that ``augment.level`` names and build its pipeline.

    Raises: UsageError, DlcliError.
    """
    assert config.level is not None
    key = key_of(config.level)
    args = config.args.get(key, {})
    code = load_object(config.level, AUGMENTATIONS_GROUP, args, word="augmentation")
    pipeline, setting = code.value, f"augment.args.{key}"
    if _is_factory(pipeline, args):
        check_arguments(code.label, pipeline, setting, args)
        with code.errors(f"{code.label} failed"):
            pipeline = pipeline(**args)
        if not callable(pipeline):
            raise DlcliError(
                f"{code.label} returned a {type(pipeline).__name__}, which takes no image",
                hint="a function without a parameter for the image returns a pipeline",
            )
    elif _is_function(pipeline):
        check_arguments(code.label, pipeline, setting, args, ("image",))
        batched = getattr(pipeline, "batched", False)
        pipeline = functools.partial(pipeline, **args)
        pipeline.batched = batched  # type: ignore[attr-defined]
    elif args:
        check_arguments(code.label, lambda image: image, setting, args, ("image",))
    code.works()
    return UserAugmentation(code, pipeline, seed)


def key_of(name: str) -> str:
    """The name of an augmentation's arguments in ``augment.args``: NAME of ``file.py:NAME``."""
    return name.rpartition(":")[2]


def _is_function(value: Any) -> bool:
    return inspect.isroutine(value) or isinstance(value, functools.partial)


def _is_factory(value: Any, args: dict[str, Any]) -> bool:
    """Whether it makes a pipeline: a class, or a function whose first parameter is no image."""
    if inspect.isclass(value):
        return True
    signature = signature_of(value) if _is_function(value) else None
    if signature is None:
        return False
    first = next(iter(signature.parameters.values()), None)
    if first is None or first.kind in (first.KEYWORD_ONLY, first.VAR_KEYWORD):
        return True
    return first.name in args or first.default is not first.empty


def _library(pipeline: Pipeline) -> str:
    """The library of a pipeline's class or of a base, if it has a calling convention of its own."""
    roots = (base.__module__.partition(".")[0] for base in type(pipeline).__mro__)
    return next((root for root in roots if root in _CONVENTIONS), "")


def _call_with_tensor(pipeline: Pipeline, image: Tensor) -> Any:
    return pipeline(image)


def _call_albumentations(pipeline: Pipeline, image: Tensor) -> Any:
    """An array (H, W, C) by the name ``image``; a dictionary returns, with a tensor from ToTensorV2."""
    value = pipeline(image=image.permute(1, 2, 0).contiguous().cpu().numpy())["image"]
    if not isinstance(value, np.ndarray):
        return value
    value = value[:, :, None] if value.ndim == 2 else value
    return torch.from_numpy(np.ascontiguousarray(value)).permute(2, 0, 1)


def _call_kornia(pipeline: Pipeline, image: Tensor) -> Any:
    """Floats in [0, 1] with a dimension of batches."""
    scaled = image.float() / 255
    return pipeline(scaled) if image.ndim == 4 else pipeline(scaled[None])[0]


_CONVENTIONS: dict[str, Callable[[Pipeline, Tensor], Any]] = {
    "albumentations": _call_albumentations,
    "kornia": _call_kornia,
}


def _scaled(image: Tensor, label: str) -> Tensor:
    """Floats in [0, 1] as floats in [0, 255]. Raises: DlcliError for others."""
    low, high = (float(x) for x in image.aminmax()) if image.is_floating_point() else (0.0, 0.0)
    if not image.is_floating_point() or not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):
        what = str(image.dtype).removeprefix("torch.")
        values = f" from {low:.3g} to {high:.3g}" if image.is_floating_point() else ""
        raise DlcliError(
            f"the augmentation {label} returned {what} values{values}",
            hint="return uint8, or floats in [0, 1]; leave Normalize out: dlcli normalises what a model "
            "gets",
        )
    return image.float().clamp(0, 1) * 255
