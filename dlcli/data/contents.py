"""Keys of the contents of samples, equal for exact copies, without reading large files whole."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_FILES = 200_000  # beyond, files are not compared: opening each takes minutes
_END_BYTES = 8_192
_THREADS = 8

Keys = list[Hashable]


def value_keys(values: Sequence[Any]) -> Keys | None:
    """Keys of texts, pairs, arrays or files, given by path; None for others, and for too many files.

    Case and whitespace of texts do not count; an empty text is no copy of another.
    """
    first = values[0] if values else None
    if isinstance(first, Path):
        return file_keys(values) if len(values) <= MAX_FILES else None
    if isinstance(first, np.ndarray):
        return [(value.shape, array_key(value)) for value in values]
    if isinstance(first, str):
        return [text_key(value) or (index,) for index, value in enumerate(values)]
    if isinstance(first, tuple):
        return [tuple(text_key(str(side)) for side in value) for value in values]
    return None


def text_key(text: str) -> str:
    """A text without what copies may differ in: case and whitespace."""
    return " ".join(text.split()).casefold()


def array_key(array: npt.NDArray[Any]) -> bytes:
    """A digest of an array's bytes."""
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).digest()


def file_keys(paths: Sequence[Path]) -> Keys:
    """Keys of files: of the size where no other file has it, else of both ends, else of all bytes.

    A missing or empty file has a key of its own: it is no copy of another.
    """
    sizes = _map(_size, paths)
    keys: Keys = [size or (0, index) for index, size in enumerate(sizes)]
    for digest in (_ends_digest, _whole_digest):
        shared = _shared(keys)
        for index, part in zip(shared, _map(digest, [paths[i] for i in shared]), strict=True):
            keys[index] = (index,) if part is None else (sizes[index], part)
    return keys


def _shared(keys: Keys) -> list[int]:
    """The positions of keys that occur more than once."""
    where: dict[Hashable, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        where[key].append(index)
    return sorted(index for indices in where.values() if len(indices) > 1 for index in indices)


def _map(function: Callable[[Path], Any], paths: Sequence[Path]) -> list[Any]:
    if len(paths) < _THREADS:
        return [function(path) for path in paths]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="dlcli-contents") as pool:
        return list(pool.map(function, paths))


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size if path.is_file() else 0
    except OSError:
        return 0


def _ends_digest(path: Path) -> bytes | None:
    """A digest of the beginning and the end of a file; None when it cannot be read."""
    try:
        with path.open("rb") as file:
            digest = hashlib.blake2b(file.read(_END_BYTES), digest_size=16)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _END_BYTES))
            digest.update(file.read(_END_BYTES))
    except OSError:
        return None
    return digest.digest()


def _whole_digest(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError:
        return None
