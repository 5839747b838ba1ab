"""Spans of steps, and channels, of a series replaced by what lies around them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Inputs, Items
from dlcli.data.occlusion import Occlusion, Part, in_batches, spans
from dlcli.task import SeriesInput, TaskSpec
from dlcli.wording import shorten

_SPANS = 24


def occlude_series(items: Items, inputs: Inputs, task: TaskSpec) -> Occlusion:
    """Spans of steps in all channels, replaced by a line; then each channel, replaced by its mean."""
    spec = task.input
    assert isinstance(spec, SeriesInput)
    values: npt.NDArray[np.float32] = inputs[0][0]  # (T, C)
    steps = spans(len(values), _SPANS)
    parts = [Part(f"steps {start}:{stop}", "step", (start,), (stop,)) for start, stop in steps]
    several = len(spec.channels) > 1
    parts += [Part(shorten(name, 60), "channel") for name in spec.channels if several]

    def variants() -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        for index, (start, stop) in enumerate(steps):
            without = values.copy()
            without[start:stop] = _line(values, start, stop)
            yield index, without
        for channel in range(len(spec.channels) if several else 0):
            without = values.copy()
            without[:, channel] = values[:, channel].mean()
            yield len(steps) + channel, without

    how = "steps replaced by a line between their neighbours, channels by their mean"
    return Occlusion(tuple(parts), in_batches(variants(), inputs[1:]), how)


def _line(values: npt.NDArray[np.float32], start: int, stop: int) -> npt.NDArray[np.float32]:
    """(stop - start, C) between the steps before and after; at an end of the series the one there is."""
    known = [step for step in (start - 1, stop) if 0 <= step < len(values)]
    if not known:
        return np.zeros_like(values[start:stop])
    at = np.arange(start, stop)
    columns = [np.interp(at, known, values[known, c]) for c in range(values.shape[1])]
    line: npt.NDArray[np.float32] = np.stack(columns, axis=1).astype(np.float32)
    return line
