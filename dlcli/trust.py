"""What may run or be reached because a file says so: what this user's dlcli wrote or ran, or --trust.

The list of what is known is a text file, a SHA-256 a line, in the user's state folder: ``$DLCLI_STATE``,
else ``$XDG_STATE_HOME/dlcli``, ``~/.local/state/dlcli``, or ``%LOCALAPPDATA%\\dlcli`` on Windows. A line
is the digest of a file that dlcli wrote, or of a `key`: the code of a model with its arguments, the
address of another machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.errors import DlcliError
from dlcli.files import sha256_file

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

# Groups of entry points, by which packages offer models and more.
MODELS_GROUP, DATA_GROUP, METRICS_GROUP = "dlcli.models", "dlcli.data", "dlcli.metrics"
LOSSES_GROUP, AUGMENTATIONS_GROUP = "dlcli.losses", "dlcli.augmentations"
OPTIMIZERS_GROUP, SCHEDULES_GROUP = "dlcli.optimizers", "dlcli.schedules"
CODE_FILE = re.compile(r"(?P<path>.+\.py):(?P<name>[A-Za-z_]\w*)")
ALL = "*"  # in `allowing`: whatever a file names, as --trust says

_allowed: list[str] = []  # names whose code may run, in this process
_session: set[str] = set()  # keys that could not be written to the list


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
    return _add(sha256_file(path))


def is_known(path: Path) -> bool:
    """Return whether this user's dlcli wrote exactly this file. Raises: OSError."""
    return sha256_file(path) in _known()


def key(kind: str, *parts: object) -> str:
    """Return the line of the list for something that is no file, from JSON-ready parts."""
    return hashlib.sha256(json.dumps([kind, *parts], sort_keys=True).encode()).hexdigest()


def remember_key(entry: str) -> None:
    """Add a key to the list; where that cannot be written, for this process alone."""
    if not _add(entry):
        _session.add(entry)


def key_is_known(entry: str) -> bool:
    """Return whether a key is on the list."""
    return entry in _session or entry in _known()


@contextmanager
def allowing(*names: str | None) -> Iterator[None]:
    """Context in which code of these names may run: they were typed, or `ALL` for --trust."""
    added = [full_name(name) for name in names if name is not None]
    _allowed.extend(added)
    try:
        yield
    finally:
        for name in added:
            _allowed.remove(name)


def trusts_all() -> bool:
    """Return whether --trust was given to this command."""
    return ALL in _allowed


def allowed_code() -> list[str]:
    """Return the names whose code may run in this process, for `allowing` in a process it starts."""
    return [name for name in _allowed if name == ALL or CODE_FILE.fullmatch(name) is not None]


def names_code(name: str, group: str = MODELS_GROUP) -> bool:
    """Return whether a name stands for code of a file, or of another package in a group of them."""
    return CODE_FILE.fullmatch(name) is not None or name in entry_points(group)


def entry_points(group: str) -> dict[str, EntryPoint]:
    """Return what installed packages offer in a group, by name."""
    import importlib.metadata  # 10 ms at the start of every command

    return {point.name: point for point in importlib.metadata.entry_points(group=group)}


def code_files(names: Iterable[str]) -> list[Path]:
    """Return the files of those of the names that stand for code of a file, without repetitions."""
    matches = (CODE_FILE.fullmatch(name) for name in names)
    files = (Path(match["path"]).expanduser().resolve() for match in matches if match is not None)
    return list(dict.fromkeys(files))


def full_name(name: str) -> str:
    """Return a name, with the absolute path where it names a file of code."""
    match = CODE_FILE.fullmatch(name)
    return name if match is None else f"{Path(match['path']).expanduser().resolve()}:{match['name']}"


def short_name(name: str) -> str:
    """Return a name without the folder, where it names a file of code, for messages."""
    match = CODE_FILE.fullmatch(name)
    return name if match is None else f"{Path(match['path']).name}:{match['name']}"


def code_key(name: str, args: Mapping[str, Any], source: bytes, group: str = MODELS_GROUP) -> str:
    """Return the key of code: its absolute name, its arguments, what its file holds, its group."""
    own = () if group == MODELS_GROUP else (group,)
    return key("code", full_name(name), dict(args), hashlib.sha256(source).hexdigest(), *own)


def check_code(name: str, args: Mapping[str, Any], source: bytes, group: str = MODELS_GROUP) -> str:
    """Return the `code_key` of code that may run, for `remember_key` after it has run.

    It may when its name was typed or trusted (`allowing`), or when this user's dlcli has run this very
    code with these arguments. Raises: DlcliError otherwise.
    """
    entry = code_key(name, args, source, group)
    if trusts_all() or full_name(name) in _allowed or key_is_known(entry):
        return entry
    raise DlcliError(
        f"a file names the code of {name} to be run, and your dlcli has not run this code before, as "
        "it is now and with these arguments",
        hint="look at that code; if you trust it: the same command with --trust, once",
    )


def code_is_known(model: str, args: Mapping[str, Any]) -> bool:
    """Return whether this user's dlcli has run the code of a model, as it is now; nothing is run."""
    match = CODE_FILE.fullmatch(model)
    try:
        source = b"" if match is None else Path(match["path"]).read_bytes()
    except OSError:  # building the model says what is missing
        return True
    return key_is_known(code_key(model, args, source))


def _add(line: str) -> bool:
    if line in _known():
        return True
    try:
        _list().parent.mkdir(parents=True, exist_ok=True)
        with _list().open("a", encoding="ascii") as file:
            file.write(f"{line}\n")  # one small write: lines of concurrent processes do not mix
    except OSError:
        return False
    return True


def _list() -> Path:
    return state_folder() / "known-files.txt"


def _known() -> set[str]:
    try:
        return set(_list().read_text(encoding="ascii", errors="replace").split())
    except OSError:  # no list yet, or not readable: no file is known
        return set()
