"""Targets of a table: their task inferred from the cells, and the cells encoded as arrays.

One column of words is a class; of several labels in a cell ("cat|dog"), several. Whole numbers of few
values are classes, other numbers are numbers. Several columns of 0 and 1 are labels, of other numbers
several numbers. ``--task`` overrules all of it; what was assumed is said where it could be otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Targets
from dlcli.data.images.folder import natural
from dlcli.data.notices import Notice
from dlcli.data.tables.cells import LARGEST, as_numbers, as_words, shorten
from dlcli.errors import DlcliError, UsageError, nearest
from dlcli.task import TaskKind

if TYPE_CHECKING:
    import polars

# Whole numbers of at most this many values, each seen twice or more on average, are taken for classes.
FEW_VALUES = 20
_LABEL_MARKS = r"[|;]"


@dataclass(frozen=True)
class InferredTarget:
    """The task, and the names of its classes or labels, or of the numbers; and notices."""

    task: TaskKind
    class_names: tuple[str, ...]
    target_names: tuple[str, ...]
    notices: tuple[Notice, ...]


def infer_target(
    columns: Mapping[str, polars.Series], requested: TaskKind | None, *, least: int = 2
) -> InferredTarget:
    """Infer the task of the target ``columns`` of the training rows, unless one is ``requested``.

    ``least``: how many classes or values there must be (1 for data of a model that exists). Raises:
    UsageError when ``requested`` is no task of a table, DlcliError when the cells do not suit the task
    or have one value only.
    """
    names = tuple(columns)
    if requested == "embedding":
        requested = "classification"
    if requested not in (None, "classification", "multilabel", "regression"):
        raise UsageError(
            f"task {requested!r} is not for a column of a table",
            hint="a column is classification, multilabel, regression or embedding",
        )
    if requested == "classification" and len(names) > 1:
        raise UsageError(
            f"classification has one target, not {len(names)}: {', '.join(names)}",
            hint="several columns are multilabel (0 and 1) or regression",
        )
    empty = [name for name, column in columns.items() if column.null_count() == len(column)]
    if empty:
        raise DlcliError(
            f"the target {empty[0]!r} is empty in every row", hint="name another with --target"
        )
    task, notices = (requested, ()) if requested is not None else _infer_task(columns)
    if task == "multilabel":
        return InferredTarget(task, _labels(columns), names, notices)
    if task == "regression":
        _need_numbers(columns, least)
        return InferredTarget(task, (), names, notices)
    (column,) = columns.values()
    classes = _classes(column)
    if len(classes) < least:
        raise DlcliError(
            f"the target {names[0]!r} has one value, {shorten(classes[0])!r}; "
            "a classifier needs at least two",
            hint="name another with --target",
        )
    rows = len(column) - column.null_count()
    if rows > FEW_VALUES and len(classes) == rows and least > 1:
        raise DlcliError(
            f"the target {names[0]!r} is different in each of {rows} rows: it is no class",
            hint="name another with --target, or say --task regression for numbers",
        )
    return InferredTarget("classification", classes, names, notices)


def encode(
    columns: Mapping[str, polars.Series], target: InferredTarget, *, where: str
) -> tuple[Targets, npt.NDArray[np.bool_]]:
    """The targets of the rows that have one, in order, and which rows those are.

    int64 (n,) of a class; uint8 (n, labels); float64 (n, targets). Raises: DlcliError naming ``where``
    and a class or label that training lacks (no model could learn it), or a cell that is no number.
    """
    if target.task == "regression":
        return _encode_numbers(columns, where)
    if target.task == "multilabel" and len(columns) > 1:
        numbers, rows = _encode_numbers(columns, where)
        invalid = numbers[(numbers != 0) & (numbers != 1)]
        if len(invalid):
            raise DlcliError(f"{where}: a label is 0 or 1, not {invalid[0]:g}")
        return numbers.astype(np.uint8), rows
    (column,) = columns.values()
    words = as_words(column)
    valid = words.is_not_null().to_numpy()
    code = {name: i for i, name in enumerate(target.class_names)}
    if target.task == "classification":
        codes = words.drop_nulls().replace_strict(code, default=None)
        if codes.null_count():
            unknown = words.drop_nulls().filter(codes.is_null())
            raise _unknown(unknown.to_list(), target, where)
        return codes.to_numpy().astype(np.int64), valid
    sets = [_split_labels(cell) for cell in words.drop_nulls().to_list()]
    unknown_labels = [label for labels in sets for label in labels if label not in code]
    if unknown_labels:
        raise _unknown(unknown_labels, target, where)
    out = np.zeros((len(sets), len(code)), dtype=np.uint8)
    for row, labels in zip(out, sets, strict=True):
        row[[code[label] for label in labels]] = 1
    return out, valid


def _infer_task(columns: Mapping[str, polars.Series]) -> tuple[TaskKind, tuple[Notice, ...]]:
    """The task that the cells suggest, and a notice where another would do as well."""
    import polars as pl

    if len(columns) > 1:
        return _infer_task_of_columns(columns)
    ((name, column),) = columns.items()
    if column.dtype == pl.String:
        cells = column.drop_nulls()
        if int(cells.str.contains(_LABEL_MARKS).sum()) * 2 > len(cells):
            message = f"{name!r} holds several labels a row"
            return "multilabel", (Notice(f"{message}; --task classification takes each cell as one"),)
        return "classification", ()
    if column.dtype == pl.Boolean or not column.dtype.is_numeric():
        return "classification", ()
    values = _finite(column)
    count = values.n_unique()
    whole = bool((values % 1 == 0).all())
    if count == 2 or (whole and count <= FEW_VALUES and 2 * count <= len(values)):
        shown = ", ".join(_classes(values)[:3]) + (" ..." if count > 3 else "")
        message = f"{name!r} has {count} different {'whole ' if whole else ''}numbers ({shown})"
        message += ", taken as classes; --task regression predicts the number"
        return "classification", (Notice(message),) if count > 1 else ()
    if count <= FEW_VALUES or (whole and count <= 5 * FEW_VALUES and 10 * count <= len(values)):
        message = f"{name!r} has {count} different numbers, taken as a number to predict"
        return "regression", (Notice(f"{message}; --task classification takes each as a class"),)
    return "regression", ()


def _infer_task_of_columns(columns: Mapping[str, polars.Series]) -> tuple[TaskKind, tuple[Notice, ...]]:
    import polars as pl

    for name, column in columns.items():
        if column.dtype == pl.Boolean or column.dtype.is_numeric():
            continue
        cell = shorten(as_words(column).drop_nulls()[0])
        raise DlcliError(
            f"several targets are numbers or 0 and 1, but {name!r} holds {cell!r}",
            hint="give one target, or several columns of numbers",
        )
    if all(_finite(column).is_in([0.0, 1.0]).all() for column in columns.values()):
        message = f"{len(columns)} columns of 0 and 1 are labels; --task regression predicts the numbers"
        return "multilabel", (Notice(message),)
    return "regression", ()


def _finite(column: polars.Series) -> polars.Series:
    """The numbers that there are, as Float64."""
    numbers, _ = as_numbers(column)
    return numbers.filter(numbers.abs() < LARGEST)


def _classes(column: polars.Series) -> tuple[str, ...]:
    """The different cells as words, "2" before "10"."""
    import polars as pl

    words = as_words(column).drop_nulls().unique().to_list()
    if column.dtype.is_numeric():
        return tuple(sorted(words, key=float))
    if column.dtype == pl.Boolean:
        return tuple(sorted(words))
    return tuple(sorted(words, key=lambda word: (natural(word), word)))


def _labels(columns: Mapping[str, polars.Series]) -> tuple[str, ...]:
    if len(columns) > 1:
        return tuple(columns)
    ((name, column),) = columns.items()
    labels = {label for cell in as_words(column).drop_nulls().to_list() for label in _split_labels(cell)}
    if not labels:
        raise DlcliError(f"the target {name!r} holds no label")
    return tuple(sorted(labels, key=lambda label: (natural(label), label)))


def _split_labels(cell: str) -> list[str]:
    """The labels of one cell."""
    return [label for part in cell.replace(";", "|").split("|") if (label := part.strip())]


def _need_numbers(columns: Mapping[str, polars.Series], least: int) -> None:
    for name, column in columns.items():
        numbers, invalid = as_numbers(column)
        if invalid:
            words = as_words(column)
            first = words.filter(numbers.is_null() & words.is_not_null())
            shown = repr(shorten(first[0])) if len(first) else str(column.dtype)
            raise DlcliError(
                f"regression predicts numbers, but {invalid} cells of {name!r} are none: {shown}",
                hint="leave out --task regression, or name another column with --target",
            )
        values = _finite(column)
        if values.n_unique() < least:
            shown = f"one value, {values[0]:g}" if len(values) else "no finite value"
            raise DlcliError(
                f"the target {name!r} has {shown}: there is nothing to predict",
                hint="name another with --target",
            )


def _encode_numbers(
    columns: Mapping[str, polars.Series], where: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The finite numbers (n, targets) of the rows that have all of them, and which rows those are."""
    arrays = []
    for name, column in columns.items():
        numbers, invalid = as_numbers(column)
        if invalid:
            raise DlcliError(f"{where}: {invalid} cells of the target {name!r} are no numbers")
        arrays.append(numbers.fill_null(float("nan")).to_numpy())
    values = np.stack(arrays, axis=1)
    valid = (np.abs(values) < LARGEST).all(axis=1)  # not where it is NaN
    return values[valid], valid


def _unknown(words: list[str], target: InferredTarget, where: str) -> DlcliError:
    different = list(dict.fromkeys(words))
    what = "label" if target.task == "multilabel" else "class"
    known = target.class_names
    return DlcliError(
        f"{where}: {len(words)} rows have a {what} that training lacks: "
        + ", ".join(repr(shorten(word)) for word in different[:3])
        + (" ..." if len(different) > 3 else ""),
        hint=nearest(different[0], known),
    )
