"""Layers by name: exact, with all below a module, or by a glob pattern."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from dlcli.errors import UsageError, nearest


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
