"""The targets of a user's samples: the task that they suggest, and their arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dlcli.config import DataConfig
from dlcli.data.base import Targets
from dlcli.data.images.arrays import classes_of_one_hot
from dlcli.data.series.array_files import label_columns
from dlcli.data.tables.targets import InferredTarget, encode, infer_target
from dlcli.errors import DlcliError
from dlcli.wording import plural

if TYPE_CHECKING:
    import polars

_NAME = "target"


@dataclass(frozen=True)
class TargetEncoder:
    """Encodes the targets of samples as those of the training split; ``classes`` are given names."""

    inferred: InferredTarget
    one_hot: bool
    classes: tuple[str, ...]

    def encode(self, values: Sequence[Any], where: str) -> tuple[Targets, npt.NDArray[np.bool_]]:
        """Targets (n, ...) of the samples that have one, and the mask (N,) of these."""
        columns = _columns(values, self.one_hot, where)
        if self.classes:
            columns = {_NAME: _named(columns[_NAME], self.classes, where)}
        return encode(columns, self.inferred, where=where)


def fit_targets(
    splits: Mapping[str, Sequence[Any]], classes: object, config: DataConfig, *, other: bool, where: str
) -> TargetEncoder:
    """Infer the task from the targets of train, or with ``other`` from those of every split.

    ``classes`` is the attribute of the data set, a list of names by class index; they are names of
    labels or numbers where a target has as many. Raises: DlcliError, UsageError.
    """
    base = splits.get("train", next(iter(splits.values())))
    values = [value for part in splits.values() for value in part] if other else base
    array = _array(values)
    one_hot = array is not None and classes_of_one_hot(array) is not array and config.task is None
    columns = _columns(values, one_hot, where)
    names = tuple(map(str, classes)) if isinstance(classes, list | tuple) else ()
    for_classes = config.task in (None, "classification", "embedding") and len(columns) == 1
    if for_classes and names and columns[_NAME].dtype.is_integer():
        _named(columns[_NAME], names, where)
        if len(set(names)) < len(names):
            raise DlcliError(f"{where}: two of its classes have one name")
        return TargetEncoder(InferredTarget("classification", names, (_NAME,), ()), one_hot, names)
    if len(columns) == len(names) > 1:
        columns = dict(zip(names, columns.values(), strict=True))
    inferred = infer_target(
        columns, config.task, min_values=1 if other else 2, separators=config.label_separators
    )
    return TargetEncoder(inferred, one_hot, ())


def _columns(values: Sequence[Any], one_hot: bool, where: str) -> dict[str, polars.Series]:
    import polars as pl

    array = _array(values)
    if array is None:
        if any(isinstance(value, tuple) for value in values):
            lists = [None if value is None else list(value) for value in values]
            return {_NAME: pl.Series(_NAME, lists, dtype=pl.List(pl.String))}
        words = [None if value is None else str(value) for value in values]
        return {_NAME: pl.Series(_NAME, words, dtype=pl.String)}
    columns = label_columns(classes_of_one_hot(array) if one_hot else array, len(values), where)
    if len(columns) == 1:
        (column,) = columns.values()
        missing = [value is None for value in values]
        column = column.set(pl.Series(missing), None) if any(missing) else column
        return {_NAME: column.alias(_NAME)}
    return dict(columns)


def _array(values: Sequence[Any]) -> npt.NDArray[Any] | None:
    """Numbers (N,) or (N, targets), 0 where missing; None for texts."""
    shape = next((value.shape for value in values if isinstance(value, np.ndarray)), None)
    if shape is None:
        return None
    array = np.stack([np.zeros(shape, np.int64) if value is None else value for value in values])
    return array.astype(np.int64) if array.dtype == np.bool_ else array


def _named(codes: polars.Series, classes: tuple[str, ...], where: str) -> polars.Series:
    """The names of class indices. Raises: DlcliError for an index without a name."""
    import polars as pl

    wrong = codes.drop_nulls().filter(~codes.drop_nulls().is_between(0, len(classes) - 1))
    if len(wrong):
        raise DlcliError(
            f"{where}: class {wrong[0]} has no name: its classes are {plural(len(classes), 'name')}, "
            "counted from 0"
        )
    return codes.map_elements(lambda code: classes[code], return_dtype=pl.String)
