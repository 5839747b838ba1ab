"""Activation checkpointing: segments of a model are recomputed in the backward pass.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174, through torch's own
non-reentrant checkpoints. Only the input of a segment is saved. The numbers of a run do not change:
the second forward sees the same random numbers and leaves running statistics alone.
`checkpoint_blocks` finds the blocks that segments consist of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from dlcli.errors import UsageError
from dlcli.training.checkpoint_blocks import Chain, find_chains
from dlcli.wording import plural


def checkpoint_segments(module: nn.Module, requested: str) -> str | None:
    """Checkpoint segments of the module, in place; names of parameters and buffers stay.

    ``requested`` is "none", "auto" (each block by itself) or a number of segments. Eval mode and no_grad
    are as before. It comes after `synchronise_batch_norms` and before DistributedDataParallel. Returns a
    sentence for the user, None for "none". Raises: UsageError for another text, and for models
    without blocks.
    """
    chains = find_checkpoint_chains(module, requested)
    if not chains:
        return None
    blocks = sum(len(chain.blocks) for chain in chains)
    requested_count = blocks if requested == "auto" else int(requested)
    count = sum(_rewire(chain, round(requested_count * len(chain.blocks) / blocks)) for chain in chains)
    where = ", ".join(dict.fromkeys(chain.path.partition(".")[0] or "the model" for chain in chains))
    note = ""
    if requested != "auto" and count != requested_count:
        note = f"; {requested} were requested, and a segment lies within one of these parts"
        if requested_count > blocks:
            note = f"; {requested} were requested"
    segments = f"{plural(count, 'segment')} of {plural(blocks, 'block')}"
    return f"gradient checkpointing: {segments} in {where}{note}"


def find_checkpoint_chains(module: nn.Module, requested: str) -> Sequence[Chain]:
    """Return the chains of blocks that `checkpoint_segments` rewires; none for "none".

    Raises: UsageError for other texts than "auto" and a number, and for models without blocks.
    """
    if requested == "none":
        return ()
    if requested != "auto" and not re.fullmatch(r"[1-9]\d*", requested):
        raise UsageError(
            f"--grad-checkpointing {requested!r} is not none, auto or a positive number of segments"
        )
    chains = find_chains(module)
    if not any(chain.blocks for chain in chains):
        raise UsageError(
            f"--grad-checkpointing {requested}: {_no_blocks_reason(module)}",
            hint="a smaller --batch-size or more --grad-accum-steps save memory with every model",
        )
    return chains


def saved_bytes(run: Callable[[], torch.Tensor]) -> int:
    """Bytes of the tensors that autograd saves for a backward pass of ``run()``.

    Each storage counts once, parameters do not. They are counted and freed, so this needs no more
    memory than inference, and no backward pass is possible.
    """
    saved = Saved()
    saved.count(run)
    return sum(saved.storages.values())


def step_bytes(module: nn.Module, run: Callable[[], torch.Tensor]) -> int:
    """Bytes that a backward pass of ``run()`` needs: saved activations and gradients, at their peak.

    A segment saves its input alone, and all of its activations while it is recomputed; by then what
    later layers saved is free. ``run`` calls ``module``, once more where it has segments.
    """
    segments = list(_segments(module))
    saved = Saved()
    for segment in segments:
        segment.outer = saved
    try:
        saved.count(run)
        for segment in segments:
            segment.on, segment.outer, segment.inner = False, None, Saved()
        if segments:
            with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_forget, _no_backward):
                run()
        peaks = [saved.peak()]
        for segment in segments:
            assert segment.inner is not None
            peaks.append(saved.bytes_until(segment.position) + segment.inner.peak())
        return max(peaks)
    finally:
        for segment in segments:
            segment.on, segment.outer, segment.inner, segment.position = True, None, None, 0


class Saved:
    """The storages that autograd saves, in their order; each counts once, parameters do not.

    Tensors are counted and freed. ``ignored`` are tensors that something else saves.
    """

    def __init__(self) -> None:
        self.storages: dict[StorageWeakRef, int] = {}
        self.ignored: set[StorageWeakRef] = set()

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor, as a hook of saved tensors."""
        if not isinstance(tensor, nn.Parameter) and not isinstance(tensor._base, nn.Parameter):
            # A weak reference identifies a freed storage: its address may be used again.
            reference = _reference(tensor)
            if reference not in self.ignored:
                self.storages.setdefault(reference, tensor.untyped_storage().nbytes())

    def count(self, run: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """Call ``run`` and count what it saves; no backward pass is possible."""
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(self.add, _no_backward):
            return run(*args, **named)

    def bytes_until(self, position: int) -> int:
        """The bytes of the first ``position`` storages."""
        return sum(list(self.storages.values())[:position])

    def peak(self) -> int:
        """The peak of a backward pass, which frees them from the last to the first.

        Where an operation has saved ``n`` bytes, the gradients of its output and of its input are
        about ``n`` bytes each.
        """
        sizes = list(self.storages.values())
        return max((sum(sizes[: i + 1]) + 2 * n for i, n in enumerate(sizes)), default=0)


def _reference(tensor: torch.Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _forget(_: torch.Tensor) -> None:
    """Save nothing of a tensor."""


def memory_saving_sentence(
    module: nn.Module, inputs: Sequence[torch.Tensor], loss: Callable[[torch.Tensor], torch.Tensor]
) -> str:
    """Measure what the checkpoints of ``module`` save for a batch, as a sentence.

    ``module`` is in train mode, ``inputs`` are those of one micro-batch and ``loss`` maps outputs to a
    scalar. It costs three forward passes, which leave random numbers and buffers as they were.
    """
    segments = list(_segments(module))
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    devices = {tensor.device for tensor in inputs if tensor.is_cuda}
    sizes = []
    try:
        for on in (True, False):
            for segment in segments:
                segment.on = on
            with torch.random.fork_rng(devices):
                sizes.append(step_bytes(module if on else nn.Module(), lambda: loss(module(*inputs))))
    finally:
        for segment in segments:
            segment.on = True
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
    mib = [size / 2**20 for size in sizes]
    return (
        f"activations that a backward pass needs: {mib[0]:.1f} MiB instead of {mib[1]:.1f} "
        f"({100 * (sizes[0] / max(sizes[1], 1) - 1):+.0f} %)"
    )


class Segment:
    """Consecutive parts of a model that save their input alone for the backward pass.

    It replaces ``forward`` of a block, or several modules of a list: the first gets all arguments, each
    other one the result in place of the first argument.
    """

    def __init__(self, owner: nn.Module, parts: Sequence[Callable[..., Any]], norms: list[_NormBase]):
        self.owner, self.parts, self.norms = owner, tuple(parts), norms
        self.on = True
        self.outer: Saved | None = None  # while `step_bytes` counts: what the whole model saves,
        self.inner: Saved | None = None  # then what recomputing this segment saves
        self.position = 0  # of its input among the storages of ``outer``

    def __call__(self, *args: Any, **named: Any) -> Any:
        if self.inner is not None:
            inputs = (leaf for leaf in tree_flatten((args, named))[0] if isinstance(leaf, torch.Tensor))
            self.inner.ignored |= set(map(_reference, inputs))
            return self.inner.count(self.run, *args, **named)
        if not (self.on and self.owner.training and torch.is_grad_enabled()):
            return self.run(*args, **named)
        # Flat, so that hooks on saved tensors see those in lists and keywords too.
        leaves, spec = tree_flatten((args, named))

        def run(*values: Any) -> Any:
            if self.outer is not None:  # the input has been saved
                self.position = len(self.outer.storages)
            positional, keywords = tree_unflatten(values, spec)
            return self.run(*positional, **keywords)

        if torch.compiler.is_compiling():  # it traces the pass once, so statistics are updated once
            return checkpoint(run, *leaves, use_reentrant=False)
        return checkpoint(run, *leaves, use_reentrant=False, context_fn=self.contexts)

    def run(self, x: Any, *rest: Any, **named: Any) -> Any:
        for part in self.parts:
            x = part(x, *rest, **named)
        return x

    def contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """The contexts of the two forward passes: the second does not change running statistics."""
        return nullcontext(), self.without_statistics()

    @contextmanager
    def without_statistics(self) -> Iterator[None]:
        # Copies, not None: autograd saves the tensors, and both passes must save the same.
        own = [(norm, dict(norm._buffers)) for norm in self.norms if norm.training]
        for norm, buffers in own:
            norm._buffers.update({k: v if v is None else v.clone() for k, v in buffers.items()})
        try:
            yield
        finally:
            for norm, buffers in own:
                norm._buffers.update(buffers)


class _Segmented:
    """Mixin of a list of modules: while training, iteration yields segments."""

    training: bool
    segments: Sequence[Callable[..., Any]] = ()  # a slice of the list is a new one, without any

    def __iter__(self) -> Iterator[Any]:
        if self.segments and self.training and torch.is_grad_enabled():
            return iter(self.segments)
        return iter(super().__iter__())  # type: ignore[misc]


def _rewire(chain: Chain, count: int) -> int:
    """Divide a chain into about ``count`` segments; returns their number."""
    blocks = chain.blocks
    if not chain.joinable:
        count = len(blocks)
    count = min(max(count, 1), len(blocks))
    bounds = [len(blocks) * i // count for i in range(count + 1)]
    joined: dict[
        int, tuple[int, Segment]
    ] = {}  # by the first position: the position after the last, the segment
    for first, after in pairwise(bounds):
        parts = [part for block in blocks[first:after] for part in block.parts]
        norms = [norm for part in parts for norm in part.modules() if isinstance(norm, _NormBase)]
        if len(parts) == 1:
            (part,) = parts
            part.forward = Segment(part, [part.forward], norms)
        else:
            segment = Segment(chain.holder, parts, norms)
            joined[blocks[first].start] = (
                blocks[after - 1].start + len(blocks[after - 1].parts),
                segment,
            )
    if joined:
        _replace(chain.holder, joined)
    return count


def _replace(holder: nn.Module, joined: dict[int, tuple[int, Segment]]) -> None:
    """Make a list of modules iterate over segments, which may be added in several calls."""
    kind: Any = type(holder)
    modules = list(holder._modules.values())
    if not isinstance(holder, _Segmented):
        holder.__class__ = type(f"Segmented{kind.__name__}", (_Segmented, kind), {})
        holder.__dict__["joined"] = {}
    segments: dict[int, tuple[int, Segment]] = holder.__dict__["joined"]
    segments.update(joined)
    steps: list[Any] = []
    at = 0
    while at < len(modules):
        after, step = segments.get(at, (at + 1, modules[at]))
        steps.append(step)
        at = after
    holder.__dict__["segments"] = steps


def _segments(module: nn.Module) -> Iterator[Segment]:
    """All segments of a module that `checkpoint_segments` has rewired."""
    for part in module.modules():
        own = [part.__dict__.get("forward")]
        if isinstance(part, _Segmented):
            own += part.segments
        yield from (segment for segment in own if isinstance(segment, Segment))


def _no_blocks_reason(module: nn.Module) -> str:
    if any(isinstance(part, nn.RNNBase) for part in module.modules()):
        return "a recurrent model saves the states of all steps, so its layers cannot be split"
    return "this model has no consecutive blocks"


def _no_backward(_: None) -> torch.Tensor:
    raise AssertionError("saved_bytes saves no tensors")
