"""Training batches: the order is f(seed, epoch), and decoded pixels are indexed, not iterated.

Shapes: pixels uint8 (B, H, W, C), targets int64 (B,), both on the training device.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from dlcli.data.reader import Reader
from dlcli.engine.prefetch import prefetch

Batch = tuple[torch.Tensor, torch.Tensor]

# Share of a GPU's free memory that a decoded split may take to be indexed there.
_RESIDENT_SHARE = 0.4


class TrainBatches:
    """The batches of a training split, epoch by epoch, from any position in an epoch."""

    def __init__(self, reader: Reader, *, batch_size: int, seed: int, device: torch.device) -> None:
        self.reader = reader
        self.seed = seed
        self.device = device
        self.bounds = batch_bounds(len(reader), batch_size)
        self._targets = torch.from_numpy(reader.samples.targets).to(device)
        self._resident: torch.Tensor | None = None

    def __len__(self) -> int:
        """Steps an epoch."""
        return len(self.bounds) - 1

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The permutation of an epoch: a function of (seed, epoch), not of what went before."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.reader))

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Batches ``start``, ``start + 1`` ... of an epoch; unreadable samples are left out."""
        order = self.order(epoch)
        spans = list(zip(self.bounds[start:-1], self.bounds[start + 1 :], strict=True))
        pixels = self._whole_split()
        if pixels is not None:
            where = torch.from_numpy(order).to(self.device)
            for low, high in spans:
                index = where[low:high]
                yield pixels.index_select(0, index), self._targets.index_select(0, index)
            return
        for host, kept in prefetch(self.reader.read(order[low:high]) for low, high in spans):
            batch = torch.from_numpy(host)
            if self.device.type == "cuda":
                batch = batch.pin_memory()
            index = torch.from_numpy(kept).to(self.device)
            yield (
                batch.to(self.device, non_blocking=True),
                self._targets.index_select(0, index),
            )

    def usable(self, batch: int, readable: int) -> bool:
        """Whether batch number ``batch`` can be trained on with so many readable samples.

        One that unreadable samples have left alone cannot: batch statistics need two.
        """
        planned = self.bounds[batch + 1] - self.bounds[batch]
        return readable > 1 or readable == planned == 1

    def _whole_split(self) -> torch.Tensor | None:
        """The decoded split on the training device, where it is complete and fits."""
        if self._resident is None:
            array = self.reader.array()
            if array is None:
                return None
            if self.device.type == "cuda":
                free, _ = torch.cuda.mem_get_info(self.device)
                if array.nbytes > free * _RESIDENT_SHARE:
                    return None
            elif self.device.type != "cpu":
                return None
            self._resident = torch.from_numpy(array).to(self.device)
        return self._resident


def batch_bounds(samples: int, batch_size: int) -> list[int]:
    """Where batches begin, and the end: ``[0, 64, 128, ..., samples]``.

    A last batch of one sample is merged into the one before it, since batch statistics of one
    sample are undefined.
    """
    bounds = [*range(0, samples, batch_size), samples]
    if batch_size > 1 and len(bounds) > 2 and bounds[-1] - bounds[-2] == 1:
        del bounds[-2]
    return bounds
