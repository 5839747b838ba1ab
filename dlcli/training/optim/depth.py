"""The depth of each parameter in any module, for layer-wise learning rates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_TABLES = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class Depths:
    """The layer index of each parameter, from 0 at the input; the head is layer ``layers``."""

    of: dict[str, int]  # by the parameter's name
    layers: int


def parameter_depths(module: nn.Module, *, head: str) -> Depths:
    """Assign each parameter of ``module`` to a layer; ``head`` is the path of the last submodule.

    Layers are the children in the order of definition. A child that contains a container (Sequential,
    ModuleList, ModuleDict) is entered, and each member of a container is a layer: ``layer1.0``,
    ``encoder.layers.encoder_layer_3``. Members, and siblings of the same class (blocks, or the branches
    of one), are entered only when they are containers themselves. Modules with vectors only (norms,
    scales) and parameters of an entered module itself (class token, positions) belong to the layer
    before them; so do embeddings, which start layer 0 where there is none yet.
    """
    of: dict[str, int] = {}
    layer = -1  # index of the current layer
    for names, kind in _parameter_groups(module, "", head):
        if kind == "layer" or (kind == "table" and layer < 0):
            layer += 1
        of.update(dict.fromkeys(names, max(layer, 0)))
    layers = max(of.values(), default=-1) + 1
    for name, _ in module.named_parameters():
        if below(name, head):
            of[name] = layers
    return Depths(of, layers)


def below(path: str, top: str) -> bool:
    """Whether ``path`` is the submodule ``top`` or inside it; "" is the root, which contains all."""
    return not top or path == top or path.startswith(f"{top}.")


def _parameter_groups(module: nn.Module, path: str, head: str) -> Iterator[tuple[list[str], str]]:
    """Yield groups of parameter names in order, and their kind: layer, table (embedding) or part."""
    prefix = f"{path}." if path else ""
    if below(path, head):
        return
    own = [prefix + name for name, _ in module.named_parameters(recurse=False)]
    if own:
        yield own, "part"
    children = [(name, child) for name, child in module.named_children() if _has_parameters(child)]
    for name, child in children:
        child_path = prefix + name
        has_siblings = sum(type(other) is type(child) for _, other in children) > 1
        member = isinstance(module, _CONTAINERS) or has_siblings
        if below(head, child_path) or _is_entered(child, member=member):
            yield from _parameter_groups(child, child_path, head)
        else:
            yield [f"{child_path}.{n}" for n, _ in child.named_parameters()], _kind(child)


def _is_entered(child: nn.Module, *, member: bool) -> bool:
    if isinstance(child, _CONTAINERS):
        return True
    return not member and any(isinstance(sub, _CONTAINERS) for sub in child.modules())


def _kind(module: nn.Module) -> str:
    tables = {id(p) for sub in module.modules() if isinstance(sub, _TABLES) for p in sub.parameters()}
    heavy = [p for p in module.parameters() if p.ndim > 1]
    if not heavy:
        return "part"
    return "table" if all(id(p) in tables for p in heavy) else "layer"


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
