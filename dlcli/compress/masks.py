"""Zeros in weights: which ones a method takes out, put there by torch.nn.utils.prune.

Shapes stay as they are, so a mask makes no model faster; stored sparse (`formats/encodings/sparse.py`)
it makes the file smaller. Weights are the parameters of two or more dimensions: those of linear
layers, convolutions, recurrent nets, attention and embeddings; never biases and norms.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import prune

from dlcli import transforms
from dlcli.card import TransformRecord
from dlcli.compress.layer_names import named_layers
from dlcli.errors import DlcliError, UsageError

MaskMethod = Literal["l1", "random", "global-l1", "global-random", "ln", "semi-structured"]
METHODS: tuple[MaskMethod, ...] = (
    "l1", "random", "global-l1", "global-random", "ln", "semi-structured",
)  # fmt: skip
GROUP = 4  # of 2:4: of four neighbours along the input two are kept
_ORDERS = {"1": 1.0, "2": 2.0, "inf": float("inf")}


@dataclass(frozen=True)
class MaskedWeight:
    """One weight after pruning: its parameter's name, values that are left, and all of them."""

    name: str
    kept: int
    of: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class MaskedModel:
    """A copy of a model with zeros, their record, a row a weight; ``left_out`` cannot be grouped."""

    module: nn.Module
    record: TransformRecord
    layers: tuple[MaskedWeight, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Weight:
    """A parameter that masks may prune, and the module it belongs to."""

    owner: nn.Module
    attribute: str
    name: str  # in the model

    @property
    def layer(self) -> str:
        """The path of the layer that it belongs to."""
        return self.name.rpartition(".")[0]

    @property
    def tensor(self) -> torch.Tensor:
        """The values, without gradients."""
        found = getattr(self.owner, self.attribute)
        assert isinstance(found, torch.Tensor)
        return found.detach()


def mask_weights(
    module: nn.Module,
    method: MaskMethod,
    amount: float,
    *,
    norm: Literal["1", "2", "inf"] = "2",
    dim: int = 0,
    skip: Sequence[str] = (),
    held: Sequence[str] = (),
    head: str = "",
    seed: int = 0,
) -> MaskedModel:
    """A copy of ``module`` (any device) of whose weights ``amount`` (0 to 1) are zero; eval mode.

    "l1" and "random" count by weight, "global-..." over all of them; "ln" takes whole slices along
    ``dim``, those of the lowest ``norm`` (Li et al., arXiv:1608.08710), but no outputs of the last layer
    in ``head``; "semi-structured" keeps the two largest of four neighbours along the input (Mishra et
    al., arXiv:2104.08378), whatever ``amount``. Zeros that are there count and stay. ``held`` are
    weights pruned before, which the record goes on naming. The same seed gives the same zeros. Raises:
    UsageError for a pattern of ``skip`` that means nothing or a ``dim`` that no weight has; DlcliError
    when nothing is left to prune.
    """
    pruned = copy.deepcopy(module).eval()
    found, left_out = _chosen(list(weights_of(pruned)), method, dim=dim, skip=skip, head=head)
    with torch.no_grad():
        if method == "ln":
            masks = [_slices(weight, amount, _ORDERS[norm], dim) for weight in found]
        elif method == "semi-structured":
            masks = [_two_of_four(weight) for weight in found]
        else:
            masks = _values(found, method, amount, torch.Generator().manual_seed(seed))
        for weight, mask in zip(found, masks, strict=True):
            prune.custom_from_mask(weight.owner, weight.attribute, mask)  # type: ignore[no-untyped-call]
            prune.remove(weight.owner, weight.attribute)  # type: ignore[no-untyped-call]
            weight.tensor.masked_fill_(weight.tensor == 0, 0.0)  # a mask times a negative is -0.0
    names = {weight.name for weight in found} | set(held)
    rows = tuple(
        MaskedWeight(weight.name, int(torch.count_nonzero(weight.tensor)), weight.tensor.numel())
        for weight in weights_of(pruned)
        if weight.name in names
    )
    more = {"norm": norm, "dim": dim} if method == "ln" else {}
    record = mask_record(rows, method=method, amount=amount, **more)
    return MaskedModel(pruned, record, rows, left_out)


def mask_record(rows: Sequence[MaskedWeight], **args: Any) -> TransformRecord:
    """What a card says of masks: the weights by name, how many values are zero, and of how many."""
    total = sum(row.of for row in rows)
    zeros = total - sum(row.kept for row in rows)
    names = [row.name for row in rows]
    return TransformRecord(
        kind=transforms.MASK, args={**args, "weights": names, "zeros": zeros, "of": total}
    )


def count_zeros(module: nn.Module, names: Sequence[str]) -> tuple[MaskedWeight, ...]:
    """The rows of named weights as they are now."""
    parameters = dict(module.named_parameters())
    return tuple(
        MaskedWeight(name, int(torch.count_nonzero(parameters[name].detach())), parameters[name].numel())
        for name in names
        if name in parameters
    )


def weights_of(module: nn.Module) -> Iterator[Weight]:
    """The weights that masks may prune, each once, also where several layers share it."""
    seen: set[int] = set()
    for path, owner in module.named_modules():
        if isinstance(owner, nn.LayerNorm | nn.RMSNorm):
            continue
        for attribute, parameter in owner.named_parameters(recurse=False):
            if parameter.ndim < 2 or "weight" not in attribute or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            yield Weight(owner, attribute, f"{path}.{attribute}" if path else attribute)


def _chosen(
    found: list[Weight], method: MaskMethod, *, dim: int, skip: Sequence[str], head: str
) -> tuple[list[Weight], tuple[str, ...]]:
    """The weights that a method prunes, and the names of those that do not divide as it wants."""
    skipped = named_layers(dict.fromkeys(weight.layer for weight in found), skip)
    found = [weight for weight in found if weight.layer not in skipped]
    left_out: tuple[str, ...] = ()
    if method in ("ln", "semi-structured"):  # a row of an embedding is a word, no channel
        found = [w for w in found if not isinstance(w.owner, nn.Embedding | nn.EmbeddingBag)]
    if method == "ln":
        outputs = [w for w in found if dim == 0 and f"{w.name}.".startswith(f"{head}.")]
        found = [w for w in found if w not in outputs[-1:]]  # a row of the last layer is a class
        fitting = [w for w in found if w.tensor.ndim > dim]
        if found and not fitting:
            most = max(w.tensor.ndim for w in found)
            raise UsageError(f"--dim {dim}: the weights have {most} dimensions, 0 to {most - 1}")
        found = fitting
    elif method == "semi-structured":
        left_out = tuple(w.name for w in found if w.tensor.shape[_input_dim(w)] % GROUP)
        found = [w for w in found if w.name not in left_out]
    if not found:
        why = (
            f": the inputs of {', '.join(left_out[:3])} do not divide by {GROUP}"
            if left_out
            else " by this method"
        )
        raise DlcliError(
            f"the model has no weights to prune{why}", hint="try another --method or --skip"
        )
    return found, left_out


def _input_dim(weight: Weight) -> int:
    return 0 if isinstance(weight.owner, _ConvTransposeNd) else 1


def _values(
    found: Sequence[Weight], method: MaskMethod, amount: float, generator: torch.Generator
) -> list[torch.Tensor]:
    """A mask for each weight, without its smallest or random values, or those smallest over all."""
    sizes = [weight.tensor.numel() for weight in found]
    if method.endswith("random"):
        # Zeros that are there have the lowest score, so they go first: they stay and are counted.
        scores = [torch.rand(n, generator=generator) + 1 for n in sizes]
        scores = [
            s.to(w.tensor.device) * w.tensor.ne(0).flatten() for s, w in zip(scores, found, strict=True)
        ]
    else:
        scores = [weight.tensor.abs().flatten() for weight in found]
    if method.startswith("global"):
        masks = list(_without_lowest(torch.cat(scores), amount).split(sizes))  # type: ignore[no-untyped-call]
    else:
        masks = [_without_lowest(score, amount) for score in scores]
    return [mask.view_as(weight.tensor) for mask, weight in zip(masks, found, strict=True)]


def _without_lowest(scores: torch.Tensor, amount: float) -> torch.Tensor:
    """0 for the lowest scores (n,), ``amount`` of them but never all, and 1 for the others."""
    total = len(scores)
    gone = min(round(amount * total), total - 1)
    few = min(gone, total - gone)  # what topk is asked for decides how long it takes
    picked = scores.topk(few, largest=few != gone).indices
    mask = torch.full_like(scores, 1.0 if few == gone else 0.0)
    return mask.index_fill_(0, picked, 0.0 if few == gone else 1.0)


def _slices(weight: Weight, amount: float, order: float, dim: int) -> torch.Tensor:
    """A mask without the slices of the lowest norm; one always stays."""
    size = weight.tensor
    others = [d for d in range(size.ndim) if d != dim]
    norms = torch.linalg.vector_norm(size, ord=order, dim=others)
    mask = _without_lowest(norms, amount)
    return mask.view([-1 if d == dim else 1 for d in range(size.ndim)]).expand_as(size)


def _two_of_four(weight: Weight) -> torch.Tensor:
    """A mask of the two largest of each four neighbours along the input."""
    size = weight.tensor.abs().movedim(_input_dim(weight), -1)  # (..., inputs)
    groups = size.reshape(*size.shape[:-1], -1, GROUP)
    kept = torch.zeros_like(groups).scatter_(-1, groups.topk(GROUP // 2, dim=-1).indices, 1)
    return kept.reshape(size.shape).movedim(-1, _input_dim(weight))
