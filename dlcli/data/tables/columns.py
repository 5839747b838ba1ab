"""Column encoders of tables, fitted on the training rows.

N rows; F numeric features (numbers, then missing indicators), K columns of category codes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dlcli.data.class_folders import natural
from dlcli.data.notices import UNLIKE_TRAINING, Notice
from dlcli.data.tables.cells import MAX_FINITE, as_numbers, as_strings, example_cells, missing_cells
from dlcli.data.tables.matrix import plain_values
from dlcli.data.tables.unused import (
    ROW_NUMBERS,
    about_dropped,
    about_sorted,
    has_header_gaps,
    is_number,
    numbers_rows,
    rare_words,
    reason_to_drop,
)
from dlcli.errors import DlcliError
from dlcli.notation.numbers import PLAIN
from dlcli.notation.times import is_time_format, time_text
from dlcli.task import CategoryColumn, NumberColumn, TabularInput
from dlcli.wording import plural, quoted, quoted_list

if TYPE_CHECKING:
    import polars

# log(1 + x) is applied to non-negative columns above this skewness, if it reduces it below this ratio
# (which it does not for values far below 1).
_MIN_SKEWNESS, _MAX_SKEWNESS_RATIO = 2.0, 0.75
# In a column of more than _MANY_WORDS distinct values, those less frequent than MIN_COUNT are unknown.
_MANY_WORDS, MIN_COUNT, _MAX_WORDS = 100, 5, 1000
_MAX_WORD_LENGTH = 200
# Cycles of times, in seconds; the year is the Gregorian mean. Fewer phases than these are none.
_CYCLE_NAMES = {86_400.0: "time of day", 604_800.0: "day of the week", 31_556_952.0: "time of year"}
_MIN_PHASES = 3


def fit_columns(
    frame: polars.DataFrame,
    rows: npt.NDArray[np.int64],
    *,
    formats: Mapping[str, str] | None = None,
    keep: Collection[str] = (),
) -> tuple[TabularInput, list[Notice]]:
    """Fit the encoders on the training rows; also return notices of dropped columns and assumptions.

    ``rows`` (N,) are the row numbers in the file: a column that numbers them is dropped, unless it is in
    ``keep``. ``formats`` are those of the cells. Raises: DlcliError when no usable column remains.
    """
    dropped: dict[str, list[str]] = {}
    row_numbers = []
    numbers: list[NumberColumn] = []
    categories: list[CategoryColumn] = []
    notices: list[Notice] = []
    known = formats or {}
    unnamed = has_header_gaps(frame.columns)
    plain = plain_values([column for column in frame.iter_columns() if is_number(column)])
    for column in frame.iter_columns():
        wanted = column.name in keep
        reason = reason_to_drop(column, wanted=wanted)
        if reason:
            dropped.setdefault(reason, []).append(column.name)
        elif is_number(column):
            if not wanted and numbers_rows(column, rows, unnamed=unnamed):
                row_numbers.append(column)
            else:
                numbers += _fit_numbers(column, known.get(column.name), plain, notices)
        else:
            category = _fit_category(column, notices)
            if category.values:
                categories.append(category)
            else:
                dropped.setdefault(rare_words(column, MIN_COUNT), []).append(column.name)
    if not numbers and not categories:  # the row number may be the only input, of a curve
        numbers = [n for c in row_numbers for n in _fit_numbers(c, known.get(c.name), plain, notices)]
    elif row_numbers:
        dropped[ROW_NUMBERS] = [column.name for column in row_numbers]
    notices += about_dropped(frame, [c.name for c in row_numbers], dropped)
    used = {column.source for column in numbers} - {column.name for column in row_numbers}
    notices += about_sorted([c for c in frame.iter_columns() if c.name in used], keep)
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
    columns = {column.name: column for column in frame.iter_columns()}
    formats = {number.source: number.format for number in spec.numbers}
    plain = plain_values([columns[name] for name in formats], formats)
    for i, number in enumerate(spec.numbers):
        values, missing, more = _finite_values(columns[number.source], number.format, plain)
        if not number.period:
            notices += [*more, *_far_values(values, missing, number, columns[number.source])]
        values = transform(np.where(missing, number.fill, values), number)
        out[:, i] = (values - number.mean) / number.std
        if number.indicator:
            out[:, indicator] = missing
            indicator += 1
        elif missing.any() and frame.height and not number.period:
            count = plural(int(missing.sum()), "cell")
            message = f"{count} of {number.name!r} missing, unlike in training: "
            fill = _written(number.fill, number, columns[number.source])
            notices.append(Notice(f"{message}replaced by {fill}", UNLIKE_TRAINING))
    for j, category in enumerate(spec.categories):
        words = as_strings(columns[category.name])
        # Names in cards of older versions may have accents as characters of their own.
        code = {unicodedata.normalize("NFC", word): i + 1 for i, word in enumerate(category.values)}
        codes = words.replace_strict(code, default=0).fill_null(0).to_numpy()
        unseen = words.filter((codes == 0) & words.is_not_null().to_numpy())
        if len(unseen):
            shown = unseen.unique(maintain_order=True).head(3).to_list()
            message = f"{plural(len(unseen), 'cell')} of {category.name!r} with an unknown value: "
            shown_words = ", ".join(quoted(word) for word in shown)
            notices.append(Notice(message + shown_words, UNLIKE_TRAINING))
        out[:, spec.features + j] = codes
    return out, notices


def with_bins(frame: polars.DataFrame, spec: TabularInput, bins: int) -> TabularInput:
    """Return the encoders with ``bins`` bins a number, by the quantiles of the training rows.

    Equal quantiles are one edge, so a column of few values has fewer bins, and a constant none.
    """
    encoded, _ = encode_columns(frame, spec)
    columns = []
    for i, number in enumerate(spec.numbers):
        edges = np.unique(np.quantile(encoded[:, i], np.linspace(0, 1, bins + 1)).astype(np.float32))
        bin_edges = tuple(edges.tolist()) if len(edges) > 1 else ()
        columns.append(number.model_copy(update={"bin_edges": bin_edges}))
    return spec.model_copy(update={"numbers": tuple(columns)})


def column_names(spec: TabularInput) -> list[str]:
    """Return the names of the columns that a model reads."""
    numbers = (column.source for column in spec.numbers)
    return list(dict.fromkeys([*numbers, *(column.name for column in spec.categories)]))


def transform(values: npt.NDArray[np.float64], column: NumberColumn) -> npt.NDArray[np.float64]:
    """Return values (N,) without missing ones as the model's scale is fitted on: logs, or sines."""
    if column.period:
        return np.sin(2 * np.pi * (values / column.period + column.phase))
    return _signed_log1p(values) if column.log else values


def _far_values(
    values: npt.NDArray[np.float64],
    missing: npt.NDArray[np.bool_],
    column: NumberColumn,
    cells: polars.Series,
) -> list[Notice]:
    """Return a notice of values that are outside the range of training by more than its width."""
    if column.minimum is None or column.maximum is None or not len(values):
        return []
    low, high = transform(np.array([column.minimum, column.maximum]), column)
    width = (high - low) or abs(high) or 1.0
    scaled = transform(np.where(missing, column.fill, values), column)
    far = ~missing & ((scaled < low - width) | (scaled > high + width))
    if not far.any():
        return []
    shown = ", ".join(_written(value, column, cells) for value in np.unique(values[far])[-3:].tolist())
    span = " to ".join(_written(value, column, cells) for value in (column.minimum, column.maximum))
    message = f"{plural(int(far.sum()), 'cell')} of {column.name!r} far outside the values of training"
    return [Notice(f"{message} ({span}): {shown}", "far-value", "warning")]


def _written(value: float, column: NumberColumn, cells: polars.Series) -> str:
    """Return a value of a column as text; times, encoded in seconds, as times."""
    if cells.dtype.is_temporal() or is_time_format(column.format or ""):
        return time_text(value)
    return f"{value:g}"


def _finite_values(
    column: polars.Series, form: str | None, plain: Mapping[str, npt.NDArray[np.float64]]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], list[Notice]]:
    """Return numbers (N,), a mask of missing and infinite ones (N,), and notices.

    ``plain`` holds the values of columns that are already numbers.
    """
    invalid = 0
    if column.name in plain:
        values = plain[column.name]
    else:
        series, invalid = as_numbers(column, form)
        values = series.fill_null(float("nan")).to_numpy()
    infinite = int((np.abs(values) >= MAX_FINITE).sum())
    notices = []
    if invalid:
        what = "a number" if form in (None, PLAIN) else f"of the format {form}"
        cells = as_strings(column)
        shown = example_cells(cells, series.is_null() & ~missing_cells(cells))
        message = f"{plural(invalid, 'cell')} of {column.name!r} not {what}, count as missing"
        notices.append(Notice(f"{message}: {shown}" if shown else message))
    if infinite:
        notices.append(
            Notice(f"{plural(infinite, 'cell')} of {column.name!r} infinite, count as missing")
        )
    return values, ~(np.abs(values) < MAX_FINITE), notices  # also true for NaN


def _fit_numbers(
    column: polars.Series,
    form: str | None,
    plain: Mapping[str, npt.NDArray[np.float64]],
    notices: list[Notice],
) -> list[NumberColumn]:
    """Return the features of a column: its numbers, and of times the cycles that they span."""
    import polars as pl

    values, missing, more = _finite_values(column, form, plain)
    notices += more
    number = _fit_number(column.name, values, missing, log=not column.dtype.is_temporal())
    number = number.model_copy(update={"format": form})
    if not column.dtype.is_temporal():
        return [number]
    cycles = [] if column.dtype in (pl.Duration, pl.Time) else _fit_cycles(number, values, missing)
    names = list(dict.fromkeys(_CYCLE_NAMES[cycle.period] for cycle in cycles))
    also = f", with sine and cosine of {' and '.join(names)}" if names else ""
    notices.append(Notice(f"{column.name!r} is a time, encoded in seconds{also}"))
    return [number, *cycles]


def _fit_number(
    name: str, values: npt.NDArray[np.float64], missing: npt.NDArray[np.bool_], *, log: bool
) -> NumberColumn:
    valid = values[~missing]
    fill = float(np.median(valid)) if len(valid) else 0.0
    log = bool(log and valid.size and valid.min() >= 0 and _skewness(valid) > _MIN_SKEWNESS)
    log = log and abs(_skewness(_signed_log1p(valid))) < _MAX_SKEWNESS_RATIO * _skewness(valid)
    column = NumberColumn(
        name=name,
        fill=fill,
        log=log,
        indicator=bool(missing.any()),
        minimum=float(valid.min()) if len(valid) else None,
        maximum=float(valid.max()) if len(valid) else None,
    )
    return _scaled(column, values, missing)


def _scaled(
    column: NumberColumn, values: npt.NDArray[np.float64], missing: npt.NDArray[np.bool_]
) -> NumberColumn:
    """Return a column with mean and std of the values (N,) as `transform` gives them."""
    filled = transform(np.where(missing, column.fill, values), column)
    mean, std = float(filled.mean()), float(filled.std())
    # The std of a column that is constant except for missing cells may be a rounding error.
    constant = std <= 1e-12 * float(np.abs(filled).max())
    return column.model_copy(update={"mean": mean, "std": 1.0 if constant else std})


def _fit_cycles(
    time: NumberColumn, values: npt.NDArray[np.float64], missing: npt.NDArray[np.bool_]
) -> list[NumberColumn]:
    """Return sine and cosine of the cycles that times (N,) in seconds cover at least once."""
    cycles = []
    valid = values[~missing]
    for period, name in _CYCLE_NAMES.items():
        if np.ptp(valid) < period or len(np.unique(valid % period)) < _MIN_PHASES:
            continue
        for phase, function in ((0.0, "sin"), (0.25, "cos")):
            cycle = NumberColumn(
                name=f"{time.name} ({name}, {function})",
                fill=time.fill,
                format=time.format,
                column=time.name,
                period=period,
                phase=phase,
            )
            cycles.append(_scaled(cycle, values, missing))
    return cycles


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
        vocabulary = vocabulary.filter(pl.col("count") >= MIN_COUNT).head(_MAX_WORDS)
        if vocabulary.height and vocabulary.height < counts.height:
            notices.append(
                Notice(
                    f"{column.name!r} has {counts.height} distinct values; the {vocabulary.height} most "
                    f"frequent ({MIN_COUNT} times or more) are encoded, others are unknown"
                )
            )
    values = sorted(vocabulary["word"].to_list(), key=lambda word: (natural(word), word))
    return CategoryColumn(name=column.name, values=tuple(values))
