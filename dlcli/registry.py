"""Registries: names and entries, filled by decorators in discovered modules.

Adding a model, a data set, a loss or a format is adding one file to its package: the registry imports
the modules of the package at the first look-up, and each module registers its entries. Where names
are needed and imports cost too much (``--help``), `declared_names` reads them from the sources.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

from dlcli.errors import UsageError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """The entries of one kind; ``kind`` is the word used in messages ("model", "format").

    Modules of the package are imported at any depth. With ``entry_module`` only that module of each
    folder is: ``Registry("format", "dlcli.formats", entry_module="format")`` imports ``formats/pth.py``
    and ``formats/onnx/format.py``, and leaves the rest of ``formats/onnx`` alone.
    """

    def __init__(self, kind: str, package: str, *, entry_module: str | None = None) -> None:
        self.kind = kind
        self.package = package
        self.entry_module = entry_module
        self._entries: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers an object as ``name``. Raises: ValueError if it is taken."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def names(self) -> list[str]:
        """Return all registered names, sorted."""
        self._discover()
        return sorted(self._entries)

    def entries(self) -> Iterator[tuple[str, T]]:
        """Yield all (name, entry) pairs, sorted by name."""
        for name in self.names():
            yield name, self._entries[name]

    def find(self, name: str) -> T | None:
        """Return the entry of ``name``, or None.

        Unless it is registered already, the module that declares it is imported, else all of them.
        """
        if name not in self._entries and self.entry_module is not None:
            self._import_declaring(name)
        if name not in self._entries:
            self._discover()
        return self._entries.get(name)

    def get(self, name: str) -> T:
        """Return the entry of ``name``. Raises: UsageError naming the nearest known names."""
        entry = self.find(name)
        if entry is None:
            raise UsageError(f"unknown {self.kind} {name!r}", hint=nearest(name, self._entries))
        return entry

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        for name in self._modules():
            importlib.import_module(name)

    def _import_declaring(self, name: str) -> None:
        """Import the modules with ``.register("name")`` in their source: others take as long."""
        for module in self._modules():
            spec = importlib.util.find_spec(module)
            path = spec.origin if spec else None
            if path is not None and f'.register("{name}")' in Path(path).read_text(encoding="utf-8"):
                importlib.import_module(module)

    def _modules(self) -> Iterator[str]:
        """Yield the names of the modules that may register entries."""
        package = importlib.import_module(self.package)
        if self.entry_module is None:
            yield from (m.name for m in pkgutil.walk_packages(package.__path__, f"{self.package}."))
            return
        for module in pkgutil.iter_modules(package.__path__, f"{self.package}."):
            entry = f"{module.name}.{self.entry_module}"
            if not module.ispkg:
                yield module.name
            elif importlib.util.find_spec(entry) is not None:
                yield entry


def declared_names(package: str, decorator: str, keyword: str | None = None) -> tuple[str, ...]:
    """Return the names that modules of a package pass to a decorator, sorted; nothing is imported.

    ``@register_loss("focal", ...)`` anywhere in ``dlcli/training/losses`` declares the loss ``focal``:
    the first argument, which must be a string literal. With a ``keyword``, only those that give it.
    """
    folders = tuple(importlib.import_module(package).__path__)
    return _declared_in(folders, decorator, keyword)


@cache
def _declared_in(folders: tuple[str, ...], decorator: str, keyword: str | None) -> tuple[str, ...]:
    # At the top level of a module: its first argument, then all up to what comes next there.
    use = re.compile(
        rf"""^@{decorator}\(\s*["']([^"']+)["'](.*?)(?=^(?:@|def |class ))""", re.MULTILINE | re.DOTALL
    )
    sources = (
        path.read_text(encoding="utf-8") for folder in folders for path in Path(folder).rglob("*.py")
    )
    uses = (match for source in sources for match in use.finditer(source))
    given = re.compile(rf"\b{keyword}\s*=")
    return tuple(sorted({match[1] for match in uses if keyword is None or given.search(match[2])}))
