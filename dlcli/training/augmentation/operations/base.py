"""The registry of image augmentations, and those selected by the settings of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field
from torch import Tensor

from dlcli.keyword_settings import check_args, keywords
from dlcli.registry import Registry
from dlcli.task import Frozen

# (images float32 (B, C, H, W) in [0, 255], numbers float32 (B, n) in [0, 1), *, settings) -> images
Transform = Callable[..., Tensor]


@dataclass(frozen=True)
class AugmentationEntry:
    """A registered augmentation, which takes ``numbers`` random numbers for each image."""

    function: Transform
    numbers: int


AUGMENTATIONS: Registry[AugmentationEntry] = Registry(
    "augmentation", "dlcli.training.augmentation.operations"
)


def register_augmentation(name: str, *, numbers: int) -> Callable[[Transform], Transform]:
    """Decorator: register a function that augments training images if ``augment.args.NAME`` is set.

    The function takes a batch of images and, for each, ``numbers`` uniform random numbers, which are a
    function of (seed, epoch, sample), and returns new images. It must process each image independently.
    Its keyword-only parameters are its settings: ``--set augment.args.NAME.SETTING=value``, or
    ``--set augment.args.NAME={}`` for the defaults. It runs after the built-in geometric and colour
    operations, before random erasing and mixing.
    """

    def add(function: Transform) -> Transform:
        AUGMENTATIONS.register(name)(AugmentationEntry(function, numbers))
        return function

    return add


@dataclass(frozen=True)
class Operation:
    """An augmentation with its settings."""

    name: str
    function: Transform
    numbers: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """New images of the same shape."""
        return self.function(images, numbers, **self.settings)

    @property
    def sentence(self) -> str:
        """A description for the user: the name and the settings."""
        return " ".join((self.name, *(f"{name}={value}" for name, value in self.settings.items())))


class _Settings(Frozen):
    args: dict[str, Any] = Field({})


def make_operations(requested: Mapping[str, Mapping[str, Any]]) -> tuple[Operation, ...]:
    """The operations of ``augment.args``, in the order of their names.

    Raises: UsageError for an unknown name or setting.
    """
    operations = []
    for name in sorted(requested):
        entry, config = AUGMENTATIONS.get(name), _Settings(args=dict(requested[name]))
        check_args(f"augment.args.{name}", config, [entry.function])
        settings = keywords(entry.function, config)
        operations.append(Operation(name, entry.function, entry.numbers, settings))
    return tuple(operations)
