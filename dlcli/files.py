"""Atomic writes of files and folders, and checksums.

A write is: temporary name in the target's own folder, fsync, ``os.replace``, fsync of the folder.
A crash at any moment leaves the old content or the new one, and at most a ``.tmp-*`` next to it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from dlcli.errors import DlcliError
from dlcli.out_of_memory import is_out_of_memory
from dlcli.wording import first_line, size

TMP_PREFIX = ".tmp-"
# What a file system says that takes no more bytes; libraries repeat its words in errors of their own.
_DISK_ERRORS = tuple(
    os.strerror(getattr(errno, name))
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS")
    if hasattr(errno, name)
)
# A compressed file may unpack to so many times its size, or to so many bytes.
_MAX_RATIO, _ALWAYS_FINE_BYTES = 100, 2**28


def user_path(path: str | Path) -> str:
    """Return a path as the user gave it, with ``~`` expanded; without a home it stays."""
    return os.path.expanduser(path)


def user_cache() -> Path:
    """Return the user's folder of what can be made or downloaded again.

    $DLCLI_CACHE, else dlcli's below $XDG_CACHE_HOME, %LOCALAPPDATA% (Windows) or ~/.cache. Raises:
    OSError where this user has no home.
    """
    if folder := os.environ.get("DLCLI_CACHE"):
        return Path(user_path(folder))
    local = os.environ.get("LOCALAPPDATA") if os.name == "nt" else None
    base = os.environ.get("XDG_CACHE_HOME") or local or "~/.cache"
    try:
        return Path(base).expanduser() / "dlcli"
    except RuntimeError as exc:
        raise OSError(str(exc)) from exc


def fsync_path(path: Path) -> None:
    """Flush a file or a folder to disk; folders on Windows, which cannot be opened, are skipped."""
    if os.name == "nt" and path.is_dir():
        return
    fd = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# Words of the system where room on the disk would not help.
_FORBIDDEN = ("Read-only", "Permission denied", "Operation not permitted")


class CannotWrite(DlcliError):
    """A file or folder that cannot be written: the disk is full or read-only, or a quota is used up."""

    def __init__(self, path: Path, reason: str) -> None:
        what, way_out = str(path), "choose another folder with --runs-dir or --output"
        if path == _temporary_root():
            what, way_out = f"temporary files in {path}", "set TMPDIR to another folder"
        space = "" if reason.startswith(_FORBIDDEN) else "free some space or "
        super().__init__(
            f"cannot write {what}: {reason}",
            hint=f"{space}{way_out}; existing files are untouched",
        )
        self.path, self.reason = path, reason


@contextmanager
def writing(target: Path, staged: Path | None = None) -> Iterator[None]:
    """Raise errors of the block as `CannotWrite` of ``target`` where writing failed.

    That is any OSError, and an error of a library that was caused by one, or has the system's words for
    a full disk. ``staged`` is the temporary file or folder that becomes ``target``; a `CannotWrite` of
    another path passes.
    """
    try:
        yield
    except CannotWrite as exc:
        if staged is None or not exc.path.is_relative_to(staged):
            raise
        raise CannotWrite(target, exc.reason) from exc
    except Exception as exc:
        if (reason := _write_error(exc)) is None:
            raise
        raise CannotWrite(target, reason) from exc


@contextmanager
def library_writes(library: str, path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Raise errors of a library's call that does no more than write ``path`` as `CannotWrite`.

    Some have no words for a full disk ("iostream error"), so the free space is given.
    """
    try:
        with writing(path):
            yield
    except errors as exc:
        free = size(shutil.disk_usage(path.parent).free)
        raise CannotWrite(path, f"{library}: {first_line(exc)} ({free} are free there)") from exc


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder among the system's temporary files for the block. Raises: CannotWrite of those."""
    with temporary_files(), tempfile.TemporaryDirectory(prefix="dlcli-") as folder:
        yield Path(folder)


def temporary_files() -> AbstractContextManager[None]:
    """Return `writing` for a block that writes nothing but temporary files."""
    return writing(_temporary_root())


def _temporary_root() -> Path:
    return Path(tempfile.gettempdir())


def _write_error(exc: BaseException) -> str | None:
    """Return why writing failed where that is what an error means, else None.

    It is an OSError, comes from one of a full disk, or repeats its words.
    """
    if isinstance(exc, BrokenPipeError) or is_out_of_memory(exc):
        return None
    if isinstance(exc, OSError):
        return exc.strerror or str(exc)
    cause: BaseException | None = exc
    while cause is not None:
        text = str(cause)
        for words in _DISK_ERRORS:
            if words in text:
                return words
        cause = cause.__cause__ or cause.__context__
    return None


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``target``; it becomes ``target`` when the block succeeds.

    Raises: CannotWrite when the disk is full or the folder cannot be written; ``target`` is untouched.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=TMP_PREFIX, suffix=target.suffix, dir=target.parent)
        os.close(fd)
    tmp = Path(name)
    try:
        with writing(target, tmp):
            yield tmp
            _apply_umask(tmp, 0o666)
            fsync_path(tmp)
            os.replace(tmp, target)
            fsync_path(target.parent)
    finally:
        with suppress(FileNotFoundError):
            tmp.unlink()


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder next to ``target``; it becomes ``target`` when the block succeeds.

    Every file in it is flushed before the rename. Raises: CannotWrite, also when ``target`` exists.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        tmp = Path(tempfile.mkdtemp(prefix=TMP_PREFIX, dir=target.parent))
    try:
        with writing(target, tmp):
            yield tmp
            for file in sorted(tmp.iterdir()):
                fsync_path(file)
            _apply_umask(tmp, 0o777)
            fsync_path(tmp)
            os.rename(tmp, target)
            fsync_path(target.parent)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    write_bytes(target, text.encode("utf-8"))


def write_bytes(target: Path, data: bytes) -> None:
    """Write ``data``, atomically."""
    with atomic_file(target) as tmp:
        tmp.write_bytes(data)


def write_json(target: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinities are refused."""
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """Return ``value`` with None for NaN and infinities, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def parse_json(text: str | bytes, *, constant: Callable[[str], Any] | None = None) -> Any:
    """Return the value of a JSON text; ``constant`` gets NaN, Infinity and -Infinity, else floats.

    Raises: ValueError, also where it is nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path) -> Any:
    """Return the parsed content. Raises: DlcliError when the file is missing or not JSON."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DlcliError(f"{path} does not exist") from None
    except (OSError, ValueError) as exc:
        raise DlcliError(f"cannot read {path}: {exc}") from exc


def unpacked_limit(path: Path) -> int:
    """Return how many bytes a compressed file may unpack to. Raises: OSError."""
    return max(_MAX_RATIO * path.stat().st_size, _ALWAYS_FINE_BYTES)


def check_unpacked(path: Path, unpacked: int) -> None:
    """Raises: DlcliError where a file unpacks to more than `unpacked_limit`; OSError."""
    if unpacked > unpacked_limit(path):
        raise DlcliError(
            f"{path} has {path.stat().st_size:,} bytes and unpacks to {unpacked:,} or more, over "
            f"{_MAX_RATIO} times as much: it is not read",
            hint="if it is what it should be, give it uncompressed",
        )


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _apply_umask(path: Path, mode: int) -> None:
    """Apply the umask: files of tempfile are readable by their owner alone."""
    if os.name != "nt":
        umask = os.umask(0)
        os.umask(umask)
        path.chmod(mode & ~umask)
