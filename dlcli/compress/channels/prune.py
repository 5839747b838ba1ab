"""Structured pruning: remove the least important channels, hidden units and heads of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from dlcli import transforms
from dlcli.card import TransformRecord
from dlcli.compress.channels.coupling import find_coupling
from dlcli.compress.channels.groups import Group, find_groups
from dlcli.compress.channels.importance.base import IMPORTANCES, Batches, ImportanceContext, Loss
from dlcli.compress.channels.importance.weights import magnitude
from dlcli.compress.channels.removal import (
    Removal,
    RemovalCheck,
    macs_after,
    params_after,
    removal_of,
    remove_channels,
)
from dlcli.compress.channels.sites import Sites, is_layer
from dlcli.compress.layer_names import check_count, match_layers
from dlcli.data.prepare import random_inputs
from dlcli.errors import DlcliError, UsageError
from dlcli.task import TaskSpec
from dlcli.wording import listed
from dlcli.zoo.attention import Attention
from dlcli.zoo.forward import model_inputs
from dlcli.zoo.macs import count_macs

_SEQUENCE_LENGTH = 12  # of the probing inputs: any length will do
_ROUND_TO = 8  # channels: kernels are fastest at multiples of it
_BISECTIONS = 20  # of the amount that reaches a target


class NothingToPrune(UsageError):
    """An amount that removes nothing from this model; a larger one may."""


@dataclass(frozen=True)
class LayerChange:
    """A layer before and after: ``kept`` of its ``of`` channels, hidden units or heads.

    ``macs`` are multiply-adds for one sample, the longest where lengths vary.
    """

    name: str
    type: str
    kept: int
    of: int
    params_before: int
    params_after: int
    macs_before: int
    macs_after: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class PrunedChannels:
    """The smaller ``module``, its record for a card, and each layer before and after.

    ``amount`` is the share or number that was requested, or the share that reaches the target;
    ``notes`` are sentences on what differs from the request. ``params`` and ``macs`` are those of the
    whole model.
    """

    module: nn.Module
    record: TransformRecord
    layers: tuple[LayerChange, ...]
    amount: float
    params_before: int
    params_after: int
    macs_before: int
    macs_after: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: all but the module and the record."""
        return {
            "amount": self.amount,
            "params_before": self.params_before,
            "params_after": self.params_after,
            "macs_before": self.macs_before,
            "macs_after": self.macs_after,
            "layers": [layer.to_dict() for layer in self.layers],
            "notes": list(self.notes),
        }


def prune_channels(
    module: nn.Module,
    task: TaskSpec,
    *,
    amount: float | None = None,
    target_params: float | None = None,
    target_macs: float | None = None,
    importance: str = "magnitude",
    importance_args: Mapping[str, Any] = MappingProxyType({}),
    removed: Mapping[str, int] = MappingProxyType({}),
    round_to: int | None = None,
    skip: Sequence[str] = (),
    batches: Batches | None = None,
    loss: Loss | None = None,
) -> PrunedChannels:
    """Return a copy of ``module`` (any device) with fewer channels in each layer, in eval mode.

    ``amount`` is what to remove of each layer's channels, hidden units, feed-forward units and heads: a
    float is a share, an int a number, as in `torch.nn.utils.prune`. What earlier steps ``removed``, by
    layer, counts as part of a number. ``target_params`` and ``target_macs`` derive a share: that of
    parameters or multiply-adds that may be left. Exactly one of the three. What is left is a multiple of
    ``round_to`` (default: 8, and 1 for a number), at least one of them; heads are not rounded, but never
    split. Channels that are added are removed together. Outputs, inputs, embeddings and the width of a
    Transformer stay. ``skip`` names layers that keep all their
    outputs (see `match_layers`). ``importance`` is a registered name, ``importance_args`` its keyword
    arguments; "taylor" needs ``batches`` (inputs as the module takes them on its device, targets) and
    ``loss`` (a mean over a batch). Deterministic.

    Raises: UsageError for amounts, targets and patterns that cannot be used, and for an importance that
    the model does not support; DlcliError when it has nothing to remove.
    """
    if round_to is None:
        round_to = 1 if isinstance(amount, int) else _ROUND_TO
    _check(amount, target_params, target_macs, round_to)
    inputs = model_inputs(
        [torch.from_numpy(x) for x in random_inputs(task, 2, length=_SEQUENCE_LENGTH)], task
    )
    try:
        coupling = find_coupling(module, inputs)
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as exc:
        raise DlcliError(f"the coupled channels of this model cannot be found: {exc}") from exc
    sites = coupling.sites
    groups = _without_skipped(find_groups(coupling), sites, skip)
    groups = RemovalCheck(module, sites, inputs).removable(groups)
    if not groups:
        raise DlcliError(
            "this model has no channels or hidden units that can be removed"
            + (" besides those of --skip" * bool(skip)),
            hint="masks prune single weights: --method l1",
        )
    if amount is not None:
        check_count(amount, {g.name: g.channels - g.step + removed.get(g.name, 0) for g in groups})
    context = ImportanceContext(module, sites, batches, loss)
    scores, notes = _scores(groups, context, importance, importance_args)
    macs = _macs(module, task)

    def amount_of(group: Group, amount: float) -> float:
        return max(0, amount - removed.get(group.name, 0)) if isinstance(amount, int) else amount

    def removal_at(amount: float) -> Removal:
        keep = [
            group.keep_mask(score, amount_of(group, amount), round_to)
            for group, score in zip(groups, scores, strict=True)
        ]
        return removal_of(groups, keep)

    if amount is None:
        amount = _amount_for(module, macs, removal_at, target_params, target_macs, round_to)
    removal = removal_at(amount)
    if not removal:
        raise NothingToPrune(
            f"an amount of {amount:g} removes nothing: no layer has that many channels",
            hint="a larger --amount"
            + (f", or a smaller --round-to than {round_to}" if round_to > 1 else ""),
        )
    together = {g.name: g.step for g in groups if isinstance(amount, int) and amount % g.step}
    if together:
        names = listed([f"{name} ({step})" for name, step in together.items()], 4)
        notes = (*notes, f"channels that only go together, so --amount is rounded: {names}")
    smaller, args = remove_channels(module, sites, removal)
    smaller.eval()
    after = _macs(smaller, task)
    return PrunedChannels(
        module=smaller,
        record=TransformRecord(
            kind=transforms.CHANNELS, args={"amount": amount, "importance": importance, **args}
        ),
        layers=_changes(module, smaller, sites, macs, after),
        amount=amount,
        params_before=_params(module),
        params_after=_params(smaller),
        macs_before=sum(macs.values()),
        macs_after=sum(after.values()),
        notes=notes,
    )


def _scores(
    groups: Sequence[Group], context: ImportanceContext, importance: str, args: Mapping[str, Any]
) -> tuple[list[torch.Tensor], tuple[str, ...]]:
    """Return the scores of each group, and a note on those that had to be ranked by magnitude."""
    scores = IMPORTANCES.get(importance).function(groups, context, **args)
    unranked = [group.name for group, score in zip(groups, scores, strict=True) if score is None]
    if not unranked:
        return [score for score in scores if score is not None], ()
    pairs = zip(scores, magnitude(groups, context), strict=True)
    note = f"ranked by magnitude, since {importance} has no scores for them: {listed(unranked, 6)}"
    return [other if score is None else score for score, other in pairs], (note,)


def merge_records(first: TransformRecord, second: TransformRecord) -> TransformRecord:
    """Return one record for two removals in a row, with the second's amount and importance."""
    merged = {
        key: {**first.args.get(key, {}), **second.args.get(key, {})}
        for key in ("shapes", "groups", "heads")
    }
    return TransformRecord(
        kind=transforms.CHANNELS, args={**second.args, **{k: v for k, v in merged.items() if v}}
    )


def _check(
    amount: float | None, target_params: float | None, target_macs: float | None, round_to: int
) -> None:
    given = {
        name: value
        for name, value in (
            ("--amount", amount), ("--target-params", target_params), ("--target-macs", target_macs)
        )
        if value is not None
    }  # fmt: skip
    if len(given) != 1:
        raise UsageError(
            f"{' and '.join(given) or 'nothing'} says how much to remove: give exactly one of --amount, "
            "--target-params and --target-macs"
        )
    for name, value in given.items():
        if not 0 < value < 1 and not (isinstance(value, int) and value >= 1):
            raise UsageError(
                f"{name} {value:g}: a share between 0 and 1, both excluded",
                hint="every layer keeps at least one channel",
            )
    if round_to < 1:
        raise UsageError(f"--round-to {round_to}: at least 1")


def _without_skipped(groups: list[Group], sites: Sites, skip: Sequence[str]) -> list[Group]:
    """Return the groups of which no layer is skipped."""
    layers = [
        path for path, part in sites.modules.items() if is_layer(part) or isinstance(part, Attention)
    ]
    skipped = match_layers(layers, skip)
    return [group for group in groups if not skipped.intersection(group.layers)]


def _amount_for(
    module: nn.Module,
    macs: dict[str, int],
    removal_at: Callable[[float], Removal],
    target_params: float | None,
    target_macs: float | None,
    round_to: int,
) -> float:
    """Return the smallest amount that reaches the target. Raises: UsageError when none does."""

    def left(amount: float) -> float:
        removal = removal_at(amount)
        if target_params is not None:
            return params_after(module, removal) / _params(module)
        return sum(macs_after(module, macs, removal).values()) / max(1, sum(macs.values()))

    target = target_params if target_params is not None else target_macs
    assert target is not None
    low, high = 0.0, 1.0
    if (least := left(high)) > target:
        flag = "--target-params" if target_params is not None else "--target-macs"
        raise UsageError(
            f"{flag} {target:g} cannot be reached: {least:.3f} is left when every layer has the fewest "
            "channels",
            hint=f"a larger {flag}"
            + (f", or a smaller --round-to than {round_to}" if round_to > 1 else ""),
        )
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if left(middle) <= target else (middle, high)
    return high


def _macs(module: nn.Module, task: TaskSpec) -> dict[str, int]:
    """Return the multiply-adds by module for one sample, the longest where lengths vary."""
    arrays = random_inputs(task, 1, length=task.input.shape[0])
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    tensors = [torch.from_numpy(x).to(device) for x in arrays]
    inputs = [x.to(dtype) if x.is_floating_point() else x for x in model_inputs(tensors, task)]
    training = module.training
    try:
        return count_macs(module.eval(), inputs)
    finally:
        module.train(training)


def _params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _changes(
    before: nn.Module, after: nn.Module, sites: Sites, macs: dict[str, int], left: dict[str, int]
) -> tuple[LayerChange, ...]:
    rows = []
    for path, kind in sites.modules.items():
        if not (is_layer(kind) or isinstance(kind, Attention)):
            continue
        old, new = before.get_submodule(path), after.get_submodule(path)
        rows.append(
            LayerChange(
                name=path,
                type=type(old).__name__,
                kept=_channels(new),
                of=_channels(old),
                params_before=_params(old),
                params_after=_params(new),
                macs_before=_total_below(macs, path),
                macs_after=_total_below(left, path),
            )
        )
    return tuple(rows)


def _channels(part: nn.Module) -> int:
    if isinstance(part, Attention):
        return part.heads
    if isinstance(part, nn.RNNBase):
        return part.hidden_size
    return int(part.out_features if isinstance(part, nn.Linear) else part.out_channels)  # type: ignore[arg-type]


def _total_below(macs: dict[str, int], path: str) -> int:
    return sum(number for name, number in macs.items() if name == path or name.startswith(f"{path}."))
