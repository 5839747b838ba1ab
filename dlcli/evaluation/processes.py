"""What evaluation asks of processes that share it, such as `dlcli.training.distributed.world.World`."""

from __future__ import annotations

from typing import Protocol, TypeVar

T = TypeVar("T")


class Processes(Protocol):
    """A group of processes that evaluate one split together, each a part of its batches."""

    @property
    def rank(self) -> int:
        """This process's number, from 0."""

    @property
    def size(self) -> int:
        """Number of processes."""

    @property
    def main(self) -> bool:
        """Whether this is the process that derives the result."""

    def gather(self, value: T, /) -> list[T]:
        """The values of all processes, in the order of their ranks; on the main process alone."""

    def broadcast(self, value: T, /) -> T:
        """The main process's value, on every process."""
