"""Name to entry, filled by decorators and found by discovery.

Adding a model, a data set or a format is adding one file to its package: the registry imports every
module of the package, at any depth unless told otherwise, at its first look-up, and each module
registers what it holds.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from dlcli.errors import UsageError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """The entries of one kind; ``kind`` is the word used in messages ("model", "format").

    With ``deep`` False packages within the package are left alone: another registry's, perhaps.
    """

    def __init__(self, kind: str, package: str, *, deep: bool = True) -> None:
        self.kind = kind
        self.package = package
        self._walk = pkgutil.walk_packages if deep else pkgutil.iter_modules
        self._entries: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: file the object under ``name``. Raises: ValueError when it is taken."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._discover()
        return sorted(self._entries)

    def entries(self) -> Iterator[tuple[str, T]]:
        """All (name, entry) pairs, in the order of the names."""
        for name in self.names():
            yield name, self._entries[name]

    def find(self, name: str) -> T | None:
        """The entry of ``name``, or None."""
        self._discover()
        return self._entries.get(name)

    def get(self, name: str) -> T:
        """The entry of ``name``. Raises: UsageError naming the nearest known names."""
        entry = self.find(name)
        if entry is None:
            raise UsageError(f"unknown {self.kind} {name!r}", hint=nearest(name, self._entries))
        return entry

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        package = importlib.import_module(self.package)
        for module in self._walk(package.__path__, f"{self.package}."):
            importlib.import_module(module.name)
