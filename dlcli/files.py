"""Atomic writes of files and folders, and checksums.

A write is: temporary name in the target's own folder, fsync, ``os.replace``, fsync of the folder.
A crash at any moment leaves the old content or the new one, and at most a ``.tmp-*`` next to it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dlcli.errors import DlcliError

TMP_PREFIX = ".tmp-"
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


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``target``; it becomes ``target`` when the block succeeds.

    Raises: DlcliError when the disk is full or the folder cannot be written; ``target`` is untouched.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=TMP_PREFIX, suffix=target.suffix, dir=target.parent)
        os.close(fd)
    except OSError as exc:
        raise cannot_write(target, exc) from exc
    tmp = Path(name)
    try:
        yield tmp
        _apply_umask(tmp, 0o666)
        fsync_path(tmp)
        os.replace(tmp, target)
        fsync_path(target.parent)
    except OSError as exc:
        raise cannot_write(target, exc) from exc
    finally:
        with suppress(FileNotFoundError):
            tmp.unlink()


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder next to ``target``; it becomes ``target`` when the block succeeds.

    Every file in it is flushed before the rename. Raises: DlcliError when it cannot be written or
    when ``target`` exists.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        tmp = Path(tempfile.mkdtemp(prefix=TMP_PREFIX, dir=target.parent))
    except OSError as exc:
        raise cannot_write(target, exc) from exc
    try:
        yield tmp
        for file in sorted(tmp.iterdir()):
            fsync_path(file)
        _apply_umask(tmp, 0o777)
        fsync_path(tmp)
        os.rename(tmp, target)
        fsync_path(target.parent)
    except OSError as exc:
        raise cannot_write(target, exc) from exc
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def cannot_write(target: Path, exc: OSError) -> DlcliError:
    """Return the error for a failed write; previous files are intact."""
    reason = exc.strerror or str(exc)
    return DlcliError(
        f"cannot write {target}: {reason}",
        hint="free some space or choose another folder with --runs-dir or --output; "
        "existing files are untouched",
    )


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


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raises: ValueError, also where it is nested too deeply."""
    try:
        return json.loads(text)
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
