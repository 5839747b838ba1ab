"""Freezing of layers by name, for the whole run or until a share of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import nn

from dlcli.config import TrainConfig
from dlcli.config.layer_patterns import NORMS, parse_freeze, parse_unfreeze
from dlcli.errors import UsageError, nearest
from dlcli.training.optim.depth import below

_MAX_NAMED_LAYERS = 6  # in a sentence


@dataclass(frozen=True)
class Freezing:
    """The frozen parameters, and when they are unfrozen.

    ``starts`` maps a name to the share of the run from which on the parameter trains, or to infinity.
    ``never`` are the names of all parameters that no step trains, including those that the model itself
    froze. ``sentences`` are for the user.
    """

    starts: Mapping[str, float]
    never: frozenset[str]
    sentences: tuple[str, ...]

    def apply(self, module: nn.Module, share: float) -> bool:
        """Set ``requires_grad`` for ``share`` (0 to 1) of the run; returns whether any changed.

        The gradient of a frozen parameter is set to None, so that optimizers skip it. An unfrozen one
        gets its optimizer state with its first gradient. ``module`` must not be wrapped.
        """
        changed = False
        for name, parameter in module.named_parameters():
            start = self.starts.get(name)
            if start is not None and parameter.requires_grad != (share >= start):
                changed = True
                parameter.requires_grad_(share >= start)
                if not parameter.requires_grad:
                    parameter.grad = None
        return changed

    def changes(self) -> list[float]:
        """The shares of the run at which parameters are unfrozen, in ascending order."""
        return sorted({start for start in self.starts.values() if 0 < start < 1})


def freezing_of(module: nn.Module, config: TrainConfig, *, head: str) -> Freezing:
    """The freezing of a run: that of its patterns, and all but the head in its ``head_epochs``.

    Raises: UsageError as `parse_freezing`.
    """
    fit, model = config.fit, config.model
    freezing = parse_freezing(module, model.freeze, model.unfreeze, head=head)
    if not fit.head_epochs:
        return freezing
    later = {
        name: fit.head_share
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and not below(name, head)
    }
    sentence = (
        f"the head trains alone in the first {fit.head_epochs} of {fit.epochs} epochs, with a peak rate "
        f"of {config.optim.head_lr:g}, then all layers that are not frozen do"
    )
    return replace(
        freezing, starts={**later, **freezing.starts}, sentences=(*freezing.sentences, sentence)
    )


def parse_freezing(module: nn.Module, freeze: str, unfreeze: str | None, *, head: str) -> Freezing:
    """Parse ``model.freeze`` and ``model.unfreeze`` for the parameters of ``module``.

    ``freeze`` is "none", or patterns separated by commas: "backbone" is all but the submodule at
    ``head``, "norms" are the layers with running statistics (maybe none), any other is the path of a
    layer, or a glob for such paths (``layer1``, ``conv*``, ``*.bn?``). ``unfreeze`` has patterns with
    the share of the run from which on they train (``layer4@50%``, ``layer3@0.75``); these layers are
    frozen until then, regardless of ``freeze``. Of several matches the earliest share counts.

    Raises: UsageError when a pattern matches nothing, a share is invalid, or no parameter trains at the
    start.
    """
    parameters = dict(module.named_parameters())
    trainable = [name for name, p in parameters.items() if p.requires_grad]
    starts: dict[str, float] = {}
    for pattern in parse_freeze(freeze):
        if pattern == NORMS:
            names = [name for name in _norms(module) if name in trainable]
        else:
            names = matching(pattern, trainable, head=head, setting="model.freeze")
        starts |= dict.fromkeys(names, math.inf)
    unfrozen: dict[str, float] = {}
    unfreezing = [] if unfreeze is None else parse_unfreeze(unfreeze)
    for pattern, share in unfreezing:
        for name in matching(pattern, trainable, head=head, setting="model.unfreeze"):
            unfrozen[name] = min(share, unfrozen.get(name, math.inf))
    starts |= unfrozen
    if trainable and not any(starts.get(name, 0.0) <= 0 for name in trainable):
        raise UsageError(
            "model.freeze and model.unfreeze leave no trainable parameters at the start",
            hint="freeze fewer layers, or unfreeze some with @0%",
        )
    never = {name for name in parameters if name not in trainable or starts.get(name) == math.inf}
    frozen = {name for name, share in starts.items() if share > 0}
    sentences = [_frozen(module, frozen)] if frozen else []
    sentences += [
        f"{pattern} trains from {100 * share:g} % of the run on"
        for pattern, share in sorted(unfreezing, key=lambda item: item[::-1])
    ]
    return Freezing(starts, frozenset(never), tuple(sentences))


def matching(pattern: str, names: list[str], *, head: str, setting: str) -> list[str]:
    """The parameters at or below the paths that match ``pattern``. Raises: UsageError for none."""
    if pattern == "backbone":
        matches = [name for name in names if not below(name, head)]
    else:
        matches = [n for n in names if any(fnmatchcase(path, pattern) for path in _paths(n))]
    if not matches:
        layers = {path for name in names for path in _paths(name)}
        raise UsageError(
            f"{setting}: {pattern!r} matches no trainable layer of this model",
            hint=nearest(pattern, layers if pattern.count(".") else {p for p in layers if "." not in p}),
        )
    return matches


def _norms(module: nn.Module) -> list[str]:
    """The parameters of layers with running statistics."""
    return [
        f"{path}.{name}" if path else name
        for path, part in module.named_modules()
        if hasattr(part, "running_mean")
        for name, _ in part.named_parameters(recurse=False)
    ]


def _paths(name: str) -> list[str]:
    """The paths of ``a.b.c``: a, a.b and a.b.c."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _frozen(module: nn.Module, frozen: set[str]) -> str:
    """Describe the largest submodules that are frozen as a whole, and their share of the parameters."""
    sizes = {name: p.numel() for name, p in module.named_parameters()}
    mixed = {path for name in sizes if name not in frozen for path in _paths(name)}
    tops = list(
        dict.fromkeys(
            next(p for p in _paths(name) if p not in mixed) for name in sizes if name in frozen
        )
    )
    more = f" and {len(tops) - _MAX_NAMED_LAYERS} more" if len(tops) > _MAX_NAMED_LAYERS else ""
    part, whole = sum(sizes[name] for name in frozen), sum(sizes.values())
    amount = f"{_count(part, whole)} of {_count(whole, whole)} parameters"
    return f"frozen: {', '.join(tops[:_MAX_NAMED_LAYERS])}{more} ({amount})"


def _count(number: int, whole: int) -> str:
    """Format ``number`` in the unit of ``whole``: 2.8 M, 53.1 K, 626."""
    for size, unit in ((10**6, " M"), (10**3, " K")):
        if whole >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number}"
