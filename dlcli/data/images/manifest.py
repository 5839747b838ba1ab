"""Tables of image files: ``path,label`` with one label, several labels, or numbers.

Paths are relative to the folder of the table, or absolute. Several labels in a cell are separated by
``|`` or ``;``; several columns of 0 and 1 are labels too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dlcli.data.base import Indices, Listed, Samples, fingerprint
from dlcli.data.images.manifest_paths import find_locator
from dlcli.data.kinds import DataListing
from dlcli.data.notices import Notice, left_out
from dlcli.data.sets.named import valid_unicode
from dlcli.data.source_rows import SourceRows
from dlcli.data.split_folders import split_of
from dlcli.data.tables.cells import as_strings
from dlcli.data.tables.frames import is_table, need_column, read_frame, read_head, split_by_column
from dlcli.data.tables.split_names import split_files
from dlcli.data.tables.targets import encode, infer_target
from dlcli.errors import DlcliError
from dlcli.pixels.decode import channels_of
from dlcli.pixels.formats import is_image

if TYPE_CHECKING:
    import polars

    from dlcli.config import DataConfig

_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_MIN_IMAGE_SHARE = 0.9  # of the cells of a column of image files
_IDS_CHECKED = 20  # cells of a column that may hold names without extension
_MAX_ID_COLUMN = 3  # such a column is among the first


def is_manifest(path: Path, config: DataConfig) -> bool:
    """Whether it is a table with a column of image files."""
    if not path.is_file() or not is_table(path):
        return False
    head = read_head(path)
    return head is not None and _path_column(head, path) is not None


def find_manifest(folder: Path, config: DataConfig) -> Path | None:
    """The only table of image files in a folder, or its training table; None for none or several."""
    named = [path for path in sorted(folder.iterdir()) if "submission" not in path.name.lower()]
    tables = [path for path in named if not path.name.startswith(".") and is_manifest(path, config)]
    if len(tables) == 1:
        return tables[0]
    train = [path for path in tables if split_of(path.stem) == "train"]
    return train[0] if len(train) == 1 else None


def read_manifest(path: Path, config: DataConfig, other: bool) -> DataListing:
    """List the images of a table and their targets.

    Raises: DlcliError when a column is missing or a held-out class is not in train.
    """
    notices: list[Notice] = []
    splits: dict[str, Samples] = {}
    parts: list[bytes] = []
    all_paths: list[Path] = []
    frames = _read_frames(path, config, other, notices)
    first = next(iter(frames.values()))[1]
    images = _need_path_column(first, path)
    names = _target_columns(first, images, config, path)
    base = frames.get("train") or next(iter(frames.values()))
    target = infer_target(
        {name: base[1][name] for name in names},
        config.task,
        min_values=1 if other else 2,
        separators=config.label_separators,
    )
    notices += target.notices
    for split, (file, frame, where) in frames.items():
        for name in names:
            need_column(frame, name, what="the target", path=file)
        targets, rows = encode({n: frame[n] for n in names}, target, where=f"{file} ({split})")
        names_in_rows = ["" if value is None else str(value) for value in frame[images].to_list()]
        named = [names_in_rows[i] for i in np.flatnonzero(rows)]
        if not named:
            continue
        if len(named) < len(names_in_rows):
            notices.append(
                left_out(f"{file}: {len(names_in_rows) - len(named)} rows without a target left out")
            )
        locator, _ = find_locator(named, file.parent, split)
        if locator.folder != file.parent:
            notices.append(Notice(f"{file.name}: its images are in {locator.folder.name}"))
        paths = tuple(map(locator.path, named))
        all_paths += paths
        ids = _unique(valid_unicode(name) for name in named)
        groups = None
        if config.group_column is not None:
            need_column(frame, config.group_column, what="--group-column", path=file)
            cells = as_strings(frame[config.group_column]).filter(rows).to_list()
            # A row without a group is a group of its own.
            groups = tuple(f"row {i}" if c is None else c for c, i in zip(cells, ids, strict=True))
        source = SourceRows.in_table(str(file), where[np.flatnonzero(rows)], (images, *names))
        splits[split] = Samples(ids, targets, Listed(paths), groups, source)
        parts += [f"{id_}\0{_size(p)}".encode() for id_, p in zip(ids, paths, strict=True)]
        parts.append(np.ascontiguousarray(targets).tobytes())
    return DataListing(
        splits=splits,
        fingerprint=fingerprint(parts),
        task=target.task,
        class_names=target.class_names,
        target_names=target.target_names if target.task == "regression" else (),
        native=(channels_of(all_paths), 0, 0),
        options={"target": ",".join(names), "task": target.task, **target.options},
        notices=tuple(notices),
        name=path.stem,
    )


def image_paths(path: Path) -> list[Path]:
    """The image file of each row of a table, which may be missing; of a row without one, the folder.

    Raises: DlcliError when the table cannot be read or has no column of image files.
    """
    frame, _ = read_frame(path)
    names = as_strings(frame[_need_path_column(frame, path)]).fill_null("").to_list()
    locator, _ = find_locator(names, path.parent, split_of(path.stem) or "all")
    return [locator.path(name) if name else path.parent for name in names]


def _need_path_column(frame: polars.DataFrame, path: Path) -> str:
    name = _path_column(frame, path)
    if name is None:
        raise DlcliError(
            f"{path} has no column of image files", hint="add a column path with one file per row"
        )
    return name


def _read_frames(
    path: Path, config: DataConfig, other: bool, notices: list[Notice]
) -> dict[str, tuple[Path, polars.DataFrame, Indices]]:
    """The file, rows and their numbers of each split; notices of reading are added to ``notices``."""
    frames: dict[str, tuple[Path, polars.DataFrame, Indices]] = {}
    for split, file in (split_files(path, _SUFFIXES) or {"all": path}).items():
        frame, read_notices = read_frame(file)
        notices += read_notices
        column = config.split_column
        if other and column is not None and column not in frame.columns:
            notices.append(Notice(f"there is no split column {column!r} here, so none is used"))
            column = None
        if split == "all" and column is not None:
            for name, where in split_by_column(frame, column, path=file).items():
                frames[name] = (file, frame[where], where)
        else:
            frames[split] = (file, frame, np.arange(frame.height, dtype=np.int64))
    return frames


def _path_column(frame: polars.DataFrame, path: Path) -> str | None:
    """The first column whose cells are names of image files, or None.

    Else the first whose cells, all different, name images next to the table without their extension.
    """
    import polars

    for name in frame.columns:
        if frame[name].dtype != polars.String:
            continue
        cells = [cell for cell in frame[name].to_list() if cell]
        if cells and sum(is_image(cell) for cell in cells) >= _MIN_IMAGE_SHARE * len(cells):
            return name
    for name in frame.columns[:_MAX_ID_COLUMN]:
        if frame[name].dtype != polars.String and not frame[name].dtype.is_integer():
            continue
        ids = [str(cell) for cell in frame[name].head(_IDS_CHECKED).to_list() if cell is not None]
        if len(ids) < 2 or len(set(ids)) < len(ids):
            continue
        if find_locator(ids, path.parent, split_of(path.stem) or "all")[1] >= _MIN_IMAGE_SHARE:
            return name
    return None


def _target_columns(frame: polars.DataFrame, column: str, config: DataConfig, path: Path) -> list[str]:
    """The target columns: those of --target, else a column of labels, else the remaining columns."""
    if config.target is not None:
        is_column = config.target in frame.columns  # a name may contain a comma
        names = [config.target] if is_column else [name.strip() for name in config.target.split(",")]
        for name in names:
            need_column(frame, name, what="--target", path=path)
        return names
    other_uses = {column, config.split_column, config.group_column, *config.drop}
    names = [name for name in frame.columns if name not in other_uses]
    if not names:
        raise DlcliError(f"{path} has no other column than {column!r}", hint="add a column label")
    usual = [name for name in names if name.lower() in ("label", "labels", "class", "target")]
    return usual[:1] or ([names[-1]] if len(names) <= 2 else names)


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    """Number repeated names, so that ids are unique."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return tuple(out)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1  # a missing file is reported when it is read
