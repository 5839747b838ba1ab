"""Apply a method of unstructured pruning by torch.nn.utils.prune; rows and records of masks.

Shapes stay as they are, so a mask makes no model faster; stored sparse (`formats/encodings/sparse.py`)
the file is smaller. Weights are the parameters of two or more dimensions: those of linear, convolution,
recurrent, attention and embedding layers; never biases and norms.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune

from dlcli import transforms
from dlcli.card import TransformRecord
from dlcli.compress.layer_names import check_count, match_layers
from dlcli.compress.masks.base import GROUP, MASK_METHODS, MaskMethod, Weight
from dlcli.errors import DlcliError
from dlcli.keyword_settings import keyword_names


@dataclass(frozen=True)
class MaskedWeight:
    """A weight after pruning: the parameter's name, its nonzero values (``kept``) and all of them."""

    name: str
    kept: int
    of: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class MaskedModel:
    """A masked copy of a model, its record and a row for each weight; ``left_out`` cannot be grouped."""

    module: nn.Module
    record: TransformRecord
    layers: tuple[MaskedWeight, ...]
    left_out: tuple[str, ...] = ()


def mask_weights(
    module: nn.Module,
    method: str,
    amount: float,
    *,
    skip: Sequence[str] = (),
    earlier: Sequence[str] = (),
    head: str = "",
    seed: int = 0,
    **settings: Any,
) -> MaskedModel:
    """Return a copy of ``module`` (any device) with ``amount`` of its weights zero; eval mode.

    ``amount`` is a share (float, 0 to 1) or a number (int) of the weights or slices of each tensor, of
    all tensors for a global method, as in `torch.nn.utils.prune`.
    ``method`` is the name of a `MaskMethod`, ``settings`` its keyword arguments, which the record names
    too. Something of each tensor, of all tensors for a global method, always stays. Existing zeros count
    and stay. ``head`` is the path of the model's head. ``earlier`` are the weights pruned before, which
    the record still names. Deterministic for a seed. Raises: UsageError for an unknown method, a pattern
    of ``skip`` that matches nothing, a number that leaves nothing of a tensor, and settings that the
    model does not suit; DlcliError when there are no weights to prune.
    """
    entry = MASK_METHODS.get(method)
    pruned = copy.deepcopy(module).eval()
    weights, left_out = _select(_of_head(list(weights_of(pruned)), head), entry, skip, settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        scores = [
            entry.score(weight, generator, **_settings_of(entry.score, settings)) for weight in weights
        ]
        for weight, mask in zip(weights, _masks(weights, scores, entry, amount), strict=True):
            prune.custom_from_mask(weight.owner, weight.attribute, mask)  # type: ignore[no-untyped-call]
            prune.remove(weight.owner, weight.attribute)  # type: ignore[no-untyped-call]
            weight.tensor.masked_fill_(weight.tensor == 0, 0.0)  # a mask times a negative is -0.0
    names = {weight.name for weight in weights} | set(earlier)
    rows = tuple(
        MaskedWeight(weight.name, int(torch.count_nonzero(weight.tensor)), weight.tensor.numel())
        for weight in weights_of(pruned)
        if weight.name in names
    )
    record = mask_record(rows, method=method, amount=amount, **settings)
    return MaskedModel(pruned, record, rows, left_out)


def mask_record(rows: Sequence[MaskedWeight], **args: Any) -> TransformRecord:
    """Return the record of masks: the weights by name, their zeros and their number of values."""
    total = sum(row.of for row in rows)
    zeros = total - sum(row.kept for row in rows)
    names = [row.name for row in rows]
    return TransformRecord(
        kind=transforms.MASK, args={**args, "weights": names, "zeros": zeros, "of": total}
    )


def count_zeros(module: nn.Module, names: Sequence[str]) -> tuple[MaskedWeight, ...]:
    """Return the rows of named weights as they are now."""
    parameters = dict(module.named_parameters())
    return tuple(
        MaskedWeight(name, int(torch.count_nonzero(parameters[name].detach())), parameters[name].numel())
        for name in names
        if name in parameters
    )


def weights_of(module: nn.Module) -> Iterator[Weight]:
    """Yield the weights that masks may prune, each once, also when several layers share it."""
    seen: set[int] = set()
    for path, owner in module.named_modules():
        if isinstance(owner, nn.LayerNorm | nn.RMSNorm):
            continue
        for attribute, parameter in owner.named_parameters(recurse=False):
            if parameter.ndim < 2 or "weight" not in attribute or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            yield Weight(owner, attribute, f"{path}.{attribute}" if path else attribute)


def _of_head(weights: list[Weight], head: str) -> list[Weight]:
    """Return the weights, the last one of those in ``head`` marked as that of the outputs."""
    in_head = [i for i, weight in enumerate(weights) if f"{weight.name}.".startswith(f"{head}.")]
    for i in in_head[-1:]:
        weights[i] = replace(weights[i], is_output=True)
    return weights


def _settings_of(function: Callable[..., object], settings: dict[str, Any]) -> dict[str, Any]:
    names = keyword_names(function)
    return {name: value for name, value in settings.items() if name in names}


def _select(
    weights: list[Weight], method: MaskMethod, skip: Sequence[str], settings: dict[str, Any]
) -> tuple[list[Weight], tuple[str, ...]]:
    """Return the weights that a method prunes, and the names of those whose size does not divide."""
    skipped = match_layers(dict.fromkeys(weight.layer for weight in weights), skip)
    weights = [weight for weight in weights if weight.layer not in skipped]
    if method.select is not None:
        weights = method.select(weights, **_settings_of(method.select, settings))
    left_out: tuple[str, ...] = ()
    if method.ranking == "2:4":
        left_out = tuple(w.name for w in weights if w.tensor.shape[w.input_dim] % GROUP)
        weights = [w for w in weights if w.name not in left_out]
    if not weights:
        reason = (
            f": the inputs of {', '.join(left_out[:3])} do not divide by {GROUP}"
            if left_out
            else " by this method"
        )
        raise DlcliError(
            f"the model has no weights to prune{reason}", hint="try another --method or --skip"
        )
    return weights, left_out


def _masks(
    weights: Sequence[Weight], scores: Sequence[torch.Tensor], method: MaskMethod, amount: float
) -> list[torch.Tensor]:
    """Return a mask for each weight, without what has the lowest scores; zeros have the lowest."""
    scores = [
        score.masked_fill(weight.tensor == 0, -math.inf) if score.shape == weight.tensor.shape else score
        for weight, score in zip(weights, scores, strict=True)
    ]
    if method.ranking == "2:4":
        return [_two_of_four(w, score) for w, score in zip(weights, scores, strict=True)]
    flat = [score.flatten() for score in scores]
    if method.ranking == "global":
        check_count(amount, {"the model": sum(map(len, flat)) - 1})
        whole = _without_lowest(torch.cat(flat), amount)
        masks = whole.split([len(score) for score in flat])  # type: ignore[no-untyped-call]
    else:
        most: dict[str, int] = {}  # a recurrent layer has several weights
        for weight, score in zip(weights, flat, strict=True):
            most[weight.layer] = min(most.get(weight.layer, len(score)), len(score) - 1)
        check_count(amount, most)
        masks = [_without_lowest(score, amount) for score in flat]
    return [
        mask.view_as(score).expand_as(weight.tensor)
        for weight, score, mask in zip(weights, scores, masks, strict=True)
    ]


def _without_lowest(scores: torch.Tensor, amount: float) -> torch.Tensor:
    """Return 0 for the lowest scores (n,), ``amount`` of them but never all, and 1 for the others."""
    total = len(scores)
    pruned = min(amount if isinstance(amount, int) else round(amount * total), total - 1)
    k = min(pruned, total - pruned)  # the time of topk grows with k
    indices = scores.topk(k, largest=k != pruned).indices
    mask = torch.full_like(scores, 1.0 if k == pruned else 0.0)
    return mask.index_fill_(0, indices, 0.0 if k == pruned else 1.0)


def _two_of_four(weight: Weight, scores: torch.Tensor) -> torch.Tensor:
    """Return a mask of the two highest of each four neighbours along the input."""
    by_input = scores.movedim(weight.input_dim, -1)  # (..., inputs)
    groups = by_input.reshape(*by_input.shape[:-1], -1, GROUP)
    mask = torch.zeros_like(groups).scatter_(-1, groups.topk(GROUP // 2, dim=-1).indices, 1)
    return mask.reshape(by_input.shape).movedim(-1, weight.input_dim)
