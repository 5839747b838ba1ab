"""SHA-256 of the files that this user's dlcli wrote: they are opened without ``--trust``.

The list is a text file, a digest a line, in the user's state folder: ``$DLCLI_STATE``, else
``$XDG_STATE_HOME/dlcli``, ``~/.local/state/dlcli``, or ``%LOCALAPPDATA%\\dlcli`` on Windows.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
from pathlib import Path

from dlcli.files import sha256_file

MODELS_GROUP = "dlcli.models"  # entry points of packages that offer models
CODE_FILE = re.compile(r"(?P<path>.+\.py):(?P<name>[A-Za-z_]\w*)")


def state_folder() -> Path:
    """Return the folder of the user's state that belongs to no run.

    Raises: OSError where this user has no home.
    """
    if folder := os.environ.get("DLCLI_STATE"):
        return Path(folder)
    if os.name == "nt" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "dlcli"
    base = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".local" / "state") / "dlcli"
    except RuntimeError as exc:
        raise OSError(str(exc)) from exc


def remember(path: Path) -> bool:
    """Add a file to the list; returns False where the list cannot be written.

    Raises: OSError when ``path`` itself cannot be read.
    """
    digest = sha256_file(path)
    if digest in _known():
        return True
    try:
        _list().parent.mkdir(parents=True, exist_ok=True)
        with _list().open("a", encoding="ascii") as file:
            file.write(f"{digest}\n")  # one small write: lines of concurrent processes do not mix
    except OSError:
        return False
    return True


def is_known(path: Path) -> bool:
    """Return whether this user's dlcli wrote exactly this file. Raises: OSError."""
    return sha256_file(path) in _known()


def names_code(model: str) -> bool:
    """Return whether building a card's model executes code of a file or of another package."""
    return CODE_FILE.fullmatch(model) is not None or model in _entry_point_models()


def _list() -> Path:
    return state_folder() / "known-files.txt"


def _known() -> set[str]:
    try:
        return set(_list().read_text(encoding="ascii", errors="replace").split())
    except OSError:  # no list yet, or not readable: no file is known
        return set()


def _entry_point_models() -> frozenset[str]:
    return frozenset(point.name for point in importlib.metadata.entry_points(group=MODELS_GROUP))
