"""The processes of a run: who they are and how they agree. One process alone is the simplest world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from torch import nn

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """``rank`` of ``size`` processes; ``local_rank`` of ``local_size`` on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes files and tells the user."""
        return self.rank == 0

    def sum(self, *numbers: float) -> list[float]:
        """The sums of host numbers over all processes; every process must ask."""
        return list(numbers)

    def broadcast(self, value: T) -> T:
        """The main process's value, in every process."""
        return value

    def gather(self, value: T) -> list[T]:
        """The values of all processes by rank, in the main process; elsewhere an empty list."""
        return [value]

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose backward pass averages gradients over the processes."""
        return module


ALONE = World()
