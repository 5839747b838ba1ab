"""The kind "tabular": a table with a target column, where no other kind recognises it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dlcli.config import DataConfig, TrainConfig
from dlcli.data.base import ArrayReader, DataSource, Indices, Samples, fingerprint
from dlcli.data.kinds import KINDS, DataKind, DataListing, ModelNeeds, ReadOptions
from dlcli.data.notices import Notice, left_out
from dlcli.data.scales import make_task
from dlcli.data.tables.cells import as_strings
from dlcli.data.tables.columns import column_names, encode_columns, fit_columns
from dlcli.data.tables.description import describe
from dlcli.data.tables.frames import TABLE_SUFFIXES, is_table, need_column, read_frame, split_by_column
from dlcli.data.tables.inputs import table_inputs
from dlcli.data.tables.label_cells import binary_run
from dlcli.data.tables.rows import TableRows, cast_to_training
from dlcli.data.tables.split_names import split_files
from dlcli.data.tables.synthetic import REFERENCE_WORDS, noise, reference_input
from dlcli.data.tables.targets import InferredTarget, encode, infer_target
from dlcli.errors import DlcliError, UsageError
from dlcli.task import TabularInput, TaskSpec
from dlcli.wording import plural, quoted

if TYPE_CHECKING:
    import polars

# Names of target columns by priority; without one of them the last column is the target.
_TARGET_COLUMN_NAMES = ("target", "label", "class", "labels", "y")


class TableReader(ArrayReader):
    """A split of a table, encoded; ``notices`` count cells unlike those of training."""

    def __init__(self, samples: Samples, spec: TabularInput) -> None:
        assert isinstance(samples.items, TableRows)
        for name in column_names(spec):
            need_column(samples.items.frame, name, what="the model reads it", path="the data")
        columns, notices = encode_columns(samples.items.frame, spec)
        super().__init__(samples, (columns,))
        self.notices = notices


def recognises(path: Path, config: DataConfig) -> bool:
    """Return whether a path has tables.

    Also for several data sets; the error of `read` then names them.
    """
    if path.is_file():
        return is_table(path)
    try:
        return split_files(path, TABLE_SUFFIXES) is not None
    except DlcliError:
        return True


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
    frames, notices = _read_files(files)
    names, about_target = _target_names(next(iter(frames.values())), config, next(iter(files.values())))
    notices += about_target + _drop_without_target(frames, files, names, other)
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
    notices += target.notices
    splits = {}
    for part in parts:
        samples, about_rows = _samples(part, first, files[part.file], target, features, config)
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
        options={"target": ",".join(names), "task": target.task, **target.options},
        notices=tuple(notices),
    )


def fit(source: DataSource, config: TrainConfig, needs: ModelNeeds) -> tuple[TaskSpec, list[Notice]]:
    """Fit the column encoders on the training rows. Numeric targets are standardized, without a log."""
    train = source.splits["train"]
    assert isinstance(train.items, TableRows)
    spec, notices = fit_columns(train.items.frame, _row_numbers(train.ids))
    return make_task(source, spec, config.model), notices


def reader(samples: Samples, task: TaskSpec, options: ReadOptions) -> TableReader:
    """Return the reader of rows as float32 (N, F + K)."""
    assert isinstance(task.input, TabularInput)
    return TableReader(samples, task.input)


@dataclass(frozen=True)
class _TableSplit:
    """One split; ``rows`` (n,) are its row numbers in ``file``."""

    split: str
    file: str
    frame: polars.DataFrame
    rows: Indices


def _read_files(files: dict[str, Path]) -> tuple[dict[str, polars.DataFrame], list[Notice]]:
    frames, notices = {}, []
    for split, file in files.items():
        frames[split], more = read_frame(file)
        notices += more
    return frames, notices


def _target_names(
    frame: polars.DataFrame, config: DataConfig, path: Path
) -> tuple[list[str], list[Notice]]:
    """Return the target columns, and a notice where they are inferred."""
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
    named = [name for common in _TARGET_COLUMN_NAMES for name in names if name.lower() == common]
    target, why = (named[0], "by its name") if named else (names[-1], "as the last column")
    notices = [Notice(f"{target!r} is the target, {why}; --target selects another")]
    run = [] if named else binary_run(frame, names)
    if len(run) > 1:
        notices.append(Notice(_about_other_labels(run)))
    return [target], notices


def _about_other_labels(run: list[str]) -> str:
    """Return a message about the columns of 0 and 1 before a target of 0 and 1."""
    before = [quoted(name) for name in run[:-1]]
    shown = ", ".join(before) if len(before) <= 6 else f"{before[0]} to {before[-1]} ({len(before)})"
    message = f"{shown} before it hold 0 and 1 too and are inputs"
    return f"{message}; --target {','.join(run)} trains all {len(run)} as labels (multi-label)"


def _drop_without_target(
    frames: dict[str, polars.DataFrame], files: dict[str, Path], names: list[str], other: bool
) -> list[Notice]:
    """Drop held-out files without a target, such as those of competitions; return notices of them."""
    notices = []
    for split, frame in list(frames.items()):
        missing = [name for name in names if name not in frame.columns]
        if not missing:
            continue
        if split in ("all", "train") or other:
            need_column(frame, missing[0], what="the target", path=files[split])
        message = f"{files[split].name} has no column {missing[0]!r}, so there is no {split} split"
        notices.append(Notice(message))
        del frames[split]
    return notices


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
) -> tuple[Samples, list[Notice]]:
    """Return the rows of a split with a target, and notices."""
    targets, valid = encode(
        {name: part.frame[name] for name in target.target_names},
        target,
        where=path.name if part.split == "all" else f"{path.name} ({part.split})",
    )
    notices = []
    dropped = len(valid) - len(targets)
    if dropped:
        message = f"{plural(dropped, 'row')} of {path.name} left out: no value of "
        notices.append(left_out(message + ", ".join(repr(name) for name in target.target_names)))
    columns = []
    for name in features:
        need_column(part.frame, name, what="a column of the training file", path=path)
        column, more = cast_to_training(part.frame[name], first.frame[name], where=path.name)
        columns.append(column)
        notices += more
    prefix = "" if part.file == "all" else f"{part.file}/"
    ids = [f"{prefix}{row}" for row in part.rows[valid].tolist()]
    groups = None
    if config.group_column is not None and config.group_column in part.frame.columns:
        cells = as_strings(part.frame[config.group_column]).filter(valid).to_list()
        # A row without a group forms its own group.
        groups = tuple(f"row {i}" if cell is None else cell for cell, i in zip(cells, ids, strict=True))
    items = TableRows(part.frame.select(columns).filter(valid))
    return Samples(ids=tuple(ids), targets=targets, items=items, groups=groups), notices


def _row_numbers(ids: Sequence[str]) -> Indices:
    """Return the row numbers in the file, parsed from the ids, else counted from 0."""
    matches = [re.search(r"(?:^|/)(\d+)$", id_) for id_ in ids]
    numbers = [int(match[1]) for match in matches if match]
    return np.array(numbers if len(numbers) == len(ids) else range(len(ids)), dtype=np.int64)


KINDS.register("tabular")(
    DataKind(
        name="tabular",
        recognises=recognises,
        read=read,
        fit=fit,
        reader=reader,
        inputs=table_inputs,
        reference_input=reference_input,
        reference_words=REFERENCE_WORDS,
        noise=noise,
        describe=describe,
        size_words="{} features",
        order=90,
    )
)
