"""Find the splits of a data set by file names: train.csv, test.csv; X_TRAIN.ts, X_TEST.ts."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from dlcli.errors import DlcliError
from dlcli.wording import listed

SPLIT_NAMES = {
    **{"train": "train", "training": "train"},
    **{"val": "val", "valid": "val", "validation": "val", "dev": "val"},
    **{"test": "test", "testing": "test"},
}
SPLIT_WORD = re.compile(
    rf"(?:^|[._\- ])({'|'.join(sorted(SPLIT_NAMES, key=len, reverse=True))})(?=$|[._\- ])", re.I
)
# The suffix of shards: train-00000-of-00001.
_SHARD_SUFFIX = re.compile(r"-\d{5}-of-\d{5}$")


def split_files(path: Path, suffixes: Collection[str]) -> dict[str, Path] | None:
    """Return the files at ``path`` by split, or one "all"; None when there are none of ``suffixes``.

    ``path`` is a file, a folder, or a stem (``DIR/GunPoint`` for GunPoint_TRAIN.ts). For a
    training file, the other splits are searched next to it; a test file is used alone. Other files
    next to splits are ignored. Raises: DlcliError when there are several data sets.
    """
    if path.is_file():
        return _siblings(path, suffixes)
    whole_folder = path.is_dir()
    folder = path if whole_folder else path.parent
    if not folder.is_dir():
        return None
    files = _files(folder, suffixes)
    if not whole_folder:
        for normalize in (str, str.lower):
            matches = [
                f for f in files if normalize(_name_parts(f, suffixes)[0]) == normalize(path.name)
            ]
            if matches:
                return _single_data_set(path, matches, suffixes)
        return None
    return _single_data_set(path, files, suffixes) if files else None


def _siblings(path: Path, suffixes: Collection[str]) -> dict[str, Path] | None:
    parts = _name_parts(path, suffixes)
    if parts is _OTHER_SUFFIX:
        return None
    base, split, suffix = parts
    if split != "train":
        return {"all": path}
    splits = {"train": path}
    for other in _files(path.parent, suffixes):
        other_base, other_split, other_suffix = _name_parts(other, suffixes)
        if other_split is None or (other_base.lower(), other_suffix) != (base.lower(), suffix):
            continue
        if other_split in splits and not other.samefile(splits[other_split]):
            if other_split == "train":
                continue  # `path` itself has priority
            raise _duplicate_split_error(path.parent, other_split, splits[other_split], other)
        splits.setdefault(other_split, other)
    return _ordered(splits)


def _single_data_set(path: Path, files: list[Path], suffixes: Collection[str]) -> dict[str, Path] | None:
    """Return the files by split. Raises: DlcliError when they are several data sets."""
    groups: dict[tuple[str, str], dict[str, Path]] = {}
    for file in files:
        base, split, suffix = _name_parts(file, suffixes)
        if split is None:
            continue
        group = groups.setdefault((base.lower(), suffix), {})
        if split in group:
            raise _duplicate_split_error(path, split, group[split], file)
        group[split] = file
    groups = {key: group for key, group in groups.items() if "train" in group}
    if len(groups) == 1:
        return _ordered(next(iter(groups.values())))
    if groups:
        names = sorted(group["train"].name for group in groups.values())
        raise DlcliError(
            f"{path} holds several data sets: {listed(names, 5)}",
            hint=f"give one of these files, such as {path if path.is_dir() else path.parent}/{names[0]}",
        )
    if len(files) == 1:
        return {"all": files[0]}
    if path.is_dir() and any(entry.is_dir() for entry in path.iterdir()):
        return None  # such as lists of the contents of the folders
    names = sorted(file.name for file in files)
    raise DlcliError(
        f"{path} holds {len(files)} files, none of which is named train: {listed(names, 5)}",
        hint="give one of them, or rename them to train, val and test",
    )


_OTHER_SUFFIX: tuple[str, str | None, str] = ("", None, "")


def _name_parts(file: Path, suffixes: Collection[str]) -> tuple[str, str | None, str]:
    """Split a file name: X_TRAIN.ts is ("X_", "train", ".ts")."""
    lower = file.name.lower()
    suffix = max((s.lower() for s in suffixes if lower.endswith(s.lower())), key=len, default=None)
    if suffix is None:
        return _OTHER_SUFFIX
    stem = _SHARD_SUFFIX.sub("", file.name[: len(file.name) - len(suffix)])
    words = list(SPLIT_WORD.finditer(stem))
    if not words:
        return stem, None, suffix
    word = words[-1]
    return stem[: word.start()] + stem[word.end() :], SPLIT_NAMES[word[1].lower()], suffix


def _files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as exc:
        raise DlcliError(f"cannot list {folder}: {exc.strerror}") from exc
    shown = [entry for entry in entries if not entry.name.startswith(".")]
    return [
        entry for entry in shown if _name_parts(entry, suffixes) is not _OTHER_SUFFIX and entry.is_file()
    ]


def _ordered(splits: dict[str, Path]) -> dict[str, Path]:
    """Return the splits in the order train, val, test; a single training file is "all"."""
    if set(splits) == {"train"}:
        return {"all": splits["train"]}
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def _duplicate_split_error(where: Path, split: str, one: Path, two: Path) -> DlcliError:
    return DlcliError(
        f"{where} has two files for {split}: {one.name} and {two.name}",
        hint="remove one of them, or give the training file",
    )
