"""MNIST and similar sets of idx files.

The files are in the set's own folder, torchvision's ``NAME/raw``, or the root, gzipped or not.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlcli.data.kinds import DataListing
from dlcli.data.sets.builtin import DIGITS
from dlcli.data.sets.download import torchvision_datasets
from dlcli.data.sets.named import DATASETS, NamedSet, array_listing
from dlcli.errors import DlcliError
from dlcli.notation.idx import looks_like_idx, read_idx

_FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_KMNIST_CLASSES = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
_LETTER_CLASSES = tuple(string.ascii_lowercase)
# EMNIST merges lowercase letters that look like uppercase.
_MERGED_CLASSES = tuple(string.digits + string.ascii_uppercase + "abdefghnqrt")


@dataclass(frozen=True)
class IdxSet:
    """One set of idx files. ``stems`` are (split, prefix of the file names).

    ``first_label`` is the label of the first class; ``transposed``: images are stored transposed.
    Sets with the file names of MNIST are recognised by ``path_words`` in the folder's path.
    """

    folder: str
    class_names: tuple[str, ...]
    url: str
    stems: tuple[tuple[str, str], ...] = (("train", "train"), ("test", "t10k"))
    labels: str = "labels-idx1-ubyte"
    first_label: int = 0
    transposed: bool = False
    path_words: tuple[str, ...] = ()
    split: str | None = None


def _emnist(split: str, class_names: tuple[str, ...], first_label: int = 0) -> IdxSet:
    return IdxSet(
        folder="EMNIST",
        class_names=class_names,
        url="https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
        stems=(("train", f"emnist-{split}-train"), ("test", f"emnist-{split}-test")),
        first_label=first_label,
        transposed=True,
        split=split,
    )


IDX_SETS: dict[str, IdxSet] = {
    "mnist": IdxSet(
        "MNIST",
        DIGITS,
        "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
        path_words=("mnist",),
    ),
    "fashion-mnist": IdxSet(
        "FashionMNIST",
        _FASHION_CLASSES,
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz",
        path_words=("fashion",),
    ),
    "kmnist": IdxSet(
        "KMNIST",
        _KMNIST_CLASSES,
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist/train-images-idx3-ubyte.gz",
        path_words=("kmnist", "kuzushiji"),
    ),
    "qmnist": IdxSet(
        "QMNIST",
        DIGITS,
        "https://raw.githubusercontent.com/facebookresearch/qmnist/master/qmnist-train-images-idx3-ubyte.gz",
        stems=(("train", "qmnist-train"), ("test", "qmnist-test")),
        labels="labels-idx2-int",
    ),
    "emnist": _emnist("balanced", _MERGED_CLASSES),
    "emnist-bymerge": _emnist("bymerge", _MERGED_CLASSES),
    "emnist-byclass": _emnist(
        "byclass", tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
    ),
    "emnist-letters": _emnist("letters", _LETTER_CLASSES, first_label=1),  # 0 is "no letter" and unused
    "emnist-digits": _emnist("digits", DIGITS),
    "emnist-mnist": _emnist("mnist", DIGITS),
}


def _read(entry: IdxSet, root: Path) -> DataListing | None:
    folder = _find_folder(entry, root)
    if folder is None:
        return None
    splits = {}
    for split, stem in entry.stems:
        images_file, labels_file = _find_pair(entry, folder, stem)
        if images_file is None and labels_file is None:
            continue
        if images_file is None or labels_file is None:
            missing = f"{stem}-{'images-idx3-ubyte' if images_file is None else entry.labels}"
            raise DlcliError(f"{folder} lacks {missing}[.gz]", hint="both images and labels are needed")
        images, labels = read_idx(images_file), read_idx(labels_file)
        if images.ndim != 3 or images.dtype != np.uint8:
            raise DlcliError(f"{images_file} has {images.ndim}-dimensional {images.dtype}, not images")
        if labels.ndim == 2 and labels.shape[1] > 0:
            labels = labels[:, 0]  # the other columns of QMNIST are about the writer
        if labels.ndim != 1 or labels.dtype.kind not in "ui":
            raise DlcliError(f"{labels_file} has {labels.ndim}-dimensional {labels.dtype}, not labels")
        if entry.transposed:
            images = images.swapaxes(1, 2)
        splits[split] = (images, labels.astype(np.int64) - entry.first_label)
    return array_listing(entry.class_names, splits, source=folder)


def _find_folder(entry: IdxSet, root: Path) -> Path | None:
    """Return the folder below ``root`` with the training files of the set, or any of its files."""
    folders = [root / entry.folder / "raw", root / entry.folder, root / "raw", root]
    for stem in (stem for _, stem in entry.stems):
        for folder in folders:
            if any(_find_pair(entry, folder, stem)):
                return folder
    return None


def _find_pair(entry: IdxSet, folder: Path, stem: str) -> tuple[Path | None, Path | None]:
    return _find_file(folder, f"{stem}-images-idx3-ubyte"), _find_file(folder, f"{stem}-{entry.labels}")


def _find_file(folder: Path, name: str) -> Path | None:
    """Return the file by one of the usual names: ``-idx`` or ``.idx``, gzipped or not."""
    dotted = name.replace("-idx", ".idx")
    for spelled in (name, f"{name}.gz", dotted, f"{dotted}.gz"):
        if (folder / spelled).is_file():
            return folder / spelled
    return None


def _recognises(name: str, entry: IdxSet) -> Callable[[Path], bool]:
    """Recognise a set by its files, and by the folder's path where file names are shared."""

    def check(root: Path) -> bool:
        folder = _find_folder(entry, root)
        if folder is None:
            return False
        in_own_folder = entry.folder in folder.relative_to(root).parts
        if entry.path_words and not in_own_folder and _name_from_path(folder) != name:
            return False
        images, _ = _find_pair(entry, folder, entry.stems[0][1])
        return images is None or looks_like_idx(images)

    return check


def _name_from_path(folder: Path) -> str:
    """Return the name of a set with the file names of MNIST, by the path of ``folder``."""
    last = "/".join(folder.resolve().parts[-3:]).lower()
    for name in ("fashion-mnist", "kmnist"):
        if any(word in last for word in IDX_SETS[name].path_words):
            return name
    return "mnist"


def _fetch(entry: IdxSet, root: Path) -> None:
    loader = getattr(torchvision_datasets(), entry.folder)
    extra = {} if entry.split is None else {"split": entry.split}
    for train in (True, False):
        loader(str(root), train=train, download=True, **extra)


def _register(name: str, entry: IdxSet) -> None:
    DATASETS.register(name)(
        NamedSet(
            read=lambda root: _read(entry, root),
            url=entry.url,
            fetch=lambda root: _fetch(entry, root),
            recognises=_recognises(name, entry),
        )
    )


for _name, _entry in IDX_SETS.items():
    _register(_name, _entry)
