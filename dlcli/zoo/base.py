"""What a model is to the rest of dlcli: a name, validated arguments, a builder and good defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError
from torch import nn

from dlcli.card import Frozen, ModelSpec, TaskSpec
from dlcli.errors import UsageError, nearest
from dlcli.registry import Registry


class NoArgs(Frozen):
    """A model without arguments of its own."""


@dataclass(frozen=True)
class Weights:
    """Published weights of a model, by URL, with the preprocessing they were trained with."""

    label: str  # "ResNet18_Weights.IMAGENET1K_V1"
    url: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    recipe: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelEntry:
    """A registered model.

    ``build(task, args)`` gives a module that maps float32 (N, C, H, W) to logits (N, num_classes);
    its head is the submodule at ``head(module)``. ``recipe`` holds settings that beat the general
    defaults. ``channels`` are those it takes; ``photo_size`` is the default input size for photos of
    varying size, ``min_size`` the smallest input side it can digest, ``size_multiple`` what divides it.
    """

    name: str
    build: Callable[[TaskSpec, Any], nn.Module]
    head: Callable[[nn.Module], str]
    args: type[BaseModel] = NoArgs
    recipe: dict[str, Any] = field(default_factory=dict)
    channels: tuple[int, ...] = (1, 3)
    photo_size: int = 96
    min_size: int = 1
    size_multiple: int = 1
    weights: Weights | None = None

    def arguments(self, values: dict[str, Any]) -> BaseModel:
        """Validated arguments. Raises: UsageError naming the argument."""
        try:
            return self.args.model_validate(values)
        except ValidationError as exc:
            first = exc.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                known = self.args.model_fields
                raise UsageError(
                    f"model {self.name!r} has no argument {key!r}",
                    hint=nearest(key, known) if known else f"{self.name} takes no arguments",
                ) from exc
            raise UsageError(f"model.args.{key} = {first['input']!r}: {first['msg'].lower()}") from exc


MODELS: Registry[ModelEntry] = Registry("model", "dlcli.zoo")

# Families of models that another library names; asked only for names that are not registered here,
# because asking imports that library (torchvision: 2 s).
FAMILIES: list[tuple[Callable[[], list[str]], Callable[[str], ModelEntry]]] = []


def find_model(name: str) -> ModelEntry:
    """The entry of ``name``. Raises: UsageError naming the nearest known names."""
    entry = MODELS.find(name)
    if entry is not None:
        return entry
    known = MODELS.names()
    for names, make in FAMILIES:
        family = names()
        if name in family:
            return make(name)
        known += family
    raise UsageError(f"unknown model {name!r}", hint=nearest(name, known))


def build_model(spec: ModelSpec, task: TaskSpec) -> nn.Module:
    """The module of a card, with fresh weights."""
    entry = find_model(spec.name)
    return entry.build(task, entry.arguments(spec.args))
