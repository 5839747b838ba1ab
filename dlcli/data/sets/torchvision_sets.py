"""Photo sets that torchvision downloads and lists, one table entry each.

Only file names and labels come from torchvision; photos are decoded as in other data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcli.data.kinds import DataListing
from dlcli.data.sets.download import torchvision_datasets
from dlcli.data.sets.named import DATASETS, NamedSet, file_listing
from dlcli.errors import DlcliError

_VGG = "https://www.robots.ox.ac.uk/~vgg/data/"
_CLIP = "https://openaipublic.azureedge.net/clip/data/"
_TRAIN_VAL_TEST = {"train": "train", "val": "val", "test": "test"}
_TRAIN_TEST = {"train": "train", "test": "test"}


@dataclass(frozen=True)
class PhotoSet:
    """A torchvision class, its folder, and its name of each split (None: not split)."""

    torchvision: str
    folder: str
    splits: dict[str, str] | None
    url: str
    size: str | None = None


PHOTO_SETS = {
    "country211": PhotoSet(
        "Country211",
        "country211",
        {"train": "train", "val": "valid", "test": "test"},
        _CLIP + "country211.tgz",
    ),
    "dtd": PhotoSet("DTD", "dtd", _TRAIN_VAL_TEST, _VGG + "dtd/download/dtd-r1.0.1.tar.gz"),
    "eurosat": PhotoSet(
        "EuroSAT",
        "eurosat",
        None,
        "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
        "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
    ),
    "fgvc-aircraft": PhotoSet(
        "FGVCAircraft",
        "fgvc-aircraft-2013b",
        _TRAIN_VAL_TEST,
        _VGG + "fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
    ),
    "flowers102": PhotoSet(
        "Flowers102", "flowers-102", _TRAIN_VAL_TEST, _VGG + "flowers/102/102flowers.tgz"
    ),
    "food101": PhotoSet(
        "Food101", "food-101", _TRAIN_TEST, "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz"
    ),
    "gtsrb": PhotoSet(
        "GTSRB",
        "gtsrb",
        _TRAIN_TEST,
        "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/GTSRB-Training_fixed.zip",
    ),
    "imagenette": PhotoSet(
        "Imagenette",
        "imagenette2-320",
        {"train": "train", "val": "val"},
        "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz",
        size="320px",
    ),
    "oxford-pets": PhotoSet(
        "OxfordIIITPet",
        "oxford-iiit-pet",
        {"train": "trainval", "test": "test"},
        _VGG + "pets/data/images.tar.gz",
    ),
    "rendered-sst2": PhotoSet(
        "RenderedSST2", "rendered-sst2", _TRAIN_VAL_TEST, _CLIP + "rendered-sst2.tgz"
    ),
    "sun397": PhotoSet(
        "SUN397", "SUN397", None, "http://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz"
    ),
}


def _read(entry: PhotoSet, root: Path) -> DataListing | None:
    if root.name == entry.folder and not (root / entry.folder / entry.folder).is_dir():
        root = root.parent
    if not (root / entry.folder).is_dir():
        return None
    names: tuple[str, ...] = ()
    splits: dict[str, list[tuple[Path, int]]] = {}
    for split in entry.splits or ("all",):
        try:
            dataset = _open(entry, root, split, download=False)
        except (RuntimeError, OSError, ValueError, KeyError) as exc:
            raise DlcliError(
                f"{root / entry.folder} is incomplete: {exc}",
                hint="remove it to download it again, or give a complete copy with --data-dir",
            ) from exc
        splits[split] = _samples_of(dataset, entry)
        names = names or _class_names(dataset, splits[split])
    return file_listing(names, splits, root=root, channels=3)


def _open(entry: PhotoSet, root: Path, split: str, *, download: bool) -> Any:
    arguments: dict[str, Any] = {"download": download}
    if entry.splits is not None:
        arguments["split"] = entry.splits[split]
    if entry.size is not None:
        arguments["size"] = entry.size
    return getattr(torchvision_datasets(), entry.torchvision)(str(root), **arguments)


def _samples_of(dataset: Any, entry: PhotoSet) -> list[tuple[Path, int]]:
    """Return the (file, class index) pairs of a torchvision data set, from its private attributes."""
    for name in ("samples", "_samples"):
        if hasattr(dataset, name):
            return [(Path(path), int(target)) for path, target in getattr(dataset, name)]
    for name in ("_image_files", "_images"):
        if hasattr(dataset, name):
            pairs = zip(getattr(dataset, name), dataset._labels, strict=True)
            return sorted((Path(path), int(target)) for path, target in pairs)
    raise DlcliError(
        f"this version of torchvision stores {entry.torchvision} in an unknown way",
        hint="give the photos as a folder of class folders instead",
    )


def _class_names(dataset: Any, pairs: list[tuple[Path, int]]) -> tuple[str, ...]:
    """Return the class names of the data set, or the indices where it has none."""
    names = getattr(dataset, "classes", None)
    if names is None:
        return tuple(str(index) for index in range(1 + max(target for _, target in pairs)))
    return tuple(name if isinstance(name, str) else name[0] for name in names)


def _fetch(entry: PhotoSet, root: Path) -> None:
    for split in entry.splits or ("all",):
        _open(entry, root, split, download=True)


def _register(name: str, entry: PhotoSet) -> None:
    DATASETS.register(name)(
        NamedSet(
            read=lambda root: _read(entry, root),
            url=entry.url,
            fetch=lambda root: _fetch(entry, root),
        )
    )


for _name, _entry in PHOTO_SETS.items():
    _register(_name, _entry)
