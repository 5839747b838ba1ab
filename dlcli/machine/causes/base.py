"""`Cause`, the registry of functions that find causes in `Facts`, and their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from dlcli.machine.facts import Facts
from dlcli.registry import Registry

Level = Literal["error", "warning", "note"]
_LEVELS = ("error", "warning", "note")
# The most important first: what a part needs comes before it.
_PARTS = ("torch", "torchvision", "cpu", "cuda", "mps", "xpu", "onnxruntime")


@dataclass(frozen=True)
class Cause:
    """One thing that is wrong or worth knowing.

    ``part`` is what it concerns: a library, a device, the system. ``what`` and ``evidence`` are clauses,
    ``command`` is the line for a shell that mends it, ``advice`` what else there is to do. ``level``:
    "error" where the part does not work, "warning" where something is lost, "note" else. ``code`` is the
    registered name.
    """

    part: str
    level: Level
    what: str
    evidence: str = ""
    command: str | None = None
    advice: str = ""
    code: str = ""

    @property
    def hint(self) -> str | None:
        """The way out in one line."""
        if self.command and self.advice:
            return f"{self.command}  ({self.advice})"
        return self.command or self.advice or None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


Finder = Callable[[Facts], Iterator[Cause]]
CAUSES: Registry[Finder] = Registry("cause", "dlcli.machine.causes")


def register_cause(code: str) -> Callable[[Finder], Finder]:
    """Return a decorator that registers a generator of causes: a pure function of the facts."""
    return CAUSES.register(code)


def find_causes(facts: Facts) -> tuple[Cause, ...]:
    """Return all causes, errors first, then by part."""
    causes = [replace(c, code=code) for code, finder in CAUSES.entries() for c in finder(facts)]
    return tuple(sorted(causes, key=_rank))


def _rank(cause: Cause) -> tuple[int, int, str, str]:
    part = cause.part.partition(":")[0]
    place = _PARTS.index(part) if part in _PARTS else len(_PARTS)
    return _LEVELS.index(cause.level), place, cause.part, cause.code
