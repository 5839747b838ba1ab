"""The reader of images: decodes on demand, in threads; caches pixels in memory, on disk, or both.

Shapes: pixels uint8 (N, H, W, C), indices int64 (n,) into the split. With aspect ratios a row holds
the bytes of the pixels and of one float32.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dlcli.data.base import Indices, Inputs, Listed, Pixels, Reader, Samples, Stacked
from dlcli.data.notices import Notice
from dlcli.errors import BadSample, DlcliError
from dlcli.machine.threads import usable_cores
from dlcli.pixels.cache.disk import DiskCache
from dlcli.pixels.cache.folder import CacheFolder
from dlcli.pixels.decode import decode, decode_with_aspect, keeps_size
from dlcli.task import ImageInput

# Raw arrays up to this size are resized immediately for `array`.
_MAX_EAGER_BYTES = 256 * 2**20
# Photos that are held in memory are also written to disk, once decoding them has taken this long.
_WORTH_WRITING_S = 2.0
_ASPECT_BYTES = 4


class PixelReader(Reader):
    """Reads the pixels of ``samples`` for the input ``spec``.

    If the whole split fits into ``cache_bytes``, each sample is loaded once and held in memory;
    otherwise at every read, and memory is bounded by the batch. Photos are read from ``disk`` where they
    are in it, else decoded and written to it. Pillow releases the GIL while decoding, so ``workers``
    threads (default: one per core) decode in parallel.

    ``bad`` maps the id of each unreadable sample to the reason, and grows as samples are read. With
    ``with_aspect`` the second of the inputs is the aspect ratio of each image file, float32 (n,).
    """

    def __init__(
        self,
        samples: Samples,
        spec: ImageInput,
        *,
        workers: int | None,
        cache_bytes: int,
        disk: CacheFolder | None = None,
        on_bad_sample: str = "skip",
        with_aspect: bool = False,
    ) -> None:
        super().__init__(samples)
        self.spec = spec
        self._workers = workers or usable_cores()
        self._fail = on_bad_sample == "fail"
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._with_aspect = with_aspect
        self._row_shape: tuple[int, ...] = (spec.height, spec.width, spec.channels)
        if with_aspect:
            self._row_shape = (spec.height * spec.width * spec.channels + _ASPECT_BYTES,)
        shape = (len(samples), *self._row_shape)
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
        self._disk: DiskCache | None = None
        if disk is not None and isinstance(samples.items, Listed) and samples.items.are_files:
            extra = _ASPECT_BYTES if with_aspect else 0
            self._disk = DiskCache(disk, samples.items.values, spec, extra)
        self.streams = self._store is None and self._disk is None
        self._disk_problem_reported = False
        self._decoding_s = 0.0
        self._unwritten: list[tuple[Indices, Pixels, Indices]] = []  # arguments of `DiskCache.add`

    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        """(pixels,) of the readable samples among ``indices``, and which of ``indices`` they are.

        Order and repetitions are kept. The pixels are a copy. Raises: DlcliError with the first
        unreadable file if ``on_bad_sample`` is "fail".
        """
        if self._store is None:
            rows, readable = self._stream(indices)
            return self._inputs(rows), readable
        if not self._filled[indices].all():
            with self._lock:
                self._fill(indices)
        readable = indices[~self._unreadable[indices]]
        return self._inputs(np.take(self._store, readable, axis=0)), readable

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
        return self._inputs(self._store) if bool(self._filled.all()) and not self.bad else None

    def _inputs(self, rows: Pixels) -> Inputs:
        """(pixels,), or (pixels, aspect ratios), of rows; the pixels are a view."""
        if not self._with_aspect:
            return (rows,)
        shape = (len(rows), self.spec.height, self.spec.width, self.spec.channels)
        aspects = np.ascontiguousarray(rows[:, -_ASPECT_BYTES:]).view(np.float32)[:, 0]
        return rows[:, :-_ASPECT_BYTES].reshape(shape), aspects

    def flush(self) -> None:
        """Complete what is being written to disk, so that other processes read it."""
        if self._disk is not None:
            self._disk.flush()
            self._report_disk()

    def close(self) -> None:
        """Stop the threads and release the disk cache; a later read starts them again."""
        if self._disk is not None:
            self._disk.close()
            self._report_disk()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _fill(self, indices: Indices) -> None:
        """Load the samples that are not in memory yet."""
        assert self._store is not None
        missing = np.unique(indices[~(self._filled[indices] | self._unreadable[indices])])
        self._load(missing, self._store, missing)
        self._filled[missing] = ~self._unreadable[missing]

    def _stream(self, indices: Indices) -> tuple[Pixels, Indices]:
        readable = indices[~self._unreadable[indices]]
        out = np.empty((len(readable), *self._row_shape), dtype=np.uint8)
        self._load(readable, out, np.arange(len(readable), dtype=np.int64))
        decoded = ~self._unreadable[readable]
        return (out, readable) if bool(decoded.all()) else (out[decoded], readable[decoded])

    def _load(self, indices: Indices, out: Pixels, rows: Indices) -> None:
        """Read samples from disk or decode them, into ``out[rows]``; record the unreadable ones."""
        if self._disk is None:
            self._decode(indices, out, rows)
            return
        missing = ~self._disk.read(indices, out, rows)
        indices, rows = indices[missing], rows[missing]
        start = time.perf_counter()
        self._decode(indices, out, rows)
        self._decoding_s += time.perf_counter() - start
        readable = ~self._unreadable[indices]
        if self._disk.problem is None and readable.any():
            self._unwritten.append((indices[readable], out, rows[readable]))
            if self._store is None or self._decoding_s >= _WORTH_WRITING_S:
                for decoded in self._unwritten:
                    self._disk.add(*decoded)
                self._unwritten.clear()
        self._report_disk()

    def _report_disk(self) -> None:
        """Give notice, once, that nothing more can be written to disk."""
        if self._disk is None or self._disk.problem is None or self._disk_problem_reported:
            return
        self._disk_problem_reported = True
        self.streams = self._store is None
        effect = "in every epoch" if self._store is None else "again in the next run"
        message = f"cannot write decoded images to {self._disk.problem}; the others are decoded {effect}"
        self.notices.append(Notice(message, "cache", "warning"))

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
                self._decode_row(index, out[row])
            except BadSample as exc:
                self._record_bad(index, exc)

    def _decode_row(self, index: int, row: Pixels) -> None:
        """Decode a sample into ``row``. Raises: BadSample."""
        if not self._with_aspect:
            row[:] = decode(self._raw(index), self.spec)
            return
        pixels, aspect = decode_with_aspect(self._raw(index), self.spec)
        row[:-_ASPECT_BYTES] = pixels.reshape(-1)
        row[-_ASPECT_BYTES:] = np.array([aspect], dtype=np.float32).view(np.uint8)

    def _raw(self, index: int) -> Path | Pixels:
        if self._raw_pixels is not None:
            raw: Pixels = self._raw_pixels[index]
            return raw
        assert isinstance(self.samples.items, Listed)
        image: Path | Pixels = self.samples.items.values[index]
        return image

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
