"""Registered data sets. A new one is a new file in this package that registers it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Labels, Listed, Pixels, Samples, Stacked, fingerprint
from dlcli.data.kinds import DataListing
from dlcli.errors import DlcliError
from dlcli.registry import Registry


@dataclass(frozen=True)
class NamedSet:
    """How to read and download a data set.

    ``read(root)`` lists the set below ``root``; None when it is not there. It raises DlcliError when it
    is damaged. ``fetch(root)`` downloads it into an empty folder, once ``url`` responds. A set without
    ``url`` is built in, and its ``read`` ignores the folder. ``recognises(root)``: whether a folder of
    another name holds this set. ``kind`` is the name of its `DataKind`.
    """

    read: Callable[[Path], DataListing | None]
    url: str | None = None
    fetch: Callable[[Path], None] | None = None
    recognises: Callable[[Path], bool] = lambda root: False
    kind: str = "image"


DATASETS: Registry[NamedSet] = Registry("data set", "dlcli.data.sets")


def find_name(text: str) -> str | None:
    """The registered name that ``text`` spells, whatever its capitals, hyphens and underscores."""
    spelled = {_squash(name): name for name in DATASETS.names()}
    return spelled.get(_squash(text))


def cache_dir() -> Path:
    """Where downloaded sets are kept: below $DLCLI_CACHE, else below the user's cache folder."""
    own = os.environ.get("DLCLI_CACHE")
    if own:
        return Path(own).expanduser() / "datasets"
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(user).expanduser() / "dlcli" / "datasets"


def arrays(
    class_names: tuple[str, ...],
    splits: Mapping[str, tuple[Pixels, npt.NDArray[np.integer]]],
    *,
    source: object,
) -> DataListing:
    """A set of raw arrays: pixels (N, H, W) or (N, H, W, C) uint8 and labels (N,) for each split.

    Raises: DlcliError naming ``source`` when counts differ or a label has no class.
    """
    out: dict[str, Samples] = {}
    parts: list[bytes] = []
    for split, (pixels, labels) in splits.items():
        if len(pixels) != len(labels):
            raise DlcliError(f"{source}: {len(pixels)} images but {len(labels)} labels in {split}")
        targets: Labels = labels.astype(np.int64)
        if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < len(class_names):
            raise DlcliError(
                f"{source}: labels of {split} run from {targets.min()} to {targets.max()}, "
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


def files(
    class_names: tuple[str, ...],
    splits: Mapping[str, list[tuple[Path, int]]],
    *,
    root: Path,
    channels: int,
) -> DataListing:
    """A set of image files: (path below ``root``, class index) for each split."""
    out: dict[str, Samples] = {}
    parts: list[bytes] = []
    for split, listed in splits.items():
        ids = tuple(clean(path.relative_to(root).as_posix()) for path, _ in listed)
        for id_, (path, _) in zip(ids, listed, strict=True):
            try:
                size = path.stat().st_size
            except OSError:
                size = -1  # listed by the set but missing: reading it fails later
            parts.append(f"{id_}\0{size}".encode())
        targets = np.array([target for _, target in listed], dtype=np.int64)
        out[split] = Samples(ids=ids, targets=targets, items=Listed(tuple(path for path, _ in listed)))
    return DataListing(
        splits=out,
        fingerprint=fingerprint(sorted(parts)),
        class_names=class_names,
        native=(channels, 0, 0),
    )


def clean(name: str) -> str:
    """A file's name as valid Unicode; bytes that are none (old archives) become ``\\udc..`` escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _squash(text: str) -> str:
    return re.sub(r"[-_ .]", "", text.lower())
