"""Training batches: the order is f(seed, epoch), and encoded arrays are indexed, not iterated.

Shapes: inputs as `dlcli.data.base.Inputs`, B rows each, and targets (B, ...), on the training device;
indices int64 (B,) into the split, on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from dlcli.data.base import Indices, Inputs, Reader, Targets
from dlcli.data.prefetch import prefetch
from dlcli.errors import DlcliError
from dlcli.training.loop.batch_plan import BatchPlan, batch_bounds

# Share of a GPU's free memory that an encoded split may take to be indexed there.
_RESIDENT_SHARE = 0.4
# Batches per pool of samples that are sorted by length: few enough to keep the order random, enough
# for similar lengths within a batch.
_POOL_BATCHES = 50


@dataclass(frozen=True)
class Batch:
    """One process's share of an optimizer step's batch.

    ``count`` is what the loss divides by for these samples: their number, or that of their tokens.
    ``planned`` is the size of the whole batch, unreadable samples included. In a group a share may be
    empty. With ``is_features`` the inputs are those of the model's head.
    """

    inputs: tuple[torch.Tensor, ...]
    targets: torch.Tensor
    indices: Indices
    count: int
    epoch: int
    planned: int
    is_features: bool = False

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, positions: Indices) -> Batch:
        """The samples at ``positions``; ``count`` and ``planned`` stay those of the whole batch."""
        if len(positions) == len(self):
            return self
        rows = to_device(torch.from_numpy(positions), self.targets.device)
        return replace(
            self,
            inputs=tuple(tensor.index_select(0, rows) for tensor in self.inputs),
            targets=self.targets.index_select(0, rows),
            indices=self.indices[positions],
        )

    def is_usable(self, readable: int) -> bool:
        """Whether it can be trained on with ``readable`` samples over all processes.

        A single sample left over by unreadable ones cannot: batch statistics need two.
        """
        return readable > 1 or readable == self.planned == 1


# Inputs and targets on the device, indices and count: the first fields of a `Batch`.
Gathered = tuple[tuple[torch.Tensor, ...], torch.Tensor, Indices, int]


class TrainBatches:
    """The batches of a training split, epoch by epoch, from any position in an epoch.

    ``draw(seed, epoch)`` replaces the permutation of an epoch: N indices, repetitions allowed;
    ``grouped`` keeps its neighbours together, instead of grouping samples by length. ``count`` gives
    the number that a loss divides by for targets, by default samples. This process is ``rank`` of the
    plan's ``world_size``. ``whole``, where set, reads the photos that random crops are taken from.
    ``features``, where set, gives the reader of an epoch whose samples go through the frozen layers
    only once.
    """

    def __init__(
        self,
        reader: Reader,
        plan: BatchPlan,
        *,
        seed: int,
        device: torch.device,
        draw: Callable[[int, int], Indices] | None = None,
        count: Callable[[Targets], int] | None = None,
        rank: int = 0,
        grouped: bool = False,
        whole: Reader | None = None,
    ) -> None:
        self.reader = reader
        self.whole = whole
        self.plan = plan
        self.seed = seed
        self.device = device
        self.bounds = batch_bounds(len(reader), plan.global_batch)
        self._by_length = reader.lengths is not None and not grouped
        self._draw, self._count = draw, count
        self._rank = rank
        self._resident: dict[Reader, tuple[tuple[torch.Tensor, ...], torch.Tensor]] = {}
        self.features: Callable[[int], Reader | None] | None = None

    def __len__(self) -> int:
        """Steps per epoch."""
        return len(self.bounds) - 1

    @property
    def streams(self) -> bool:
        """Whether what is trained on is decoded in every epoch."""
        return (self.reader if self.whole is None else self.whole).streams

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The samples of an epoch: a function of (seed, epoch)."""
        rng = np.random.default_rng([self.seed, epoch])
        if self._draw is not None:
            order = self._draw(self.seed, epoch)
        else:
            order = rng.permutation(len(self.reader))
        if not self._by_length or self.reader.lengths is None:
            return order
        return group_by_length(order, self.reader.lengths, self.bounds, rng)

    def epoch(self, epoch: int, *, start: int = 0, augmented: bool = False) -> Iterator[Batch]:
        """Batches ``start``, ``start + 1`` ... of an epoch; unreadable samples are left out.

        ``augmented``: they are to be augmented, and have the inputs that augmentation takes.
        """
        order = self.order(epoch)
        spans = list(zip(self.bounds[start:-1], self.bounds[start + 1 :], strict=True))
        shares = [order[low:high][self.plan.rank_shares(high - low)[self._rank]] for low, high in spans]
        sizes = [high - low for low, high in spans]
        features = None if self.features is None else self.features(epoch)
        samples = self.whole if augmented and self.whole is not None else self.reader
        reader = features or samples.at_epoch(self.seed, epoch)
        split = self._resident_split(reader)
        gathered: Iterator[Gathered]
        if split is not None:
            gathered = (self._from_resident(split, share) for share in shares)
        else:
            gathered = self._read_ahead(reader, shares)
        for (inputs, targets, indices, count), planned in zip(gathered, sizes, strict=True):
            yield Batch(inputs, targets, indices, count, epoch, planned, features is not None)
        samples.flush()

    def example(self) -> Batch:
        """Two readable samples, or one where there is one: for a process whose share is empty.

        Processes wait for each other within a step, so each runs a forward and backward pass; this one's
        loss is not counted. Raises: DlcliError when no sample can be read.
        """
        for low in range(0, len(self.reader), 2):
            positions = np.arange(low, min(low + 2, len(self.reader)), dtype=np.int64)
            host, indices = self.reader.read(positions)
            if len(indices):
                return Batch(*self._from_host(host, indices), epoch=0, planned=len(indices))
        raise self.unreadable()

    def unreadable(self) -> DlcliError:
        """The error of a training split without a readable sample."""
        bad = self.reader.bad | ({} if self.whole is None else self.whole.bad)
        first = next((f"; {name}: {reason}" for name, reason in bad.items()), "")
        return DlcliError(
            f"none of the {len(self.reader)} samples of the train split can be used{first}"
        )

    def _from_resident(
        self, split: tuple[tuple[torch.Tensor, ...], torch.Tensor], indices: Indices
    ) -> Gathered:
        inputs, targets = split
        rows = to_device(torch.from_numpy(indices), self.device)
        count = len(indices) if self._count is None else self._count(self.reader.targets(indices))
        gathered = tuple(tensor.index_select(0, rows) for tensor in inputs)
        return gathered, targets.index_select(0, rows), indices, count

    def _read_ahead(self, reader: Reader, shares: list[Indices]) -> Iterator[Gathered]:
        """Batches that a thread reads while the ones before are trained on, and copies to a GPU."""
        if reader.in_turn:
            return (self._from_host(*reader.read(share)) for share in shares)
        if self.device.type != "cuda":
            return (self._from_host(*each) for each in prefetch(map(reader.read, shares)))

        def read(share: Indices) -> Gathered:
            return self._from_host(*reader.read(share))

        copies = CopyStream(self.device)
        return map(copies.arrived, prefetch(copies.copied(read, share) for share in shares))

    def _from_host(self, host: Inputs, indices: Indices) -> Gathered:
        targets = self.reader.targets(indices)
        count = len(indices) if self._count is None else self._count(targets)
        inputs = tuple(to_device(torch.from_numpy(array), self.device) for array in host)
        return inputs, to_device(_as_tensor(targets, self.device), self.device), indices, count

    def _resident_split(self, reader: Reader) -> tuple[tuple[torch.Tensor, ...], torch.Tensor] | None:
        """The encoded split on the training device, where it is complete and fits."""
        if reader not in self._resident:
            arrays = reader.array()
            if arrays is None:
                return None
            if self.device.type == "cuda":
                free, _ = torch.cuda.mem_get_info(self.device)
                targets = reader.samples.targets
                if sum(array.nbytes for array in (*arrays, targets)) > free * _RESIDENT_SHARE:
                    return None
            elif self.device.type != "cpu":
                return None
            targets = reader.targets(np.arange(len(reader), dtype=np.int64))
            self._resident[reader] = (
                tuple(torch.from_numpy(array).to(self.device) for array in arrays),
                _as_tensor(targets, self.device).to(self.device),
            )
        return self._resident[reader]


class CopyStream:
    """A stream of a GPU on which batches are copied there, while its default stream computes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # What readers compute themselves, features of frozen layers, needs weights that are there.
        self._stream.wait_stream(torch.cuda.current_stream(device))

    def copied(
        self, read: Callable[[Indices], Gathered], share: Indices
    ) -> tuple[Gathered, torch.cuda.Event]:
        """Call ``read`` with its copies on the stream; returns what it gives, and when it is there."""
        with torch.cuda.stream(self._stream):
            return read(share), self._stream.record_event()

    def arrived(self, copied: tuple[Gathered, torch.cuda.Event]) -> Gathered:
        """Let the current stream, not this thread, wait for what was copied; it may be used there."""
        gathered, event = copied
        current = torch.cuda.current_stream(self._device)
        current.wait_event(event)
        for tensor in (*gathered[0], gathered[1]):
            tensor.record_stream(current)  # or its memory were given to the next copy too early
        return gathered


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A host tensor on the device, copied from pinned memory without waiting for a GPU."""
    if device.type == "cuda":
        tensor = tensor.contiguous().pin_memory()
    return tensor.to(device, non_blocking=True)


def _as_tensor(targets: Targets, device: torch.device) -> torch.Tensor:
    """Targets as a tensor; float64 stays where the device supports it: targets are not scaled yet."""
    tensor = torch.from_numpy(targets)
    return tensor.float() if device.type == "mps" and tensor.is_floating_point() else tensor


def group_by_length(
    order: Indices, lengths: npt.NDArray[np.int64], bounds: list[int], rng: np.random.Generator
) -> Indices:
    """``order`` with samples of similar length in the same batch, so that batches need little padding.

    Samples are sorted within pools of 50 batches, then the batches are shuffled; the last batch, which
    may have another size, stays as it is.
    """
    size, full = bounds[1] - bounds[0], len(bounds) - 2  # full: batches before the last
    head, tail = order[: full * size], order[full * size :]
    if full < 2:
        return order
    pool = size * _POOL_BATCHES
    parts = [head[start : start + pool] for start in range(0, len(head), pool)]
    by_length = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
    return np.concatenate([by_length.reshape(full, size)[rng.permutation(full)].reshape(-1), tail])
