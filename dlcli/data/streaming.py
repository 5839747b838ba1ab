"""A reader of samples that are drawn anew in every epoch, as a function of (seed, epoch, sample)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dlcli.data.base import Indices, Inputs, Reader, Samples
from dlcli.errors import DlcliError


class StreamedReader(Reader):
    """Reads the samples of an epoch from ``samples.live``, encoded by the reader that ``open`` gives.

    Before `at_epoch` it is ``first``, the reader of the samples' first reading, which also knows the
    lengths. A sample that fails is in ``bad``, or an error where ``fail`` is set.
    """

    in_turn = True

    def __init__(
        self,
        samples: Samples,
        first: Reader,
        open_reader: Callable[[Samples], Reader],
        *,
        fail: bool,
        draw: str | None = None,
    ) -> None:
        super().__init__(samples)
        self._first, self._open, self._fail, self._draw = first, open_reader, fail, draw
        self.bad, self.notices, self.lengths = first.bad, first.notices, first.lengths

    def at_epoch(self, seed: int, epoch: int) -> StreamedReader:
        """The reader of an epoch."""
        return StreamedReader(
            self.samples, self._first, self._open, fail=self._fail, draw=f"{seed}/{epoch}"
        )

    def read(self, indices: Indices) -> tuple[Inputs, Indices]:
        """As `Reader.read`. Raises: DlcliError for a bad sample where that is not to be skipped."""
        live = self.samples.live
        if self._draw is None or live is None or not len(indices):
            return self._first.read(indices)
        items, rows, bad = live.draw(indices, self._draw)
        for row, reason in bad.items():
            if self._fail:
                raise DlcliError(reason, hint="mend it, or skip such samples with --on-bad-sample skip")
            self.bad[self.samples.ids[row]] = reason
        if items is None:
            return self._first.read(rows)
        part = Samples(
            ids=tuple(self.samples.ids[row] for row in rows.tolist()),
            targets=self.samples.targets[rows],
            items=items,
        )
        reader = self._open(part)
        inputs, readable = reader.read(np.arange(len(part), dtype=np.int64))
        self.bad.update(reader.bad)
        return inputs, rows[readable]

    def close(self) -> None:
        """Release what the reader of the first reading holds."""
        self._first.close()
