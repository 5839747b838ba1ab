"""Find and read files of whole series."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dlcli.data.series.array_files import ARRAY_SUFFIXES, read_npy, read_npz
from dlcli.data.series.ts_files import WIDE_SUFFIXES, SeriesFile, is_wide, read_ts, read_wide
from dlcli.data.tables.split_names import split_files
from dlcli.errors import DlcliError
from dlcli.task import SeriesInput

# In order of preference: an archive's folder often has the same series as .ts and as .txt.
SERIES_SUFFIXES = (".ts", *WIDE_SUFFIXES, *reversed(ARRAY_SUFFIXES))


def find_files(path: Path) -> dict[str, Path] | None:
    """Find the files of whole series at a path by split, or one "all"; None when there are none.

    ``path`` is a file, a folder or a stem. Raises: DlcliError when it holds several data sets.
    """
    ambiguous: DlcliError | None = None
    for suffix in SERIES_SUFFIXES:
        if path.is_file() and not path.name.lower().endswith(suffix):
            continue
        # y.npy next to X.npy holds its labels, not a split.
        stem = path / "X" if suffix == ".npy" and path.is_dir() else path
        try:
            files = split_files(stem, (suffix,))
        except DlcliError as exc:
            # Other .txt files next to the series are no error.
            if suffix == ".ts" or (suffix in ARRAY_SUFFIXES and ambiguous is None):
                ambiguous = ambiguous or exc
            continue
        if files is None or (suffix in WIDE_SUFFIXES and not all(map(is_wide, files.values()))):
            continue
        if ambiguous is None:
            return files
    if ambiguous is not None:
        raise ambiguous
    return None


def read_files(files: Mapping[str, Path]) -> dict[str, SeriesFile]:
    """Read the series of each split. Raises: DlcliError when a file cannot be read."""
    parts: dict[str, SeriesFile] = {}
    for split, file in files.items():
        suffix = file.suffix.lower()
        if suffix == ".npz":
            file_splits = read_npz(file)
            if set(files) != {"all"} and set(file_splits) != {"all"}:
                raise DlcliError(
                    f"{file} holds {', '.join(file_splits)}, but is itself the {split} split",
                    hint="name one file, or keep only X and y in each",
                )
            parts |= file_splits if split == "all" else {split: file_splits["all"]}
        elif suffix == ".npy":
            parts[split] = read_npy(file)
        else:
            parts[split] = read_ts(file) if suffix == ".ts" else read_wide(file)
    return {split: parts[split] for split in ("all", "train", "val", "test") if split in parts}


def read_input(path: Path, spec: SeriesInput) -> SeriesFile:
    """Read the series of a file, with or without labels. Raises: DlcliError when it holds splits."""
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
    if suffix in WIDE_SUFFIXES:
        return read_wide(path, steps=None if spec.varies else spec.length)
    raise DlcliError(f"{path} is not a series file", hint="give " + ", ".join(SERIES_SUFFIXES))


def expand_patterns(arguments: Sequence[str]) -> Iterator[str]:
    """Expand patterns to files. Raises: DlcliError when nothing matches."""
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
