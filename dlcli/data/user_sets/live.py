"""Samples that a user's data set draws anew at every reading: a random transform in ``__getitem__``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Indices, Items, LiveSamples
from dlcli.data.user_sets.conversion import Conversion
from dlcli.errors import DlcliError
from dlcli.user_code import UserObject
from dlcli.user_data.chance import preserved, seed_generators
from dlcli.user_data.reading import Column, read_sample, same_target, sample_key
from dlcli.user_data.samples import Sample


@dataclass(frozen=True, eq=False)
class LiveSplit:
    """The data set of a split, with the targets of its first reading by index."""

    code: UserObject
    data: Any
    split: str
    length: int
    first: Sample
    targets: Mapping[int, object]
    conversion: Conversion

    def read(self, index: int, draw: str) -> Sample:
        """One sample, with the generators seeded for ``draw``. Raises: DlcliError where that fails."""
        seed_generators(sample_key(self.split, index, draw))
        return read_sample(self.code, self.data, index, self._where(index))

    def check(self, sample: Sample, index: int) -> None:
        """Raises: DlcliError where a sample has another structure or target than at first."""
        where = self._where(index)
        if sample.structure != self.first.structure:
            raise DlcliError(f"{where} is {sample.describe()}, where it was {self.first.describe()}")
        if not same_target(sample.target, self.targets[index]):
            raise DlcliError(
                f"the target of {where} differs from reading to reading",
                hint="a random transform may change the input alone",
            )

    def _where(self, index: int) -> str:
        return f"sample {index:,} of {self.code.name}"

    def check_length(self) -> None:
        """Raises: DlcliError where the data set has another length than at first."""
        with self.code.errors(f"the length of {self.code.name} cannot be known"):
            length = len(self.data)
        if length != self.length:
            raise DlcliError(
                f"the length of {self.code.name} changed from {self.length:,} to {length:,} samples"
            )


@dataclass(frozen=True, eq=False)
class UserSamples(LiveSamples):
    """Samples of some splits: ``where`` (n, 2) holds the split and the index in its data set."""

    splits: tuple[LiveSplit, ...]
    where: npt.NDArray[np.int64]

    def take(self, indices: Indices) -> UserSamples:
        """As `LiveSamples.take`."""
        return UserSamples(self.splits, self.where[indices])

    @classmethod
    def gather(cls, parts: Sequence[Any], where: Indices) -> UserSamples:
        """As `LiveSamples.gather`."""
        splits = tuple(dict.fromkeys(split for part in parts for split in part.splits))
        rows = [
            np.stack([[splits.index(part.splits[s]), i] for s, i in part.where.tolist()])
            for part in parts
            if len(part.where)
        ]
        return UserSamples(splits, np.concatenate(rows)[where])

    def draw(self, indices: Indices, draw: str) -> tuple[Items | None, Indices, dict[int, str]]:
        """As `LiveSamples.draw`."""
        columns: dict[str, Column] = {}
        targets, readable, bad = [], [], {}
        conversion = self.splits[0].conversion
        for split in self.splits:
            split.check_length()
        with preserved():
            for row in indices.tolist():
                number, index = self.where[row].tolist()
                try:
                    sample = self.splits[number].read(index, draw)
                except DlcliError as exc:
                    bad[row] = exc.message
                    continue
                self.splits[number].check(sample, index)
                for name, value in sample.inputs.items():
                    columns.setdefault(name, Column(len(indices))).append(value)
                targets.append(sample.target)
                readable.append(row)
        rows = {name: column.rows() for name, column in columns.items()}
        items = conversion.items(rows, targets) if readable else None
        return items, np.array(readable, dtype=np.int64), bad
