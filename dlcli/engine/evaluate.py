"""Evaluation: logits in, counts out, the same for every artifact format. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from dlcli.card import ImageInput
from dlcli.data.base import Pixels
from dlcli.data.reader import Reader
from dlcli.engine.metrics import ClassificationCounts, EvalResult
from dlcli.engine.prefetch import prefetch
from dlcli.errors import DlcliError
from dlcli.events import Emit, EvalProgress, ignore
from dlcli.formats.base import Logits


def evaluate(
    predict: Callable[[Pixels], Logits],
    reader: Reader,
    class_names: Sequence[str],
    *,
    split: str,
    batch_size: int | None = None,
    emit: Emit = ignore,
) -> EvalResult:
    """The metrics of ``predict`` over a split, each readable sample counted once.

    Unreadable samples are left out, counted and named; none is replaced. Raises: DlcliError when no
    sample can be read, or on the first unreadable one where the reader is told to fail.
    """
    counts = ClassificationCounts(len(class_names))
    done = 0
    size = batch_size or default_batch_size(reader.spec)
    for indices, pixels, kept in prefetch(index_batches(reader, size)):
        if len(kept):
            counts.update(predict(pixels), reader.samples.targets[kept])
        done += len(indices)
        emit(EvalProgress(split=split, done=done, total=len(reader)))
    if not counts.samples:
        raise DlcliError(f"none of the {len(reader)} samples of the {split} split can be read")
    return counts.result(split, class_names, reader.bad)


def default_batch_size(spec: ImageInput) -> int:
    """As many samples as 64 photos of 224x224 have pixels, at most 256: memory, not results."""
    return max(1, min(256, 64 * 224 * 224 // (spec.height * spec.width)))


Batch = tuple[npt.NDArray[np.int64], Pixels, npt.NDArray[np.int64]]


def index_batches(reader: Reader, batch_size: int) -> Iterator[Batch]:
    """(indices, pixels of the readable ones, which those are), in order."""
    for start in range(0, len(reader), batch_size):
        indices = np.arange(start, min(start + batch_size, len(reader)), dtype=np.int64)
        yield indices, *reader.read(indices)
