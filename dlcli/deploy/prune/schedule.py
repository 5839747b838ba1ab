"""Pruning schedules: how much is pruned after each step, and how long each step is fine-tuned."""

from __future__ import annotations


def fractions(schedule: str, steps: int) -> tuple[float, ...]:
    """Return the share of the total change that is done after each step, rising to 1.

    "agp" prunes much at first and little at last: 1 - (1 - t/n)^3 (Zhu and Gupta, arXiv:1710.01878, who
    train between the steps as is done here).
    """
    if schedule == "one-shot":
        return (1.0,)
    if schedule == "iterative":
        return tuple(t / steps for t in range(1, steps + 1))
    return tuple(1 - (1 - t / steps) ** 3 for t in range(1, steps + 1))


def epochs_by_step(epochs: int, steps: int) -> tuple[int, ...]:
    """Divide epochs evenly over the steps; the remainder goes to the last ones."""
    each, remainder = divmod(epochs, steps)
    return tuple(each + (step >= steps - remainder) for step in range(steps))
