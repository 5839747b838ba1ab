"""The reader of images: decodes on demand, in threads, and caches pixels where memory allows.

Shapes: pixels uint8 (N, H, W, C), indices int64 (n,) into the split.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from dlcli.data.base import Indices, Inputs, Listed, Pixels, Reader, Samples, Stacked
from dlcli.errors import BadSample, DlcliError
from dlcli.machine.threads import usable_cores
from dlcli.pixels.decode import decode, keeps_size
from dlcli.task import ImageInput

# Raw arrays up to this size are resized immediately for `array`.
_MAX_EAGER_BYTES = 256 * 2**20
_AUTO_CACHE_SHARE = 0.4  # of the free memory


class PixelReader(Reader):
    """Reads the pixels of ``samples`` for the input ``spec``.

    If the whole split fits into ``cache_bytes``, each sample is decoded once and cached; otherwise at
    every read, and memory is bounded by the batch. Pillow releases the GIL while decoding, so
    ``workers`` threads (default: one per core) decode in parallel.

    ``bad`` maps the id of each unreadable sample to the reason, and grows as samples are read.
    """

    def __init__(
        self,
        samples: Samples,
        spec: ImageInput,
        *,
        workers: int | None,
        cache_bytes: int,
        on_bad_sample: str = "skip",
    ) -> None:
        super().__init__(samples)
        self.spec = spec
        self._workers = workers or usable_cores()
        self._fail = on_bad_sample == "fail"
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        shape = (len(samples), spec.height, spec.width, spec.channels)
        self._unreadable = np.zeros(len(samples), dtype=bool)
        self._filled = np.zeros(len(samples), dtype=bool)
        self._store: Pixels | None = None
        self._raw_pixels = samples.items.values if isinstance(samples.items, Stacked) else None
        if self._raw_pixels is not None and self._raw_pixels.shape == shape and keeps_size(spec):
            self._store = self._raw_pixels
            self._filled[:] = True
        elif int(np.prod(shape, dtype=object)) <= cache_bytes:
            self._store = np.empty(
                shape, dtype=np.uint8
            )  # memory pages are allocated when they are written
        self.streams = self._store is None

    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        """(pixels,) of the readable samples among ``indices``, and which of ``indices`` they are.

        Order and repetitions are kept. The pixels are a copy. Raises: DlcliError with the first
        unreadable file if ``on_bad_sample`` is "fail".
        """
        if self._store is None:
            pixels, readable = self._stream(indices)
            return (pixels,), readable
        if not self._filled[indices].all():
            with self._lock:
                self._fill(indices)
        readable = indices[~self._unreadable[indices]]
        return (np.take(self._store, readable, axis=0),), readable

    def array(self) -> Inputs | None:
        """(pixels,) of the whole split (N, H, W, C); None if not all are cached or a sample is bad.

        Raw arrays are available immediately (small ones are resized here). Photos are available after
        each has been read, as after an epoch. The result is not a copy: do not modify it.
        """
        if self._store is None or self.bad:
            return None
        if self._raw_pixels is not None and self._store.nbytes <= _MAX_EAGER_BYTES:
            with self._lock:
                self._fill(np.arange(len(self), dtype=np.int64))
        return (self._store,) if bool(self._filled.all()) and not self.bad else None

    def close(self) -> None:
        """Stop the threads; a later read starts them again."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _fill(self, indices: Indices) -> None:
        """Decode the samples that are not cached yet."""
        assert self._store is not None
        missing = np.unique(indices)
        missing = missing[~(self._filled[missing] | self._unreadable[missing])]
        self._decode(missing, self._store, missing)
        self._filled[missing] = ~self._unreadable[missing]

    def _stream(self, indices: Indices) -> tuple[Pixels, Indices]:
        readable = indices[~self._unreadable[indices]]
        shape = (len(readable), self.spec.height, self.spec.width, self.spec.channels)
        out = np.empty(shape, dtype=np.uint8)
        self._decode(readable, out, np.arange(len(readable), dtype=np.int64))
        decoded = ~self._unreadable[readable]
        return (out, readable) if bool(decoded.all()) else (out[decoded], readable[decoded])

    def _decode(self, indices: Indices, out: Pixels, rows: Indices) -> None:
        """Decode the samples ``indices`` into ``out[rows]``; record the unreadable ones."""
        if not len(indices):
            return
        if self._workers == 1 or len(indices) == 1:
            self._decode_serially(indices, out, rows)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="dlcli-decode")
        # A few tasks per thread, to balance large and small photos at little overhead.
        parts = min(len(indices), 4 * self._workers)
        futures: list[Future[None]] = [
            self._pool.submit(self._decode_serially, part, out, part_rows)
            for part, part_rows in zip(
                np.array_split(indices, parts), np.array_split(rows, parts), strict=True
            )
        ]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()

    def _decode_serially(self, indices: Indices, out: Pixels, rows: Indices) -> None:
        for index, row in zip(indices.tolist(), rows.tolist(), strict=True):
            try:
                out[row] = decode(self._raw(index), self.spec)
            except BadSample as exc:
                self._record_bad(index, exc)

    def _raw(self, index: int) -> Path | Pixels:
        if self._raw_pixels is not None:
            raw: Pixels = self._raw_pixels[index]
            return raw
        assert isinstance(self.samples.items, Listed)
        path: Path = self.samples.items.values[index]
        return path

    def _record_bad(self, index: int, exc: BadSample) -> None:
        """Record an unreadable sample. Raises: DlcliError if ``on_bad_sample`` is "fail"."""
        if self._fail:
            name = self.samples.ids[index] if self._raw_pixels is not None else self._raw(index)
            raise DlcliError(
                f"cannot read {name}: {exc.message}",
                hint="repair or remove it, or skip such files with --on-bad-sample skip",
            ) from exc
        self._unreadable[index] = True
        self.bad[self.samples.ids[index]] = exc.message


def cache_budget(cache: Literal["auto", "ram", "none"]) -> int:
    """The maximum size of cached pixels in bytes: "auto" is 40 % of the free memory."""
    if cache == "none":
        return 0
    if cache == "ram":
        return sys.maxsize
    import psutil

    free = int(psutil.virtual_memory().available)
    limit = _container_free()
    return int(_AUTO_CACHE_SHARE * (free if limit is None else min(free, limit)))


def _container_free(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Free bytes under the memory limit of a container (cgroup v2), which psutil ignores; else None."""
    try:
        limit = (root / "memory.max").read_text().strip()
        used = int((root / "memory.current").read_text())
        stat = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        if limit == "max":
            return None
        # The page cache counts as used, but is reclaimed on demand.
        return max(0, int(limit) - used + int(stat["inactive_file"]))
    except (OSError, ValueError, KeyError):
        return None
