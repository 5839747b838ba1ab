"""How the samples of an optimizer step are divided among processes and micro-batches."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from dlcli.data.base import Indices


@dataclass(frozen=True)
class BatchPlan:
    """The division of a batch: ``global_batch`` = ``world_size`` x micro-batches x `micro_batch`.

    With ``mirrored`` a sample and the one at the same place from the other end share a part: MixUp and
    CutMix pair these two. ``memory_limit`` is the largest micro-batch that fits into memory, None where
    memory has never run out.
    """

    global_batch: int
    world_size: int = 1
    grad_accum_steps: int = 1
    mirrored: bool = False
    memory_limit: int | None = None

    @property
    def rank_batch(self) -> int:
        """Samples of a full batch that a rank gets, at most."""
        return math.ceil(self.global_batch / self.world_size)

    @property
    def micro_batch(self) -> int:
        """Samples of a micro-batch, at most."""
        requested = math.ceil(self.rank_batch / self.grad_accum_steps)
        return max(1, min(requested, self.memory_limit or requested))

    @property
    def sentence(self) -> str:
        """ "256 = 2 devices x 4 micro-batches x 32"; empty where nothing is divided."""
        count = math.ceil(self.rank_batch / self.micro_batch)
        if self.world_size == 1 and count == 1:
            return ""
        factors = [f"{self.world_size} devices"] if self.world_size > 1 else []
        factors += [f"{count} micro-batches"] if count > 1 else []
        exact = self.world_size * count * self.micro_batch == self.global_batch
        up_to = "" if exact else "up to "
        return f"{self.global_batch} = {' x '.join(factors)} x {up_to}{self.micro_batch}"

    def limited(self, micro_batch: int | None) -> BatchPlan:
        """The plan with micro-batches of at most ``micro_batch`` samples; None sets no limit."""
        limits = [limit for limit in (self.memory_limit, micro_batch) if limit is not None]
        return replace(self, memory_limit=min(limits, default=None))

    def rank_shares(self, samples: int) -> tuple[Indices, ...]:
        """The positions in a batch of ``samples`` that each rank gets."""
        return portions(samples, self.world_size, mirrored=self.mirrored)

    def micro_batches(self, samples: int, planned: int) -> tuple[Indices, ...]:
        """The positions in a rank's share of ``samples`` that each micro-batch gets.

        ``planned`` are the samples of the whole batch, the unreadable ones included: every rank gets as
        many micro-batches, some perhaps empty, since ranks wait for each other in each. A batch with
        one sample more than ``global_batch`` (see `batch_bounds`) has no micro-batch more than others.
        """
        share = min(max(map(len, self.rank_shares(planned))), self.rank_batch)
        count = math.ceil(share / self.micro_batch)
        if self.micro_batch > 1:  # a micro-batch of one sample has no batch statistics
            count = min(count, max(share // 2, 1))
        return portions(samples, count, mirrored=self.mirrored)


@lru_cache(maxsize=64)
def portions(samples: int, parts: int, *, mirrored: bool = False) -> tuple[Indices, ...]:
    """The positions 0 .. samples - 1 in ``parts`` shares of nearly equal size, each ascending.

    Cached, since nearly all batches of a run have one size: the arrays must not be modified.

    With ``mirrored`` a position and the one as far from the other end share a part, so that reversing a
    part gives each sample the partner that reversing the whole gives it. Shares may be empty.
    """
    if not mirrored:
        return tuple(np.array_split(np.arange(samples, dtype=np.int64), parts))
    pairs = np.array_split(np.arange((samples + 1) // 2, dtype=np.int64), parts)
    return tuple(np.unique(np.concatenate([part, samples - 1 - part])) for part in pairs)


def batch_bounds(samples: int, batch_size: int) -> list[int]:
    """Where batches begin, and the end: ``[0, 64, 128, ..., samples]``.

    A last batch of one sample is merged into the one before it, since batch statistics of one
    sample are undefined.
    """
    bounds = [*range(0, samples, batch_size), samples]
    if batch_size > 1 and len(bounds) > 2 and bounds[-1] - bounds[-2] == 1:
        del bounds[-2]
    return bounds
