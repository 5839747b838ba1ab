"""Delete runs that are asked to be deleted, or all runs of a group, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from dlcli.errors import DlcliError
from dlcli.files import read_json
from dlcli.runs.folder import RunFolder
from dlcli.runs.group import RunGroup
from dlcli.runs.locks import run_lock

_DOOMED = ".deleting-"  # a folder that holds a run while it is deleted, which is then no run any more


def size_of(run: RunFolder | RunGroup) -> tuple[int, int]:
    """Return the number of files in a folder of runs and their size in bytes; links count as files."""
    files = [Path(folder, name) for folder, _, names in os.walk(run.path) for name in names]
    return len(files), sum(path.lstat().st_size for path in files)


def check_deletable(run: RunFolder | RunGroup) -> None:
    """Raises: DlcliError where the folder is not only of runs, or a process writes to it."""
    path = run.path
    if path.is_symlink():
        raise DlcliError(
            f"{path} is a link, and dlcli deletes no run that a link leads to",
            hint=f"delete the link itself, or name the folder: {path.resolve()}",
        )
    if isinstance(run, RunFolder) and "started_at" not in run.read_record():
        raise DlcliError(f"{run.record} is not the record of a run that dlcli started")
    if isinstance(run, RunGroup) and not isinstance(read_json(run.record), dict):
        raise DlcliError(f"{run.record} is not the record of a {run.NOUN}")
    own = [one.path for one in run.runs()] if isinstance(run, RunGroup) else [path]
    own += [p.parent for one in own for p in RunFolder(one).ship.glob("attempts-*/*/run.json")]
    if inner := next((p.parent for p in path.rglob("run.json") if p.parent not in own), None):
        raise DlcliError(f"{path} holds another run, {inner}", hint="delete that one first")
    if Path.cwd().is_relative_to(path.resolve()):
        raise DlcliError(f"the current folder is in {path}", hint="go to another folder first")
    with _locked(run):
        pass


@contextmanager
def _locked(run: RunFolder | RunGroup) -> Iterator[None]:
    """Context in which no other process writes to a run, or to any of a group. Raises: DlcliError."""
    paths = [run.path]
    if isinstance(run, RunGroup):
        paths += [*run.claims(), *(one.path for one in run.runs())]
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(run_lock(path, grace_s=0, links=True))
        yield


def delete_run(run: RunFolder | RunGroup) -> None:
    """Delete the folder of a run, or of a group with all its runs.

    Links in it are removed, what they lead to stays.

    Raises: DlcliError as `check_deletable`, and when it cannot be deleted.
    """
    check_deletable(run)
    try:
        doomed = Path(tempfile.mkdtemp(prefix=_DOOMED, dir=run.path.parent))
        try:
            with _locked(run):
                run.path.rename(doomed / run.name)
        finally:
            _remove(doomed)
    except OSError as exc:
        raise DlcliError(f"cannot delete {exc.filename or run.path}: {exc.strerror or exc}") from exc


def finish_deletions(root: Path) -> list[str]:
    """Finish what a killed `delete_run` below ``root`` began; returns the names of the runs.

    An empty folder stays: another process may be about to move a run into it. Raises: DlcliError.
    """
    names: list[str] = []
    try:
        for doomed in sorted(root.glob(f"{_DOOMED}*")) if root.is_dir() else ():
            ours = re.fullmatch(r"[a-z0-9_]{8}", doomed.name.removeprefix(_DOOMED))
            if not ours or doomed.is_symlink() or not doomed.is_dir():
                continue
            if inside := [path.name for path in doomed.iterdir()]:
                _remove(doomed)
                names += inside
    except OSError as exc:
        raise DlcliError(f"cannot delete {exc.filename or root}: {exc.strerror or exc}") from exc
    return names


def _remove(doomed: Path) -> None:
    """Remove a folder, which another process may remove too; what links in it lead to stays."""
    while doomed.exists():
        with suppress(FileNotFoundError):
            shutil.rmtree(doomed)
