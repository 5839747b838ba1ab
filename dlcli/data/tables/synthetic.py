"""Inputs of tables without data: one of typical size, and random rows."""

from __future__ import annotations

import numpy as np

from dlcli.data.base import Inputs
from dlcli.data.kinds import ModelNeeds
from dlcli.task import CategoryColumn, NumberColumn, TabularInput

NUMBERS, CATEGORIES, VALUES = 8, 2, 20
REFERENCE_WORDS = f"{NUMBERS} numbers, {CATEGORIES} columns of {VALUES} categories"


def reference_input(needs: ModelNeeds) -> TabularInput:
    """Rows of 8 numbers and 2 categorical columns."""
    return TabularInput(
        numbers=tuple(NumberColumn(name=f"number{i}") for i in range(NUMBERS)),
        categories=tuple(
            CategoryColumn(name=f"category{i}", values=tuple(map(str, range(VALUES))))
            for i in range(CATEGORIES)
        ),
    )


def noise(spec: TabularInput, count: int, length: int | None, rng: np.random.Generator) -> Inputs:
    """Encoded rows (n, F + K): normal numbers, a tenth of them missing, and random codes."""
    codes = [rng.integers(0, column.codes, count) for column in spec.categories]
    numbers = rng.normal(size=(count, len(spec.numbers)))
    missing = rng.random((count, len(spec.numbers))) < 0.1
    marked = [i for i, column in enumerate(spec.numbers) if column.indicator]
    for i in marked:
        numbers[missing[:, i], i] = _encoded_fill(spec.numbers[i])
    return (np.column_stack([numbers, missing[:, marked], *codes]).astype(np.float32),)


def _encoded_fill(column: NumberColumn) -> float:
    """The encoded value of a missing cell."""
    value = column.fill
    if column.log:
        value = float(np.sign(value) * np.log1p(abs(value)))
    return (value - column.mean) / column.std
