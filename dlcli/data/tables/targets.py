"""Target columns: infer the task from the cells, and encode the cells as arrays.

One column of strings is classification; with several labels in a cell ("cat|dog"), multilabel. Integers
of few distinct values are classes, other numbers regression. Several columns of 0 and 1 are multilabel,
of other numbers regression. ``--task`` overrides this; a notice tells where the choice is not clear.
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
from dlcli.data.tables.cells import MAX_FINITE, as_numbers, as_strings
from dlcli.errors import DlcliError, UsageError, nearest
from dlcli.task import TaskKind
from dlcli.wording import quoted

if TYPE_CHECKING:
    import polars

# Integers of at most this many distinct values, each twice or more on average, are classes.
MAX_CLASS_VALUES = 20
_LABEL_SEPARATORS = r"[|;]"


@dataclass(frozen=True)
class InferredTarget:
    """The task, the names of its classes or labels and of its target columns, and notices."""

    task: TaskKind
    class_names: tuple[str, ...]
    target_names: tuple[str, ...]
    notices: tuple[Notice, ...]


def infer_target(
    columns: Mapping[str, polars.Series], requested: TaskKind | None, *, min_values: int = 2
) -> InferredTarget:
    """Infer the task of the target ``columns`` of the training rows, unless one is ``requested``.

    ``min_values``: the required number of classes or values (1 for data of a trained model). Raises:
    UsageError when ``requested`` is not a task of a table, DlcliError when the cells do not suit the
    task or have only one value.
    """
    names = tuple(columns)
    if requested == "embedding":
        requested = "classification"
    if requested not in (None, "classification", "multilabel", "regression"):
        raise UsageError(
            f"task {requested!r} does not apply to a table column",
            hint="use classification, multilabel, regression or embedding",
        )
    if requested == "classification" and len(names) > 1:
        raise UsageError(
            f"classification has one target, not {len(names)}: {', '.join(names)}",
            hint="several columns are multilabel (0 and 1) or regression",
        )
    empty = [name for name, column in columns.items() if column.null_count() == len(column)]
    if empty:
        raise DlcliError(
            f"the target {empty[0]!r} is empty in every row", hint="give another with --target"
        )
    task, notices = (requested, ()) if requested is not None else _infer_task(columns)
    if task == "multilabel":
        return InferredTarget(task, _label_names(columns), names, notices)
    if task == "regression":
        _check_numbers(columns, min_values)
        return InferredTarget(task, (), names, notices)
    (column,) = columns.values()
    classes = _class_names(column)
    if len(classes) < min_values:
        raise DlcliError(
            f"the target {names[0]!r} has one value, {quoted(classes[0])}; "
            "classification needs at least two",
            hint="give another with --target",
        )
    rows = len(column) - column.null_count()
    if rows > MAX_CLASS_VALUES and len(classes) == rows and min_values > 1:
        raise DlcliError(
            f"the target {names[0]!r} has {rows} distinct values in {rows} rows: these are no classes",
            hint="give another with --target, or --task regression for numbers",
        )
    return InferredTarget("classification", classes, names, notices)


def encode(
    columns: Mapping[str, polars.Series], target: InferredTarget, *, where: str
) -> tuple[Targets, npt.NDArray[np.bool_]]:
    """Encode the targets of the rows that have one; also return the mask (N,) of these rows.

    Targets are int64 (n,) of classification, uint8 (n, labels) of multilabel, float64 (n, targets) of
    regression. Raises: DlcliError naming ``where`` and a class or label that is not in train, or a cell
    that is not a number.
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
    words = as_strings(column)
    valid = words.is_not_null().to_numpy()
    code = {name: i for i, name in enumerate(target.class_names)}
    if target.task == "classification":
        codes = words.drop_nulls().replace_strict(code, default=None)
        if codes.null_count():
            unknown = words.drop_nulls().filter(codes.is_null())
            raise _unknown_class_error(unknown.to_list(), target, where)
        return codes.to_numpy().astype(np.int64), valid
    sets = [_split_labels(cell) for cell in words.drop_nulls().to_list()]
    unknown_labels = [label for labels in sets for label in labels if label not in code]
    if unknown_labels:
        raise _unknown_class_error(unknown_labels, target, where)
    out = np.zeros((len(sets), len(code)), dtype=np.uint8)
    for row, labels in zip(out, sets, strict=True):
        row[[code[label] for label in labels]] = 1
    return out, valid


def _infer_task(columns: Mapping[str, polars.Series]) -> tuple[TaskKind, tuple[Notice, ...]]:
    """Infer the task from the cells; also return a notice where another is plausible."""
    import polars as pl

    if len(columns) > 1:
        return _infer_task_of_columns(columns)
    ((name, column),) = columns.items()
    if column.dtype == pl.String:
        cells = column.drop_nulls()
        if int(cells.str.contains(_LABEL_SEPARATORS).sum()) * 2 > len(cells):
            message = f"{name!r} has several labels per row"
            return "multilabel", (Notice(f"{message}; --task classification makes each cell one class"),)
        return "classification", ()
    if column.dtype == pl.Boolean or not column.dtype.is_numeric():
        return "classification", ()
    values = _finite_numbers(column)
    count = values.n_unique()
    whole = bool((values % 1 == 0).all())
    if count == 2 or (whole and count <= MAX_CLASS_VALUES and 2 * count <= len(values)):
        shown = ", ".join(_class_names(values)[:3]) + (" ..." if count > 3 else "")
        message = f"{name!r} has {count} different {'integers' if whole else 'numbers'} ({shown})"
        message += ", read as classes; --task regression predicts the number"
        return "classification", (Notice(message),) if count > 1 else ()
    if count <= MAX_CLASS_VALUES or (
        whole and count <= 5 * MAX_CLASS_VALUES and 10 * count <= len(values)
    ):
        message = f"{name!r} has {count} different numbers, read as a regression target"
        return "regression", (Notice(f"{message}; --task classification makes each a class"),)
    return "regression", ()


def _infer_task_of_columns(columns: Mapping[str, polars.Series]) -> tuple[TaskKind, tuple[Notice, ...]]:
    import polars as pl

    for name, column in columns.items():
        if column.dtype == pl.Boolean or column.dtype.is_numeric():
            continue
        cell = quoted(as_strings(column).drop_nulls()[0])
        raise DlcliError(
            f"several targets must be numbers or 0 and 1, but {name!r} has {cell}",
            hint="give one target, or several columns of numbers",
        )
    if all(_finite_numbers(column).is_in([0.0, 1.0]).all() for column in columns.values()):
        message = f"{len(columns)} columns of 0 and 1 are labels; --task regression predicts the numbers"
        return "multilabel", (Notice(message),)
    return "regression", ()


def _finite_numbers(column: polars.Series) -> polars.Series:
    """Return the finite numbers of a column as Float64."""
    numbers, _ = as_numbers(column)
    return numbers.filter(numbers.abs() < MAX_FINITE)


def _class_names(column: polars.Series) -> tuple[str, ...]:
    """Return the distinct cells as strings in natural order: "2" before "10"."""
    import polars as pl

    words = as_strings(column).drop_nulls().unique().to_list()
    if column.dtype.is_numeric():
        return tuple(sorted(words, key=float))
    if column.dtype == pl.Boolean:
        return tuple(sorted(words))
    return tuple(sorted(words, key=lambda word: (natural(word), word)))


def _label_names(columns: Mapping[str, polars.Series]) -> tuple[str, ...]:
    if len(columns) > 1:
        return tuple(columns)
    ((name, column),) = columns.items()
    labels = {
        label for cell in as_strings(column).drop_nulls().to_list() for label in _split_labels(cell)
    }
    if not labels:
        raise DlcliError(f"the target {name!r} has no labels")
    return tuple(sorted(labels, key=lambda label: (natural(label), label)))


def _split_labels(cell: str) -> list[str]:
    """Split one cell into labels."""
    return [label for part in cell.replace(";", "|").split("|") if (label := part.strip())]


def _check_numbers(columns: Mapping[str, polars.Series], min_values: int) -> None:
    for name, column in columns.items():
        numbers, invalid = as_numbers(column)
        if invalid:
            words = as_strings(column)
            first = words.filter(numbers.is_null() & words.is_not_null())
            shown = quoted(first[0]) if len(first) else str(column.dtype)
            raise DlcliError(
                f"regression predicts numbers, but {invalid} cells of {name!r} are not numbers: {shown}",
                hint="remove --task regression, or give another column with --target",
            )
        values = _finite_numbers(column)
        if values.n_unique() < min_values:
            shown = f"one value, {values[0]:g}" if len(values) else "no finite value"
            raise DlcliError(
                f"the target {name!r} has {shown}: nothing to predict",
                hint="give another with --target",
            )


def _encode_numbers(
    columns: Mapping[str, polars.Series], where: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return the numbers (n, targets) of rows where all are finite, and the mask (N,) of these rows."""
    arrays = []
    for name, column in columns.items():
        numbers, invalid = as_numbers(column)
        if invalid:
            raise DlcliError(f"{where}: {invalid} cells of the target {name!r} are not numbers")
        arrays.append(numbers.fill_null(float("nan")).to_numpy())
    values = np.stack(arrays, axis=1)
    valid = (np.abs(values) < MAX_FINITE).all(axis=1)  # False for NaN
    return values[valid], valid


def _unknown_class_error(words: list[str], target: InferredTarget, where: str) -> DlcliError:
    different = list(dict.fromkeys(words))
    what = "label" if target.task == "multilabel" else "class"
    known = target.class_names
    return DlcliError(
        f"{where}: {len(words)} rows have a {what} that is not in train: "
        + ", ".join(quoted(word) for word in different[:3])
        + (" ..." if len(different) > 3 else ""),
        hint=nearest(different[0], known),
    )
