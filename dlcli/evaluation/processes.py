"""The process group that evaluation needs, such as `dlcli.training.distributed.world.World`."""

from __future__ import annotations

from typing import Protocol, TypeVar

T = TypeVar("T")


class Processes(Protocol):
    """Processes that evaluate one split together, each a part of its batches."""

    @property
    def rank(self) -> int:
        """The rank of this process, from 0."""

    @property
    def size(self) -> int:
        """The number of processes."""

    @property
    def main(self) -> bool:
        """Whether this process computes the result."""

    def gather(self, value: T, /) -> list[T]:
        """The values of all processes, by rank; on the main process only."""

    def broadcast(self, value: T, /) -> T:
        """The value of the main process, on every process."""
