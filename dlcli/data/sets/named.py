"""The registry of data sets. A new one is a new file in this package that registers it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Labels, Listed, Pixels, Samples, Stacked, fingerprint
from dlcli.data.kinds import DataListing
from dlcli.errors import DlcliError
from dlcli.files import user_cache
from dlcli.registry import Registry


@dataclass(frozen=True)
class NamedSet:
    """How to read and download a data set.

    ``read(root)`` lists the set below ``root``, or returns None when it is not there; it raises
    DlcliError for damaged files. ``fetch(root)`` downloads it into an empty folder, after ``url``
    responded. A set without ``url`` is built in, and its ``read`` ignores the folder.
    ``recognises(root)``: whether a folder of any name contains this set. ``kind`` is the name of its
    `DataKind`.
    """

    read: Callable[[Path], DataListing | None]
    url: str | None = None
    fetch: Callable[[Path], None] | None = None
    recognises: Callable[[Path], bool] = lambda root: False
    kind: str = "image"


DATASETS: Registry[NamedSet] = Registry("data set", "dlcli.data.sets")


def find_name(text: str) -> str | None:
    """Return the registered name equal to ``text`` up to case, hyphens and underscores, or None."""
    names = {_normalized(name): name for name in DATASETS.names()}
    return names.get(_normalized(text))


def cache_dir() -> Path:
    """Return the folder of downloaded sets in the user's cache. Raises: OSError without a home."""
    return user_cache() / "datasets"


def array_listing(
    class_names: tuple[str, ...],
    splits: Mapping[str, tuple[Pixels, npt.NDArray[np.integer]]],
    *,
    source: object,
) -> DataListing:
    """List a set of arrays: uint8 pixels (N, H, W) or (N, H, W, C) and labels (N,) of each split.

    Raises: DlcliError naming ``source`` when counts differ or a label has no class.
    """
    out: dict[str, Samples] = {}
    parts: list[bytes] = []
    for split, (pixels, labels) in splits.items():
        if len(pixels) != len(labels):
            raise DlcliError(f"{source}: {len(pixels)} images but {len(labels)} labels in {split}")
        if not pixels.size:
            raise DlcliError(f"{source}: no pixels in {split}: its images have shape {pixels.shape}")
        targets: Labels = labels.astype(np.int64)
        if not 0 <= int(targets.min()) <= int(targets.max()) < len(class_names):
            raise DlcliError(
                f"{source}: labels of {split} range from {targets.min()} to {targets.max()}, "
                f"but there are {len(class_names)} classes"
            )
        pixels = pixels[..., None] if pixels.ndim == 3 else pixels
        pixels = np.require(pixels, requirements=["C", "W"])
        ids = tuple(f"{split}/{i}" for i in range(len(targets)))
        out[split] = Samples(ids=ids, targets=targets, items=Stacked(pixels))
        parts += [split.encode(), pixels.tobytes(), targets.tobytes()]
        height, width, channels = pixels.shape[1:]
    return DataListing(
        splits=out,
        fingerprint=fingerprint(parts),
        class_names=class_names,
        native=(channels, height, width),
    )


def file_listing(
    class_names: tuple[str, ...],
    splits: Mapping[str, list[tuple[Path, int]]],
    *,
    root: Path,
    channels: int,
) -> DataListing:
    """List a set of image files: pairs (path below ``root``, class index) of each split."""
    out: dict[str, Samples] = {}
    parts: list[bytes] = []
    for split, pairs in splits.items():
        ids = tuple(valid_unicode(path.relative_to(root).as_posix()) for path, _ in pairs)
        for id_, (path, _) in zip(ids, pairs, strict=True):
            try:
                size = path.stat().st_size
            except OSError:
                size = -1  # missing: reading it fails later
            parts.append(f"{id_}\0{size}".encode())
        targets = np.array([target for _, target in pairs], dtype=np.int64)
        out[split] = Samples(ids=ids, targets=targets, items=Listed(tuple(path for path, _ in pairs)))
    return DataListing(
        splits=out,
        fingerprint=fingerprint(sorted(parts)),
        class_names=class_names,
        native=(channels, 0, 0),
    )


def valid_unicode(name: str) -> str:
    """Return a file name as valid Unicode; bytes that are no UTF-8 become ``\\udc..`` escapes.

    The same in every locale: in one without UTF-8, Python holds the bytes of an accent as surrogates.
    """
    if sys.getfilesystemencoding().lower() not in ("utf-8", "utf8") and not name.isascii():
        name = os.fsencode(name).decode("utf-8", "surrogateescape")
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _normalized(text: str) -> str:
    return re.sub(r"[-_ .]", "", text.lower())
