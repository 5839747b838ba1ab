"""Which rows of which tables samples are: for the other columns of these rows. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SourceRows:
    """Which rows of which tables samples are: sample i is row ``rows[i]``, from 0, of ``codes[i]``.

    The codes are indices into ``files``, -1 for a sample that is no row of a table. ``columns`` are some
    that every table has: by them a table without a header is known.
    """

    files: tuple[str, ...]
    codes: Indices  # (N,)
    rows: Indices  # (N,)
    columns: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, parts: Sequence[tuple[str | None, int]], columns: Sequence[str] = ()
    ) -> SourceRows | None:
        """Parts of samples: a table and its number of rows, or None and a number; None for no table."""
        files = tuple(dict.fromkeys(file for file, _ in parts if file is not None))
        if not files:
            return None
        codes = [-1 if file is None else files.index(file) for file, _ in parts]
        counts = [count for _, count in parts]
        rows = np.concatenate([np.arange(count, dtype=np.int64) for count in counts])
        return cls(files, np.repeat(np.array(codes, dtype=np.int64), counts), rows, tuple(columns))

    @classmethod
    def in_table(cls, file: str, rows: Indices, columns: Sequence[str] = ()) -> SourceRows:
        """These rows of one table."""
        return cls((file,), np.zeros(len(rows), dtype=np.int64), rows, tuple(columns))

    @classmethod
    def joined(cls, parts: Sequence[SourceRows | None]) -> SourceRows | None:
        """The rows of several groups of samples, one after the other; None where one has none."""
        known = [part for part in parts if part is not None]
        if not known or len(known) < len(parts):
            return None
        files = tuple(dict.fromkeys(file for part in known for file in part.files))
        codes = [
            np.array([*(files.index(file) for file in part.files), -1])[part.codes] for part in known
        ]
        rows = np.concatenate([part.rows for part in known])
        return cls(files, np.concatenate(codes).astype(np.int64), rows, known[0].columns)

    def take(self, indices: Indices) -> SourceRows:
        """The rows of the samples at ``indices``, in that order."""
        return replace(self, codes=self.codes[indices], rows=self.rows[indices])
