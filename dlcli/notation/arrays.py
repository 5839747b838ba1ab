"""Arrays in NumPy files, and which of them are samples and labels of which split. Never unpickled."""

from __future__ import annotations

import re
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.errors import DlcliError
from dlcli.files import check_unpacked

_SAMPLES = frozenset({"x", "images", "image", "imgs", "data"})
_LABELS = frozenset({"y", "labels", "label", "targets", "target"})
# A header is Python source that numpy parses: SyntaxError, TokenError and RecursionError are of it.
_DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    zipfile.BadZipFile,
    zlib.error,
    MemoryError,
    SyntaxError,
    tokenize.TokenError,
    RecursionError,
)


@dataclass(frozen=True)
class ArrayNames:
    """The names of a split's arrays in a file: its samples, and its labels where there are any."""

    samples: str
    labels: str | None = None


def names_by_split(names: Iterable[str], split_names: Mapping[str, str]) -> dict[str, ArrayNames]:
    """The arrays of each split, or of "all", by name: X and y, x_train, train_images, val_labels.

    ``split_names`` maps the words of splits, in lower case. Raises: ValueError for two of one role.
    """
    roles: dict[tuple[str, bool], str] = {}
    for name in names:
        role = _role(name.lower(), split_names)
        if role is None:
            continue
        if role in roles:
            raise ValueError(f"{roles[role]} and {name}")
        roles[role] = name
    return {
        split: ArrayNames(name, roles.get((split, False)))
        for (split, is_samples), name in roles.items()
        if is_samples
    }


def shapes(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of each array of an `.npz` by name, or of an `.npy` by file name, from the headers.

    Empty for a file that cannot be read.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                array = _mapped(path)
                return {path.name: (array.shape, array.dtype)}
            file.seek(0)
            with zipfile.ZipFile(file) as archive:
                return {
                    name.removesuffix(".npy"): _header(archive, name)
                    for name in archive.namelist()
                    if name.endswith(".npy")
                }
    except _DAMAGED:
        return {}


def load(path: Path, names: Collection[str] | None = None) -> dict[str, Any]:
    """Load the array of an `.npy` by file name, or those of an `.npz` with these names (None: all).

    Raises: DlcliError when the file is damaged or holds Python objects.
    """
    try:
        # The file is opened here because np.load leaves a damaged archive open.
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                file.seek(0)
                with np.load(file, allow_pickle=False) as archive:
                    check_unpacked(path, sum(info.file_size for info in archive.zip.infolist()))
                    return {key: archive[key] for key in archive.files if names is None or key in names}
        # Memory-mapped, so that a damaged header with a huge shape fails before allocation.
        return {path.name: _mapped(path)}
    except _DAMAGED as exc:
        if any(word in str(exc) for word in ("pickle", "Object arrays", "Python objects")):
            raise DlcliError(
                f"{path} holds Python objects or is not a NumPy file; it is not unpickled",
                hint="save plain numbers: np.savez(file, X=X.astype('float32'), y=y)",
            ) from exc
        reason = " ".join(str(exc).split()) or type(exc).__name__
        raise DlcliError(f"cannot read {path}: {reason}") from exc


def _mapped(path: Path) -> npt.NDArray[Any]:
    """The array of an `.npy`, mapped. Raises: what `_DAMAGED` lists."""
    try:
        with np.errstate(over="ignore"):  # of sizes in a damaged header, which are refused below
            array: npt.NDArray[Any] = np.load(path, allow_pickle=False, mmap_mode="r")
    except ValueError as exc:
        if "mmap length" in str(exc):
            raise ValueError("its header states more values than follow: it is cut off") from exc
        raise
    return array


def load_one(path: Path) -> Any:
    """Load the array of an `.npy`. Raises: DlcliError as `load`, and for an archive."""
    arrays = load(path)
    if set(arrays) != {path.name}:
        raise DlcliError(f"{path} is an archive of arrays", hint="rename it to .npz")
    return arrays[path.name]


def labels_file(path: Path) -> Path | None:
    """The file of the labels next to that of samples: y_train.npy for X_train.npy; None without."""
    if path.name[:1] not in ("X", "x"):
        return None
    same_case = "y" if path.name[0] == "x" else "Y"
    names = [letter + path.name[1:] for letter in dict.fromkeys(("y", same_case, "Y"))]
    return next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)


def _role(name: str, split_names: Mapping[str, str]) -> tuple[str, bool] | None:
    """The split of an array ("all" without one) and whether it is of samples; None for another."""
    joined = re.fullmatch(r"([xy])([a-z]+)", name)  # xtrain
    words = list(joined.groups()) if joined else re.split(r"[_.\-]", name)
    roles = [word for word in words if word in _SAMPLES | _LABELS]
    rest = [word for word in words if word not in _SAMPLES | _LABELS]
    if len(roles) != 1 or len(rest) > 1:
        return None
    split = split_names.get(rest[0]) if rest else "all"
    return None if split is None else (split, roles[0] in _SAMPLES)


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Raises: ValueError when the header is damaged."""
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(member)
    return shape, dtype
