"""Labels for files: any number of them, in order, in bounded memory. No torch here."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dlcli.data.base import Pixels, Samples
from dlcli.data.formats import is_image
from dlcli.data.reader import Reader
from dlcli.engine.evaluate import default_batch_size, index_batches
from dlcli.engine.metrics import softmax
from dlcli.engine.prefetch import prefetch
from dlcli.errors import DlcliError
from dlcli.formats.base import Logits


@dataclass(frozen=True)
class Prediction:
    """One input's classes, the best first, as (name, probability); or the reason why there are none."""

    file: str
    top: tuple[tuple[str, float], ...] = ()
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: file, label, probability, top_k."""
        label, probability = self.top[0]
        ranked = [{"label": name, "probability": p} for name, p in self.top]
        return {"file": self.file, "label": label, "probability": probability, "top_k": ranked}


def find_inputs(arguments: Sequence[str]) -> list[str]:
    """The files that the arguments name, in order: files, folders (their images, at any depth), globs.

    A name that does not exist, and a folder or pattern without images beside others that have some,
    is kept, so that it is reported like an unreadable file. Raises: DlcliError when there is no
    image at all, or a folder cannot be listed.
    """
    found: list[str] = []
    empty: list[str] = []
    for argument in arguments:
        if os.path.isdir(argument):
            new = _images_below(argument)
        elif os.path.lexists(argument) or not glob.has_magic(argument):
            new = [argument]
        else:
            matches = sorted(glob.iglob(os.path.expanduser(argument), recursive=True))
            new = [path for path in matches if os.path.isfile(path) and is_image(path)]
        if not new:
            empty.append(argument)
        found += new or [argument]
    if len(empty) == len(arguments):
        raise DlcliError(f"{', '.join(empty[:5])} holds no images", hint="give files, folders or globs")
    return found


def predict(
    logits: Callable[[Pixels], Logits],
    files: Sequence[str],
    make_reader: Callable[[Samples], Reader],
    class_names: Sequence[str],
    *,
    top_k: int,
    batch_size: int | None,
) -> Iterator[Prediction]:
    """Predictions in the order of the files; pixels of a few batches are in memory at a time."""
    samples = Samples(
        ids=tuple(files),
        targets=np.zeros(len(files), dtype=np.int64),
        paths=tuple(Path(file) for file in files),
    )
    reader = make_reader(samples)
    size = batch_size or default_batch_size(reader.spec)
    top_k = min(top_k, len(class_names))
    for indices, pixels, kept in prefetch(index_batches(reader, size)):
        ranked = _rank(logits(pixels), class_names, top_k) if len(kept) else []
        tops = dict(zip(kept.tolist(), ranked, strict=True))
        for index in indices.tolist():
            file = files[index]
            if index in tops:
                yield Prediction(file, top=tops[index])
            else:
                yield Prediction(file, error=_reason(file, reader.bad.get(file)))


def _reason(file: str, found: str | None) -> str:
    """Why there is no prediction; for what is no file, what it is."""
    if os.path.isdir(file):
        return "the folder holds no images"
    if glob.has_magic(file) and not os.path.lexists(file):
        return "no image matches the pattern"
    return found or "it cannot be read"


def _rank(logits: Logits, class_names: Sequence[str], top_k: int) -> list[tuple[tuple[str, float], ...]]:
    """The best classes of each row; of equal ones the first in the model's order."""
    probabilities = softmax(logits)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    return [
        tuple((class_names[c], float(row[c])) for c in best)
        for row, best in zip(probabilities, order.tolist(), strict=True)
    ]


def _cannot_list(exc: OSError) -> None:
    # os.walk would leave the folder out and say nothing.
    raise DlcliError(f"cannot list {exc.filename}: {exc.strerror}") from exc


def _images_below(folder: str) -> list[str]:
    """Images at any depth, sorted; hidden names and linked folders are passed over."""
    found = []
    for here, folders, files in os.walk(folder, onerror=_cannot_list):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n != "__MACOSX")
        found += [
            os.path.join(here, name)
            for name in sorted(files)
            if is_image(name) and not name.startswith(".")
        ]
    return found
