"""Tables: every column's type and values, what is missing, of no use, or tells the target.

Legend: N rows of all splits, one after the other.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dlcli.data.base import DataSource, Samples
from dlcli.data.notices import Level
from dlcli.data.tables.cells import LARGEST, as_numbers, as_words
from dlcli.data.tables.columns import column_names
from dlcli.data.tables.frames import looks_like_text
from dlcli.data.tables.rows import Frame
from dlcli.datacheck.base import (
    CHECKS,
    Bars,
    CheckOptions,
    Part,
    counted,
    reader_notices,
    share,
)
from dlcli.datacheck.column_facts import describe, is_number
from dlcli.datacheck.leaks import TELLS, Floats, told_by
from dlcli.task import TabularInput, TaskSpec

if TYPE_CHECKING:
    import polars

_MUCH_MISSING = 0.5
_LEAST_ROWS = 10  # held-out rows that a leak can be seen on


def check_tabular(source: DataSource, task: TaskSpec | None, options: CheckOptions) -> Part:
    """The check of the kind "tabular"."""
    import polars as pl

    part = Part(noun="row", chance=True)
    frames = {split: _frame(samples) for split, samples in source.splits.items()}
    nested = [column.name for column in frames["train"].iter_columns() if _is_nested(column)]
    if nested:
        message = f"{counted(len(nested), 'column')} of lists, objects or bytes"
        part.find("warning", "nested-column", message, examples=nested, hint="dlcli leaves them out")
        frames = {split: one.drop(nested) for split, one in frames.items()}
    frame = pl.concat(list(frames.values()), how="vertical_relaxed")
    part.facts["columns"] = f"{frame.width:,} beside the target"
    used = None
    if task is not None:
        assert isinstance(task.input, TabularInput)
        used = set(column_names(task.input))
        part.facts["model's input"] = (
            f"{task.input.shape[0]:,} features of {counted(len(used), 'column')}"
        )
        part.notices += reader_notices(source, task)
    describe(frame, part)
    _missing(frames, part)
    _useless(frames["train"], used, part)
    _twins(frame, part)
    _leaks(source, frames, part)
    part.contents = _contents(frames)
    return part


def _frame(samples: Samples) -> polars.DataFrame:
    assert isinstance(samples.items, Frame)
    return samples.items.frame


def _missing(frames: dict[str, polars.DataFrame], part: Part) -> None:
    rows = sum(frame.height for frame in frames.values())
    shares: dict[str, float] = {}
    much, untrained = [], []
    for name in frames["train"].columns:
        by_split = {split: frame[name].null_count() for split, frame in frames.items()}
        total = sum(by_split.values())
        if not total:
            continue
        shares[name] = total / rows
        if _MUCH_MISSING <= shares[name] < 1:
            much.append(f"{name} {share(total, rows)}")
        if not by_split["train"]:
            untrained.append(name)
    if not shares:
        part.facts["missing"] = "nothing"
        return
    cells = round(sum(shares.values()) * rows)
    width = len(frames["train"].columns)
    part.facts["missing"] = (
        f"{share(cells, rows * width)} of the cells ({cells:,}), in {counted(len(shares), 'column')}"
    )
    part.charts.append(Bars("missing", "missing values", "share of the rows", shares))
    if much:
        message = f"{counted(len(much), 'column')} without a value in half of the rows or more"
        part.find("warning", "mostly-missing", message, examples=much)
    if untrained:
        message = f"{counted(len(untrained), 'column')} with missing values, but not in train"
        hint = "the model cannot learn what a missing value means there"
        part.find("note", "missing-unseen", message, examples=untrained, hint=hint)


def _useless(train: polars.DataFrame, used: set[str] | None, part: Part) -> None:
    """Columns that the encoder leaves out, by the reason; and words that are nearly all different."""
    import polars as pl

    groups: dict[tuple[str, str], list[str]] = {}
    scarce = []
    for column in train.iter_columns():
        cells = column.drop_nulls()
        different = cells.n_unique()
        if used is not None and column.name in used:
            if column.dtype == pl.String and different > 0.5 * max(len(cells), 40):
                scarce.append(f"{column.name} {different:,}")
            continue
        if not len(cells):
            why = ("empty-column", "without any value in train")
        elif different == 1:
            why = ("constant-column", "with one value in every row of train")
        elif looks_like_text(column):
            why = ("text-column", "of running text; --kind text reads them")
        else:
            why = ("identifier-column", "that only name or number the rows")
        groups.setdefault(why, []).append(column.name)
    for (code, reason), names in groups.items():
        level: Level = "warning" if code in ("empty-column", "constant-column") else "note"
        message = f"{counted(len(names), 'column')} {reason}"
        part.find(level, code, message, examples=names, hint="dlcli leaves them out")
    if scarce:
        message = f"{counted(len(scarce), 'column')} of words that are nearly all different in train"
        hint = "most words of other rows will be unknown; --set data.drop=[NAME] leaves a column out"
        part.find("warning", "identifier-like", message, examples=scarce, hint=hint)


def _twins(frame: polars.DataFrame, part: Part) -> None:
    """Columns that hold the same in every row."""
    seen: dict[Hashable, str] = {}
    twins = []
    for column in frame.iter_columns():
        if column.n_unique() < 2:
            continue
        plain = as_numbers(column)[0] if is_number(column) else as_words(column)
        key = tuple(plain.hash(seed=seed).sum() for seed in (1, 2))
        # Sums of hashes tell nothing of the order, so equal ones are compared.
        if key in seen and _same(frame[seen[key]], column):
            twins.append(f"{seen[key]} = {column.name}")
        seen.setdefault(key, column.name)
    if twins:
        part.find("note", "equal-columns", f"{counted(len(twins), 'pair')} of columns hold the same",
                  examples=twins)  # fmt: skip


def _same(one: polars.Series, other: polars.Series) -> bool:
    if is_number(one) != is_number(other):
        return False
    if is_number(one):
        return bool(as_numbers(one)[0].eq_missing(as_numbers(other)[0]).all())
    return bool(as_words(one).eq_missing(as_words(other)).all())


def _leaks(source: DataSource, frames: dict[str, polars.DataFrame], part: Part) -> None:
    """Columns that give the target away, seen on rows that they were not fitted on.

    A column that holds the target itself, under whatever names, is an error: no such column will be
    there when the model is used. One that tells nearly all of it may be a fact of life: a warning.
    """
    held = [split for split in frames if split != "train"]
    if source.task not in ("classification", "regression"):
        return
    sizes = [len(source.splits[split]) for split in held]
    if sum(sizes) < _LEAST_ROWS or len(source.splits["train"]) < 2 * _LEAST_ROWS:
        return
    targets = {s: samples.targets.reshape(len(samples), -1) for s, samples in source.splits.items()}
    copies: list[str] = []
    telling: list[str] = []
    for name in frames["train"].columns:
        columns = _codes({split: frame[name] for split, frame in frames.items()})
        other = np.concatenate([columns[split] for split in held])
        for k in range(targets["train"].shape[1]):
            truth = targets["train"][:, k]
            rest = np.concatenate([targets[split][:, k] for split in held])
            told = told_by(columns["train"], truth, other, rest, source.task)
            if told < TELLS:
                continue
            whole = np.concatenate([columns["train"], other]), np.concatenate([truth, rest])
            shown = f"{name}: {told:.3f}" + (f" of {source.target_names[k]}" if k else "")
            (copies if _is_copy(*whole, source.task) else telling).append(shown)
    figure = "of the errors of the majority answer gone" if source.task == "classification" else "R2"
    hint = "will it be known when the model is used? --set data.drop=[NAME] leaves a column out"
    if copies:
        message = f"{counted(len(copies), 'column')} holding the target itself (held-out rows, {figure})"
        part.find("error", "target-copy", message, examples=copies, hint=hint)
    if telling:
        message = f"{counted(len(telling), 'column')} telling the target alone (held-out rows, {figure})"
        part.find("warning", "leaking-column", message, examples=telling, hint=hint)


def _is_copy(column: Floats, targets: npt.NDArray[np.generic], task: str) -> bool:
    """Whether values and classes belong to each other one by one, or numbers are scaled targets."""
    if np.isnan(column).any():
        return False
    if task == "classification":
        pairs = len(np.unique(np.stack([column, targets.astype(np.float64)], axis=1), axis=0))
        return pairs == len(np.unique(column)) == len(np.unique(targets))
    return float(np.corrcoef(column, targets.astype(np.float64))[0, 1] ** 2) > 1 - 1e-9


def _codes(columns: dict[str, polars.Series]) -> dict[str, Floats]:
    """Columns of the splits as float64, NaN where missing; words by their place in the alphabet."""
    import polars as pl

    if all(is_number(column) for column in columns.values()):
        found = {}
        for split, column in columns.items():
            values = as_numbers(column)[0].fill_null(float("nan")).to_numpy()
            found[split] = np.where(np.abs(values) < LARGEST, values, np.nan)
        return found
    words = {split: as_words(column) for split, column in columns.items()}
    every = pl.concat(list(words.values())).drop_nulls().unique().sort()
    code = pl.DataFrame({"word": every, "code": np.arange(len(every), dtype=np.float64)})
    joined = {}
    for split, column in words.items():
        found_codes = column.to_frame("word").join(code, on="word", how="left", maintain_order="left")
        joined[split] = found_codes["code"].fill_null(float("nan")).to_numpy()
    return joined


def _contents(frames: dict[str, polars.DataFrame]) -> dict[str, Sequence[Hashable]]:
    """A key for each row that has its like anywhere, None for the others: there may be millions."""
    import polars as pl

    columns = [pl.col(name) for name in next(iter(frames.values())).columns]
    frame = pl.concat([one.select(columns) for one in frames.values()], how="vertical_relaxed")
    keys = pl.DataFrame([frame.hash_rows(seed=seed).alias(str(seed)) for seed in (1, 2)])
    found: list[Hashable] = [None] * frame.height
    for index in keys.is_duplicated().arg_true().to_list():
        found[index] = keys.row(index)
    ends = np.cumsum([one.height for one in frames.values()]).tolist()
    return {s: found[end - one.height : end] for (s, one), end in zip(frames.items(), ends, strict=True)}


def _is_nested(column: polars.Series) -> bool:
    import polars as pl

    return column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object)


CHECKS.register("tabular")(check_tabular)
