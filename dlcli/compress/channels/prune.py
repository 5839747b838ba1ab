"""Channel removal: a smaller model without the channels, hidden units or heads that matter least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from dlcli import transforms
from dlcli.card import TransformRecord
from dlcli.compress.channels.coupling import find_coupling
from dlcli.compress.channels.groups import Group, find_groups
from dlcli.compress.channels.importance import (
    Batches,
    Importance,
    Loss,
    batch_norm_scale,
    magnitude,
    taylor,
)
from dlcli.compress.channels.removal import Cuts, Proof, cuts_of, macs_after, params_after, shrink
from dlcli.compress.channels.sites import Places, is_layer
from dlcli.compress.layer_names import named_layers
from dlcli.data.prepare import random_inputs
from dlcli.errors import DlcliError, UsageError
from dlcli.task import TaskSpec
from dlcli.zoo.attention import Attention
from dlcli.zoo.forward import model_inputs
from dlcli.zoo.macs import count_macs

_STEPS = 12  # of a batch that shows what belongs together: any length does
_TRIALS = 20  # halvings of the amount that reaches a target


class NothingToPrune(UsageError):
    """An amount that takes nothing out of this model; a larger one may."""


@dataclass(frozen=True)
class LayerChange:
    """A layer before and after: ``kept`` of its ``of`` channels, hidden units or heads.

    ``macs`` are multiply-adds of one sample, the longest where lengths vary.
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
    """The smaller ``module``, what a card says of it, and what became of each layer.

    ``amount`` is the share that was asked for or found; ``notes`` are sentences about what is otherwise
    than asked. ``params`` and ``macs`` are those of the whole model.
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
    importance: Importance = "magnitude",
    round_to: int = 8,
    skip: Sequence[str] = (),
    batches: Batches | None = None,
    loss: Loss | None = None,
) -> PrunedChannels:
    """A copy of ``module`` (any device) without part of the channels of each layer, in eval mode.

    ``amount`` is the share that goes of each layer's channels, hidden units, feed-forward units and
    heads; ``target_params`` and ``target_macs`` find it: the share of parameters or multiply-adds that
    may be left. Exactly one of the three. What is left is a multiple of ``round_to``, at least one of
    them; heads are not rounded, but never split. Channels that are added together go together. Outputs,
    inputs, embeddings and the width of a Transformer stay. ``skip`` names layers that keep all their
    outputs (see `named_layers`). "taylor" needs ``batches`` (inputs as the module takes them on its
    device, targets) and ``loss`` (a mean over a batch). The same arguments give the same model.

    Raises: UsageError for amounts, targets and patterns that cannot be used, and for a ranking that the
    model does not offer; DlcliError when it has nothing to remove.
    """
    _check(amount, target_params, target_macs, round_to)
    inputs = model_inputs([torch.from_numpy(x) for x in random_inputs(task, 2, length=_STEPS)], task)
    try:
        coupling = find_coupling(module, inputs)
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as exc:
        raise DlcliError(f"what belongs together in this model cannot be told: {exc}") from exc
    places = coupling.places
    groups = _allowed(find_groups(coupling), places, skip)
    groups = Proof(module, places, inputs).usable(groups)
    if not groups:
        raise DlcliError(
            "this model has no channels or hidden units that can be removed"
            + (" beside --skip" * bool(skip)),
            hint="masks take out single weights: --method l1",
        )
    notes: list[str] = []
    if importance == "magnitude":
        scores = magnitude(module, groups, places)
    elif importance == "bn-scale":
        scores, without = batch_norm_scale(module, groups, places)
        if without:
            notes.append(f"without a batch norm, and so ranked by magnitude: {_list(without)}")
    else:
        if batches is None or loss is None:
            raise UsageError("--importance taylor needs data to find gradients on")
        scores = taylor(module, groups, batches, loss)
    macs = _macs(module, task)

    def cut(share: float) -> Cuts:
        return cuts_of(
            groups, [g.choose(s, share, round_to) for g, s in zip(groups, scores, strict=True)]
        )

    if amount is None:
        amount = _search(module, macs, cut, target_params, target_macs, round_to)
    gone = cut(amount)
    if not gone:
        raise NothingToPrune(
            f"an amount of {amount:g} removes nothing: no layer has that many channels to spare",
            hint=f"a larger --amount, or a smaller --round-to than {round_to}",
        )
    smaller, args = shrink(module, places, gone)
    smaller.eval()
    after = _macs(smaller, task)
    return PrunedChannels(
        module=smaller,
        record=TransformRecord(
            kind=transforms.CHANNELS, args={"amount": amount, "importance": importance, **args}
        ),
        layers=_changes(module, smaller, places, macs, after),
        amount=amount,
        params_before=_params(module),
        params_after=_params(smaller),
        macs_before=sum(macs.values()),
        macs_after=sum(after.values()),
        notes=tuple(notes),
    )


def joined(first: TransformRecord, second: TransformRecord) -> TransformRecord:
    """One record for two removals in a row, of the second's amount and importance."""
    both = {
        key: {**first.args.get(key, {}), **second.args.get(key, {})}
        for key in ("shapes", "groups", "heads")
    }
    return TransformRecord(
        kind=transforms.CHANNELS, args={**second.args, **{k: v for k, v in both.items() if v}}
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
            f"{' and '.join(given) or 'nothing'} says how much to remove: exactly one of --amount, "
            "--target-params and --target-macs can"
        )
    for name, value in given.items():
        if not 0 < value < 1:
            raise UsageError(
                f"{name} {value:g}: a share between 0 and 1, both excluded",
                hint="every layer keeps at least one channel",
            )
    if round_to < 1:
        raise UsageError(f"--round-to {round_to}: at least 1")


def _allowed(groups: list[Group], places: Places, skip: Sequence[str]) -> list[Group]:
    """Those of which no layer is to be skipped."""
    layers = [
        path for path, part in places.parts.items() if is_layer(part) or isinstance(part, Attention)
    ]
    skipped = named_layers(layers, skip)
    return [group for group in groups if not skipped.intersection(group.layers)]


def _search(
    module: nn.Module,
    macs: dict[str, int],
    cut: Callable[[float], Cuts],
    target_params: float | None,
    target_macs: float | None,
    round_to: int,
) -> float:
    """The smallest amount that reaches the target. Raises: UsageError when none does."""

    def left(amount: float) -> float:
        gone = cut(amount)
        if target_params is not None:
            return params_after(module, gone) / _params(module)
        return sum(macs_after(module, macs, gone).values()) / max(1, sum(macs.values()))

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
    for _ in range(_TRIALS):
        middle = (low + high) / 2
        low, high = (low, middle) if left(middle) <= target else (middle, high)
    return high


def _macs(module: nn.Module, task: TaskSpec) -> dict[str, int]:
    """Multiply-adds of one sample by module, the longest where lengths vary."""
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
    before: nn.Module, after: nn.Module, places: Places, macs: dict[str, int], left: dict[str, int]
) -> tuple[LayerChange, ...]:
    rows = []
    for path, kind in places.parts.items():
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
                macs_before=_below(macs, path),
                macs_after=_below(left, path),
            )
        )
    return tuple(rows)


def _channels(part: nn.Module) -> int:
    if isinstance(part, Attention):
        return part.heads
    if isinstance(part, nn.RNNBase):
        return part.hidden_size
    return int(part.out_features if isinstance(part, nn.Linear) else part.out_channels)  # type: ignore[arg-type]


def _below(macs: dict[str, int], path: str) -> int:
    return sum(number for name, number in macs.items() if name == path or name.startswith(f"{path}."))


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
