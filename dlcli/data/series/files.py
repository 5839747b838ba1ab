"""Which files at a path hold whole series, and what is in them."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dlcli.data.series.array_files import ARRAYS, read_npy, read_npz
from dlcli.data.series.ts_files import WIDE, SeriesFile, is_wide, read_ts, read_wide
from dlcli.data.tables.split_names import split_files
from dlcli.errors import DlcliError
from dlcli.task import SeriesInput

# In this order: an archive's folder often has the same series as .ts and as .txt.
SUFFIXES = (".ts", *WIDE, *reversed(ARRAYS))


def find_files(path: Path) -> dict[str, Path] | None:
    """The files of whole series at a path by split, or one "all"; None when there are none.

    ``path`` is a file, a folder or a stem. Raises: DlcliError when it could be several sets.
    """
    refused: DlcliError | None = None
    for suffix in SUFFIXES:
        if path.is_file() and not path.name.lower().endswith(suffix):
            continue
        # X.npy lies next to y.npy, which is no split of it.
        stem = path / "X" if suffix == ".npy" and path.is_dir() else path
        try:
            files = split_files(stem, (suffix,))
        except DlcliError as exc:
            # Other .txt files next to the series are no error.
            if suffix == ".ts" or (suffix in ARRAYS and refused is None):
                refused = refused or exc
            continue
        if files is None or (suffix in WIDE and not all(map(is_wide, files.values()))):
            continue
        if refused is None:
            return files
    if refused is not None:
        raise refused
    return None


def read_files(files: Mapping[str, Path]) -> dict[str, SeriesFile]:
    """The series of each split. Raises: DlcliError when a file cannot be read."""
    parts: dict[str, SeriesFile] = {}
    for split, file in files.items():
        suffix = file.suffix.lower()
        if suffix == ".npz":
            inside = read_npz(file)
            if set(files) != {"all"} and set(inside) != {"all"}:
                raise DlcliError(
                    f"{file} holds {', '.join(inside)}, but is itself the {split} split of several",
                    hint="name one file, or keep X and y alone in each",
                )
            parts |= inside if split == "all" else {split: inside["all"]}
        elif suffix == ".npy":
            parts[split] = read_npy(file)
        else:
            parts[split] = read_ts(file) if suffix == ".ts" else read_wide(file)
    return {split: parts[split] for split in ("all", "train", "val", "test") if split in parts}


def read_input(path: Path, spec: SeriesInput) -> SeriesFile:
    """The series that a file holds, with or without labels. Raises: DlcliError when it holds splits."""
    suffix = path.suffix.lower()
    if suffix == ".npz":
        parts = read_npz(path)
        if len(parts) > 1:
            raise DlcliError(f"{path} holds {', '.join(parts)}", hint="keep one array X to predict")
        return next(iter(parts.values()))
    if suffix == ".npy":
        return read_npy(path)
    if suffix == ".ts":
        return read_ts(path)
    if suffix in WIDE:
        return read_wide(path, steps=None if spec.varies else spec.length)
    raise DlcliError(f"{path} is no series file", hint="give " + ", ".join(SUFFIXES))


def named_files(arguments: Sequence[str]) -> Iterator[str]:
    """Files and patterns, as files."""
    for argument in arguments:
        path = Path(argument).expanduser()
        if path.is_file():
            yield str(path) if argument.startswith("~") else argument
            continue
        paths = sorted(name for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
        if not paths:
            what = "is a folder" if path.is_dir() else "does not exist"
            raise DlcliError(f"{argument} {what}", hint="give files, or patterns in quotes")
        yield from paths
