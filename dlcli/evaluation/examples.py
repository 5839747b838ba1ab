"""Samples of a split with their predictions, to look at: translations, and forecasts over time.

No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dlcli.data.base import Inputs, Listed, Reader
from dlcli.data.series.windows import Windows, channel_indices
from dlcli.evaluation.metrics import EvalResult
from dlcli.evaluation.metrics.base import ForecastLine, TranslationRow
from dlcli.evaluation.predict import Widths, row_function
from dlcli.evaluation.translation import translate
from dlcli.formats.base import Outputs
from dlcli.task import TaskSpec

TRANSLATIONS = 3
LINES = 4
HISTORY = 3  # horizons before the first predicted step


def add_examples(
    result: EvalResult,
    predict: Callable[[Inputs], Outputs],
    reader: Reader,
    task: TaskSpec,
    *,
    beams: int = 1,
    half_widths: Widths | None = None,
) -> EvalResult:
    """Add the translations or forecasts of a few samples to a result; other tasks have none.

    ``half_widths`` gives those of intervals around a batch of forecasts, as for `predict`.
    """
    if task.kind == "seq2seq":
        return replace(result, translations=_translations(predict, reader, task, beams))
    if task.kind == "forecast":
        return replace(result, forecasts=_forecasts(predict, reader, task, half_widths))
    return result


def _translations(
    predict: Callable[[Inputs], Outputs], reader: Reader, task: TaskSpec, beams: int
) -> tuple[TranslationRow, ...]:
    """Texts evenly spaced over the split, so that the choice depends on nothing but its size."""
    assert isinstance(reader.samples.items, Listed)
    number = min(TRANSLATIONS, len(reader))
    indices = np.linspace(0, len(reader) - 1, number).round().astype(np.int64)
    inputs, readable = reader.read(indices)
    texts = translate(predict, inputs, task, beams=beams)
    pairs = [reader.samples.items.values[i] for i in readable.tolist()]
    return tuple(
        TranslationRow(reader.samples.ids[index], str(source), str(target), text)
        for index, (source, target), text in zip(readable.tolist(), pairs, texts, strict=True)
    )


def _forecasts(
    predict: Callable[[Inputs], Outputs], reader: Reader, task: TaskSpec, half_widths: Widths | None
) -> tuple[ForecastLine, ...]:
    """The last window of each of the first series, or of the first targets of one series."""
    windows = reader.samples.items
    assert isinstance(windows, Windows)
    rows_of = row_function(predict, task, 1, 1, half_widths)
    lines: list[ForecastLine] = []
    several = len(np.unique(windows.which)) > 1
    for number in np.unique(windows.which).tolist():
        last = np.flatnonzero(windows.which == number)[-1:]
        inputs, readable = reader.read(last.astype(np.int64))
        if not len(readable):
            continue
        steps = rows_of(inputs, reader.series(readable))[0]
        own = window_lines(windows, int(readable[0]), steps, task)
        lines += own[: 1 if several else LINES]
        if len(lines) >= LINES:
            break
    return tuple(lines[:LINES])


def window_lines(
    windows: Windows, index: int, steps: Sequence[dict[str, Any]], task: TaskSpec
) -> list[ForecastLine]:
    """A window with its predicted ``steps``, as `row_function` gives them: a line for each target."""

    def numbers(name: str, *keys: str) -> tuple[float, ...]:
        """The target's number of each step: its own key where there is one target, else by name."""
        cells = [step[key] for step in steps for key in keys if key in step]
        return tuple(cell[name] if isinstance(cell, dict) else cell for cell in cells)

    series, start = windows.series[windows.which[index]], int(windows.starts[index])
    first = max(0, start - HISTORY * task.horizon)
    rows = slice(first, start + task.horizon)
    names = [target.name for target in task.targets]
    columns = channel_indices(names, series.channels, "the model predicts it")
    return [
        ForecastLine(
            name=f"{series.id}: {name}" if len(windows.series) > 1 else name,
            times=series.times[rows],
            true=tuple(series.target_values[rows, column].tolist()),
            predicted=numbers(name, "value", "values"),
            low=numbers(name, "low"),
            high=numbers(name, "high"),
        )
        for name, column in zip(names, columns, strict=True)
    ]
