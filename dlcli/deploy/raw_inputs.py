"""Raw inputs for files with embedded preprocessing: whole images, and cells of tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.config import ExportConfig
from dlcli.data.base import Listed, Samples, Stacked
from dlcli.data.tables.cells import as_numbers, as_strings
from dlcli.data.tables.rows import TableRows
from dlcli.deploy.parity import Parity, check_raw_parity
from dlcli.deploy.reference import ReferenceEvaluator
from dlcli.formats.base import Artifact
from dlcli.formats.onnx.embed import IMAGE, NUMBERS, WORDS, takes_raw_inputs
from dlcli.formats.onnx.format import OnnxArtifact
from dlcli.pixels.decode import whole_values
from dlcli.task import ImageInput, TabularInput, TaskSpec

Feeds = dict[str, npt.NDArray[Any]]
_TABLE_BATCH = 32


def with_raw_parity(
    parity: Parity,
    before: Artifact,
    after: Artifact,
    reference: ReferenceEvaluator,
    config: ExportConfig,
) -> Parity:
    """Return the parity with a check on raw samples, where the file takes them and there are some."""
    if not isinstance(after, OnnxArtifact) or not takes_raw_inputs(after.card):
        return parity
    raw_samples = reference.raw_samples()
    if raw_samples is None:
        return parity
    inputs, samples = raw_samples
    feeds = raw_feeds(samples, before.card.task, after.fixed_batch)
    raw, missed = check_raw_parity(before, after, inputs, feeds, config)
    return replace(parity, raw=raw, missed=(*parity.missed, *missed))


def raw_feeds(samples: Samples, task: TaskSpec, rows: int | None) -> Iterator[tuple[Feeds, int]]:
    """Yield feeds of an embedded graph with their number of samples: one image, or rows of a table.

    ``rows`` is the batch size of a file with a fixed one; samples are then repeated to fill it.
    """
    if isinstance(task.input, ImageInput):
        for image in images_of(samples):
            pixels = whole_values(image, task.input)
            yield {IMAGE: np.repeat(pixels[None], rows or 1, axis=0)}, 1
        return
    assert isinstance(task.input, TabularInput)
    cells = _cells(samples, task.input)
    total = len(samples)
    for start in range(0, total, rows or _TABLE_BATCH):
        count = min(rows or _TABLE_BATCH, total - start)
        some = np.minimum(np.arange(start, start + (rows or count)), total - 1)
        yield {name: array[some] for name, array in cells.items()}, count


def images_of(samples: Samples) -> Iterator[Path | npt.NDArray[np.uint8]]:
    """Yield the files of images, or their pixels."""
    if isinstance(samples.items, Stacked):
        yield from samples.items.values
        return
    assert isinstance(samples.items, Listed)
    yield from samples.items.values


def _cells(samples: Samples, spec: TabularInput) -> Feeds:
    assert isinstance(samples.items, TableRows)
    frame, feeds = samples.items.frame, {}
    if spec.numbers:
        columns = [
            as_numbers(frame[c.source], c.format)[0].fill_null(float("nan")).to_numpy()
            for c in spec.numbers
        ]
        feeds[NUMBERS] = np.stack(columns, axis=1).astype(np.float64)
    if spec.categories:
        words = [as_strings(frame[c.name]).fill_null("").to_list() for c in spec.categories]
        feeds[WORDS] = np.array(words, dtype=object).T
    return feeds
