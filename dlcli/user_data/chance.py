"""The global generators of ``random``, NumPy and torch, around calls of a user's code.

A data set that transforms its samples at random draws from these. They are seeded for each sample, so
that a sample is a function of the seed, and put back afterwards, so that nothing else changes.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


def seed_generators(key: str) -> None:
    """Seed the global generators with a digest of ``key``."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    seed_host_generators(int.from_bytes(digest, "little"))


def seed_host_generators(seed: int) -> None:
    """Seed the global generators of ``random``, NumPy and, where it is loaded, of torch on the CPU.

    ``torch.manual_seed`` takes 100 times as long: it notes a stack for each device not in use yet.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # the generator that the user's code draws from
    torch = _torch()
    if torch is not None:
        torch.random.default_generator.manual_seed(seed)


class DrawDetector:
    """Detects whether code draws from a global generator, by the numbers that come after it."""

    def __init__(self) -> None:
        self._expected: tuple[float | None, ...] | None = None

    def start(self) -> None:
        """Seed the generators, for the call that follows."""
        if self._expected is None:
            seed_generators("detector")
            self._expected = _draws()
        seed_generators("detector")

    def drew(self) -> bool:
        """Whether the call has drawn; one of a library that it loaded does not count."""
        assert self._expected is not None
        pairs = zip(_draws(), self._expected, strict=True)
        return any(after != before for after, before in pairs if before is not None)


def _draws() -> tuple[float | None, ...]:
    torch = _torch()
    drawn = None if torch is None else float(torch.rand((), device="cpu"))
    return random.random(), float(np.random.random()), drawn


@contextmanager
def preserved() -> Iterator[None]:
    """Context after which the global generators are as they were before."""
    own, legacy, torch = random.getstate(), np.random.get_state(), _torch()
    state = None if torch is None else torch.random.get_rng_state()
    try:
        yield
    finally:
        random.setstate(own)
        np.random.set_state(legacy)
        if state is not None:
            torch.random.set_rng_state(state)


def _torch() -> Any:
    """torch where it is loaded, else None: a user's code that draws from it has loaded it."""
    return sys.modules.get("torch")
