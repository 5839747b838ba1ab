"""Files that are splits of one data set by their names: train.csv, test.csv; X_TRAIN.ts, X_TEST.ts."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from dlcli.errors import DlcliError

SPLIT_NAMES = {
    **{"train": "train", "training": "train"},
    **{"val": "val", "valid": "val", "validation": "val", "dev": "val"},
    **{"test": "test", "testing": "test"},
}
_WORD = re.compile(
    rf"(?:^|[._\- ])({'|'.join(sorted(SPLIT_NAMES, key=len, reverse=True))})(?=$|[._\- ])", re.I
)
# As data sets cut in shards are named: train-00000-of-00001.
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


def split_files(path: Path, suffixes: Collection[str]) -> dict[str, Path] | None:
    """The files at ``path`` by split, or one "all"; None when there are none of ``suffixes``.

    ``path`` is a file, a folder, or a stem (``DIR/GunPoint`` for GunPoint_TRAIN.ts). The splits of a
    training file that is named are looked for next to it; a test file that is named is meant alone. A
    file next to others that are splits is ignored. Raises: DlcliError when it could be several.
    """
    if path.is_file():
        return _siblings(path, suffixes)
    whole_folder = path.is_dir()
    folder = path if whole_folder else path.parent
    if not folder.is_dir():
        return None
    files = _files(folder, suffixes)
    if not whole_folder:
        for same in (str, str.lower):
            chosen = [f for f in files if same(_parts(f, suffixes)[0]) == same(path.name)]
            if chosen:
                return _only(path, chosen, suffixes)
        return None
    return _only(path, files, suffixes) if files else None


def _siblings(path: Path, suffixes: Collection[str]) -> dict[str, Path] | None:
    parts = _parts(path, suffixes)
    if parts is _NO_PARTS:
        return None
    base, split, suffix = parts
    if split != "train":
        return {"all": path}
    splits = {"train": path}
    for other in _files(path.parent, suffixes):
        other_base, other_split, other_suffix = _parts(other, suffixes)
        if other_split is None or (other_base.lower(), other_suffix) != (base.lower(), suffix):
            continue
        if other_split in splits and not other.samefile(splits[other_split]):
            if other_split == "train":
                continue  # the one that was named is meant
            raise _twice(path.parent, other_split, splits[other_split], other)
        splits.setdefault(other_split, other)
    return _ordered(splits)


def _only(path: Path, files: list[Path], suffixes: Collection[str]) -> dict[str, Path] | None:
    """The one data set that ``files`` are."""
    groups: dict[tuple[str, str], dict[str, Path]] = {}
    for file in files:
        base, split, suffix = _parts(file, suffixes)
        if split is None:
            continue
        group = groups.setdefault((base.lower(), suffix), {})
        if split in group:
            raise _twice(path, split, group[split], file)
        group[split] = file
    groups = {key: group for key, group in groups.items() if "train" in group}
    if len(groups) == 1:
        return _ordered(next(iter(groups.values())))
    if groups:
        names = sorted(group["train"].name for group in groups.values())
        raise DlcliError(
            f"{path} holds several data sets: {', '.join(names[:5])}",
            hint=f"name one of these files, such as {path if path.is_dir() else path.parent}/{names[0]}",
        )
    if len(files) == 1:
        return {"all": files[0]}
    if path.is_dir() and any(entry.is_dir() for entry in path.iterdir()):
        return None  # lists next to folders of something else
    names = sorted(file.name for file in files)
    raise DlcliError(
        f"{path} holds {len(files)} files, none of which is called train: {', '.join(names[:5])}",
        hint="name one of them, or call them train, val and test",
    )


_NO_PARTS: tuple[str, str | None, str] = ("", None, "")


def _parts(file: Path, suffixes: Collection[str]) -> tuple[str, str | None, str]:
    """The name without its split and suffix, the split, the suffix: X_TRAIN.ts is X, train, .ts."""
    lower = file.name.lower()
    suffix = max((s.lower() for s in suffixes if lower.endswith(s.lower())), key=len, default=None)
    if suffix is None:
        return _NO_PARTS
    stem = _SHARD.sub("", file.name[: len(file.name) - len(suffix)])
    words = list(_WORD.finditer(stem))
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
    return [entry for entry in shown if _parts(entry, suffixes) is not _NO_PARTS and entry.is_file()]


def _ordered(splits: dict[str, Path]) -> dict[str, Path]:
    """In the order of train, val, test; a training file alone is all there is."""
    if set(splits) == {"train"}:
        return {"all": splits["train"]}
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def _twice(where: Path, split: str, one: Path, two: Path) -> DlcliError:
    return DlcliError(
        f"{where} has two files for {split}: {one.name} and {two.name}",
        hint="keep one of them, or name the training file",
    )
