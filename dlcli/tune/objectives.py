"""What is searched for: a metric, and perhaps a second objective: a cost of the model, or a metric."""

from __future__ import annotations

from dlcli.errors import UsageError, nearest

# Less of each is better. Latency is that of one sample, in ms; size is of the file, in bytes; macs are
# multiply-adds of one sample.
COSTS = ("latency", "size", "macs")


def parse_objective(text: str | None) -> tuple[str | None, str | None]:
    """Return the metric and the second objective that ``--objective`` names. Raises: UsageError."""
    names = [] if text is None else [name.strip() for name in text.split(",")]
    if len(names) > 2 or "" in names or len(set(names)) < len(names):
        raise UsageError(
            f"--objective {text!r} names neither one nor two different objectives",
            hint="--objective METRIC,latency",
        )
    if names and names[0] in COSTS:
        raise UsageError(
            f"--objective {text}: the first one is the metric that chooses the epoch",
            hint=f"--objective {[*names, 'METRIC'][1]},{names[0]}",
        )
    return (names[0] if names else None), (names[1] if len(names) > 1 else None)


def naming_objective(text: str, objective: str | None) -> str:
    """Return a message of training with the option that was typed for the metric."""
    return text if objective is None else text.replace("--monitor", "--objective")


def second_direction(name: str) -> int:
    """Return 1 where more of a second objective is better, else -1. Raises: UsageError for none."""
    from dlcli.evaluation.metrics import direction, directions

    if name in COSTS:
        return -1
    if name not in directions():
        known = [*COSTS, *directions()]
        raise UsageError(f"--objective: {name!r} is no metric and no cost", hint=nearest(name, known))
    return direction(name)
