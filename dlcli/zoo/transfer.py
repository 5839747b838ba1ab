"""Every torchvision classification backbone by its torchvision name, with a head for the data.

torchvision is imported when a name is looked up: it costs about two seconds.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from dlcli.data.kinds import ModelNeeds
from dlcli.errors import UsageError
from dlcli.task import ImageInput, TaskSpec
from dlcli.zoo.base import FAMILIES, Family, ModelEntry, Weights
from dlcli.zoo.heads import HeadArgs, MlpHead, replace_head
from dlcli.zoo.names import wrong_kind

# Settings of the torchvision constructors that dlcli fixes for the two Inceptions: their auxiliary
# classifiers only served the original training, and their weights expect inputs in [-1, 1], to which
# the model itself maps ImageNet's normalisation.
_FIXED: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True, "transform_input": True},
    "inception_v3": {"aux_logits": False, "init_weights": True, "transform_input": True},
}


class TransferArgs(HeadArgs):
    """``head`` linear or mlp (hidden layers of ``hidden`` units, ``dropout`` after each).

    ``head_dropout`` is in front of either head.
    """

    only_mlp: ClassVar[tuple[str, ...]] = ("hidden", "dropout")

    dropout: float = Field(0.2, ge=0, lt=1)
    head_dropout: float = Field(0.0, ge=0, lt=1)


# What only names of other families contain: asking torchvision would import it for nothing.
_FOREIGN = re.compile(r"[:/.]")


def names() -> list[str]:
    """The classification models of the installed torchvision."""
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return names


def owns(name: str) -> bool:
    """Whether torchvision has a classifier of that name."""
    return not _FOREIGN.search(name) and name in names()


def entry(name: str, kind: str) -> ModelEntry:
    """The registry entry of a torchvision model, with the preprocessing of its default weights."""
    if kind != "image":
        raise wrong_kind(name, kind)
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    crop = preset.crop_size[0]
    min_size = max(weights.meta.get("min_size", (1, 1)))
    vit = name.startswith("vit_")
    fixed = vit or name.startswith("maxvit")
    recipe = {
        "model": {
            "crop_fraction": min(1.0, crop / preset.resize_size[0]),
            "interpolation": preset.interpolation.value,
        }
    }
    return ModelEntry(
        name=name,
        build=lambda task, args: _build(name, task, args),
        head=head_name,
        args=TransferArgs,
        recipe={"augment": {"level": "light"}},
        needs=ModelNeeds(
            name=name,
            channels=(3,),
            photo_size=crop,
            # Weights of a transformer belong to one size, but the structure does not.
            min_size=32 if fixed else max(32, min_size),
            size_multiple=_multiple(name),
        ),
        weights=Weights(
            label=str(weights),
            url=weights.url,
            mean=tuple(preset.mean),
            std=tuple(preset.std),
            recipe=recipe,
            size=round(weights.meta["_file_size"] * 2**20),
        ),
    )


def head_name(module: nn.Module) -> str:
    """The path of the last layer, the one sized by the classes.

    It is the last linear layer, or SqueezeNet's last 1x1 convolution; an MLP head counts whole.
    """
    last = ""
    path: str
    for path, sub in module.named_modules():
        if isinstance(sub, MlpHead):
            return path
        if isinstance(sub, nn.Linear) or (path == "classifier.1" and isinstance(sub, nn.Conv2d)):
            last = path
    return last


def _build(name: str, task: TaskSpec, args: TransferArgs) -> nn.Module:
    from torchvision import models

    assert isinstance(task.input, ImageInput)
    height, width = task.input.height, task.input.width
    multiple = _multiple(name)
    if height % multiple or width % multiple:
        near = max(multiple, round(height / multiple) * multiple)
        raise UsageError(
            f"{name} needs an input side that is a multiple of {multiple}, not {height}",
            hint=f"--img-size {near}",
        )
    module: nn.Module = models.get_model(name, weights=None, **settings_of(name, task))
    replace_head(
        module, head_name(module), args, name=name, dropout=args.dropout, first=args.head_dropout
    )
    return module


def settings_of(name: str, task: TaskSpec) -> dict[str, Any]:
    """The arguments of the torchvision constructor of that name for a task."""
    assert isinstance(task.input, ImageInput)
    settings = {"num_classes": task.num_outputs, **_FIXED.get(name, {})}
    if name.startswith("vit_"):
        settings["image_size"] = task.input.height
    elif name.startswith("maxvit"):
        settings["input_size"] = (task.input.height, task.input.width)
    return settings


def _multiple(name: str) -> int:
    """The number that the input size must be a multiple of, for patches or windows."""
    if name.startswith("vit_"):
        return int(name.rsplit("_", 1)[1])
    # Four halvings and a stem, then windows of 7x7 at every stage.
    return 224 if name.startswith("maxvit") else 1


FAMILIES.append(Family(owns, entry, names, "torchvision"))
