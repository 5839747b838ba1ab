"""Models of one architecture as one module: the mean of their predictions, kind "ensemble".

The record's args are ``members``: of each its ``task`` (its encoders, its scales) and its
``transforms``. It is no layer that is added to a module, so `dlcli.zoo.base.build_model` builds it.
B samples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from dlcli import transforms
from dlcli.card import TransformRecord
from dlcli.task import TaskSpec
from dlcli.zoo.forward import is_contiguous_only, keep_contiguous
from dlcli.zoo.recode import recode


@dataclass(frozen=True)
class Member:
    """One of the models: its task, and what was done to it since it was built."""

    task: TaskSpec
    transforms: tuple[TransformRecord, ...] = ()


def members_of(records: Sequence[TransformRecord]) -> list[Member]:
    """The members that a card's records name, none of any other model. Raises: ValueError."""
    record = transforms.find_record(records, transforms.ENSEMBLE)
    if record is None:
        return []
    try:
        members = [
            Member(
                TaskSpec.model_validate(member["task"]),
                tuple(map(TransformRecord.model_validate, member["transforms"])),
            )
            for member in record.args["members"]
        ]
    except (KeyError, TypeError, ValidationError) as exc:
        raise ValueError(f"the members of an ensemble are damaged: {exc}") from exc
    if not members or any(transforms.find_record(m.transforms, transforms.ENSEMBLE) for m in members):
        raise ValueError("an ensemble has one member or more, none of which is an ensemble")
    return members


class MeanOf(nn.Module):
    """The mean over members: of probabilities, as logits again, or of numbers.

    Each gets its own encoding of the input of ``task``, and its outputs are put into the order of the
    classes, or the scale of the targets, of ``task``.
    """

    variadic = True  # exporters give the shapes of ``*inputs`` as those of one argument

    def __init__(self, members: Sequence[nn.Module], tasks: Sequence[TaskSpec], task: TaskSpec) -> None:
        super().__init__()
        self.kind = task.kind
        self.members = nn.ModuleList(members)
        self.recodes = [recode(task.input, own.input) for own in tasks]
        for i, one in enumerate(self.recodes):
            if one is not None:
                self.add_module(f"recode_{i}", one)
        for i, own in enumerate(tasks):
            self._add_alignment(i, own, task)
        if any(map(is_contiguous_only, members)):
            keep_contiguous(self)

    def _add_alignment(self, i: int, own: TaskSpec, task: TaskSpec) -> None:
        if task.class_names:
            order = [own.class_names.index(name) for name in task.class_names]
            self.register_buffer(f"order_{i}", torch.tensor(order), persistent=False)
            return
        names = [target.name for target in own.targets]
        order = [names.index(target.name) for target in task.targets]
        sources = [own.targets[j] for j in order]
        scale = [one.std / new.std for one, new in zip(sources, task.targets, strict=True)]
        shift = [(one.mean - new.mean) / new.std for one, new in zip(sources, task.targets, strict=True)]
        self.register_buffer(f"order_{i}", torch.tensor(order), persistent=False)
        self.register_buffer(f"scale_{i}", torch.tensor(scale), persistent=False)
        self.register_buffer(f"shift_{i}", torch.tensor(shift), persistent=False)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The outputs for a batch, as those of a single model."""
        outputs = []
        for i, (member, own) in enumerate(zip(self.members, self.recodes, strict=True)):
            output = member(*(inputs if own is None else own(*inputs))).float()
            output = output.index_select(-1, self.get_buffer(f"order_{i}"))
            if self.kind in ("regression", "forecast"):
                output = output * self.get_buffer(f"scale_{i}") + self.get_buffer(f"shift_{i}")
            outputs.append(output)
        stacked = torch.stack(outputs)
        if self.kind == "classification":
            return F.log_softmax(stacked, dim=-1).logsumexp(0) - math.log(len(outputs))
        if self.kind == "multilabel":
            return F.logsigmoid(stacked).logsumexp(0) - F.logsigmoid(-stacked).logsumexp(0)
        return stacked.mean(0)
