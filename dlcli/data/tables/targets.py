"""Target columns: infer the task from the cells, and encode the cells as arrays.

One column of strings is classification; with several labels in a cell ("cat|dog", see `label_cells`),
multilabel, where an empty cell is a row without a label. Integers of few distinct values are classes,
other numbers regression. Several columns of 0 and 1 are multilabel, of other numbers regression.
``--task`` overrides this; a notice tells where the choice is not clear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Targets
from dlcli.data.class_folders import natural
from dlcli.data.notices import Notice
from dlcli.data.tables.cells import MAX_FINITE, as_numbers, as_strings
from dlcli.data.tables.label_cells import (
    SEPARATORS,
    alike,
    binary_numbers,
    composed_form,
    default_separators,
    is_binary,
    labels_of,
    several_labels,
    words_of,
)
from dlcli.data.tables.target_task import MAX_CLASS_VALUES, class_names_of, finite_numbers, infer_task
from dlcli.errors import DlcliError, UsageError, nearest
from dlcli.task import TaskKind
from dlcli.wording import quoted

if TYPE_CHECKING:
    import polars


@dataclass(frozen=True)
class InferredTarget:
    """The task, the names of its classes or labels and of its target columns, and notices.

    ``separators`` are the characters between the labels of a cell, in multilabel of one column; "" where
    the column is itself a label, of 0 and 1.
    """

    task: TaskKind
    class_names: tuple[str, ...]
    target_names: tuple[str, ...]
    notices: tuple[Notice, ...]
    separators: str = SEPARATORS

    @property
    def options(self) -> dict[str, str]:
        """The settings that read the same labels from other cells, where they are not the default."""
        return {} if self.separators == SEPARATORS else {"label_separators": self.separators}


def infer_target(
    columns: Mapping[str, polars.Series],
    requested: TaskKind | None,
    *,
    min_values: int = 2,
    separators: str | None = None,
) -> InferredTarget:
    """Infer the task of the target ``columns`` of the training rows, unless one is ``requested``.

    ``min_values``: the required number of classes or values (1 for data of a trained model);
    ``separators``: the characters between the labels of a cell (default: by the cells). Raises:
    UsageError when ``requested`` is not a task of a table, DlcliError when the cells do not suit the
    task or have only one value.
    """
    names = tuple(columns)
    requested = _check_requested(names, requested)
    _check_cells(columns, no_labels=requested == "multilabel" and len(names) == 1 and min_values == 1)
    task, notices = (requested, ()) if requested is not None else infer_task(columns, separators)
    if task == "multilabel":
        if separators is None and len(names) == 1 and min_values > 1 and is_binary(columns[names[0]]):
            separators = ""  # one label, rather than the two labels "0" and "1"
        return _multilabel(columns, notices, separators)
    if task == "regression":
        _check_numbers(columns, min_values)
        return InferredTarget(task, (), names, notices)
    (column,) = columns.values()
    classes = class_names_of(column)
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
    return InferredTarget("classification", classes, names, (*notices, *_alike(names[0], classes)))


def encode(
    columns: Mapping[str, polars.Series], target: InferredTarget, *, where: str
) -> tuple[Targets, npt.NDArray[np.bool_]]:
    """Encode the targets of the rows that have one; also return the mask (N,) of these rows.

    Targets are int64 (n,) of classification, uint8 (n, labels) of multilabel, float64 (n, targets) of
    regression. In multilabel of one column every row has a target: an empty cell holds no label.

    Raises: DlcliError naming ``where`` and a class or label that is not in train, or a cell that is no
    number.
    """
    if target.task == "regression":
        return _encode_numbers(columns, where)
    if target.task == "multilabel" and (len(columns) > 1 or not target.separators):
        return _encode_columns_of_labels(columns, where)
    (column,) = columns.values()
    code = {composed_form(name): i for i, name in enumerate(target.class_names)}
    if target.task == "classification":
        words = words_of(column)
        valid = words.is_not_null().to_numpy()
        codes = words.drop_nulls().replace_strict(code, default=None)
        if codes.null_count():
            unknown = words.drop_nulls().filter(codes.is_null())
            raise _unknown_class_error(unknown.to_list(), target, where)
        return codes.to_numpy().astype(np.int64), valid
    sets = labels_of(column, target.separators)
    unknown_labels = [label for labels in sets for label in labels if label not in code]
    if unknown_labels:
        raise _unknown_class_error(unknown_labels, target, where)
    out = np.zeros((len(sets), len(code)), dtype=np.uint8)
    for row, labels in zip(out, sets, strict=True):
        row[[code[label] for label in labels]] = 1
    return out, np.ones(len(sets), dtype=np.bool_)


def _check_requested(names: Sequence[str], requested: TaskKind | None) -> TaskKind | None:
    """Return the task that `infer_target` is to use. Raises: UsageError."""
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
    return requested


def _check_cells(columns: Mapping[str, polars.Series], *, no_labels: bool) -> None:
    """Raises: DlcliError for columns that are empty, unless ``no_labels`` is valid, or hold objects."""
    import polars as pl

    for name, column in columns.items():
        if column.dtype.base_type() in (pl.Struct, pl.Object):
            raise DlcliError(
                f"the target {name!r} holds objects, not labels or numbers",
                hint='give each label as text, several as a list: ["a", "b"]',
            )
        if column.null_count() == len(column) and not no_labels:
            raise DlcliError(
                f"the target {name!r} is empty in every row", hint="give another with --target"
            )


def _multilabel(
    columns: Mapping[str, polars.Series], notices: tuple[Notice, ...], separators: str | None
) -> InferredTarget:
    names = tuple(columns)
    if len(columns) > 1:
        return InferredTarget("multilabel", names, names, notices)
    if separators == "":
        return InferredTarget("multilabel", names, names, notices, "")
    ((name, column),) = columns.items()
    marks = several_labels(column, separators) or separators or default_separators(column)
    rows = labels_of(column, marks)
    labels = {label for row in rows for label in row}
    if not labels and column.null_count() < len(column):
        raise DlcliError(f"the target {name!r} has no labels")
    classes = tuple(sorted(labels, key=lambda label: (natural(label), label)))
    bare = sum(not row for row in rows)
    if bare and labels:
        message = f"{bare:,} of {len(rows):,} cells of {name!r} are empty: these rows have no label"
        notices = (*notices, Notice(message))
    return InferredTarget("multilabel", classes, names, (*notices, *_alike(name, classes)), marks)


def _alike(name: str, classes: tuple[str, ...]) -> list[Notice]:
    """Return a notice of classes whose names differ in case or inner spaces alone."""
    groups = alike(classes)
    if not groups:
        return []
    shown = "; ".join(" and ".join(quoted(word) for word in group) for group in groups[:3])
    more = f"; and {len(groups) - 3} more" if len(groups) > 3 else ""
    message = f"classes of {name!r} that differ in case or spaces alone stay apart: {shown}{more}"
    return [Notice(message)]


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
        values = finite_numbers(column)
        if values.n_unique() < min_values:
            shown = f"one value, {values[0]:g}" if len(values) else "no finite value"
            raise DlcliError(
                f"the target {name!r} has {shown}: nothing to predict",
                hint="give another with --target",
            )


def _encode_columns_of_labels(
    columns: Mapping[str, polars.Series], where: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Return the labels (n, columns) of rows where all are given, and the mask (N,) of these rows."""
    numbers, rows = _encode_numbers({n: binary_numbers(c) for n, c in columns.items()}, where)
    invalid = numbers[(numbers != 0) & (numbers != 1)]
    if len(invalid):
        raise DlcliError(f"{where}: a label is 0 or 1, not {invalid[0]:g}")
    return numbers.astype(np.uint8), rows


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
