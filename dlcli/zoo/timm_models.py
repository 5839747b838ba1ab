"""``timm:NAME``: every image model of timm, where timm is installed, with a head for the data.

timm is imported when such a name is looked up: it costs seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args
from urllib.parse import urlparse

from pydantic import Field
from torch import nn

from dlcli.data.kinds import ModelNeeds
from dlcli.errors import DlcliError, UsageError, nearest
from dlcli.task import ImageInput, Interpolation, TaskSpec
from dlcli.zoo.base import FAMILIES, Family, ModelEntry, Weights
from dlcli.zoo.heads import HeadArgs, replace_head
from dlcli.zoo.names import wrong_kind

_PREFIX = "timm:"
# Files that hold timm's own tensor names; those of other projects are renamed by code of timm's.
_HOSTS = ("github.com/huggingface/pytorch-image-models", "github.com/rwightman/pytorch-image-models")
_DEFAULT_SIDE = 224


class TimmArgs(HeadArgs):
    """``dropout`` before the head and after each hidden layer of it, ``drop_path`` of stochastic depth.

    ``head`` linear or mlp (hidden layers of ``hidden`` units).
    """

    dropout: float = Field(0.0, ge=0, lt=1)
    drop_path: float = Field(0.0, ge=0, lt=1)


def owns(name: str) -> bool:
    """Whether a name begins with ``timm:``."""
    return name.startswith(_PREFIX)


def names() -> list[str]:
    """``timm:NAME`` of every model of the installed timm, or nothing without it."""
    try:
        timm = _timm()
    except DlcliError:
        return []
    return [_PREFIX + name for name in timm.list_models()]


def entry(name: str, kind: str) -> ModelEntry:
    """The entry of a timm model, with the preprocessing of its published weights.

    Raises: DlcliError without timm; UsageError for a name that timm does not know.
    """
    if kind != "image":
        raise wrong_kind(name, kind)
    timm = _timm()
    own = name.removeprefix(_PREFIX)
    if not timm.is_model(own):
        raise UsageError(f"timm has no model {own!r}", hint=nearest(own, timm.list_models()))
    pretrained = timm.get_pretrained_cfg(own)
    config: dict[str, Any] = pretrained.to_dict() if pretrained is not None else {}
    weights = _weights(name, config)
    side = config.get("input_size", (3, _DEFAULT_SIDE, _DEFAULT_SIDE))[1]
    fixed = bool(config.get("fixed_input_size"))
    least = config.get("min_input_size")
    return ModelEntry(
        name=name,
        build=lambda task, args: _build(own, fixed, task, args),
        head=_head,
        args=TimmArgs,
        needs=ModelNeeds(
            name=name,
            channels=(1, 3) if weights is None else (3,),
            photo_size=side,
            min_size=least[1] if least else 32,
            size_multiple=_multiple(own, fixed),
        ),
        weights=weights,
        summary="a model of timm",
    )


def _timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as exc:
        if exc.name != "timm":
            raise
        raise DlcliError(
            "timm is not installed, and names with timm: are its models",
            hint='pip install "dlcli[timm]"',
        ) from exc
    return timm


def _weights(name: str, config: Mapping[str, Any]) -> Weights | None:
    """The published file, where it can be loaded as it is: timm's own, as a .pth."""
    url = config.get("url") or ""
    parsed = urlparse(url)
    if not parsed.path.endswith(".pth") or not f"{parsed.netloc}{parsed.path}".startswith(_HOSTS):
        return None
    tag = config.get("tag")
    interpolation = config.get("interpolation", "bicubic")
    recipe: dict[str, Any] = {"crop_fraction": float(config.get("crop_pct", 1.0))}
    if interpolation in get_args(Interpolation):
        recipe["interpolation"] = interpolation
    return Weights(
        label=f"{name}.{tag}" if tag else name,
        url=url,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        recipe={"model": recipe},
    )


def _multiple(name: str, fixed: bool) -> int:
    """What divides the input side: the patch of a patch transformer, or its five halvings."""
    patch = re.search(r"patch(\d+)", name)
    if patch is not None:
        return int(patch[1])
    return 32 if fixed else 1


def _build(own: str, fixed: bool, task: TaskSpec, args: TimmArgs) -> nn.Module:
    assert isinstance(task.input, ImageInput)
    size = f"{task.input.channels}x{task.input.height}x{task.input.width}"
    multiple = _multiple(own, fixed)
    if task.input.height % multiple or task.input.width % multiple:
        near = max(multiple, round(task.input.height / multiple) * multiple)
        raise UsageError(
            f"{_PREFIX}{own} needs sides that are multiples of {multiple}, not {size}",
            hint=f"--img-size {near}",
        )
    settings: dict[str, Any] = {}
    if fixed:
        settings["img_size"] = (task.input.height, task.input.width)
    if args.drop_path:
        settings["drop_path_rate"] = args.drop_path
    try:
        module: nn.Module = _timm().create_model(
            own,
            pretrained=False,
            num_classes=task.num_outputs,
            in_chans=task.input.channels,
            drop_rate=args.dropout,
            **settings,
        )
    except (AssertionError, RuntimeError, TypeError, ValueError) as exc:  # how timm says no
        raise UsageError(
            f"timm cannot build {own} for {size} with {args}: {exc}",
            hint="--img-size N and model.args change that",
        ) from exc
    replace_head(module, _head(module), args, name=f"{_PREFIX}{own}", dropout=args.dropout)
    return module


def _head(module: nn.Module) -> str:
    """The path of the classifier, as timm's configuration names it; the first of several."""
    config: Mapping[str, Any] = getattr(module, "pretrained_cfg", None) or {}
    classifier = config.get("classifier") or ""
    return str(classifier if isinstance(classifier, str) else classifier[0])


FAMILIES.append(Family(owns, entry, names, "timm"))
