"""One writer per run: a lock of the operating system on ``runs/RUN/lock``, released with its process."""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from dlcli.errors import DlcliError
from dlcli.files import parse_json, writing
from dlcli.runs.folder import check_links

NAME = "lock"
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # not on Windows
_POLL_S = 0.1
_held: set[Path] = set()  # by this process
_NOT_SUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


class RunBusy(DlcliError):
    """Another process writes to this run folder."""


@contextmanager
def run_lock(run_path: Path, *, grace_s: float = 3.0, links: bool = False) -> Iterator[str | None]:
    """Context that holds the lock of a run folder.

    The lock is released when the process dies, however it dies. ``grace_s`` is how long to wait for a
    process that is ending. It is reentrant within a process. Yields a warning where the file system
    supports no locks, else None. ``links`` admits parts that are links out of the run, for a caller that
    follows none.

    Raises: RunBusy when another process holds it, on this machine or, on file systems that share
    locks, on another; DlcliError when the folder cannot be written, or was deleted or moved meanwhile.
    """
    path = run_path.resolve() / NAME  # not what it is a link to
    if path in _held:
        yield None
        return
    with writing(path):
        if not links:
            check_links(run_path)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o666)
    try:
        _check_own_file(fd, path)
        warning = _acquire(fd, path, grace_s)
        _check_in_place(fd, path)
        _write_holder(fd)
        _held.add(path)
        yield warning
        with suppress(OSError):
            os.ftruncate(fd, 0)  # an empty file: no process writes
    finally:
        _held.discard(path)
        os.close(fd)


def is_locked(run_path: Path) -> bool:
    """Return whether a process, this one included, holds the lock. The folder is not modified.

    True where that is unknown: the file system supports no locks, or the file is not readable. Processes
    of other machines count on file systems that share locks.
    """
    path = run_path.resolve() / NAME
    if path in _held:
        return True
    try:
        fd = os.open(path, _QUERY | _NO_FOLLOW | getattr(os, "O_NONBLOCK", 0))
    except OSError as exc:
        return not isinstance(exc, FileNotFoundError | NotADirectoryError)
    try:
        _lock(fd, shared=True)  # released when the file is closed
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def lock_holder(run_path: Path) -> str:
    """The last or current holder, "process 12 on host h since ..."; "" when unknown."""
    try:
        info = parse_json((run_path / NAME).read_text(encoding="utf-8"))
        since = datetime.fromisoformat(info["since"]).strftime("%Y-%m-%d %H:%M:%S")
        return f"process {int(info['pid'])} on host {info['host']} since {since}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _acquire(fd: int, path: Path, grace_s: float) -> str | None:
    deadline = time.monotonic() + grace_s
    while True:
        try:
            _lock(fd)
            return None
        except OSError as exc:
            if exc.errno in _NOT_SUPPORTED:
                return (
                    f"{path} cannot be locked here ({exc.strerror}): start no second run in this folder"
                )
        if time.monotonic() >= deadline:
            owner = lock_holder(path.parent) or "another process"
            raise RunBusy(
                f"run {path.parent.name} is being written by {owner}",
                hint="wait for it or stop it, then use --resume; or train another run with --name",
            )
        time.sleep(_POLL_S)


def _check_own_file(fd: int, path: Path) -> None:
    """Raises: DlcliError for a lock that is another file's name too, or no file: it is overwritten."""
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
        raise DlcliError(
            f"{path} is no lock of dlcli's: it is no plain file, or a second name of another one",
            hint="remove it",
        )


def _check_in_place(fd: int, path: Path) -> None:
    """Raises: DlcliError where its folder was deleted or moved between opening and locking the file."""
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(fd), path.lstat()):
            return
    raise DlcliError(f"{path.parent} was deleted or moved by another process")


def _write_holder(fd: int) -> None:
    import socket  # not for `--help`, nor where nothing is locked

    info = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    with suppress(OSError):  # a full disk: the lock is held without it
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, json.dumps(info).encode("ascii"))


if sys.platform == "win32":
    import msvcrt

    _QUERY = os.O_RDWR

    def _lock(fd: int, *, shared: bool = False) -> None:
        # A byte far after the text, since on Windows a locked range cannot be read.
        os.lseek(fd, 1 << 30, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(fd, 0, os.SEEK_SET)

else:
    import fcntl

    _QUERY = os.O_RDONLY

    def _lock(fd: int, *, shared: bool = False) -> None:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
