"""Arrays of images in NumPy files: uint8 (N, H, W) or (N, H, W, C), or other numbers (N, H, W, C).

The names are those of Keras (x_train, y_train) and MedMNIST (train_images, train_labels), or X and y.
C is 1 or 3, and may come before H and W.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Pixels, Samples, Stacked, fingerprint
from dlcli.data.kinds import DataListing
from dlcli.data.notices import Notice, left_out
from dlcli.data.series.array_files import ARRAY_SUFFIXES, label_columns, read_archive, read_pair
from dlcli.data.tables.split_names import SPLIT_NAMES, split_files
from dlcli.data.tables.targets import encode, infer_target
from dlcli.errors import DlcliError, UsageError
from dlcli.notation.arrays import names_by_split, shapes

if TYPE_CHECKING:
    from dlcli.config import DataConfig

_SHAPES = "images are uint8 (N, H, W) or (N, H, W, C) of 1 or 3 channels, or numbers from 0 to 1 or 255"
_MIN_SIDE = 4  # (N, 3, 3) of uint8 are no images
_REFUSED = ("target", "split_column", "group_column")


def is_image_arrays(path: Path, config: DataConfig) -> bool:
    """Whether a NumPy file, or the only ones of a folder, hold arrays of images."""
    files = find_array_files(path)
    if files is None or config.task in ("forecast", "seq2seq"):
        return False
    by_name = shapes(next(iter(files.values())))
    if not path.name.lower().endswith(".npz") and len(by_name) == 1:
        names = list(by_name)
    else:
        try:
            names = [split.samples for split in names_by_split(by_name, SPLIT_NAMES).values()]
        except ValueError:
            names = []
    return bool(names) and all(_is_image_shape(*by_name[name]) for name in names)


def find_array_files(path: Path) -> dict[str, Path] | None:
    """The NumPy files at a path by split, or one "all"; None when there are none."""
    for suffix in reversed(ARRAY_SUFFIXES):
        if path.is_file() and not path.name.lower().endswith(suffix):
            continue
        # y.npy next to X.npy holds its labels, not a split.
        stem = path / "X" if suffix == ".npy" and path.is_dir() else path
        try:
            files = split_files(stem, (suffix,))
        except DlcliError:  # several data sets: the kind of series says so
            files = None
        if files is not None:
            return files
    return None


def read_arrays(path: Path, config: DataConfig, other: bool) -> DataListing:
    """List the images of NumPy files and their labels.

    Raises: DlcliError when arrays do not match, or a held-out class is not in train; UsageError.
    """
    for key in _REFUSED:
        if getattr(config, key) is not None:
            raise UsageError(f"--{key.replace('_', '-')} is for tables, and {path} holds arrays")
    files = find_array_files(path)
    assert files is not None
    parts = _read_files(files)
    columns, notices = {}, []
    for split, (images, labels, where) in parts.items():
        if labels is None:
            notices.append(left_out(f"the images for {split} have no labels, so they are not used"))
            continue
        columns[split] = label_columns(classes_of_one_hot(labels), len(images), where)
    if not columns:
        raise DlcliError(f"{path} has no labels", hint="name the arrays X and y, or x_train and y_train")
    base = columns.get("train", next(iter(columns.values())))
    target = infer_target(base, config.task, min_values=1 if other else 2)
    notices += target.notices
    splits: dict[str, Samples] = {}
    digest_parts: list[bytes] = []
    for split, cells in columns.items():
        images, _, where = parts[split]
        targets, rows = encode(cells, target, where=where)
        pixels, read_notices = to_pixels(images, where)
        notices += read_notices
        indices = np.flatnonzero(rows)
        prefix = "" if split == "all" else f"{split}/"
        splits[split] = Samples(
            ids=tuple(f"{prefix}{i}" for i in indices.tolist()),
            targets=targets,
            items=Stacked(pixels if len(indices) == len(pixels) else pixels[indices]),
        )
        digest_parts += [split.encode(), pixels.tobytes(), np.ascontiguousarray(targets).tobytes()]
    sizes = {part.items.values.shape[1:] for part in splits.values() if isinstance(part.items, Stacked)}
    if len(sizes) > 1:
        raise DlcliError(f"{path}: the images of the splits have different shapes: {sorted(sizes)}")
    height, width, channels = sizes.pop()
    return DataListing(
        splits=splits,
        fingerprint=fingerprint(digest_parts),
        task=target.task,
        class_names=target.class_names,
        target_names=target.target_names if target.task == "regression" else (),
        native=(channels, height, width),
        options={"task": target.task, **target.options},
        notices=tuple(notices),
        name=path.stem if path.is_file() else None,
    )


def array_inputs(arguments: Sequence[str]) -> Samples:
    """The images of NumPy files, without targets; ids are ``file:index``. Raises: DlcliError."""
    ids: list[str] = []
    parts: list[Pixels] = []
    for argument in arguments:
        for split, (images, _, where) in _read_files({"all": Path(argument).expanduser()}).items():
            pixels, _ = to_pixels(images, where)
            prefix = argument if split == "all" else f"{argument}:{split}"
            ids += [f"{prefix}:{i}" for i in range(len(pixels))]
            parts.append(pixels)
    if len({part.shape[1:] for part in parts}) > 1:
        raise DlcliError(
            "the images of these files have different shapes", hint="predict them one by one"
        )
    return Samples(tuple(ids), np.zeros(0, dtype=np.int64), Stacked(np.concatenate(parts)))


def to_pixels(images: npt.NDArray[Any], where: str) -> tuple[Pixels, list[Notice]]:
    """Convert an array of images to uint8 (N, H, W, C), with notices.

    Raises: DlcliError naming ``where``, the shape or the range, and what is allowed.
    """
    notices: list[Notice] = []
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
        images = np.moveaxis(images, 1, 3)
        notices.append(Notice(f"{where}: the second axis is read as the channels"))
    if images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
        raise DlcliError(f"{where} has shape {images.shape}", hint=_SHAPES)
    if images.dtype != np.uint8:
        if images.dtype.kind not in "fiub":
            raise DlcliError(f"{where} holds {images.dtype}, not numbers", hint=_SHAPES)
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 255):
            raise DlcliError(f"{where} has values from {low:g} to {high:g}", hint=_SHAPES)
        factor = 255 if high <= 1 else 1
        how = "multiplied by 255" if factor > 1 else "rounded"
        notices.append(Notice(f"{where}: values from {low:g} to {high:g} are {how}"))
        images = np.rint(images.astype(np.float32) * factor).astype(np.uint8)
    return np.require(images, requirements=["C", "W"]), notices


def _read_files(files: Mapping[str, Path]) -> dict[str, tuple[Any, Any, str]]:
    """Images, labels and where they are, by split. Raises: DlcliError when a file cannot be read."""
    parts: dict[str, tuple[Any, Any, str]] = {}
    for split, file in files.items():
        if file.suffix.lower() == ".npy":
            parts[split] = read_pair(file)
            continue
        archive = read_archive(file)
        if split != "all" and set(archive) != {"all"}:
            raise DlcliError(
                f"{file} holds {', '.join(archive)}, but is itself the {split} split",
                hint="name one file, or keep only X and y in each",
            )
        parts |= archive if split == "all" else {split: archive["all"]}
    return {split: parts[split] for split in ("all", "train", "val", "test") if split in parts}


def _is_image_shape(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    if dtype.kind not in "fiub":
        return False
    if len(shape) == 3:
        return dtype == np.uint8 and min(shape[1:]) >= _MIN_SIDE
    return len(shape) == 4


def classes_of_one_hot(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Class indices (N,) of labels (N, classes) with one 1 in each row; others unchanged."""
    if labels.ndim != 2 or labels.shape[1] < 2 or labels.dtype.kind not in "fiub":
        return labels
    is_one_hot = bool(((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all())
    return labels.argmax(axis=1) if is_one_hot else labels
