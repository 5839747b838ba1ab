"""Which files this user's dlcli has written, by SHA-256: those that may run code open without asking.

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
    """Where dlcli keeps what it must remember of this user, outside any run.

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
    """Note that this file is the user's own. False where the list cannot be written.

    Raises: OSError when ``path`` itself cannot be read.
    """
    digest = sha256_file(path)
    if digest in _known():
        return True
    try:
        _list().parent.mkdir(parents=True, exist_ok=True)
        with _list().open("a", encoding="ascii") as file:
            file.write(f"{digest}\n")  # one small write: lines of several processes do not mix
    except OSError:
        return False
    return True


def is_known(path: Path) -> bool:
    """Whether this user's dlcli wrote the file, with these very bytes. Raises: OSError."""
    return sha256_file(path) in _known()


def names_code(model: str) -> bool:
    """Whether a card's model is code of a file or of another package, which building it runs."""
    return CODE_FILE.fullmatch(model) is not None or model in _offered()


def _list() -> Path:
    return state_folder() / "known-files.txt"


def _known() -> set[str]:
    try:
        return set(_list().read_text(encoding="ascii", errors="replace").split())
    except OSError:  # none was written yet, or it may not be read: then all are strange
        return set()


def _offered() -> frozenset[str]:
    return frozenset(point.name for point in importlib.metadata.entry_points(group=MODELS_GROUP))
