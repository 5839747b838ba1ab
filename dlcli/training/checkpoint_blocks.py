"""Find the repeated blocks of a model, the units of activation checkpointing.

A *leaf* is a layer without layers, or a norm; a *list* is an nn.Sequential, ModuleList or ModuleDict;
all else has a forward of its own. Blocks are what lists hold: residual blocks, encoder layers, or in a
list of leaves a weight with the norm, activation and pooling after it. A list in a list is a stage
and is entered, and so is a block that contains a list of equal blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from dlcli.zoo.attention import Encoder
from dlcli.zoo.cnn_series import Trunk
from dlcli.zoo.seq2seq import Seq2seq

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
# They run their lists of blocks in order, with the same other arguments for each block.
_IN_ORDER = (Encoder, Trunk, Seq2seq)


@dataclass(frozen=True)
class Block:
    """``parts`` run consecutively; they are the holder's children from ``start`` on."""

    start: int
    parts: tuple[nn.Module, ...]


@dataclass(frozen=True)
class Chain:
    """Blocks that are neighbours in ``holder``; ``joinable`` when several can run as one."""

    path: str
    holder: nn.Module
    blocks: tuple[Block, ...]
    joinable: bool


def find_chains(module: nn.Module) -> list[Chain]:
    """The chains of a model in the order of its parts; an empty list when it has none."""
    chains = [chain for chain in _chains(module, "", joinable=False) if chain.blocks]
    if not isinstance(module, nn.Sequential) and len(chains) > 1:
        # A classifier of a few layers ends the model: it would be recomputed immediately.
        last = next(reversed(module._modules))
        chains = [chain for chain in chains if chain.path != last or _composite(chain.holder)]
    return chains


def _chains(module: nn.Module, path: str, *, joinable: bool) -> Iterator[Chain]:
    """The chains of a module that is no leaf; ``joinable`` is for a list that is no nn.Sequential."""
    in_list = isinstance(module, _LISTS)
    joinable = joinable or _runs_in_order(module)
    classes = Counter(type(child) for child in module._modules.values())
    run: list[Block] = []
    for at, (name, child) in enumerate(module._modules.items()):
        if child is None:
            continue
        below = f"{path}.{name}" if path else name
        if _is_leaf(child):
            if _runs_in_order(module):
                _add_leaf(run, at, child)
        elif _is_block(child, in_list=in_list, siblings=classes[type(child)]):
            run.append(Block(at, (child,)))
        else:
            yield from _close(module, path, run, joinable)
            run = []
            in_order = isinstance(module, _IN_ORDER) and isinstance(child, nn.ModuleList)
            yield from _chains(child, below, joinable=in_order)
    yield from _close(module, path, run, joinable)


def _close(holder: nn.Module, path: str, run: list[Block], joinable: bool) -> Iterator[Chain]:
    """The neighbours as a chain, without single layers, which save their input anyway."""
    blocks = [b for b in run if len(b.parts) > 1 or not _is_leaf(b.parts[0])]
    if len(blocks) == 1 and not _composite(holder):
        blocks = []  # a few layers are no chain
    neighbours = all(a.start + len(a.parts) == b.start for a, b in pairwise(blocks))
    for part in [blocks] if neighbours else [[block] for block in blocks]:
        yield Chain(path, holder, tuple(part), joinable)


def _add_leaf(run: list[Block], at: int, leaf: nn.Module) -> None:
    """A layer with a matrix starts a block, any other belongs to the block before it."""
    if not run or (_is_weight(leaf) and _has_weight(run[-1])):
        # An in-place layer cannot start one: its input is what is saved.
        if not getattr(leaf, "inplace", False):
            run.append(Block(at, (leaf,)))
    else:
        run[-1] = Block(run[-1].start, (*run[-1].parts, leaf))


def _has_weight(block: Block) -> bool:
    return any(_is_weight(inner) for part in block.parts for inner in part.modules())


def _is_block(child: nn.Module, *, in_list: bool, siblings: int) -> bool:
    if sum(map(_is_leaf, _inner(child))) < 2:
        return False
    if isinstance(child, _LISTS):
        return in_list and _runs_in_order(child) and not _composite(child)
    return (in_list or siblings > 1) and not any(map(_holds_equal_blocks, (child, *_inner(child))))


def _holds_equal_blocks(module: nn.Module) -> bool:
    """Whether what holds it is a stage: a list with two deep parts of one class, or those alone."""
    children = list(_elements(module))
    deep = [type(child) for child in children if sum(map(_is_weight, _inner(child))) > 1]
    if isinstance(module, _LISTS):
        return len(set(deep)) < len(deep)
    return len(set(deep)) == 1 < len(deep) == len(children)


def _elements(module: nn.Module) -> Iterator[nn.Module]:
    """The children, those of lists in place of the lists."""
    for child in module.children():
        yield from _elements(child) if isinstance(child, _LISTS) else (child,)


def _is_weight(module: nn.Module) -> bool:
    """Whether it is a layer with a matrix or a kernel."""
    return any(p.ndim > 1 for p in module.parameters(recurse=False))


def _inner(module: nn.Module) -> Iterator[nn.Module]:
    """The parts of a module; a norm counts as one, whatever it holds."""
    if not _is_leaf(module):
        for child in module.children():
            yield child
            yield from _inner(child)


def _is_leaf(module: nn.Module) -> bool:
    return isinstance(module, _NORMS) or not any(True for _ in module.children())


def _composite(module: nn.Module) -> bool:
    return any(not _is_leaf(child) for child in module.children())


def _runs_in_order(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
