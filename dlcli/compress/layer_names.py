"""Layers that the user names: exactly, as a part of the model with all below it, or by a pattern."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from dlcli.errors import UsageError, nearest


def named_layers(names: Iterable[str], patterns: Sequence[str], flag: str = "--skip") -> set[str]:
    """Those of ``names`` that a pattern means: "fc", "layer4" with all below it, "layer4*", "*.conv1".

    Raises: UsageError for a pattern that means none.
    """
    known = list(dict.fromkeys(names))
    found: set[str] = set()
    for pattern in patterns:
        meant = {name for name in known if _means(pattern, name)}
        if not meant:
            raise UsageError(f"{flag} {pattern}: no layer is called so", hint=nearest(pattern, known))
        found |= meant
    return found


def _means(pattern: str, name: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")
