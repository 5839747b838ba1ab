"""Raw samples for files that have their preprocessing inside: whole images, and cells as they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.config import ExportConfig
from dlcli.data.base import Listed, Samples, Stacked
from dlcli.data.images.decode import whole_image
from dlcli.data.tables.cells import as_numbers, as_words
from dlcli.data.tables.rows import TableRows
from dlcli.deploy.parity import Parity, compare_raw
from dlcli.deploy.reference import ReferenceEvaluator
from dlcli.formats.base import Artifact
from dlcli.formats.onnx.embed import IMAGE, NUMBERS, WORDS, takes_raw_inputs
from dlcli.formats.onnx.format import OnnxArtifact
from dlcli.task import ImageInput, TabularInput, TaskSpec

Feeds = dict[str, npt.NDArray[Any]]
_ROWS = 32  # of a table at a time


def with_raw_parity(
    parity: Parity,
    before: Artifact,
    after: Artifact,
    reference: ReferenceEvaluator,
    config: ExportConfig,
) -> Parity:
    """The comparison, with that on raw samples where the file takes such and there are some."""
    if not isinstance(after, OnnxArtifact) or not takes_raw_inputs(after.card):
        return parity
    read = reference.raw_samples()
    if read is None:
        return parity
    inputs, samples = read
    feeds = raw_feeds(samples, before.card.task, after.fixed_batch)
    raw, missed = compare_raw(before, after, inputs, feeds, config)
    return replace(parity, raw=raw, missed=(*parity.missed, *missed))


def raw_feeds(samples: Samples, task: TaskSpec, rows: int | None) -> Iterator[tuple[Feeds, int]]:
    """Samples as an embedded graph takes them, and how many: an image at a time, or rows of a table.

    ``rows`` is how many a file of one size takes; samples are then repeated to fill it.
    """
    if isinstance(task.input, ImageInput):
        for image in _images(samples):
            pixels = whole_image(image, task.input)
            yield {IMAGE: np.repeat(pixels[None], rows or 1, axis=0)}, 1
        return
    assert isinstance(task.input, TabularInput)
    cells = _cells(samples, task.input)
    total = len(samples)
    for start in range(0, total, rows or _ROWS):
        count = min(rows or _ROWS, total - start)
        some = np.minimum(np.arange(start, start + (rows or count)), total - 1)
        yield {name: array[some] for name, array in cells.items()}, count


def _images(samples: Samples) -> Iterator[Path | npt.NDArray[np.uint8]]:
    if isinstance(samples.items, Stacked):
        yield from samples.items.values
        return
    assert isinstance(samples.items, Listed)
    yield from samples.items.values


def _cells(samples: Samples, spec: TabularInput) -> Feeds:
    assert isinstance(samples.items, TableRows)
    frame, found = samples.items.frame, {}
    if spec.numbers:
        columns = [as_numbers(frame[c.name])[0].fill_null(float("nan")).to_numpy() for c in spec.numbers]
        found[NUMBERS] = np.stack(columns, axis=1).astype(np.float64)
    if spec.categories:
        words = [as_words(frame[c.name]).fill_null("").to_list() for c in spec.categories]
        found[WORDS] = np.array(words, dtype=object).T
    return found
