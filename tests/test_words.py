"""The words of the code are the field's: CONTRIBUTING.md lists those that are not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Names of fields that files hold, and of torch's and asyncio's interfaces: they stay.
STORED = {
    "compress/channels/prune.py": {"kept"},
    "compress/masks/apply.py": {"kept"},
    "serve/connections.py": {"connection_made"},  # of asyncio.Protocol
    "training/loop/epoch_end.py": {"kept", "hits", "stale_epochs"},
    "training/loop/epoch_stats.py": {"hits"},
    "training/loop/state.py": {"kept", "hits", "stale_epochs"},
    "training/loop/step.py": {"found_inf"},  # of torch's fused optimizers
    "training/optim/schedule.py": {"stale"},
}
MODULES = sorted((ROOT / "dlcli").rglob("*.py"))


def unwanted() -> set[str]:
    """The words of the left column of CONTRIBUTING.md's table."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Words")[2]
    rows = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    return {word for row in rows for word in re.findall(r"`(\w+)`", row)}


def identifiers(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every name that the module gives to something, and its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def words_of(name: str) -> set[str]:
    """``_foundRows`` and ``found_rows`` are the words found and rows."""
    return set(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_"))


def test_the_table_of_words_is_read() -> None:
    assert {"found", "kept", "thaw", "packings"} <= unwanted()
    assert words_of("_FoundRows") == {"", "found", "rows"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_identifiers_are_words_of_the_field(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    words, stored = unwanted(), STORED.get(path.relative_to(ROOT / "dlcli").as_posix(), set())
    named = [
        f"{name} (line {line})"
        for name, line in identifiers(tree)
        if words_of(name) & words and name not in stored
    ]
    assert not named, ", ".join(named)


def test_files_are_named_in_words_of_the_field() -> None:
    words = unwanted()
    assert not [path for path in MODULES if words_of(path.stem) & words]
