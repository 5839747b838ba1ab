"""Layers by name: exact, with all below a module, or by a glob pattern."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence

from dlcli.errors import UsageError, nearest
from dlcli.wording import listed


def check_count(amount: float, most: Mapping[str, int]) -> None:
    """Refuse a number of channels or weights that is more than can go from one of the layers.

    ``most`` is what can go, by layer. Raises: UsageError; a share is never too large.
    """
    if not isinstance(amount, int):
        return
    small = {name: number for name, number in most.items() if number < amount}
    if small:
        raise UsageError(
            f"--amount {amount}: at most {listed([f'{n} of {name!r}' for name, n in small.items()], 4)} "
            "can go",
            hint=f"--amount {min(small.values())} at most, a share such as --amount 0.5"
            + (f", or --skip {','.join(small)}" if len(small) < len(most) else ""),
        )


def match_layers(names: Iterable[str], patterns: Sequence[str], flag: str = "--skip") -> set[str]:
    """Return the names that a pattern matches: "fc", "layer4" and all below it, "layer4*", "*.conv1".

    Raises: UsageError for a pattern that matches none.
    """
    known = list(dict.fromkeys(names))
    matches: set[str] = set()
    for pattern in patterns:
        matched = {name for name in known if _matches(pattern, name)}
        if not matched:
            raise UsageError(f"{flag} {pattern}: no layer has that name", hint=nearest(pattern, known))
        matches |= matched
    return matches


def _matches(pattern: str, name: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")
