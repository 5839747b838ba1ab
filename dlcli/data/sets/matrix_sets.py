"""SVHN (MATLAB files) and STL-10 (plain bytes)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dlcli.data.kinds import DataListing
from dlcli.data.sets.builtin import DIGITS
from dlcli.data.sets.download import torchvision_datasets
from dlcli.data.sets.named import DATASETS, NamedSet, array_listing
from dlcli.errors import DlcliError

_SVHN_FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
_SVHN_URL = "http://ufldl.stanford.edu/housenumbers/"
_STL_FOLDER = "stl10_binary"
_STL_URL = "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz"
_STL_CLASSES = (
    *("airplane", "bird", "car", "cat", "deer"),
    *("dog", "horse", "monkey", "ship", "truck"),
)
_STL_IMAGE_BYTES = 3 * 96 * 96


def _read_svhn(root: Path) -> DataListing | None:
    """Read SVHN, 32x32 in colour; label 10 in the files is the digit 0."""
    folder = next((p for p in (root / "svhn", root / "SVHN", root) if _has_svhn_files(p)), None)
    if folder is None:
        return None
    splits = {}
    for split, name in _SVHN_FILES.items():
        if not (folder / name).is_file():
            continue
        values = _load_mat(folder / name)
        pixels, labels = values.get("X"), values.get("y")
        if pixels is None or labels is None or pixels.ndim != 4 or pixels.dtype != np.uint8:
            raise DlcliError(f"{folder / name} is not an SVHN file: it lacks the arrays X and y")
        labels = labels.reshape(-1).astype(np.int64)
        splits[split] = (pixels.transpose(3, 0, 1, 2), np.where(labels == 10, 0, labels))
    return array_listing(DIGITS, splits, source=folder)


def _has_svhn_files(folder: Path) -> bool:
    return (folder / _SVHN_FILES["train"]).is_file() or (folder / _SVHN_FILES["test"]).is_file()


def _load_mat(path: Path) -> dict[str, np.ndarray]:
    import scipy.io

    try:
        loaded: dict[str, np.ndarray] = scipy.io.loadmat(path, variable_names=["X", "y"])
    except (OSError, EOFError, ValueError, TypeError, KeyError, NotImplementedError) as exc:
        raise DlcliError(f"{path} is damaged or not a MATLAB file: {exc}") from exc
    except scipy.io.matlab.MatReadError as exc:
        raise DlcliError(f"{path} is damaged or not a MATLAB file: {exc}") from exc
    return loaded


def _fetch_svhn(root: Path) -> None:
    for split in _SVHN_FILES:
        torchvision_datasets().SVHN(str(root), split=split, download=True)


def _read_stl10(root: Path) -> DataListing | None:
    """Read the labelled images of STL-10, 96x96 in colour."""
    folder = next((p for p in (root / _STL_FOLDER, root) if _has_stl_files(p)), None)
    if folder is None:
        return None
    splits = {}
    for split in ("train", "test"):
        images, labels = folder / f"{split}_X.bin", folder / f"{split}_y.bin"
        if not images.is_file() or not labels.is_file():
            continue
        try:
            values = np.fromfile(images, dtype=np.uint8)
            targets = np.fromfile(labels, dtype=np.uint8).astype(np.int64) - 1
        except OSError as exc:
            raise DlcliError(f"cannot read {images}: {exc.strerror}") from exc
        if not len(values) or len(values) % _STL_IMAGE_BYTES:
            raise DlcliError(f"{images} has {len(values)} bytes, not a multiple of {_STL_IMAGE_BYTES}")
        # The file has colour planes in column-major order.
        splits[split] = (values.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1), targets)
    return array_listing(_STL_CLASSES, splits, source=folder)


def _has_stl_files(folder: Path) -> bool:
    return any(
        (folder / f"{split}_X.bin").is_file() and (folder / f"{split}_y.bin").is_file()
        for split in ("train", "test")
    )


def _fetch_stl10(root: Path) -> None:
    torchvision_datasets().utils.download_and_extract_archive(
        _STL_URL, str(root), md5="91f7769df0f17e558f3565bffb0c7dfb", remove_finished=True
    )


DATASETS.register("svhn")(
    NamedSet(
        read=_read_svhn,
        url=_SVHN_URL + _SVHN_FILES["train"],
        fetch=_fetch_svhn,
        recognises=_has_svhn_files,
    )
)
DATASETS.register("stl10")(
    NamedSet(
        read=_read_stl10,
        url=_STL_URL,
        fetch=_fetch_stl10,
        recognises=lambda root: _has_stl_files(root) or _has_stl_files(root / _STL_FOLDER),
    )
)
