"""Which tensor of a file belongs to which of a module: by name, or by order and shape.

Projects name the same layers differently, but list them in the order in which they compute. That two
files agree in the shapes of hundreds of tensors, one after another, is no accident; one disagreement is
enough to refuse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from dlcli.errors import DlcliError
from dlcli.zoo.forward import load_tensors

StateDict = dict[str, torch.Tensor]

# What wrappers put in front of every name: DataParallel, Lightning, detectors and embeddings, averages.
PREFIXES = ("module.", "model.", "backbone.", "ema.")
_LEAVES = ("weight", "bias", "running_mean", "running_var")
_MAX_HEAD_TENSORS = 2  # of a file whose head is another than the module's


@dataclass(frozen=True)
class LoadedWeights:
    """Names of the tensors that `load_matching` loaded, left at their initial values, and ignored.

    ``sources`` are the names in the file by those of the module, ``unused`` the file's own names.
    ``prefix`` was in front of the file's names.
    """

    sources: Mapping[str, str]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    rule: Literal["name", "order"] = "name"
    prefix: str = ""

    @property
    def loaded(self) -> tuple[str, ...]:
        """The module's names of the tensors that were loaded."""
        return tuple(self.sources)

    @property
    def is_plain(self) -> bool:
        """Whether all names are the same in the file and in the module."""
        return self.rule == "name" and not self.prefix

    def sentence(self) -> str:
        """A summary for the user: how many tensors fit by which rule, and which do not."""
        text = f"{len(self.sources)} of {len(self.sources) + len(self.fresh)} tensors fit"
        if self.rule == "order":
            pairs = [f"{theirs} is {own}" for own, theirs in self.sources.items() if own != theirs]
            text += f" by order and shape, since their names differ: {pairs[0]}, ..., {pairs[-1]}"
        elif self.prefix:
            text += f" without the prefix {self.prefix}"
        if self.fresh:
            text += f"; {_some(self.fresh)} keep their initial values"
        if self.unused:
            text += f"; not used: {_some(self.unused)}"
        return text


def load_matching(
    module: nn.Module, state: StateDict, *, source: object, head: str | None = None
) -> LoadedWeights:
    """Load every tensor whose name and shape match; the others keep their initial values.

    A prefix of `PREFIXES` is removed where more names match without it. Where names do not account for
    the whole body, the module without the submodule at ``head``, tensors are matched by their order
    instead if that is proven: see `_by_order`.

    Raises: DlcliError when less than half of the module's tensors match: then the file is of another
    model.
    """
    own, in_file = module.state_dict(), tuple(state)
    prefix, names = _without_prefix(own, state)
    state = _fit_positions(own, {short: state[name] for short, name in names.items()})
    matching = {k: k for k, v in state.items() if k in own and v.shape == own[k].shape}
    rule: Literal["name", "order"] = "name"
    reason = ""
    if any(name not in matching and not _below(name, head) for name in own):
        ordered = _by_order(own, state, head)
        if isinstance(ordered, str):
            reason = ordered
        # The names of another project may coincide here and there; those of the same one are right.
        elif len(matching) < len(own) / 2 or matching.items() < ordered.items():
            matching, rule = ordered, "order"
    if len(matching) < len(own) / 2:
        raise DlcliError(
            f"{source} does not fit: only {len(matching)} of the model's {len(own)} tensors are in it"
            + (f" by name, and by order {reason}" if reason else ""),
            hint="is it a file of another model? --model must be the one it was trained with",
        )
    load_tensors(module, {k: state[theirs] for k, theirs in matching.items()}, strict=False)
    sources = {k: names[theirs] for k, theirs in matching.items()}
    used = set(sources.values())
    return LoadedWeights(
        sources=sources,
        fresh=tuple(k for k in own if k not in matching),
        unused=tuple(name for name in in_file if name not in used),
        rule=rule,
        prefix=prefix,
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _below(name: str, head: str | None) -> bool:
    return bool(head) and name.startswith(f"{head}.")


def _without_prefix(own: Mapping[str, torch.Tensor], state: StateDict) -> tuple[str, dict[str, str]]:
    """The prefix without which most names and shapes match, and the names by those without it.

    Names without the prefix stay as they are; of two that become one, that with the prefix counts.
    """
    prefixes = {""}
    for name in state:
        prefix = ""
        while (known := next((p for p in PREFIXES if name.startswith(prefix + p)), None)) is not None:
            prefix += known
            prefixes.add(prefix)

    def shortened(prefix: str) -> dict[str, str]:
        names = {name: name for name in state if not name.startswith(prefix)}
        return names | {name.removeprefix(prefix): name for name in state if name.startswith(prefix)}

    def matches(prefix: str) -> int:
        pairs = shortened(prefix).items()
        return sum(short in own and own[short].shape == state[name].shape for short, name in pairs)

    # Of equal ones the shortest, and the first by the alphabet.
    best = max(sorted(prefixes, key=lambda prefix: (len(prefix), prefix)), key=matches)
    return best, shortened(best)


def _by_order(
    own: Mapping[str, torch.Tensor], state: StateDict, head: str | None
) -> dict[str, str] | str:
    """The names of the file by those of the module, or why their order proves nothing.

    It is a proof when every tensor of the module's body has its own tensor in the file, in the same
    order, of the same shape, and of the same meaning where the last part of both names tells it
    (weight, bias, running_mean, running_var); and when nothing of the file is left over but a head,
    at the place of the module's. Counters and tables of integers may be missing.
    """
    reason = ""
    for integers in (True, False):
        ours = [name for name, tensor in own.items() if integers or tensor.is_floating_point()]
        theirs = [name for name, tensor in state.items() if integers or tensor.is_floating_point()]
        for names in (ours, [name for name in ours if not _below(name, head)]):
            at = next((i for i, name in enumerate(ours) if name not in names), len(names))
            extra = len(theirs) - len(names)
            if names and len(names) < len(ours) and 0 < extra <= _MAX_HEAD_TENSORS:
                candidate = theirs[:at] + theirs[at + extra :]
            else:
                candidate = theirs
            reason = _difference(names, candidate, own, state)
            if not reason:
                return dict(zip(names, candidate, strict=True))
    return reason


def _difference(
    names: Sequence[str], theirs: Sequence[str], own: Mapping[str, torch.Tensor], state: StateDict
) -> str:
    """The first difference of two sequences of tensors, in words; empty where there is none."""
    for name, their in zip(names, theirs, strict=False):
        ends = name.rpartition(".")[2], their.rpartition(".")[2]
        if own[name].shape != state[their].shape:
            return (
                f"{their} {tuple(state[their].shape)} is where the model has "
                f"{name} {tuple(own[name].shape)}"
            )
        if ends[0] != ends[1] and all(end in _LEAVES for end in ends):
            return f"{their} is where the model has {name}"
    if len(names) != len(theirs):
        return f"it has {len(theirs)} tensors where the model has {len(names)}"
    return "" if names else "the model has no tensors besides its head"


def _fit_positions(own: Mapping[str, torch.Tensor], state: StateDict) -> StateDict:
    """Interpolate the position embedding (1, 1 + h*w, D) of a ViT bicubically to another input size.

    Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv:2010.11929, section 3.2.
    """
    key = "encoder.pos_embedding"
    if key not in own or key not in state or own[key].shape == state[key].shape:
        return state
    old, new = state[key], own[key]
    if old.ndim != 3 or old.shape[2] != new.shape[2]:
        return state
    side_old, side_new = math.isqrt(old.shape[1] - 1), math.isqrt(new.shape[1] - 1)
    if side_old**2 != old.shape[1] - 1 or side_new**2 != new.shape[1] - 1:
        return state
    grid = old[:, 1:].transpose(1, 2).reshape(1, -1, side_old, side_old)  # (1, D, h, w)
    grid = nn.functional.interpolate(grid, size=(side_new, side_new), mode="bicubic", align_corners=True)
    resampled = torch.cat([old[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    return {**state, key: resampled}
