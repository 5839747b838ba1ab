"""List a folder of photos: ``root/class/*`` or ``root/{train,val,test}/class/*``, without decoding.

A class folder is searched recursively. Hidden names are skipped. A linked folder is followed once, and
only if its target is outside of the data set: a link back into it would list photos repeatedly, or
endlessly.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np

from dlcli.data.base import Listed, Samples, fingerprint
from dlcli.data.images.decode import channels_of
from dlcli.data.images.formats import is_image
from dlcli.data.kinds import DataListing
from dlcli.data.notices import Notice, left_out
from dlcli.data.sets.named import valid_unicode
from dlcli.errors import DlcliError

LAYOUTS = (
    "a folder is either DIR/CLASS/photo.jpg, or DIR/train/CLASS/photo.jpg with val and test next "
    "to train"
)
_SPLIT_NAMES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


@dataclass(frozen=True)
class Photo:
    """An image file: its id (the path relative to the root), its path and its size in bytes."""

    id: str
    path: Path
    size: int


@dataclass
class Scan:
    """A listed folder: photos by split ("all" without splits) and class."""

    root: Path
    splits: dict[str, dict[str, list[Photo]]] = field(default_factory=dict)
    other_files: Counter[str] = field(default_factory=Counter)
    skipped_links: int = 0
    loose_photos: int = 0
    notices: list[Notice] = field(default_factory=list)
    _followed: set[str] = field(default_factory=set)


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


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key of natural order: "2" before "10"."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((0, int(p), p) if p[0] in "0123456789" else (1, 0, p) for p in parts)


def scan_folder(root: Path) -> Scan:
    """List the photos. Raises: DlcliError when there is none in a class folder."""
    scan = Scan(root)
    folders = _folders(scan, root)
    for split, folder in _split_folders(scan, folders).items():
        classes = folders if split == "all" else _folders(scan, folder)
        scan.splits[split] = {valid_unicode(path.name): _photos(scan, path) for path in classes}
    total = sum(len(photos) for classes in scan.splits.values() for photos in classes.values())
    if not total:
        raise _no_photos(scan)
    _add_notices(scan)
    return scan


def _split_folders(scan: Scan, folders: list[Path]) -> dict[str, Path]:
    """Map split names to folders; {"all": root} if the folders are classes.

    A class may be called "train": then the folder contains photos, not class folders.
    """
    named: dict[str, list[Path]] = {}
    for folder in folders:
        split = _SPLIT_NAMES.get(folder.name.lower())
        if split is not None:
            named.setdefault(split, []).append(folder)
    others = [f.name for f in folders if f.name.lower() not in _SPLIT_NAMES]
    if not named or not any(_has_folders(paths[0]) for paths in named.values()):
        if named and not others:
            raise DlcliError(
                f"{scan.root} has the splits {', '.join(sorted(named))}, but no class folders in them",
                hint=LAYOUTS,
            )
        return {"all": scan.root}
    if "train" not in named and others:
        return {"all": scan.root}
    for split, paths in named.items():
        if len(paths) > 1:
            raise DlcliError(
                f"{scan.root} has {len(paths)} folders for {split}: {', '.join(p.name for p in paths)}",
                hint="keep one of them",
            )
    if others:
        scan.notices.append(left_out(f"next to train, these folders are not used: {_some(others)}"))
    return {split: named[split][0] for split in ("train", "val", "test") if split in named}


def _folders(scan: Scan, parent: Path) -> list[Path]:
    """The folders directly in ``parent``; photos next to them are counted as loose."""
    folders = []
    for entry in _entries(parent):
        if _is_dir(entry):
            if entry.is_symlink() and not _may_follow(scan, entry):
                scan.skipped_links += 1
                continue
            folders.append(Path(entry.path))
        elif is_image(entry.name):
            scan.loose_photos += 1
    return sorted(folders, key=lambda path: natural(path.name))


def _photos(scan: Scan, folder: Path) -> list[Photo]:
    """All image files below a class folder, sorted by id."""
    out: list[Photo] = []
    # (folder, whether it was reached through a link). Iterative, so without a limit on depth.
    pending = [(folder, folder.is_symlink())]
    prefix = os.path.join(scan.root, "")
    while pending:
        current, linked = pending.pop()
        for entry in _entries(current):
            if _is_dir(entry):
                if entry.is_symlink() and (linked or not _may_follow(scan, entry)):
                    scan.skipped_links += 1
                    continue
                pending.append((Path(entry.path), linked or entry.is_symlink()))
            elif is_image(entry.name) and (size := _size(entry)) is not None:
                id_ = valid_unicode(entry.path.removeprefix(prefix).replace(os.sep, "/"))
                out.append(Photo(id_, Path(entry.path), size))
            else:
                scan.other_files[PurePath(entry.name).suffix.lower() or "no extension"] += 1
    return sorted(out, key=lambda photo: photo.id)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            shown = [e for e in entries if not e.name.startswith(".") and e.name != "__MACOSX"]
            return sorted(shown, key=lambda entry: entry.name)
    except OSError as exc:
        raise DlcliError(f"cannot list {folder}: {exc.strerror}") from exc


def _has_folders(folder: Path) -> bool:
    return any(_is_dir(entry) for entry in _entries(folder))


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _size(entry: os.DirEntry[str]) -> int | None:
    """The size of a regular file in bytes; None for broken links, pipes and devices."""
    try:
        return entry.stat().st_size if entry.is_file() else None
    except OSError:
        return None


def _may_follow(scan: Scan, link: os.DirEntry[str]) -> bool:
    """Whether the target of a linked folder is new, outside the data set and not one of its parents."""
    target, root = os.path.realpath(link.path), os.path.realpath(scan.root)
    inside = os.path.commonpath([target, root]) in (target, root) if _same_drive(target, root) else False
    again = any(
        _same_drive(target, f) and os.path.commonpath([target, f]) in (target, f) for f in scan._followed
    )
    if inside or again:
        return False
    scan._followed.add(target)
    return True


def _same_drive(a: str, b: str) -> bool:
    return os.path.splitdrive(a)[0].lower() == os.path.splitdrive(b)[0].lower()


def _class_names(scan: Scan, *, unseen: bool) -> list[str]:
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
                f"{split} has photos of {_some(untrained)}, but train has none of them",
                hint="add photos of it to train, or remove it from " + split,
            )
    if not names:
        raise DlcliError(f"{scan.root / 'train'} has no photos", hint=LAYOUTS)
    for split, classes in scan.splits.items():
        missing = sorted((n for n in names if not classes.get(n)), key=natural)
        if missing and any(classes.values()) and not unseen:
            scan.notices.append(Notice(f"{split} has no photos of {_some(missing)}", "missing-class"))
    return sorted(names, key=natural) + sorted(others, key=natural)


def _listing(scan: Scan, names: Sequence[str]) -> DataListing:
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


def _add_notices(scan: Scan) -> None:
    """Add notices about photos, files, links and class folders that are not used."""
    if scan.loose_photos:
        scan.notices.append(
            left_out(f"{_count(scan.loose_photos, 'photo')} outside any class folder left out")
        )
    if scan.other_files:
        total = sum(scan.other_files.values())
        scan.notices.append(
            left_out(f"{_count(total, 'file')} of other kinds left out ({_kinds(scan)})")
        )
    if scan.skipped_links:
        message = (
            f"{_count(scan.skipped_links, 'linked folder')} not followed: in the data set, or repeated"
        )
        scan.notices.append(left_out(message))
    all_names = {name for classes in scan.splits.values() for name in classes}
    empty = [n for n in all_names if not any(classes.get(n) for classes in scan.splits.values())]
    if empty:
        listed = _some(sorted(empty, key=natural))
        scan.notices.append(left_out(f"class folders without photos, left out: {listed}"))


def _no_photos(scan: Scan) -> DlcliError:
    """The error for a folder without samples."""
    if scan.loose_photos:
        return DlcliError(
            f"{scan.root} has {_count(scan.loose_photos, 'photo')} but no class folders with photos",
            hint=f"put the photos of each class into a folder named after it: {LAYOUTS}",
        )
    if scan.other_files:
        message = f"{scan.root} has no photos, only other files ({_kinds(scan)})"
        return DlcliError(message, hint=LAYOUTS)
    return DlcliError(f"{scan.root} has no photos", hint=LAYOUTS)


def _kinds(scan: Scan) -> str:
    most = sorted(scan.other_files.items(), key=lambda item: (-item[1], item[0]))[:4]
    return ", ".join(f"{kind}: {count}" for kind, count in most)


def _one_class_hint(scan: Scan, name: str) -> str:
    base = "all" if "all" in scan.splits else "train"
    photo = scan.splits[base][name][0]
    parts = PurePath(photo.id).parts
    if base == "all" and len(parts) > 2:
        return f"if the classes are the folders in {name}: --data {scan.root / name}"
    return LAYOUTS


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
