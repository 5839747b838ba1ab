"""Training batches: the order is f(seed, epoch), and encoded arrays are indexed, not iterated.

Shapes: inputs as `dlcli.data.base.Inputs`, B rows each, and targets (B, ...), on the training device;
indices int64 (B,) into the split, on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from dlcli.data.base import Indices, Inputs, Reader, Targets
from dlcli.data.prefetch import prefetch
from dlcli.errors import DlcliError

# Share of a GPU's free memory that an encoded split may take to be indexed there.
_RESIDENT_SHARE = 0.4
# Batches whose samples are sorted by length together: few enough to leave the order random, enough to
# make neighbours alike.
_POOL = 50


@dataclass(frozen=True)
class Batch:
    """What one process sees of an optimizer step.

    ``count`` is what the loss divides by for these samples: their number, or that of their tokens. With
    several processes it may be empty.
    """

    inputs: tuple[torch.Tensor, ...]
    targets: torch.Tensor
    indices: Indices
    count: int

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, where: Indices) -> Batch:
        """Some of its samples, by position; ``count`` stays that of the whole batch."""
        if len(where) == len(self):
            return self
        rows = on_device(torch.from_numpy(where), self.targets.device)
        return Batch(
            tuple(tensor.index_select(0, rows) for tensor in self.inputs),
            self.targets.index_select(0, rows),
            self.indices[where],
            self.count,
        )


class TrainBatches:
    """The batches of a training split, epoch by epoch, from any position in an epoch.

    ``draw(seed, epoch)`` replaces the permutation of an epoch: N indices, repetitions allowed;
    ``grouped`` keeps its neighbours together, where else samples of one length would be. ``count`` says
    what a loss counts in targets, where that is not samples. Of each step's batch this process gets
    portion ``rank`` of ``size``; with ``mirrored`` a sample and the one at the same place from the other
    end stay together, as MixUp and CutMix need.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        draw: Callable[[int, int], Indices] | None = None,
        count: Callable[[Targets], int] | None = None,
        rank: int = 0,
        size: int = 1,
        mirrored: bool = False,
        grouped: bool = False,
    ) -> None:
        self.reader = reader
        self.seed = seed
        self.device = device
        self.bounds = batch_bounds(len(reader), batch_size)
        self.mirrored = mirrored
        self._bucketed = reader.lengths is not None and not grouped
        self._draw, self._count = draw, count
        self._rank, self._size = rank, size
        self._resident: tuple[tuple[torch.Tensor, ...], torch.Tensor] | None = None

    def __len__(self) -> int:
        """Steps an epoch."""
        return len(self.bounds) - 1

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The samples of an epoch: a function of (seed, epoch), not of what went before."""
        rng = np.random.default_rng([self.seed, epoch])
        if self._draw is not None:
            order = self._draw(self.seed, epoch)
        else:
            order = rng.permutation(len(self.reader))
        if not self._bucketed or self.reader.lengths is None:
            return order
        return bucketed(order, self.reader.lengths, self.bounds, rng)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Batches ``start``, ``start + 1`` ... of an epoch; unreadable samples are left out."""
        order = self.order(epoch)
        spans = zip(self.bounds[start:-1], self.bounds[start + 1 :], strict=True)
        shares = [order[low:high][self._portion(high - low)] for low, high in spans]
        whole = self._whole_split()
        if whole is not None:
            for share in shares:
                yield self._of(whole, share)
            return
        for host, kept in prefetch(self.reader.read(share) for share in shares):
            yield self._on_device(host, kept)

    def largest_share(self, batch: int) -> int:
        """The most samples that any process gets of batch number ``batch``, were all readable."""
        planned = self.bounds[batch + 1] - self.bounds[batch]
        return max(map(len, portions(planned, self._size, mirrored=self.mirrored)))

    def stand_in(self) -> Batch:
        """Two readable samples, or as many as there are: for a process whose share is empty.

        Processes wait for each other within a step, so each must compute something; its loss counts
        nothing. Raises: DlcliError when no sample can be read.
        """
        for low in range(0, len(self.reader), 2):
            host, kept = self.reader.read(np.arange(low, min(low + 2, len(self.reader)), dtype=np.int64))
            if len(kept):
                return self._on_device(host, kept)
        raise DlcliError(f"none of the {len(self.reader)} samples of the train split can be used")

    def usable(self, batch: int, readable: int) -> bool:
        """Whether batch number ``batch`` can be trained on with so many readable samples in all.

        One that unreadable samples have left alone cannot: batch statistics need two.
        """
        planned = self.bounds[batch + 1] - self.bounds[batch]
        return readable > 1 or readable == planned == 1

    def _portion(self, samples: int) -> Indices:
        return portions(samples, self._size, mirrored=self.mirrored)[self._rank]

    def _of(self, whole: tuple[tuple[torch.Tensor, ...], torch.Tensor], indices: Indices) -> Batch:
        inputs, targets = whole
        where = on_device(torch.from_numpy(indices), self.device)
        rows = tuple(tensor.index_select(0, where) for tensor in inputs)
        count = len(indices) if self._count is None else self._count(self.reader.targets(indices))
        return Batch(rows, targets.index_select(0, where), indices, count)

    def _on_device(self, host: Inputs, kept: Indices) -> Batch:
        targets = self.reader.targets(kept)
        return Batch(
            tuple(on_device(torch.from_numpy(array), self.device) for array in host),
            on_device(_plain(targets, self.device), self.device),
            kept,
            len(kept) if self._count is None else self._count(targets),
        )

    def _whole_split(self) -> tuple[tuple[torch.Tensor, ...], torch.Tensor] | None:
        """The encoded split on the training device, where it is complete and fits."""
        if self._resident is None:
            arrays = self.reader.array()
            if arrays is None:
                return None
            if self.device.type == "cuda":
                free, _ = torch.cuda.mem_get_info(self.device)
                targets = self.reader.samples.targets
                if sum(array.nbytes for array in (*arrays, targets)) > free * _RESIDENT_SHARE:
                    return None
            elif self.device.type != "cpu":
                return None
            targets = self.reader.targets(np.arange(len(self.reader), dtype=np.int64))
            self._resident = (
                tuple(torch.from_numpy(array).to(self.device) for array in arrays),
                _plain(targets, self.device).to(self.device),
            )
        return self._resident


def on_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A host tensor on the device; from pinned memory, else the copy would wait for a GPU's kernels."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _plain(targets: Targets, device: torch.device) -> torch.Tensor:
    """Targets as a tensor; numbers stay float64 where the device has it: they are not scaled yet."""
    tensor = torch.from_numpy(targets)
    return tensor.float() if device.type == "mps" and tensor.is_floating_point() else tensor


def bucketed(
    order: Indices, lengths: npt.NDArray[np.int64], bounds: list[int], rng: np.random.Generator
) -> Indices:
    """``order`` with samples of about one length side by side, so that batches need little padding.

    Samples are sorted within pools of 50 batches, then the batches are shuffled; the last batch, which
    may have another size, stays as it is.
    """
    size, full = bounds[1] - bounds[0], len(bounds) - 2  # full: batches before the last
    head, tail = order[: full * size], order[full * size :]
    if full < 2:
        return order
    pool = size * _POOL
    parts = [head[start : start + pool] for start in range(0, len(head), pool)]
    alike = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
    return np.concatenate([alike.reshape(full, size)[rng.permutation(full)].reshape(-1), tail])


def portions(samples: int, parts: int, *, mirrored: bool = False) -> list[Indices]:
    """The positions 0 .. samples - 1 in ``parts`` shares of nearly equal size, each ascending.

    With ``mirrored`` a position and the one as far from the other end share a part, so that reversing a
    part gives each sample the partner that reversing the whole gives it. Shares may be empty.
    """
    if not mirrored:
        return np.array_split(np.arange(samples, dtype=np.int64), parts)
    pairs = np.array_split(np.arange((samples + 1) // 2, dtype=np.int64), parts)
    return [np.unique(np.concatenate([part, samples - 1 - part])) for part in pairs]


def batch_bounds(samples: int, batch_size: int) -> list[int]:
    """Where batches begin, and the end: ``[0, 64, 128, ..., samples]``.

    A last batch of one sample is merged into the one before it, since batch statistics of one
    sample are undefined.
    """
    bounds = [*range(0, samples, batch_size), samples]
    if batch_size > 1 and len(bounds) > 2 and bounds[-1] - bounds[-2] == 1:
        del bounds[-2]
    return bounds
