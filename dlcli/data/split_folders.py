"""Find the splits among the folders of a data set: train, Training, dev, seg_train/seg_train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from dlcli.data.tables.split_names import SPLIT_NAMES, SPLIT_WORD
from dlcli.errors import DlcliError

# (subfolders in natural order, whether there are samples next to them)
ListSubfolders = Callable[[Path], tuple[list[Path], bool]]
_MAX_DOUBLED = 4


def find_splits(
    root: Path, folders: Sequence[Path], has_folders: Callable[[Path], bool], layouts: str
) -> tuple[dict[str, Path], list[str]]:
    """Map split names to folders, or "all" to the root if the folders are classes.

    Also returns the names of the folders that are not used. A split is called by its name alone
    (`SPLIT_NAMES`), or by a word of it in folders that are otherwise called alike (seg_train, seg_test).
    A class may be called "train": then the folder contains samples, not class folders. Raises:
    DlcliError for two folders of one split, and for splits without class folders.
    """
    named: dict[str, list[Path]] = {}
    for folder in folders:
        split = SPLIT_NAMES.get(folder.name.lower())
        if split is not None:
            named.setdefault(split, []).append(folder)
    if "train" not in named:
        named = _named_alike(folders, has_folders) or named
    used = [path for paths in named.values() for path in paths]
    others = [folder.name for folder in folders if folder not in used]
    if not named or not any(has_folders(paths[0]) for paths in named.values()):
        if named and not others:
            raise DlcliError(
                f"{root} has the splits {', '.join(sorted(named))}, but no class folders in them",
                hint=layouts,
            )
        return {"all": root}, []
    if "train" not in named and others:
        return {"all": root}, []
    for split, paths in named.items():
        if len(paths) > 1:
            raise DlcliError(
                f"{root} has {len(paths)} folders for {split}: {', '.join(p.name for p in paths)}",
                hint="keep one of them",
            )
    return {split: named[split][0] for split in ("train", "val", "test") if split in named}, others


def undoubled(folder: Path, subfolders: ListSubfolders) -> Path:
    """The folder itself, or its only content if that is a folder of the same name or split.

    Also if that is a folder with the splits, as archives are unpacked. Raises: DlcliError as
    `subfolders`.
    """
    for _ in range(_MAX_DOUBLED):
        inner, has_samples = subfolders(folder)
        if len(inner) != 1 or has_samples:
            return folder
        child = inner[0]
        split = split_of(child.name)
        doubled = split is not None and split == split_of(folder.name)
        same = child.name.lower() == folder.name.lower()
        grandchildren, _ = subfolders(child)
        holds_train = any(SPLIT_NAMES.get(path.name.lower()) == "train" for path in grandchildren)
        unpacked = same or (split is None and holds_train)
        if not doubled and not (unpacked and grandchildren):
            return folder
        folder = child
    return folder


def split_of(name: str) -> str | None:
    """The split that a word of a folder's name says, or None."""
    words = SPLIT_WORD.findall(name)
    return SPLIT_NAMES[words[-1].lower()] if words else None


def _named_alike(
    folders: Sequence[Path], has_folders: Callable[[Path], bool]
) -> dict[str, list[Path]] | None:
    """Folders called alike but for the word of a split, with class folders in train; None without."""
    groups: dict[str, dict[str, list[Path]]] = {}
    for folder in folders:
        split = split_of(folder.name)
        if split is not None:
            base = SPLIT_WORD.sub("", folder.name).lower()
            groups.setdefault(base, {}).setdefault(split, []).append(folder)
    for group in groups.values():
        alone = len(folders) == 1
        if "train" in group and (len(group) > 1 or alone) and has_folders(group["train"][0]):
            return group
    return None
