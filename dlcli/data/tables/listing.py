"""List the rows of tables: files and splits, target and input columns, one format for each column.

The first file, that of training, decides how numbers and times are written; the others are read alike.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dlcli.config import DataConfig
from dlcli.data.base import Indices, Samples, fingerprint
from dlcli.data.kinds import DataListing
from dlcli.data.notices import Notice, left_out
from dlcli.data.tables.cells import as_strings, known_format
from dlcli.data.tables.frames import (
    TABLE_SUFFIXES,
    has_default_names,
    need_column,
    need_columns,
    read_typed,
    split_by_column,
)
from dlcli.data.tables.in_time import random_split_notice, row_times
from dlcli.data.tables.infer import TypedFrame
from dlcli.data.tables.label_cells import binary_run
from dlcli.data.tables.rows import TableRows, cast_to_training
from dlcli.data.tables.same_names import check_target
from dlcli.data.tables.split_names import split_files
from dlcli.data.tables.targets import InferredTarget, encode, infer_target
from dlcli.errors import DlcliError, UsageError
from dlcli.notation.numbers import PLAIN
from dlcli.wording import plural, quoted, quoted_list

if TYPE_CHECKING:
    import polars

# Names of target columns by priority; without one of them the last column is the target.
_TARGET_COLUMN_NAMES = ("target", "label", "class", "labels", "y")


def read(path: Path, config: DataConfig, other: bool) -> DataListing:
    """Read the rows with a target; splits are the files or those of the split column.

    Raises: DlcliError when there is no table, a column is missing or the target is not usable;
    UsageError when the settings contradict each other.
    """
    files = split_files(path, TABLE_SUFFIXES)
    if files is None:
        raise DlcliError(
            f"{path} is not a table", hint="supported files: " + ", ".join(TABLE_SUFFIXES[:6])
        )
    typed = _read_files(files, config, other)
    notices = [notice for one in typed.values() for notice in one.notices]
    frames, formats = (
        {split: one.frame for split, one in typed.items()},
        next(iter(typed.values())).formats,
    )
    names, about_target = _target_names(frames, config, files)
    for split, one in typed.items():
        for name in names:
            check_target(name, one.notices, files[split], typed=config.target is not None)
    about_files, lacking = _drop_without_target(frames, files, names, other)
    notices += about_target + about_files
    parts, about_splits = _divide(frames, files, config, other)
    notices += about_splits
    first = parts[0]
    target = infer_target(
        {name: first.frame[name] for name in names},
        config.task,
        min_values=1 if other else 2,
        separators=config.label_separators,
    )
    features = _feature_names(first.frame, names, config, files[first.file], other)
    features = [name for name in features if name not in lacking] or features
    notices += target.notices
    undivided = list(files) == ["all"] and len(parts) == 1
    if config.time_column is not None and not undivided and not other:
        raise UsageError(
            f"--time-column {config.time_column} divides one table in time, and this has splits",
            hint="leave it out",
        )
    if undivided and target.task == "regression" and not other and config.time_column is None:
        about_time = random_split_notice(first.frame, features, names[0], path)
        notices += [about_time] if about_time is not None and config.group_column is None else []
    splits = {}
    for part in parts:
        samples, about_rows = _samples(
            part, first, files[part.file], target, features, config, formats, other=other
        )
        notices += about_rows
        if len(samples):
            splits[part.split] = samples
    contents = [piece for split, file in files.items() for piece in (split.encode(), file.read_bytes())]
    return DataListing(
        splits=splits,
        fingerprint=fingerprint(contents),
        task=target.task,
        class_names=target.class_names,
        target_names=target.target_names if target.task == "regression" else (),
        options={
            **{"target": ",".join(names), "task": target.task, **target.options},
            **_format_options(names, formats, config),
        },
        notices=tuple(notices),
    )


@dataclass(frozen=True)
class _TableSplit:
    """One split; ``rows`` (n,) are its row numbers in ``file``."""

    split: str
    file: str
    frame: polars.DataFrame
    rows: Indices


def _read_files(files: dict[str, Path], config: DataConfig, other: bool) -> dict[str, TypedFrame]:
    """Read the files. Only the first is typed, of other data only its targets.

    What is not typed is read by the formats of training: the first file's, or those of the model's card.
    """
    _check_formats(config)
    header, targets = config.header, (config.target or "").split(",")
    known = [config.target or "", *(name.strip() for name in targets)]
    typed: dict[str, TypedFrame] = {}
    for split, file in files.items():
        only: list[str] | None = [] if typed else known if other and config.target else None
        as_text = known if config.label_separators else ()
        one = read_typed(
            file,
            header=header,
            only=only,
            as_text=as_text,
            formats=config.formats,
            names=known[1:] if other else (),
        )
        if header is None and has_default_names(one.frame.columns):
            header = False
        typed[split] = one
    if not other:
        first = next(iter(typed.values())).frame
        for name in config.formats:
            need_column(first, name, what="data.formats", path=next(iter(files.values())))
    return typed


def _check_formats(config: DataConfig) -> None:
    for name, form in config.formats.items():
        if not known_format(form):
            raise UsageError(
                f"data.formats: {form!r} of {name!r} is no format of numbers or times",
                hint="write 1234.5 as in the file, such as '1.234,5', or a time such as '%d/%m/%Y'",
            )


def _format_options(
    names: Sequence[str], formats: Mapping[str, str], config: DataConfig
) -> dict[str, dict[str, str]]:
    """Return the formats that are needed to read targets alike: not those of plain numbers."""
    needed = {n: formats[n] for n in names if formats.get(n, PLAIN) != PLAIN} | config.formats
    return {"formats": needed} if needed else {}


def _target_names(
    frames: dict[str, polars.DataFrame], config: DataConfig, files: dict[str, Path]
) -> tuple[list[str], list[Notice]]:
    """Return the target columns, and a notice where they are inferred."""
    frame, path = next(iter(frames.values())), next(iter(files.values()))
    if config.target is not None:
        whole = config.target in frame.columns  # a name may contain a comma
        names = [config.target] if whole else [name.strip() for name in config.target.split(",")]
        for name in names:
            need_column(frame, name, what="--target", path=path)
        return list(dict.fromkeys(names)), []
    other_uses = {config.split_column, config.group_column, *config.drop}
    names = [name for name in frame.columns if name not in other_uses]
    if len(names) < 2:
        raise DlcliError(
            f"{path} has {plural(len(names), 'column')}, but a target and an input are needed",
            hint="are its columns separated by commas, semicolons, tabs or | ?",
        )
    lower = {name.lower(): name for name in reversed(names)}
    named = [lower[common] for common in _TARGET_COLUMN_NAMES if common in lower]
    lacking, where = _lacking_columns(frames, names, files)
    if named:
        target, why = named[0], "by its name"
    elif lacking:
        target, why = lacking[-1], f"as {where} lacks it"
    else:
        target, why = names[-1], "as the last column"
    notices = [Notice(f"{target!r} is the target, {why}; --target selects another")]
    run = [] if named or lacking else binary_run(frame, names)
    if len(run) > 1:
        notices.append(Notice(_about_other_labels(run)))
    return [target], notices


def _lacking_columns(
    frames: dict[str, polars.DataFrame], names: list[str], files: dict[str, Path]
) -> tuple[list[str], str]:
    """Return the columns that a held-out file lacks, as in competitions, and the name of that file.

    None if it lacks most of them or has others: then it is another table.
    """
    known = next(iter(frames.values())).columns
    for split, frame in list(frames.items())[1:]:
        have = set(frame.columns)
        lacking = [name for name in names if name not in have]
        if lacking and 2 * len(lacking) < len(names) and have <= set(known):
            return lacking, files[split].name
    return [], ""


def _about_other_labels(run: list[str]) -> str:
    """Return a message about the columns of two values before a target of two values."""
    before = [quoted(name) for name in run[:-1]]
    shown = ", ".join(before) if len(before) <= 6 else f"{before[0]} to {before[-1]} ({len(before)})"
    one = len(before) == 1
    verbs = "has two values too and is an input" if one else "have two values too and are inputs"
    typed, number = shlex.quote(",".join(run)), "both" if one else f"all {len(run)}"
    return f"{shown} before it {verbs}; --target {typed} trains {number} as labels (multi-label)"


def _drop_without_target(
    frames: dict[str, polars.DataFrame], files: dict[str, Path], names: list[str], other: bool
) -> tuple[list[Notice], list[str]]:
    """Drop held-out files without a target, such as those of competitions; return notices of them.

    Also the input columns that such a file lacks: they will not be known at inference either.
    """
    notices: list[Notice] = []
    lacking: list[str] = []
    first = next(iter(frames.values()))
    for split, frame in list(frames.items()):
        missing = [name for name in names if name not in frame.columns]
        if not missing:
            continue
        if split in ("all", "train") or other:
            need_column(frame, missing[0], what="the target", path=files[split])
        message = f"{files[split].name} has no column {missing[0]!r}, so there is no {split} split"
        notices.append(Notice(message))
        absent = sorted(set(first.columns) - set(frame.columns) - set(names), key=first.columns.index)
        if absent and 2 * len(absent) < first.width:
            message = f"{files[split].name} lacks {quoted_list(absent)}, so they are not used as inputs"
            notices.append(left_out(message))
            lacking += absent
        del frames[split]
    return notices, lacking


def _divide(
    frames: dict[str, polars.DataFrame], files: dict[str, Path], config: DataConfig, other: bool
) -> tuple[list[_TableSplit], list[Notice]]:
    """Return the splits, train (or all) first."""
    column = config.split_column
    if column is None or (other and column not in next(iter(frames.values())).columns):
        message = f"there is no split column {column!r} in this data"
        notices = [] if column is None else [Notice(message)]
        return [_TableSplit(name, name, f, np.arange(f.height)) for name, f in frames.items()], notices
    if set(frames) != {"all"}:
        raise UsageError(
            f"--split-column {column}: the files already are splits ({', '.join(frames)})",
            hint="give one file, or remove the option",
        )
    frame = frames["all"]
    by_name = split_by_column(frame, column, path=files["all"])
    return [_TableSplit(name, "all", frame[rows], rows) for name, rows in by_name.items()], []


def _feature_names(
    frame: polars.DataFrame, names: list[str], config: DataConfig, path: Path, other: bool
) -> list[str]:
    """Return the input columns: neither targets nor dropped or used otherwise by the settings."""
    for column, what in [(config.group_column, "--group-column"), *((c, "drop") for c in config.drop)]:
        if column is not None and not other:
            need_column(frame, column, what=what, path=path)
    other_uses = {*names, config.split_column, config.group_column, *config.drop}
    features = [name for name in frame.columns if name not in other_uses]
    if not features:
        raise DlcliError(f"{path} has no input column besides the target")
    return features


def _samples(
    part: _TableSplit,
    first: _TableSplit,
    path: Path,
    target: InferredTarget,
    features: list[str],
    config: DataConfig,
    formats: Mapping[str, str],
    *,
    other: bool,
) -> tuple[Samples, list[Notice]]:
    """Return the rows of a split with a target, and notices."""
    frame, notices = part.frame, list[Notice]()
    if part.file != first.file:
        frame, notices = _as_in_training(part, first, path, target, features, formats)
    targets, valid = encode(
        {name: frame[name] for name in target.target_names},
        target,
        where=path.name if part.split == "all" else f"{path.name} ({part.split})",
    )
    dropped = len(valid) - len(targets)
    if dropped:
        message = f"{plural(dropped, 'row')} of {path.name} left out: no value of "
        notices.append(left_out(message + ", ".join(repr(name) for name in target.target_names)))
    prefix = "" if part.file == "all" else f"{part.file}/"
    ids = [f"{prefix}{row}" for row in part.rows[valid].tolist()]
    groups = None
    if config.group_column is not None and config.group_column in part.frame.columns:
        cells = as_strings(part.frame[config.group_column]).filter(valid).to_list()
        # A row without a group forms its own group.
        groups = tuple(f"row {i}" if cell is None else cell for cell, i in zip(cells, ids, strict=True))
    used = set(features)
    items = TableRows(
        frame.select(features) if valid.all() else frame.select(features).filter(valid),
        {name: form for name, form in formats.items() if name in used},
    )
    samples = Samples(ids=tuple(ids), targets=targets, items=items, groups=groups)
    if config.time_column is not None and part.split == "all" and not other:
        clock = row_times(part.frame, config, path)
        samples = replace(samples, clock=clock if valid.all() else clock[valid])
    return samples, notices


def _as_in_training(
    part: _TableSplit,
    first: _TableSplit,
    path: Path,
    target: InferredTarget,
    features: list[str],
    formats: Mapping[str, str],
) -> tuple[polars.DataFrame, list[Notice]]:
    """Return a split with targets and inputs of the types of training, and notices."""
    import polars as pl

    notices: list[Notice] = []
    own, train = ({c.name: c for c in f.iter_columns()} for f in (part.frame, first.frame))
    columns = []
    names = [*target.target_names, *features]
    need_columns(part.frame, names, what="of the training file", path=path)
    for name in names:
        column, more = cast_to_training(own[name], train[name], where=path.name, form=formats.get(name))
        if name in target.target_names and more:  # not a number: an error, not a missing value
            column, more = own[name], []
        columns.append(column)
        notices += more
    return pl.DataFrame(columns), notices
