"""Synthetic tables: an input of typical size, and random rows."""

from __future__ import annotations

import numpy as np

from dlcli.data.base import Inputs
from dlcli.data.kinds import ModelNeeds
from dlcli.task import CategoryColumn, NumberColumn, TabularInput

_NUMERIC_COLUMNS, _CATEGORY_COLUMNS, _CATEGORY_VALUES = 8, 2, 20
REFERENCE_WORDS = (
    f"{_NUMERIC_COLUMNS} numbers, {_CATEGORY_COLUMNS} columns of {_CATEGORY_VALUES} categories"
)


def reference_input(needs: ModelNeeds) -> TabularInput:
    """Return an input of 8 numeric and 2 categorical columns."""
    return TabularInput(
        numbers=tuple(NumberColumn(name=f"number{i}") for i in range(_NUMERIC_COLUMNS)),
        categories=tuple(
            CategoryColumn(name=f"category{i}", values=tuple(map(str, range(_CATEGORY_VALUES))))
            for i in range(_CATEGORY_COLUMNS)
        ),
    )


def noise(spec: TabularInput, count: int, length: int | None, rng: np.random.Generator) -> Inputs:
    """Return encoded rows (n, F + K): normal numbers, 10 % of them missing, and random codes."""
    codes = [rng.integers(0, column.codes, count) for column in spec.categories]
    numbers = rng.normal(size=(count, len(spec.numbers)))
    missing = rng.random((count, len(spec.numbers))) < 0.1
    with_indicator = [i for i, column in enumerate(spec.numbers) if column.indicator]
    for i in with_indicator:
        numbers[missing[:, i], i] = _encoded_fill(spec.numbers[i])
    return (np.column_stack([numbers, missing[:, with_indicator], *codes]).astype(np.float32),)


def _encoded_fill(column: NumberColumn) -> float:
    """Return the encoded value of a missing cell."""
    value = column.fill
    if column.log:
        value = float(np.sign(value) * np.log1p(abs(value)))
    return (value - column.mean) / column.std
