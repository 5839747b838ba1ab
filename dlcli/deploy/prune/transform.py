"""One pruning step: the pruned module, the records of its card, and what each layer lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from dlcli import transforms
from dlcli.card import Card, TransformRecord
from dlcli.compress.channels.importance.base import IMPORTANCES, Batches, Loss
from dlcli.compress.channels.prune import (
    LayerChange,
    NothingToPrune,
    PrunedChannels,
    merge_records,
    prune_channels,
)
from dlcli.compress.masks.apply import count_zeros, mask_record, mask_weights, weights_of
from dlcli.compress.masks.base import MASK_METHODS, is_mask
from dlcli.config import PruneConfig, parse_names
from dlcli.data.prepare import random_inputs
from dlcli.events import Emit, Noted, Warned, ignore
from dlcli.formats.encodings.sparse import SHAPE, encode
from dlcli.keyword_settings import keywords
from dlcli.task import TaskSpec
from dlcli.wording import listed
from dlcli.zoo.base import find_model
from dlcli.zoo.forward import model_inputs
from dlcli.zoo.macs import count_macs


@dataclass(frozen=True)
class PruneTarget:
    """How much to prune: weights or channels to remove, or the share of a total that may be left.

    An amount is a share (float) or a number (int), as in `torch.nn.utils.prune`; ``counted`` says what
    the number counts, in words.
    """

    kind: Literal["amount", "params", "macs"]
    value: float
    counted: str = ""

    @property
    def is_number(self) -> bool:
        """Whether it is a number of weights or channels, not a share."""
        return isinstance(self.value, int)

    def at(self, fraction: float) -> PruneTarget:
        """Return the target of the step that completes ``fraction`` of the total change."""
        if self.is_number:
            return replace(self, value=round(self.value * fraction))
        if self.kind == "amount":
            return replace(self, value=self.value * fraction)
        return replace(self, value=1 - (1 - self.value) * fraction)

    def relative_to(self, reached: PruneTarget) -> PruneTarget:
        """Return the same target for a model that already ``reached`` another one, as shares of it."""
        if self.is_number:  # `prune_channels` is told what each layer has lost
            return self
        if self.kind == "amount":
            return replace(self, value=1 - (1 - self.value) / (1 - reached.value))
        return replace(self, value=self.value / reached.value)

    @property
    def removes_anything(self) -> bool:
        """Whether a model has to change to reach it."""
        return self.value > 0 if self.kind == "amount" else self.value < 1

    def tag(self) -> str:
        """Return it for the names of runs, a share in percent: "50", "params25", "number200"."""
        if self.is_number:
            return f"number{self.value}"
        return f"{'' if self.kind == 'amount' else self.kind}{100 * self.value:.4g}"

    def describe(self) -> str:
        """Return it in words, a share in percent."""
        if self.is_number:
            return f"{self.value:,}{self.counted} removed"
        what = {"amount": "removed", "params": "of the parameters left", "macs": "of the MACs left"}
        return f"{100 * self.value:.3g} % {what[self.kind]}"


@dataclass(frozen=True)
class PrunedModel:
    """A pruned copy of a model (eval mode, CPU) with all records of its card.

    ``reached`` is the target it has reached, which rounding may move. ``layers`` compare channels with
    the model before the first step, and are empty for masks.
    """

    module: nn.Module
    transforms: tuple[TransformRecord, ...]
    reached: PruneTarget | None = None
    layers: tuple[LayerChange, ...] = ()


def prune_model(
    model: PrunedModel,
    card: Card,
    config: PruneConfig,
    target: PruneTarget,
    *,
    last: bool = True,
    seed: int = 0,
    batches: Batches | None = None,
    loss: Loss | None = None,
    emit: Emit = ignore,
) -> PrunedModel:
    """Prune ``model``, the result of earlier steps, until it reaches ``target``.

    ``card`` is of the model before all steps, ``last`` whether this is the last one; ``batches`` and
    ``loss`` are for an importance that needs gradients. Raises: UsageError; DlcliError when there is
    nothing to prune.
    """
    mask = transforms.find_record(model.transforms, transforms.MASK)
    records = [r for r in model.transforms if r.kind not in (transforms.MASK, transforms.SPARSE)]
    layers, reached = model.layers, target
    if is_mask(config.method):
        try:
            module, record = _masked(model.module, card, config, target, mask, seed, emit)
        except NothingToPrune:  # as many weights are zero already; a later step prunes more
            if last:
                raise
            return model
        records.append(record)
    else:
        remaining = target if model.reached is None else target.relative_to(model.reached)
        pruned = _without_channels(model, card, config, remaining, last, batches, loss)
        if pruned is None:
            return model
        for note in pruned.notes:
            emit(Noted(note))
        module, layers = pruned.module, _since_first_step(model.layers, pruned.layers)
        reached = _reached(target, model.reached, pruned, layers)
        earlier = transforms.find_record(records, transforms.CHANNELS)
        records = [record for record in records if record is not earlier]
        records.append(pruned.record if earlier is None else merge_records(earlier, pruned.record))
        if mask is not None:  # the shapes have changed, and with them the number of zeros
            args = {k: v for k, v in mask.args.items() if k not in ("weights", "zeros", "of")}
            records.append(mask_record(count_zeros(module, mask.args["weights"]), **args))
    if config.store == "sparse" or (config.store == "auto" and _sparse_is_smaller(module)):
        records.append(TransformRecord(kind=transforms.SPARSE))
    return PrunedModel(module, tuple(records), reached, layers)


def _without_channels(
    model: PrunedModel,
    card: Card,
    config: PruneConfig,
    target: PruneTarget,
    last: bool,
    batches: Batches | None,
    loss: Loss | None,
) -> PrunedChannels | None:
    """Remove channels; None where rounding leaves nothing to remove in this step."""
    if not target.removes_anything:
        return None
    try:
        return prune_channels(
            model.module,
            card.task,
            amount=target.value if target.kind == "amount" else None,
            target_params=target.value if target.kind == "params" else None,
            target_macs=target.value if target.kind == "macs" else None,
            removed={row.name: row.of - row.kept for row in model.layers},
            importance=config.importance,
            importance_args=keywords(IMPORTANCES.get(config.importance).function, config),
            round_to=config.round_to,
            skip=parse_names(config.skip),
            batches=batches,
            loss=loss,
        )
    except NothingToPrune:  # one step may remove less than channels are rounded to
        if target.kind == "amount" and (model.layers or not last):
            return None
        raise


def _masked(
    module: nn.Module,
    card: Card,
    config: PruneConfig,
    target: PruneTarget,
    earlier: TransformRecord | None,
    seed: int,
    emit: Emit,
) -> tuple[nn.Module, TransformRecord]:
    """Return a copy with more zeros, and its record. Raises: NothingToPrune where it has as many."""
    settings: dict[str, Any] = {}
    for function in MASK_METHODS.get(config.method).functions:
        settings |= keywords(function, config)
    masked = mask_weights(
        module,
        config.method,
        target.value,
        skip=parse_names(config.skip),
        earlier=() if earlier is None else earlier.args["weights"],
        head=find_model(card.model.name, card.task.input.kind).head(module),
        seed=seed,
        **settings,
    )
    if masked.left_out:
        names = listed(masked.left_out, 3)
        emit(Noted(f"not pruned, since the input size is no multiple of 4: {names}"))
    empty = [row.name for row in masked.layers if not row.kept]
    if empty:
        emit(
            Warned(
                f"all weights of {', '.join(empty)} are zero: the output no longer depends on the input"
            )
        )
    zeros = sum(row.of - row.kept for row in count_zeros(module, masked.record.args["weights"]))
    if masked.record.args["zeros"] <= zeros:
        raise NothingToPrune(
            f"there is nothing to prune: {zeros / masked.record.args['of']:.2%} of the weights are zero "
            f"already, which is at least --amount {target.value}",
            hint="give a larger --amount, or another --method",
        )
    return masked.module, masked.record


def _sparse_is_smaller(module: nn.Module) -> bool:
    return any(name.endswith(SHAPE) for name in encode(module.state_dict(), {}))


def _since_first_step(
    before: Sequence[LayerChange], layers: Sequence[LayerChange]
) -> tuple[LayerChange, ...]:
    """Return the layers of a step, compared with the model before the first step."""
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
        for row in layers
    ]
    return tuple(rows)


def _reached(
    target: PruneTarget,
    before: PruneTarget | None,
    pruned: PrunedChannels,
    layers: Sequence[LayerChange],
) -> PruneTarget:
    if target.is_number:
        return target
    if target.kind == "amount":  # of the layers that lost channels: some cannot
        changed = [row for row in layers if row.kept < row.of]
        total = sum(row.of for row in changed)
        return replace(target, value=1 - sum(row.kept for row in changed) / total if total else 0.0)
    totals = (
        (pruned.params_before, pruned.params_after)
        if target.kind == "params"
        else (pruned.macs_before, pruned.macs_after)
    )
    return replace(target, value=(1.0 if before is None else before.value) * totals[1] / totals[0])


def masked_layers(module: nn.Module, task: TaskSpec) -> tuple[LayerChange, ...]:
    """Return the nonzero weights of each layer; its parameters and MACs stay as they are."""
    macs = layer_macs(module, task)
    modules = dict(module.named_modules())
    weights: dict[str, list[torch.Tensor]] = {}
    for weight in weights_of(module):
        weights.setdefault(weight.layer, []).append(weight.tensor)
    rows = []
    for path, tensors in weights.items():
        params = sum(p.numel() for p in modules[path].parameters(recurse=False))
        rows.append(
            LayerChange(
                name=path,
                type=type(modules[path]).__name__,
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
    """Return the MACs of each layer for one sample, the longest where lengths vary."""
    arrays = random_inputs(task, 1, length=task.input.shape[0])
    return count_macs(module.eval(), model_inputs([torch.from_numpy(a) for a in arrays], task))
