"""Column encoders of tables, fitted on the training rows.

N rows; F numeric features (numbers, then missing indicators), K columns of category codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dlcli.data.class_folders import natural
from dlcli.data.notices import Notice
from dlcli.data.tables.cells import MAX_FINITE, as_numbers, as_strings
from dlcli.data.tables.frames import looks_like_text
from dlcli.errors import DlcliError
from dlcli.task import CategoryColumn, NumberColumn, TabularInput
from dlcli.wording import plural, quoted, quoted_list

if TYPE_CHECKING:
    import polars

# log(1 + x) is applied to non-negative columns above this skewness, if it reduces it below this ratio
# (which it does not for values far below 1).
_MIN_SKEWNESS, _MAX_SKEWNESS_RATIO = 2.0, 0.75
# In a column of more than _MANY_WORDS distinct values, those less frequent than _MIN_COUNT are unknown.
_MANY_WORDS, _MIN_COUNT, _MAX_WORDS = 100, 5, 1000
# A column of distinct values in at least this many rows is an identifier.
_MIN_IDENTIFIER_ROWS = 20
_MAX_WORD_LENGTH = 200


def fit_columns(
    frame: polars.DataFrame, rows: npt.NDArray[np.int64]
) -> tuple[TabularInput, list[Notice]]:
    """Fit the encoders on the training rows; also return notices of dropped columns and assumptions.

    ``rows`` (N,) are the row numbers in the file: a column equal to them is dropped. Raises: DlcliError
    when no usable column remains.
    """
    dropped: dict[str, list[str]] = {}
    row_numbers = []
    numbers: list[NumberColumn] = []
    categories: list[CategoryColumn] = []
    notices: list[Notice] = []
    for column in frame.iter_columns():
        reason = _reason_to_drop(column)
        if reason:
            dropped.setdefault(reason, []).append(column.name)
        elif _is_number(column):
            if _is_row_number(column, rows):
                row_numbers.append(column)
            else:
                numbers.append(_fit_number(column, notices))
        else:
            category = _fit_category(column, notices)
            if category.values:
                categories.append(category)
            else:
                dropped.setdefault("of nearly all distinct values", []).append(column.name)
    if not numbers and not categories:  # the row number may be the only input, of a curve
        numbers = [_fit_number(column, notices) for column in row_numbers]
    elif row_numbers:
        dropped["of row numbers"] = [column.name for column in row_numbers]
    unused = [
        f"left out {'columns' if len(names) > 1 else 'the column'} {reason}: {quoted_list(names)}"
        for reason, names in dropped.items()
    ]
    if not numbers and not categories:
        raise DlcliError(
            "no usable column remains" + (f": {'; '.join(unused)}" if unused else ""),
            hint="check the target column: --target",
        )
    encoding: list[Notice] = []
    logs = [column.name for column in numbers if column.log]
    if logs:
        encoding.append(Notice(f"log(1 + x) of skewed columns: {quoted_list(logs)}", "encoding"))
    missing = [column.name for column in numbers if column.indicator]
    if missing:
        message = f"missing numbers become the median, with a missing indicator: {quoted_list(missing)}"
        encoding.append(Notice(message, "encoding"))
    left_out = [Notice(message, "unused-column") for message in unused]
    spec = TabularInput(numbers=tuple(numbers), categories=tuple(categories))
    return spec, left_out + encoding + notices


def encode_columns(
    frame: polars.DataFrame, spec: TabularInput
) -> tuple[npt.NDArray[np.float32], list[Notice]]:
    """Encode rows as model input (N, F + K); notices count cells unlike those of training.

    ``frame`` must have all columns of ``spec``, in any order and of any type.
    """
    out = np.zeros((frame.height, *spec.shape), dtype=np.float32)
    notices: list[Notice] = []
    indicator = len(spec.numbers)
    for i, number in enumerate(spec.numbers):
        values, missing, more = _finite_values(frame[number.name])
        notices += more
        values = np.where(missing, number.fill, values)
        if number.log:
            values = _signed_log1p(values)
        out[:, i] = (values - number.mean) / number.std
        if number.indicator:
            out[:, indicator] = missing
            indicator += 1
        elif missing.any() and frame.height:
            count = plural(int(missing.sum()), "cell")
            message = f"{count} of {number.name!r} missing, unlike in training: "
            notices.append(Notice(f"{message}replaced by {number.fill:g}"))
    for j, category in enumerate(spec.categories):
        words = as_strings(frame[category.name])
        code = {word: i + 1 for i, word in enumerate(category.values)}
        codes = words.replace_strict(code, default=0).fill_null(0).to_numpy()
        unseen = words.filter((codes == 0) & words.is_not_null().to_numpy())
        if len(unseen):
            shown = unseen.unique(maintain_order=True).head(3).to_list()
            message = f"{plural(len(unseen), 'cell')} of {category.name!r} with an unknown value: "
            notices.append(Notice(message + ", ".join(quoted(word) for word in shown)))
        out[:, spec.features + j] = codes
    return out, notices


def column_names(spec: TabularInput) -> list[str]:
    """Return the names of the columns that a model reads."""
    return [*(column.name for column in spec.numbers), *(column.name for column in spec.categories)]


def _is_number(column: polars.Series) -> bool:
    return column.dtype.is_numeric() or column.dtype.is_temporal()


def _reason_to_drop(column: polars.Series) -> str | None:
    """Return why a column is not usable, or None."""
    import polars as pl

    cells = column.drop_nulls()
    if not len(cells):
        return "without any value"
    if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
        return "of lists or objects"
    if looks_like_text(column):
        return "of text (--kind text encodes them)"
    distinct = cells.n_unique()
    if distinct == 1 and len(cells) == len(column):
        return "with the same value in every row"
    if distinct == len(cells) >= _MIN_IDENTIFIER_ROWS and (
        column.dtype == pl.String or (column.dtype.is_integer() and _is_id_name(column.name))
    ):
        return "with a different value in every row"
    return None


def _is_id_name(name: str) -> bool:
    lower = name.lower()
    return (
        lower in ("id", "uid", "uuid", "index", "key")
        or lower.endswith(("_id", " id", "-id"))
        or (name.endswith(("Id", "ID")) and len(name) > 2)
    )


def _is_row_number(column: polars.Series, rows: npt.NDArray[np.int64]) -> bool:
    """Return whether integers are a linear function of the row number."""
    if not column.dtype.is_integer() or column.null_count() or len(column) < 3:
        return False
    values = column.to_numpy().astype(np.float64)
    step = (values[1] - values[0]) / (rows[1] - rows[0])
    return step != 0 and bool((values == values[0] + step * (rows - rows[0])).all())


def _finite_values(
    column: polars.Series,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], list[Notice]]:
    """Return numbers (N,), a mask of missing and infinite ones (N,), and notices."""
    series, invalid = as_numbers(column)
    values = series.fill_null(float("nan")).to_numpy()
    infinite = int((np.abs(values) >= MAX_FINITE).sum())
    notices = []
    if invalid:
        notices.append(
            Notice(f"{plural(invalid, 'cell')} of {column.name!r} not a number, count as missing")
        )
    if infinite:
        notices.append(
            Notice(f"{plural(infinite, 'cell')} of {column.name!r} infinite, count as missing")
        )
    return values, ~(np.abs(values) < MAX_FINITE), notices  # also true for NaN


def _fit_number(column: polars.Series, notices: list[Notice]) -> NumberColumn:
    values, missing, more = _finite_values(column)
    notices += more
    if column.dtype.is_temporal():
        notices.append(Notice(f"{column.name!r} is a time, encoded in seconds"))
    valid = values[~missing]
    fill = float(np.median(valid)) if len(valid) else 0.0
    filled = np.where(missing, fill, values)
    log = bool(valid.size and valid.min() >= 0 and _skewness(valid) > _MIN_SKEWNESS)
    log = log and not column.dtype.is_temporal()
    log = log and abs(_skewness(_signed_log1p(valid))) < _MAX_SKEWNESS_RATIO * _skewness(valid)
    if log:
        filled = _signed_log1p(filled)
    mean, std = float(filled.mean()), float(filled.std())
    # The std of a column that is constant except for missing cells may be a rounding error.
    constant = std <= 1e-12 * float(np.abs(filled).max())
    return NumberColumn(
        name=column.name,
        mean=mean,
        std=1.0 if constant else std,
        fill=fill,
        log=log,
        indicator=bool(missing.any()),
    )


def _signed_log1p(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """sign(x) log(1 + |x|)."""
    return np.sign(values) * np.log1p(np.abs(values))


def _skewness(values: npt.NDArray[np.float64]) -> float:
    """Return the third standardised moment, 0 for a constant."""
    centred = values - values.mean()
    std = float(values.std())
    return float(((centred / std) ** 3).mean()) if std > 1e-12 * np.abs(values).max() else 0.0


def _fit_category(column: polars.Series, notices: list[Notice]) -> CategoryColumn:
    import polars as pl

    # Renamed because the column itself may be named "count".
    words = as_strings(column).drop_nulls().alias("word")
    counts = words.value_counts(sort=True, name="count")
    counts = counts.sort(["count", "word"], descending=[True, False])
    long = counts.filter(pl.col("word").str.len_chars() > _MAX_WORD_LENGTH)
    vocabulary = counts.filter(pl.col("word").str.len_chars() <= _MAX_WORD_LENGTH)
    if len(long):
        notices.append(
            Notice(
                f"{plural(int(long['count'].sum()), 'cell')} of {column.name!r} longer than "
                f"{_MAX_WORD_LENGTH} characters, count as unknown"
            )
        )
    if counts.height > _MANY_WORDS:
        vocabulary = vocabulary.filter(pl.col("count") >= _MIN_COUNT).head(_MAX_WORDS)
        if vocabulary.height and vocabulary.height < counts.height:
            notices.append(
                Notice(
                    f"{column.name!r} has {counts.height} distinct values; the {vocabulary.height} most "
                    f"frequent ({_MIN_COUNT} times or more) are encoded, others are unknown"
                )
            )
    values = sorted(vocabulary["word"].to_list(), key=lambda word: (natural(word), word))
    return CategoryColumn(name=column.name, values=tuple(values))
