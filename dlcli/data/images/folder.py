"""List a folder of photos: ``root/class/*`` or ``root/{train,val,test}/class/*``, without decoding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np

from dlcli.data.base import Listed, Samples, fingerprint
from dlcli.data.class_folders import (
    ClassFolders,
    SampleType,
    kinds_of_files,
    list_classes,
    natural,
    some,
)
from dlcli.data.kinds import DataListing
from dlcli.data.notices import Notice, left_out
from dlcli.errors import DlcliError
from dlcli.pixels.decode import channels_of
from dlcli.pixels.formats import has_image_content, is_image
from dlcli.wording import plural

LAYOUTS = (
    "a folder is either DIR/CLASS/photo.jpg, or DIR/train/CLASS/photo.jpg with val and test next "
    "to train"
)
PHOTOS = SampleType("photo", is_image, has_image_content, LAYOUTS)


def read_folder(root: Path, *, unseen: bool = False) -> DataListing:
    """List a folder: its classes in natural order, its splits, and notices.

    With ``unseen`` other splits may have classes that are not in train; they follow those of train.
    Raises: DlcliError when it is empty, has no class folders or one class, or, without ``unseen``, a
    class that is not in train.
    """
    scan = scan_folder(root)
    names = _class_names(scan, unseen=unseen)
    if len(names) < 2:
        raise DlcliError(
            f"{root} has one class, {names[0]!r}; a classifier needs at least two",
            hint=_one_class_hint(scan, names[0]),
        )
    return _listing(scan, names)


def read_other_folder(root: Path) -> DataListing:
    """List a folder for evaluation: any number of classes, in any splits."""
    scan = scan_folder(root)
    names = {name for classes in scan.splits.values() for name, photos in classes.items() if photos}
    return _listing(scan, sorted(names, key=natural))


def scan_folder(root: Path) -> ClassFolders:
    """List the photos. Raises: DlcliError when there is none in a class folder."""
    scan = list_classes(root, PHOTOS)
    if not any(photos for classes in scan.splits.values() for photos in classes.values()):
        raise _no_photos(scan)
    return scan


def _class_names(scan: ClassFolders, *, unseen: bool) -> list[str]:
    """The classes to train on: those with photos in train, or in "all" without splits.

    With ``unseen`` followed by those that are only in val or test. Raises: DlcliError for such a class
    otherwise.
    """
    base = "all" if "all" in scan.splits else "train"
    if base not in scan.splits:
        raise DlcliError(f"{scan.root} has {' and '.join(scan.splits)}, but no train", hint=LAYOUTS)
    names = {name for name, photos in scan.splits[base].items() if photos}
    others: set[str] = set()
    for split, classes in scan.splits.items():
        untrained = sorted(
            (n for n, photos in classes.items() if photos and n not in names), key=natural
        )
        others.update(untrained)
        if untrained and not unseen:
            raise DlcliError(
                f"{split} has photos of {some(untrained)}, but train has none of them",
                hint="add photos of it to train, or remove it from " + split,
            )
    if not names:
        raise DlcliError(f"{scan.root / 'train'} has no photos", hint=LAYOUTS)
    for split, classes in scan.splits.items():
        missing = sorted((n for n in names if not classes.get(n)), key=natural)
        if missing and any(classes.values()) and not unseen:
            scan.notices.append(Notice(f"{split} has no photos of {some(missing)}", "missing-class"))
    return sorted(names, key=natural) + sorted(others, key=natural)


def _listing(scan: ClassFolders, names: Sequence[str]) -> DataListing:
    index = {name: i for i, name in enumerate(names)}
    splits: dict[str, Samples] = {}
    parts: list[bytes] = []
    for split, classes in scan.splits.items():
        listed = [(photo, index[name]) for name in names for photo in classes.get(name, ())]
        if not listed:
            scan.notices.append(left_out(f"{split} has no photos and is ignored"))
            continue
        splits[split] = Samples(
            ids=tuple(photo.id for photo, _ in listed),
            targets=np.array([target for _, target in listed], dtype=np.int64),
            items=Listed(tuple(photo.path for photo, _ in listed)),
        )
        parts += [f"{photo.id}\0{photo.size}".encode() for photo, _ in listed]
    first = next(iter(splits.values())).items
    assert isinstance(first, Listed)
    return DataListing(
        class_names=tuple(names),
        splits=splits,
        native=(channels_of(first.values), 0, 0),
        fingerprint=fingerprint(sorted(parts)),
        notices=tuple(scan.notices),
    )


def _no_photos(scan: ClassFolders) -> DlcliError:
    """The error for a folder without samples."""
    if scan.loose:
        return DlcliError(
            f"{scan.root} has {plural(scan.loose, 'photo')} but no class folders with photos",
            hint=f"put the photos of each class into a folder named after it: {LAYOUTS}",
        )
    if scan.other_files:
        message = f"{scan.root} has no photos, only other files ({kinds_of_files(scan)})"
        return DlcliError(message, hint=LAYOUTS)
    return DlcliError(f"{scan.root} has no photos", hint=LAYOUTS)


def _one_class_hint(scan: ClassFolders, name: str) -> str:
    base = "all" if "all" in scan.splits else "train"
    photo = scan.splits[base][name][0]
    parts = PurePath(photo.id).parts
    if base == "all" and len(parts) > 2:
        return f"if the classes are the folders in {name}: --data {scan.root / name}"
    return LAYOUTS
