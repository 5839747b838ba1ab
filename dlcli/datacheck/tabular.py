"""Tables: columns, missing values, unused columns, target leakage, duplicate rows.

Legend: N rows of all splits, one after the other.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dlcli.data.base import DataSource, Floats, Samples
from dlcli.data.notices import Level
from dlcli.data.tables.cells import MAX_FINITE, as_numbers, as_strings
from dlcli.data.tables.columns import MIN_COUNT, column_names
from dlcli.data.tables.matrix import plain_values
from dlcli.data.tables.relations import column_sums
from dlcli.data.tables.rows import TableRows
from dlcli.data.tables.unused import ROW_NUMBERS, is_number, rare_words, reason_to_drop
from dlcli.datacheck.base import (
    CHECKS,
    Bars,
    CheckOptions,
    CheckResult,
    percent,
    reader_notices,
)
from dlcli.datacheck.column_facts import describe
from dlcli.datacheck.leaks import LEAK_SCORE, leak_score
from dlcli.task import TabularInput, TaskSpec
from dlcli.wording import plural

if TYPE_CHECKING:
    import polars

_MOSTLY_MISSING = 0.5
_MIN_LEAK_ROWS = 10  # held-out rows needed to score a column


def check_tabular(source: DataSource, task: TaskSpec | None, options: CheckOptions) -> CheckResult:
    """The check of the kind "tabular"."""
    import polars as pl

    result = CheckResult(noun="row", chance=True)
    frames = {split: _frame(samples) for split, samples in source.splits.items()}
    nested = [column.name for column in frames["train"].iter_columns() if _is_nested(column)]
    if nested:
        message = f"{plural(len(nested), 'column')} of lists, objects or bytes"
        result.report("warning", "nested-column", message, examples=nested, hint="dlcli leaves them out")
        frames = {split: one.drop(nested) for split, one in frames.items()}
    frame = pl.concat(list(frames.values()), how="vertical_relaxed")
    result.facts["columns"] = f"{frame.width:,} without the target"
    used = None
    if task is not None:
        assert isinstance(task.input, TabularInput)
        used = set(column_names(task.input))
        result.facts["model's input"] = (
            f"{task.input.shape[0]:,} features of {plural(len(used), 'column')}"
        )
        result.notices += reader_notices(source, task)
    describe(frame, result)
    _check_missing(frames, result)
    _check_unused(frames["train"], used, result)
    _check_equal_columns(frame, result)
    sums = column_sums(frame)
    if sums:
        message = f"{plural(len(sums), 'column')} that {'is a sum' if len(sums) == 1 else 'are sums'} "
        message += "or differences of others"
        result.report("note", "sum-column", message, examples=sums, hint="they add no information")
    _check_leaks(source, frames, result)
    result.contents = _contents(frames)
    return result


def _frame(samples: Samples) -> polars.DataFrame:
    assert isinstance(samples.items, TableRows)
    return samples.items.frame


def _check_missing(frames: dict[str, polars.DataFrame], result: CheckResult) -> None:
    rows = sum(frame.height for frame in frames.values())
    shares: dict[str, float] = {}
    mostly_missing, only_held_out = [], []
    for name in frames["train"].columns:
        by_split = {split: frame[name].null_count() for split, frame in frames.items()}
        total = sum(by_split.values())
        if not total:
            continue
        shares[name] = total / rows
        if _MOSTLY_MISSING <= shares[name] < 1:
            mostly_missing.append(f"{name} {percent(total, rows)}")
        if not by_split["train"]:
            only_held_out.append(name)
    if not shares:
        result.facts["missing"] = "nothing"
        return
    cells = round(sum(shares.values()) * rows)
    width = len(frames["train"].columns)
    result.facts["missing"] = (
        f"{percent(cells, rows * width)} of the cells ({cells:,}), in {plural(len(shares), 'column')}"
    )
    result.charts.append(Bars("missing", "missing values", "share of the rows", shares))
    if mostly_missing:
        message = f"{plural(len(mostly_missing), 'column')} without a value in half of the rows or more"
        result.report("warning", "mostly-missing", message, examples=mostly_missing)
    if only_held_out:
        message = f"{plural(len(only_held_out), 'column')} with missing values, but not in train"
        hint = "the model sees no missing value of them in training"
        result.report("note", "missing-unseen", message, examples=only_held_out, hint=hint)


_CODES = {
    "without any value": "empty-column",
    "with the same value in every row": "constant-column",
    "of text (--kind text encodes them)": "text-column",
}


def _check_unused(train: polars.DataFrame, used: set[str] | None, result: CheckResult) -> None:
    """Report columns that the encoder does not use, by its reasons, and those nearly all distinct."""
    import polars as pl

    groups: dict[str, list[str]] = {}
    nearly_distinct = []
    for column in train.iter_columns():
        cells = column.drop_nulls()
        if used is not None and column.name in used:
            distinct = cells.n_unique() if column.dtype == pl.String else 0
            if distinct > 0.5 * max(len(cells), 40):
                nearly_distinct.append(f"{column.name} {distinct:,}")
            continue
        reason = reason_to_drop(column)
        if reason is None and used is None:
            continue
        groups.setdefault(reason or _other_reason(column), []).append(column.name)
    for reason, names in groups.items():
        code = _CODES.get(reason, "identifier-column")
        level: Level = "warning" if code in ("empty-column", "constant-column") else "note"
        message = f"{plural(len(names), 'column')} {reason}"
        result.report(level, code, message, examples=names, hint="dlcli leaves them out")
    if nearly_distinct:
        message = (
            f"{plural(len(nearly_distinct), 'column')} of words that are nearly all distinct in train"
        )
        hint = "most words of other rows will be unknown; --set data.drop=[NAME] leaves a column out"
        result.report("warning", "identifier-like", message, examples=nearly_distinct, hint=hint)


def _other_reason(column: polars.Series) -> str:
    return ROW_NUMBERS if is_number(column) else rare_words(column, MIN_COUNT)


def _check_equal_columns(frame: polars.DataFrame, result: CheckResult) -> None:
    """Report columns that are equal in every row."""
    names: dict[Hashable, str] = {}
    equal = []
    plain = plain_values([column for column in frame.iter_columns() if column.dtype.is_numeric()])
    for column in frame.iter_columns():
        if column.n_unique() < 2:
            continue
        key: Hashable
        if column.name in plain:
            key = hash((plain[column.name] + 0.0).tobytes())  # 0.0 and -0.0 are equal
        else:
            values = as_numbers(column)[0] if is_number(column) else as_strings(column)
            key = tuple(values.hash(seed=seed).sum() for seed in (1, 2))
        # Sums of hashes do not depend on the order, so columns of equal sums are compared.
        if key in names and _equal(frame[names[key]], column):
            equal.append(f"{names[key]} = {column.name}")
        names.setdefault(key, column.name)
    if equal:
        result.report("note", "equal-columns", f"{plural(len(equal), 'pair')} of equal columns",
                  examples=equal)  # fmt: skip


def _equal(one: polars.Series, other: polars.Series) -> bool:
    if is_number(one) != is_number(other):
        return False
    if is_number(one):
        return bool(as_numbers(one)[0].eq_missing(as_numbers(other)[0]).all())
    return bool(as_strings(one).eq_missing(as_strings(other)).all())


def _check_leaks(source: DataSource, frames: dict[str, polars.DataFrame], result: CheckResult) -> None:
    """Report columns that predict the target alone, scored on held-out rows.

    A copy of the target, also under other names of the classes, is an error: it will not be known at
    inference. A column that predicts it nearly perfectly may be legitimate: a warning.
    """
    held_out = [split for split in frames if split != "train"]
    if source.task not in ("classification", "regression"):
        return
    sizes = [len(source.splits[split]) for split in held_out]
    if sum(sizes) < _MIN_LEAK_ROWS or len(source.splits["train"]) < 2 * _MIN_LEAK_ROWS:
        return
    targets = {s: samples.targets.reshape(len(samples), -1) for s, samples in source.splits.items()}
    plain = {split: _plain_numbers(frame) for split, frame in frames.items()}
    copies: list[str] = []
    leaking: list[str] = []
    for name in frames["train"].columns:
        if all(name in values for values in plain.values()):
            columns = {split: values[name] for split, values in plain.items()}
        else:
            columns = _codes({split: frame[name] for split, frame in frames.items()})
        held_out_column = np.concatenate([columns[split] for split in held_out])
        for k in range(targets["train"].shape[1]):
            train_targets = targets["train"][:, k]
            held_out_targets = np.concatenate([targets[split][:, k] for split in held_out])
            score = leak_score(
                columns["train"], train_targets, held_out_column, held_out_targets, source.task
            )
            if score < LEAK_SCORE:
                continue
            column = np.concatenate([columns["train"], held_out_column])
            every_target = np.concatenate([train_targets, held_out_targets])
            example = f"{name}: {score:.3f}" + (f" of {source.target_names[k]}" if k else "")
            (copies if _is_copy(column, every_target, source.task) else leaking).append(example)
    metric = (
        "fewer errors than the majority class, as a share" if source.task == "classification" else "R2"
    )
    hint = "is it known at inference? --set data.drop=[NAME] leaves a column out"
    if copies:
        message = f"{plural(len(copies), 'column')} holding the target itself (held-out rows, {metric})"
        result.report("error", "target-copy", message, examples=copies, hint=hint)
    if leaking:
        message = (
            f"{plural(len(leaking), 'column')} predicting the target alone (held-out rows, {metric})"
        )
        result.report("warning", "leaking-column", message, examples=leaking, hint=hint)


def _is_copy(column: Floats, targets: npt.NDArray[np.generic], task: str) -> bool:
    """Whether values map one-to-one to classes, or numbers are linear in the target."""
    if np.isnan(column).any():
        return False
    if task == "classification":
        pairs = len(np.unique(np.stack([column, targets.astype(np.float64)], axis=1), axis=0))
        return pairs == len(np.unique(column)) == len(np.unique(targets))
    return float(np.corrcoef(column, targets.astype(np.float64))[0, 1] ** 2) > 1 - 1e-9


def _plain_numbers(frame: polars.DataFrame) -> dict[str, Floats]:
    """Return the values of the columns of numbers, NaN where missing or infinite."""
    values = plain_values([column for column in frame.iter_columns() if column.dtype.is_numeric()])
    return {name: np.where(np.abs(v) < MAX_FINITE, v, np.nan) for name, v in values.items()}


def _codes(columns: dict[str, polars.Series]) -> dict[str, Floats]:
    """Return columns of the splits as float64, NaN where missing; words as ordinals in sorted order."""
    import polars as pl

    if all(is_number(column) for column in columns.values()):
        numbers = {}
        for split, column in columns.items():
            values = as_numbers(column)[0].fill_null(float("nan")).to_numpy()
            numbers[split] = np.where(np.abs(values) < MAX_FINITE, values, np.nan)
        return numbers
    words = {split: as_strings(column) for split, column in columns.items()}
    vocabulary = pl.concat(list(words.values())).drop_nulls().unique().sort()
    code = pl.DataFrame({"word": vocabulary, "code": np.arange(len(vocabulary), dtype=np.float64)})
    joined = {}
    for split, column in words.items():
        codes = column.to_frame("word").join(code, on="word", how="left", maintain_order="left")
        joined[split] = codes["code"].fill_null(float("nan")).to_numpy()
    return joined


def _contents(frames: dict[str, polars.DataFrame]) -> dict[str, Sequence[Hashable]]:
    """Return a hash for each row that has a duplicate, None for the others: there may be millions."""
    import polars as pl

    columns = [pl.col(name) for name in next(iter(frames.values())).columns]
    frame = pl.concat([one.select(columns) for one in frames.values()], how="vertical_relaxed")
    keys = pl.DataFrame([frame.hash_rows(seed=seed).alias(str(seed)) for seed in (1, 2)])
    row_hashes: list[Hashable] = [None] * frame.height
    for index in keys.is_duplicated().arg_true().to_list():
        row_hashes[index] = keys.row(index)
    ends = np.cumsum([one.height for one in frames.values()]).tolist()
    return {
        s: row_hashes[end - one.height : end] for (s, one), end in zip(frames.items(), ends, strict=True)
    }


def _is_nested(column: polars.Series) -> bool:
    import polars as pl

    return column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object)


CHECKS.register("tabular")(check_tabular)
