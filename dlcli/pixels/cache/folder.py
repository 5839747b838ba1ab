"""The folder of the cache: where it is, how much it holds, what makes room, and how it is cleared.

Below it there is a folder for each way of decoding (`decoding_key`), and in these the shards.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dlcli.files import TMP_PREFIX, user_cache
from dlcli.pixels.cache.memory import CacheMode
from dlcli.pixels.cache.shards import SUFFIX, try_lock

_DISK_SHARE = 0.2  # of the disk that is free without the cache
_OWN_FOLDER = re.compile(r"[0-9a-f]{32}")
_OWN_FILE = re.compile(rf"({re.escape(TMP_PREFIX)})?\w+{re.escape(SUFFIX)}")
_ABANDONED_S = 60.0  # the age of a temporary file that nobody has locked


@dataclass(frozen=True)
class CacheFile:
    """A shard, or the temporary file of one; ``used`` is the time of its last use in seconds."""

    path: Path
    size: int
    used: float

    @property
    def is_complete(self) -> bool:
        """Whether it is a shard, not one that is being written or was abandoned."""
        return not self.path.name.startswith(TMP_PREFIX)


@dataclass(frozen=True)
class CacheFolder:
    """The cache below ``root``; ``limit`` is its size in bytes, None for a share of the free disk."""

    root: Path
    limit: int | None = None

    def files(self) -> Iterator[CacheFile]:
        """The files that dlcli wrote; links and whatever else is there are passed over."""
        for folder in _listed(self.root):
            if not (_OWN_FOLDER.fullmatch(folder.name) and folder.is_dir(follow_symlinks=False)):
                continue
            for entry in _listed(folder.path):
                with suppress(OSError):  # deleted in between
                    info = entry.stat(follow_symlinks=False)
                    if _OWN_FILE.fullmatch(entry.name) and stat.S_ISREG(info.st_mode):
                        yield CacheFile(Path(entry.path), info.st_size, info.st_mtime)

    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files())

    def limit_bytes(self) -> int:
        """The largest size: ``limit``, or a fifth of what would be free without it. Raises: OSError."""
        if self.limit is not None:
            return self.limit
        disk = next(folder for folder in (self.root, *self.root.parents) if folder.is_dir())
        return int(_DISK_SHARE * (shutil.disk_usage(disk).free + self.size()))

    def make_room(self, size: int, limit: int) -> bool:
        """Whether ``size`` more bytes are within ``limit``, after deleting what was not used longest.

        What a process reads or writes is never deleted.
        """
        files = sorted(self.files(), key=lambda file: file.used)
        excess = sum(file.size for file in files) + size - limit
        for file in files:
            if file.is_complete and excess <= 0:
                continue
            if _delete_unused(file):
                excess -= file.size
        return excess <= 0

    def clear(self) -> int:
        """Delete all that dlcli wrote there but what is being written; returns its bytes.

        Runs that read from it keep what they have opened. Raises: OSError.
        """
        freed = 0
        for file in list(self.files()):
            if file.is_complete:
                file.path.unlink(missing_ok=True)
                freed += file.size
            elif _delete_unused(file):
                freed += file.size
        for folder in _listed(self.root):
            if _OWN_FOLDER.fullmatch(folder.name):
                with suppress(OSError):  # not empty: files of others, or one that is being written
                    os.rmdir(folder.path)
        return freed


def default_root() -> Path:
    """Return the folder of decoded pixels in the user's cache. Raises: OSError without a home."""
    return user_cache() / "pixels"


def disk_cache(mode: CacheMode, root: str | None, limit_gb: float | None) -> CacheFolder | None:
    """Return the cache of the settings; None where they want none, or the user has no home."""
    if mode in ("ram", "none"):
        return None
    try:
        folder = default_root() if root is None else Path(root).absolute()
    except OSError:
        return None
    return CacheFolder(folder, None if limit_gb is None else int(limit_gb * 1e9))


def _delete_unused(file: CacheFile) -> bool:
    """Delete a file unless a process has it locked, or has just begun to write it."""
    if not file.is_complete and time.time() - file.used < _ABANDONED_S:
        return False
    try:
        with file.path.open("r+b") as opened:
            if not try_lock(opened.fileno(), shared=False):
                return False
            if os.name != "nt":
                file.path.unlink()
        if os.name == "nt":  # which deletes no file that is open, here or elsewhere
            file.path.unlink()
    except OSError:
        return False
    return True


def _listed(folder: str | Path) -> list[os.DirEntry[str]]:
    """The entries of a folder; none where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []
