"""The files of the cache: pixels of many photos, written once and never changed.

A shard is rows of pixels of one size, each with its CRC-32, then their keys (16 bytes each), then a
footer. It is written
under a temporary name, flushed, and renamed when it is complete, so a process that is killed leaves
nothing that is read. Rows are read with `readinto`, not mapped: the system's page cache holds them all
the same, and where a file vanishes or the disk fails that is an OSError, not the end of the process.

A process holds a shared lock on each shard that it reads, and an exclusive one on what it writes, so
that another knows what is in use.
"""

from __future__ import annotations

import os
import struct
import sys
import tempfile
import zlib
from contextlib import suppress
from io import FileIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dlcli.files import TMP_PREFIX, fsync_path
from dlcli.pixels.cache.keys import Keys

SUFFIX = ".shard"
_FOOTER = struct.Struct("<8sQQI")  # magic, bytes of a row, rows, CRC-32 of the keys
_MAGIC = b"dlcliPX1"
_KEY_BYTES = 16
_CRC = struct.Struct("<I")
Pixels = npt.NDArray[np.uint8]


class ShardWriter:
    """A shard that is being written, in ``folder``, for rows of ``row_bytes``.

    Raises: OSError, also in its methods; then `discard` it.
    """

    def __init__(self, folder: Path, row_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=TMP_PREFIX, suffix=SUFFIX, dir=folder)
        self._tmp = Path(name)
        self._file = os.fdopen(fd, "w+b")
        self._row_bytes = row_bytes
        self._rows = bytearray()  # keys
        self.keys: set[bytes] = set()
        try_lock(fd, shared=False)

    @property
    def bytes_written(self) -> int:
        """Bytes of pixels so far."""
        return len(self.keys) * self._row_bytes

    def add(self, key: bytes, pixels: Pixels) -> None:
        """Append the pixels of a photo, unless they are there."""
        if key not in self.keys:
            row = np.ascontiguousarray(pixels).data
            self._file.write(row)
            self._file.write(_CRC.pack(zlib.crc32(row)))
            self._rows += key
            self.keys.add(key)

    def finish(self) -> Path:
        """Flush the shard and give it its name."""
        footer = _FOOTER.pack(_MAGIC, self._row_bytes, len(self.keys), zlib.crc32(self._rows))
        self._file.write(self._rows + footer)
        self._file.flush()
        os.fsync(self._file.fileno())
        target = self._tmp.with_name(self._tmp.name.removeprefix(TMP_PREFIX))
        if sys.platform == "win32":  # which renames no open file
            self._file.close()
        os.rename(self._tmp, target)
        self._file.close()
        fsync_path(target.parent)
        self.keys.clear()
        return target

    def discard(self) -> None:
        """Remove what was written, unless it is finished."""
        with suppress(OSError):  # the buffer of a full disk cannot be flushed
            self._file.close()
        with suppress(OSError):
            self._tmp.unlink()


class Shard:
    """A complete shard, open for reading and in use until it is closed. Raises: OSError, ValueError."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        try:
            if not try_lock(self._file.fileno(), shared=True):
                raise OSError(f"{path} is being deleted")
            self._row_bytes, _ = _footer(self._file, path)
        except BaseException:
            self._file.close()
            raise
        with suppress(OSError):  # a folder that cannot be written
            os.utime(path)  # the time of its last use

    def read(self, row: int, out: Pixels) -> None:
        """Read a row into ``out``, contiguous. Raises: OSError; ValueError where a bit has changed."""
        self._file.seek(row * (self._row_bytes + _CRC.size))
        self._fill(out.data.cast("B"))
        crc = bytearray(_CRC.size)
        self._fill(memoryview(crc))
        if _CRC.unpack(crc)[0] != zlib.crc32(out.data):
            raise ValueError("pixels of the cache are damaged")

    def _fill(self, view: memoryview) -> None:
        while view:
            count = self._file.readinto(view)
            if not count:
                raise OSError("a shard of the cache is cut off")
            view = view[count:]

    def close(self) -> None:
        """Release it."""
        self._file.close()


def read_keys(path: Path, row_bytes: int) -> Keys:
    """Return the keys of a shard's rows. Raises: OSError; ValueError for no shard of such rows."""
    with path.open("rb", buffering=0) as file:
        size, rows = _footer(file, path)
        if size != row_bytes:
            raise ValueError(f"{path} has rows of {size} bytes, not {row_bytes}")
        file.seek(rows * (row_bytes + _CRC.size))
        tail = file.read(rows * _KEY_BYTES + _FOOTER.size)
    keys = tail[: rows * _KEY_BYTES]
    if zlib.crc32(keys) != _FOOTER.unpack(tail[len(keys) :])[3]:
        raise ValueError(f"{path} is damaged")
    return np.frombuffer(keys, dtype=np.uint64).reshape(rows, 2)


def _footer(file: FileIO, path: Path) -> tuple[int, int]:
    """The bytes of a row, and the number of rows. Raises: ValueError when it is no complete shard."""
    size = file.seek(0, os.SEEK_END)
    if size >= _FOOTER.size:
        file.seek(size - _FOOTER.size)
        magic, row_bytes, rows, _ = _FOOTER.unpack(file.read(_FOOTER.size))
        if magic == _MAGIC and size == rows * (row_bytes + _CRC.size + _KEY_BYTES) + _FOOTER.size:
            return row_bytes, rows
    raise ValueError(f"{path} is no complete shard")


if sys.platform == "win32":

    def try_lock(fd: int, *, shared: bool) -> bool:
        """Return True: Windows itself deletes no file that is open."""
        return True

else:
    import fcntl

    def try_lock(fd: int, *, shared: bool) -> bool:
        """Lock an open file until it is closed; False where another process has it locked.

        Where the file system has no locks a shared one is granted, an exclusive one is not.
        """
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return shared
        return True
