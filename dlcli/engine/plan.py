"""From settings to everything a run is about: data, task, model, first weights.

A plan of a new run is made from what the user said; a plan of an old one is read from its folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from dlcli.card import DataRecord, ImageInput, ModelSpec, TaskSpec
from dlcli.config import ModelConfig, TrainConfig, load_yaml, merge, validate
from dlcli.data.base import DataSource
from dlcli.data.sources import open_source
from dlcli.data.splits import apply_splits
from dlcli.errors import DlcliError, UsageError
from dlcli.runs import RunFolder
from dlcli.zoo.base import ModelEntry, build_model, find_model
from dlcli.zoo.weights import (
    StateDict,
    load_matching,
    pretrained_or_reason,
    read_state_dict,
)

# ImageNet's channel statistics: the start for photos, whose own are not known before decoding.
_PHOTO_MEAN, _PHOTO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_GREY_MEAN, _GREY_STD = (0.449,), (0.226,)


@dataclass(frozen=True)
class Plan:
    """What a run trains, on what, from which weights. ``initial`` is None where they are fresh."""

    config: TrainConfig
    source: DataSource
    task: TaskSpec
    model: ModelSpec
    weights_from: str = "scratch"
    initial: StateDict | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()

    def data_record(self) -> DataRecord:
        """What the card says of the training data."""
        return DataRecord(
            data=self.source.origin, data_dir=self.source.data_dir, fingerprint=self.source.fingerprint
        )

    def build(self) -> tuple[nn.Module, list[str]]:
        """The module with its first weights, frozen as asked; sentences about what was loaded.

        The fresh weights are a function of the seed.
        """
        torch.manual_seed(self.config.fit.seed)
        module = build_model(self.model, self.task)
        said: list[str] = []
        head = find_model(self.model.name).head(module)
        if self.initial is not None:
            loaded = load_matching(module, self.initial, source=self.weights_from)
            strange = [k for k in loaded.fresh if not k.startswith(f"{head}.")]
            if strange:
                said.append(
                    f"{self.weights_from}: {len(strange)} tensors outside the head start fresh, "
                    f"among them {strange[0]}"
                )
        if self.config.model.freeze == "backbone":
            for name, parameter in module.named_parameters():
                parameter.requires_grad = name.startswith(f"{head}.")
            if self.weights_from == "scratch":
                said.append("the backbone is frozen at random weights: nothing was loaded into it")
        return module, said


def make_plan(resolve: Callable[[dict[str, Any]], TrainConfig]) -> Plan:
    """The plan of a new run; ``resolve(recipe)`` gives the settings over a model's recipe.

    Raises: UsageError when the model or the data is not named or does not fit; DlcliError from the
    data, and when ``--pretrained`` was asked for and cannot be had.
    """
    said = resolve({})
    if said.model.name is None:
        raise UsageError("--model is missing", hint="dlcli train --model cnn --data digits")
    if said.data.data is None:
        raise UsageError(
            "--data is missing", hint=f"dlcli train --model {said.model.name} --data FOLDER"
        )
    entry = find_model(said.model.name)
    source = open_source(said.data, seed=said.fit.seed)
    if any(
        "\ud800" <= letter <= "\udfff" for letter in source.origin
    ):  # os.fsdecode's, no JSON can hold it
        raise DlcliError(
            f"{source.origin!a} is no UTF-8 name, so no run could remember it",
            hint="rename the folder, or give a link to it that has a plain name",
        )
    warnings = list(source.warnings)
    initial, weights_from = _first_weights(entry, said, warnings)
    published = weights_from not in ("scratch", said.model.weights)
    recipe = merge(entry.recipe, entry.weights.recipe if published and entry.weights else {})
    config = resolve(recipe)
    task = TaskSpec(
        input=image_input(entry, config.model, source, pretrained=published),
        class_names=source.class_names,
    )
    spec = ModelSpec(name=entry.name, args=_model_args(entry, config.model))
    return Plan(config, source, task, spec, weights_from, initial, tuple(warnings))


def read_plan(run: RunFolder, *, changes: dict[str, Any], fresh: bool) -> Plan:
    """The plan of a run that exists, from its own files; ``changes`` are settings laid over its own.

    ``fresh`` asks for its first weights too: it was stopped before its first state. Raises:
    DlcliError when its data is gone or no longer holds the samples it was trained on.
    """
    record = run.read_record()
    config = validate(TrainConfig, merge(load_yaml(run.config), changes))
    source = open_source(config.data, seed=config.fit.seed)
    source, changed = apply_splits(run.splits, source)
    if changed:
        raise DlcliError(
            f"run {run.name} cannot go on: {changed[0]}",
            hint="put the data back as it was, or start a new run "
            f"from this one's weights: --weights {run.best}",
        )
    try:
        said = record["plan"]
        task, model = TaskSpec.model_validate(said["task"]), ModelSpec.model_validate(said["model"])
        weights_from, initial = str(said["weights_from"]), None
        warnings = tuple(map(str, record.get("warnings", ())))
    except (KeyError, TypeError, ValidationError) as exc:
        raise DlcliError(
            f"run {run.name} cannot go on: {run.record} is damaged",
            hint=f"start a new run from this one's weights: --weights {run.best}",
        ) from exc
    if fresh and weights_from != "scratch":
        # Without the same weights it would be another run, so here they are a must.
        must = merge(config.model_dump(), {"model": {"pretrained": config.model.weights is None}})
        initial, _ = _first_weights(find_model(model.name), validate(TrainConfig, must), [])
    return Plan(config, source, task, model, weights_from, initial, warnings)


def image_input(
    entry: ModelEntry, model: ModelConfig, source: DataSource, *, pretrained: bool
) -> ImageInput:
    """The input of a model for a source: its channels, size and normalisation.

    Raises: UsageError when ``--img-size`` is no size that the model can digest.
    """
    native_channels, native_height, native_width = source.native
    channels = native_channels if native_channels in entry.channels else max(entry.channels)
    height, width = _size(entry, model, (native_height, native_width))
    if pretrained and entry.weights is not None:
        mean, std = entry.weights.mean, entry.weights.std
    else:
        mean, std = _statistics(source, channels)
    arrays = native_height > 0
    size = max(height, width)
    return ImageInput(
        channels=1 if channels == 1 else 3,
        height=height,
        width=width,
        # Arrays are framed already; photos keep their proportions.
        resize="squash" if arrays else model.resize,
        resize_size=size if arrays or model.resize == "squash" else round(size / model.crop_fraction),
        interpolation=model.interpolation,
        mean=mean,
        std=std,
    )


def _size(entry: ModelEntry, model: ModelConfig, native: tuple[int, int]) -> tuple[int, int]:
    if model.img_size is not None:
        if model.img_size < entry.min_size:
            raise UsageError(
                f"--img-size {model.img_size} is too small for {entry.name}",
                hint=f"it needs at least {entry.min_size}",
            )
        if model.img_size % entry.size_multiple:
            near = max(1, round(model.img_size / entry.size_multiple)) * entry.size_multiple
            raise UsageError(
                f"--img-size {model.img_size}: {entry.name} needs a multiple of {entry.size_multiple}",
                hint=f"--img-size {near}",
            )
        return model.img_size, model.img_size
    height, width = native if native[0] else (entry.photo_size, entry.photo_size)
    step = entry.size_multiple
    return (
        math.ceil(max(height, entry.min_size) / step) * step,
        math.ceil(max(width, entry.min_size) / step) * step,
    )


def _statistics(source: DataSource, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation a channel, in 0..1: of the training pixels of arrays, else ImageNet's."""
    pixels = source.splits["train"].pixels
    if pixels is None:
        return (_GREY_MEAN, _GREY_STD) if channels == 1 else (_PHOTO_MEAN, _PHOTO_STD)
    # From counts of the 256 values, so exact and without a float copy of the data.
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in range(pixels.shape[3]):
        share = np.bincount(pixels[..., channel].reshape(-1), minlength=256) / pixels[..., 0].size
        centre = float(share @ values)
        mean.append(round(centre, 4))
        std.append(round(max(float(share @ (values - centre) ** 2) ** 0.5, 1e-3), 4))
    if len(mean) == 3 and channels == 1:
        return (_GREY_MEAN, _GREY_STD)
    repeat = channels // len(mean)
    return tuple(mean * repeat), tuple(std * repeat)


def _model_args(entry: ModelEntry, model: ModelConfig) -> dict[str, Any]:
    values = dict(model.args)
    if "head" in entry.args.model_fields:
        values.setdefault("head", model.head)
    elif model.head != "linear":
        raise UsageError(f"--head {model.head} is for torchvision models; {entry.name} has its own head")
    return entry.arguments(values).model_dump(mode="json")


def _first_weights(
    entry: ModelEntry, config: TrainConfig, warnings: list[str]
) -> tuple[StateDict | None, str]:
    """The weights to start from and where they come from; a warning when scratch was not the wish."""
    model = config.model
    if model.weights is not None:
        if model.pretrained:
            raise UsageError("--weights and --pretrained exclude each other")
        return read_state_dict(Path(model.weights)), model.weights
    if model.pretrained is False or (model.pretrained is None and entry.weights is None):
        return None, "scratch"
    state = pretrained_or_reason(entry, offline=config.data.offline)
    if not isinstance(state, str):
        assert entry.weights is not None  # else there would have been a reason
        return state, entry.weights.label
    if model.pretrained:
        raise DlcliError(
            f"--pretrained: {state}", hint="use --weights FILE, or --no-pretrained to train from scratch"
        )
    warnings.append(f"TRAINING FROM SCRATCH: {state}. Expect less accuracy and more epochs.")
    return None, "scratch"
