"""Columns of a row, replaced by what is usual in training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Inputs, Items
from dlcli.data.occlusion import Occlusion, Part, in_batches, spans
from dlcli.data.tables.columns import column_names, transform
from dlcli.task import TabularInput, TaskSpec

_MOST_VALUES = 32  # of a category that are tried in its place, evenly spaced


def occlude_row(items: Items, inputs: Inputs, task: TaskSpec) -> Occlusion:
    """Each column that the model reads: a number becomes its median, a category each value in turn."""
    spec = task.input
    assert isinstance(spec, TabularInput)
    row: npt.NDArray[np.float32] = inputs[0][0]
    names = column_names(spec)
    features = {name: _number_features(spec, name) for name in names}
    codes = {category.name: spec.features + i for i, category in enumerate(spec.categories)}

    def variants() -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        for part, name in enumerate(names):
            without = row.copy()
            for feature, value in features[name].items():
                without[feature] = value
            if name not in codes:
                yield part, without
                continue
            count = spec.categories[codes[name] - spec.features].codes - 1
            for start, _ in spans(count, _MOST_VALUES):
                other = without.copy()
                other[codes[name]] = start + 1
                yield part, other

    parts = tuple(Part(name, "column") for name in names)
    how = "numbers replaced by their median of training, categories by each of their values"
    return Occlusion(parts, in_batches(variants()), how)


def _number_features(spec: TabularInput, source: str) -> dict[int, float]:
    """Features of a column of numbers, indicators too, and their values at its median."""
    out: dict[int, float] = {}
    indicator = len(spec.numbers)
    for i, number in enumerate(spec.numbers):
        if number.source == source:
            value = float(transform(np.array([number.fill]), number)[0])
            out[i] = (value - number.mean) / number.std
            if number.indicator:
                out[indicator] = 0.0
        indicator += number.indicator
    return out
