"""Take weights or channels out of a model, once: the module, its records, and what is gone by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import nn

from dlcli import transforms
from dlcli.card import Card, TransformRecord
from dlcli.compress.channels.importance import Batches, Loss
from dlcli.compress.channels.prune import (
    LayerChange,
    NothingToPrune,
    PrunedChannels,
    joined,
    prune_channels,
)
from dlcli.compress.masks import METHODS, MaskMethod, count_zeros, mask_record, mask_weights, weights_of
from dlcli.config import PruneConfig, parse_names
from dlcli.data.prepare import random_inputs
from dlcli.events import Emit, Noted, Warned, ignore
from dlcli.formats.encodings.sparse import SHAPE, encode
from dlcli.task import TaskSpec
from dlcli.zoo.base import find_model
from dlcli.zoo.forward import model_inputs
from dlcli.zoo.macs import count_macs


@dataclass(frozen=True)
class Goal:
    """How much is to be gone: a share of weights or channels, or what may be left of a total."""

    kind: Literal["amount", "params", "macs"]
    value: float

    def at(self, fraction: float) -> Goal:
        """The goal of a step by which ``fraction`` of the way is gone."""
        if self.kind == "amount":
            return replace(self, value=self.value * fraction)
        return replace(self, value=1 - (1 - self.value) * fraction)

    def from_here(self, reached: Goal) -> Goal:
        """The same goal for a model that has ``reached`` so much, in shares of what is left of it."""
        if self.kind == "amount":
            return replace(self, value=1 - (1 - self.value) / (1 - reached.value))
        return replace(self, value=self.value / reached.value)

    @property
    def is_due(self) -> bool:
        """Whether anything is to be taken out for it."""
        return self.value > 0 if self.kind == "amount" else self.value < 1

    def title(self) -> str:
        """In percent, for the names of runs: "50", "params25"."""
        return f"{'' if self.kind == 'amount' else self.kind}{100 * self.value:.4g}"

    def text(self) -> str:
        """In percent, for people."""
        what = {"amount": "taken out", "params": "of the parameters left"}
        return f"{100 * self.value:.3g} % {what.get(self.kind, 'of the multiply-adds left')}"


@dataclass(frozen=True)
class Cut:
    """A pruned copy of a model (eval mode, CPU) with all records of its card.

    ``reached`` is how much is gone by now: with rounding not quite what was asked. ``layers`` are of
    channels, from the first step on, and empty for masks.
    """

    module: nn.Module
    transforms: tuple[TransformRecord, ...]
    reached: Goal | None = None
    layers: tuple[LayerChange, ...] = ()


def is_mask(method: str) -> bool:
    """Whether a method puts zeros in and leaves the shapes as they are."""
    return method in METHODS


def cut(
    at: Cut,
    card: Card,
    config: PruneConfig,
    goal: Goal,
    *,
    last: bool = True,
    seed: int = 0,
    batches: Batches | None = None,
    loss: Loss | None = None,
    emit: Emit = ignore,
) -> Cut:
    """Prune what earlier steps left, so that ``goal`` of the whole way is reached.

    ``card`` is of the model before all steps, ``last`` whether this is the last one; ``batches`` and
    ``loss`` are for Taylor's importance.
    Raises: UsageError; DlcliError when there is nothing to prune.
    """
    old = transforms.find_record(at.transforms, transforms.MASK)
    records = [r for r in at.transforms if r.kind not in (transforms.MASK, transforms.SPARSE)]
    layers, reached = at.layers, goal
    if is_mask(config.method):
        try:
            pruned, record = _masked(at.module, card, config, goal, old, seed, emit)
        except NothingToPrune:  # there are as many zeros already; later steps take out more
            if last:
                raise
            return at
        records.append(record)
    else:
        wanted = goal if at.reached is None else goal.from_here(at.reached)
        found = _without_channels(at, card, config, wanted, last, batches, loss)
        if found is None:
            return at
        for said in found.notes:
            emit(Noted(said))
        pruned, layers = found.module, _since_the_start(at.layers, found.layers)
        reached = _reached(goal, at.reached, found, layers)
        earlier = transforms.find_record(records, transforms.CHANNELS)
        records = [record for record in records if record is not earlier]
        records.append(found.record if earlier is None else joined(earlier, found.record))
        if old is not None:  # the shapes have changed, and with them how many zeros there are
            args = {
                key: value for key, value in old.args.items() if key not in ("weights", "zeros", "of")
            }
            records.append(mask_record(count_zeros(pruned, old.args["weights"]), **args))
    if config.store == "sparse" or (config.store == "auto" and _smaller_sparse(pruned)):
        records.append(TransformRecord(kind=transforms.SPARSE))
    return Cut(pruned, tuple(records), reached, layers)


def _without_channels(
    at: Cut,
    card: Card,
    config: PruneConfig,
    wanted: Goal,
    last: bool,
    batches: Batches | None,
    loss: Loss | None,
) -> PrunedChannels | None:
    """None where rounding leaves nothing to do: earlier steps took out as much, or later ones will."""
    if not wanted.is_due:
        return None
    try:
        return prune_channels(
            at.module,
            card.task,
            amount=wanted.value if wanted.kind == "amount" else None,
            target_params=wanted.value if wanted.kind == "params" else None,
            target_macs=wanted.value if wanted.kind == "macs" else None,
            importance=config.importance,
            round_to=config.round_to,
            skip=parse_names(config.skip),
            batches=batches,
            loss=loss,
        )
    except NothingToPrune:  # a small part of the way may be less than what channels are rounded to
        if wanted.kind == "amount" and (at.layers or not last):
            return None
        raise


def _masked(
    module: nn.Module,
    card: Card,
    config: PruneConfig,
    goal: Goal,
    old: TransformRecord | None,
    seed: int,
    emit: Emit,
) -> tuple[nn.Module, TransformRecord]:
    masked = mask_weights(
        module,
        cast(MaskMethod, config.method),
        goal.value,
        norm=config.norm,
        dim=config.dim,
        skip=parse_names(config.skip),
        held=() if old is None else old.args["weights"],
        head=find_model(card.model.name, card.task.input.kind).head(module),
        seed=seed,
    )
    if masked.left_out:
        few = ", ".join(masked.left_out[:3]) + (" ..." if len(masked.left_out) > 3 else "")
        emit(Noted(f"left as they are, since 4 does not divide their inputs: {few}"))
    empty = [row.name for row in masked.layers if not row.kept]
    if empty:
        emit(
            Warned(
                f"nothing is left of {', '.join(empty)}: what it gives no longer depends on its input"
            )
        )
    zeros = sum(row.of - row.kept for row in count_zeros(module, masked.record.args["weights"]))
    if masked.record.args["zeros"] <= zeros:
        raise NothingToPrune(
            f"there is nothing to prune: {zeros / masked.record.args['of']:.2%} of the weights are zero "
            f"already, and --amount {goal.value:g} takes out no more",
            hint="give a larger --amount, or another --method",
        )
    return masked.module, masked.record


def _smaller_sparse(module: nn.Module) -> bool:
    return any(name.endswith(SHAPE) for name in encode(module.state_dict(), {}))


def _since_the_start(
    before: Sequence[LayerChange], now: Sequence[LayerChange]
) -> tuple[LayerChange, ...]:
    """The rows of a step, told from where the first step began."""
    first = {row.name: row for row in before}
    rows = [
        row
        if row.name not in first
        else replace(
            row,
            of=first[row.name].of,
            params_before=first[row.name].params_before,
            macs_before=first[row.name].macs_before,
        )
        for row in now
    ]
    return tuple(rows)


def _reached(
    goal: Goal, before: Goal | None, found: PrunedChannels, layers: Sequence[LayerChange]
) -> Goal:
    if goal.kind == "amount":  # of the layers that gave something up: some never can
        pruned = [row for row in layers if row.kept < row.of]
        total = sum(row.of for row in pruned)
        return replace(goal, value=1 - sum(row.kept for row in pruned) / total if total else 0.0)
    pair = (
        (found.params_before, found.params_after)
        if goal.kind == "params"
        else (found.macs_before, found.macs_after)
    )
    return replace(goal, value=(1.0 if before is None else before.value) * pair[1] / pair[0])


def masked_layers(module: nn.Module, task: TaskSpec) -> tuple[LayerChange, ...]:
    """A row for each layer with weights, which keeps all its channels but not all its weights."""
    macs = layer_macs(module, task)
    parts = dict(module.named_modules())
    found: dict[str, list[torch.Tensor]] = {}
    for weight in weights_of(module):
        found.setdefault(weight.layer, []).append(weight.tensor)
    rows = []
    for path, tensors in found.items():
        params = sum(p.numel() for p in parts[path].parameters(recurse=False))
        rows.append(
            LayerChange(
                name=path,
                type=type(parts[path]).__name__,
                kept=sum(int(torch.count_nonzero(tensor)) for tensor in tensors),
                of=sum(tensor.numel() for tensor in tensors),
                params_before=params,
                params_after=params,
                macs_before=macs.get(path, 0),
                macs_after=macs.get(path, 0),
            )
        )
    return tuple(rows)


def layer_macs(module: nn.Module, task: TaskSpec) -> dict[str, int]:
    """Multiply-adds of each layer on one sample, the longest where lengths vary."""
    arrays = random_inputs(task, 1, length=task.input.shape[0])
    return count_macs(module.eval(), model_inputs([torch.from_numpy(a) for a in arrays], task))
