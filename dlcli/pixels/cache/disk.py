"""Decoded pixels of the photos of a split, on disk: what was decoded before, and what is decoded now.

Shapes: indices int64 (n,) into the split; a row of pixels uint8 (H, W, C), or with extra bytes
(H * W * C + extra bytes,).
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dlcli.pixels.cache.folder import CacheFolder
from dlcli.pixels.cache.keys import NO_KEY, SETTLED_S, Keys, decoding_key, file_key
from dlcli.pixels.cache.shards import SUFFIX, Pixels, Shard, ShardWriter, read_keys
from dlcli.task import ImageInput
from dlcli.wording import size as size_words

Indices = npt.NDArray[np.int64]
# A shard is complete at a 64th of the split, but not below this: few files, and little is lost when a
# process is killed.
_LEAST_SHARD_BYTES, _SHARDS = 64 * 2**20, 64
_LEAST_SHARDS = 8  # within the limit of the cache


class DiskCache:
    """The cached pixels of the photos ``paths``, decoded as ``spec`` says, with ``extra_bytes`` each.

    What is added is read again, by this process and others, once its shard is complete: when it is full,
    when one of its photos is asked for, and at `flush`. Where nothing more can be written ``problem``
    says why, and reading goes on.
    """

    def __init__(
        self, cache: CacheFolder, paths: Sequence[Path], spec: ImageInput, extra_bytes: int = 0
    ) -> None:
        self._cache = cache
        self._folder = cache.root / decoding_key(spec, extra_bytes)
        self._paths = paths
        self._row_bytes = spec.height * spec.width * spec.channels + extra_bytes
        self._shard_bytes = max(_LEAST_SHARD_BYTES, len(paths) * self._row_bytes // _SHARDS)
        self._keys: Keys = np.zeros((len(paths), 2), dtype=np.uint64)
        self._shard_of = np.full(len(paths), -1, dtype=np.int32)
        self._row_of = np.zeros(len(paths), dtype=np.int32)
        self._index = _Index(self._folder, self._row_bytes)
        self._open: dict[int, Shard] = {}
        self._resources = ExitStack()  # closes the files, also of a cache that is dropped unclosed
        weakref.finalize(self, self._resources.close)
        self._writer: ShardWriter | None = None
        self._lock = threading.Lock()
        self.problem: str | None = None

    def read(self, indices: Indices, out: Pixels, rows: Indices) -> npt.NDArray[np.bool_]:
        """Read the cached samples among ``indices`` into ``out[rows]``; returns which those are."""
        with self._lock:
            unknown = indices[self._shard_of[indices] < 0]
            if len(unknown):
                self._look_up(unknown)
            shards, places = self._shard_of[indices].tolist(), self._row_of[indices].tolist()
            present = np.ones(len(indices), dtype=bool)
            for i, (shard, place, row) in enumerate(zip(shards, places, rows.tolist(), strict=True)):
                present[i] = shard >= 0 and self._read_row(shard, place, out[row])
            self._shard_of[indices[~present]] = -1
        return present

    def add(self, indices: Indices, pixels: Pixels, rows: Indices) -> None:
        """Write ``pixels[rows]`` of the samples ``indices``, which `read` did not have."""
        with self._lock:
            for index, row in zip(indices.tolist(), rows.tolist(), strict=True):
                if self.problem is not None:
                    return
                key = self._keys[index].tobytes()
                if key != NO_KEY:
                    self._write(key, pixels[row])

    def flush(self) -> None:
        """Complete the shard that is being written."""
        with self._lock:
            self._finish()

    def close(self) -> None:
        """Flush, and release all shards; a later read opens them again."""
        self.flush()
        with self._lock:
            self._open.clear()
            self._resources.close()

    def _look_up(self, indices: Indices) -> None:
        """Find the shards of samples; what is missing may have been written by another process."""
        keys = [file_key(self._paths[index]) for index in indices.tolist()]
        if self._writer is not None and not self._writer.keys.isdisjoint(keys):
            self._finish()
        wanted: Keys = np.frombuffer(b"".join(keys), dtype=np.uint64).reshape(-1, 2)
        self._keys[indices] = wanted
        shards, rows = self._index.find(wanted)
        if (shards < 0).any() and self._index.update():
            shards, rows = self._index.find(wanted)
        self._shard_of[indices], self._row_of[indices] = shards, rows

    def _read_row(self, number: int, row: int, out: Pixels) -> bool:
        """Read a row; False where its shard was deleted or cannot be read."""
        try:
            self._shard(number).read(row, out)
        except (OSError, ValueError):
            self._index.forget(number)
            return False
        return True

    def _shard(self, number: int) -> Shard:
        """The open shard of that number. Raises: OSError, ValueError."""
        if number not in self._open:
            self._open[number] = Shard(self._index.shards[number])
            self._resources.callback(self._open[number].close)
        return self._open[number]

    def _write(self, key: bytes, pixels: Pixels) -> None:
        try:
            if self._writer is None:
                self._writer = self._new_shard()
            self._writer.add(key, pixels)
            full = self._writer.bytes_written >= self._shard_bytes
        except OSError as exc:
            self._stop(exc)
            return
        if full:
            self._finish()

    def _new_shard(self) -> ShardWriter:
        """Begin a shard, after making room for the photos that are in none. Raises: OSError."""
        limit = self._cache.limit_bytes()
        self._shard_bytes = min(self._shard_bytes, max(limit // _LEAST_SHARDS, self._row_bytes))
        missing = int((self._shard_of < 0).sum()) * self._row_bytes
        if not self._cache.make_room(min(self._shard_bytes, missing), limit):
            raise OSError(f"it is full: its limit is {size_words(limit)}, and all of it is in use")
        writer = ShardWriter(self._folder, self._row_bytes)
        self._resources.callback(writer.discard)  # which does nothing after `finish`
        return writer

    def _finish(self) -> None:
        if self._writer is None:
            return
        try:
            path = self._writer.finish()
            self._index.update()
            # Open from now on, and so in use: otherwise it might make room for the next one.
            self._shard(self._index.shards.index(path))
        except (OSError, ValueError) as exc:
            self._stop(exc)
        self._writer = None

    def _stop(self, exc: OSError | ValueError) -> None:
        """Write no more."""
        self.problem = f"{self._cache.root}: {getattr(exc, 'strerror', None) or exc}"
        if self._writer is not None:
            self._writer.discard()
            self._writer = None


class _Rows(NamedTuple):
    """Where keys are, sorted by their first half: shard and row of each."""

    keys: Keys
    shards: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int32]


class _Index:
    """The keys of all complete shards in a folder, of rows of ``row_bytes``."""

    def __init__(self, folder: Path, row_bytes: int) -> None:
        self.shards: list[Path] = []
        self._folder, self._row_bytes = folder, row_bytes
        self._seen: set[str] = set()
        self._changed_ns = -1
        self._table = _Rows(np.zeros((0, 2), np.uint64), np.zeros(0, np.int32), np.zeros(0, np.int32))

    def find(self, keys: Keys) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """The shard and the row of each key; shard -1 for what is in none."""
        table = self._table
        if not len(table.keys):
            return np.full(len(keys), -1, dtype=np.int32), np.zeros(len(keys), dtype=np.int32)
        at = np.searchsorted(table.keys[:, 0], keys[:, 0]).clip(max=len(table.keys) - 1)
        same = (table.keys[at] == keys).all(axis=1) & keys.any(axis=1)
        return np.where(same, table.shards[at], -1).astype(np.int32), table.rows[at]

    def update(self) -> bool:
        """Add the shards that are new in the folder; returns whether there are any."""
        try:
            changed_ns = self._folder.stat().st_mtime_ns
            if changed_ns == self._changed_ns:
                return False
            candidates = self._folder.glob(f"[!.]*{SUFFIX}")
            names = sorted(
                path.name for path in candidates if path.is_file()
            )  # a pipe would wait for ever
        except OSError:  # no folder yet, or none that can be read
            return False
        # What changes within the same tick of the file system's clock is not told by the time.
        settled = time.time_ns() - changed_ns > SETTLED_S * 1e9
        self._changed_ns = changed_ns if settled else -1
        new = [name for name in names if name not in self._seen]
        self._seen.update(new)
        parts = [self._table]
        for name in new:
            try:
                keys = read_keys(self._folder / name, self._row_bytes)
            except (OSError, ValueError):  # deleted in between, or damaged
                continue
            number = np.full(len(keys), len(self.shards), dtype=np.int32)
            parts.append(_Rows(keys, number, np.arange(len(keys), dtype=np.int32)))
            self.shards.append(self._folder / name)
        keys, shards, rows = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        order = np.argsort(keys[:, 0], kind="stable")  # of equal keys the one that was known first
        self._table = _Rows(keys[order], shards[order], rows[order])
        return len(parts) > 1

    def forget(self, number: int) -> None:
        """Leave out a shard that cannot be read any more."""
        others = self._table.shards != number
        self._table = _Rows(*(array[others] for array in self._table))
