"""From the columns of a table to numbers: what is learned of the training rows, and applied to any.

N rows; F numeric features (numbers, then missing indicators), K columns of category codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dlcli.data.images.folder import natural
from dlcli.data.notices import Notice
from dlcli.data.tables.cells import LARGEST, as_numbers, as_words, listed, shorten
from dlcli.data.tables.frames import looks_like_text
from dlcli.errors import DlcliError
from dlcli.task import CategoryColumn, NumberColumn, TabularInput

if TYPE_CHECKING:
    import polars

# A column of counts or amounts: nothing below 0, and a long tail to the right (skewness) that
# log(1 + x) shortens to this share; it does not where all values are far below 1.
_SKEWED, _SHORTENED = 2.0, 0.75
# Words that are seen less often than _SEEN, in a column of more than _MANY different ones, are unknown.
_MANY, _SEEN, _MOST = 100, 5, 1000
# All different in this many rows: a name or a number of the row, which says nothing of another row.
_ALL_DIFFERENT = 20
_LONGEST_WORD = 200


def fit_columns(
    frame: polars.DataFrame, rows: npt.NDArray[np.int64]
) -> tuple[TabularInput, list[Notice]]:
    """The encoders of the training rows, and notices on what was left out or assumed.

    ``rows`` (N,) are the rows' numbers in their file: a column that only counts them is left out.
    Raises: DlcliError when no column is of use.
    """
    dropped: dict[str, list[str]] = {}
    counting = []
    numbers: list[NumberColumn] = []
    categories: list[CategoryColumn] = []
    notices: list[Notice] = []
    for column in frame.iter_columns():
        why = _useless(column)
        if why:
            dropped.setdefault(why, []).append(column.name)
        elif _is_number(column):
            if _counts_rows(column, rows):
                counting.append(column)
            else:
                numbers.append(_fit_number(column, notices))
        else:
            category = _fit_category(column, notices)
            if category.values:
                categories.append(category)
            else:
                dropped.setdefault("whose words are nearly all different", []).append(column.name)
    if not numbers and not categories:  # the row's number is all there is: a curve over it, perhaps
        numbers = [_fit_number(column, notices) for column in counting]
    elif counting:
        dropped["that numbers the rows" if len(counting) == 1 else "that number the rows"] = [
            column.name for column in counting
        ]
    unused = [
        f"left out {'columns' if len(names) > 1 else 'the column'} {why}: {listed(names)}"
        for why, names in dropped.items()
    ]
    if not numbers and not categories:
        raise DlcliError(
            "no column is left to learn from" + (f": {'; '.join(unused)}" if unused else ""),
            hint="is the right column the target? --target names it",
        )
    encoding: list[Notice] = []
    logs = [column.name for column in numbers if column.log]
    if logs:
        encoding.append(Notice(f"log(1 + x) of columns with a long tail: {listed(logs)}", "encoding"))
    missing = [column.name for column in numbers if column.indicator]
    if missing:
        message = f"missing numbers become the median, and a feature says so: {listed(missing)}"
        encoding.append(Notice(message, "encoding"))
    left_out = [Notice(message, "unused-column") for message in unused]
    spec = TabularInput(numbers=tuple(numbers), categories=tuple(categories))
    return spec, left_out + encoding + notices


def encode_columns(
    frame: polars.DataFrame, spec: TabularInput
) -> tuple[npt.NDArray[np.float32], list[Notice]]:
    """The model's input (N, F + K), and notices that count cells unlike those of training.

    ``frame`` has all columns of ``spec``, in any order and of any type.
    """
    out = np.zeros((frame.height, *spec.shape), dtype=np.float32)
    notices: list[Notice] = []
    indicator = len(spec.numbers)
    for i, number in enumerate(spec.numbers):
        values, missing, more = _values(frame[number.name])
        notices += more
        values = np.where(missing, number.fill, values)
        if number.log:
            values = _log(values)
        out[:, i] = (values - number.mean) / number.std
        if number.indicator:
            out[:, indicator] = missing
            indicator += 1
        elif missing.any() and frame.height:
            message = f"{_cells(missing.sum())} of {number.name!r} missing, as in no training row: "
            notices.append(Notice(f"{message}taken as {number.fill:g}"))
    for j, category in enumerate(spec.categories):
        words = as_words(frame[category.name])
        code = {word: i + 1 for i, word in enumerate(category.values)}
        codes = words.replace_strict(code, default=0).fill_null(0).to_numpy()
        unseen = words.filter((codes == 0) & words.is_not_null().to_numpy())
        if len(unseen):
            shown = unseen.unique(maintain_order=True).head(3).to_list()
            message = (
                f"{_cells(len(unseen))} of {category.name!r} with a word that training does not know: "
            )
            notices.append(Notice(message + ", ".join(repr(shorten(word)) for word in shown)))
        out[:, spec.features + j] = codes
    return out, notices


def column_names(spec: TabularInput) -> list[str]:
    """The columns of a table that a model reads."""
    return [*(column.name for column in spec.numbers), *(column.name for column in spec.categories)]


def _is_number(column: polars.Series) -> bool:
    return column.dtype.is_numeric() or column.dtype.is_temporal()


def _useless(column: polars.Series) -> str | None:
    """Why nothing can be learned from a column, or None."""
    import polars as pl

    cells = column.drop_nulls()
    if not len(cells):
        return "without any value"
    if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
        return "that hold lists or objects"
    if looks_like_text(column):
        return "of running text (--kind text reads them)"
    different = cells.n_unique()
    if different == 1 and len(cells) == len(column):
        return "with the same value in every row"
    if different == len(cells) >= _ALL_DIFFERENT and (
        column.dtype == pl.String or (column.dtype.is_integer() and _called_id(column.name))
    ):
        return "with a different value in every row"
    return None


def _called_id(name: str) -> bool:
    lower = name.lower()
    return (
        lower in ("id", "uid", "uuid", "index", "key")
        or lower.endswith(("_id", " id", "-id"))
        or (name.endswith(("Id", "ID")) and len(name) > 2)
    )


def _counts_rows(column: polars.Series, rows: npt.NDArray[np.int64]) -> bool:
    """Whether whole numbers are the row's own number, from wherever it was counted, in steps."""
    if not column.dtype.is_integer() or column.null_count() or len(column) < 3:
        return False
    values = column.to_numpy().astype(np.float64)
    step = (values[1] - values[0]) / (rows[1] - rows[0])
    return step != 0 and bool((values == values[0] + step * (rows - rows[0])).all())


def _values(
    column: polars.Series,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], list[Notice]]:
    """The numbers (N,), which are missing (N,) - infinite ones too -, and notices that count them."""
    series, strange = as_numbers(column)
    values = series.fill_null(float("nan")).to_numpy()
    infinite = int((np.abs(values) >= LARGEST).sum())
    notices = []
    if strange:
        notices.append(Notice(f"{_cells(strange)} of {column.name!r} no number: missing"))
    if infinite:
        notices.append(Notice(f"{_cells(infinite)} of {column.name!r} infinite: missing"))
    return values, ~(np.abs(values) < LARGEST), notices  # NaN is not smaller


def _fit_number(column: polars.Series, notices: list[Notice]) -> NumberColumn:
    values, missing, more = _values(column)
    notices += more
    if column.dtype.is_temporal():
        notices.append(Notice(f"{column.name!r} is a time: it is read as a number of seconds"))
    there = values[~missing]
    fill = float(np.median(there)) if len(there) else 0.0
    filled = np.where(missing, fill, values)
    log = bool(there.size and there.min() >= 0 and _skewness(there) > _SKEWED)
    log = log and not column.dtype.is_temporal()
    log = log and abs(_skewness(_log(there))) < _SHORTENED * _skewness(there)
    if log:
        filled = _log(filled)
    mean, std = float(filled.mean()), float(filled.std())
    # A column that is constant but for its missing cells has no spread beside rounding errors.
    steady = std <= 1e-12 * float(np.abs(filled).max())
    return NumberColumn(
        name=column.name,
        mean=mean,
        std=1.0 if steady else std,
        fill=fill,
        log=log,
        indicator=bool(missing.any()),
    )


def _log(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """sign(x) log(1 + |x|)."""
    return np.sign(values) * np.log1p(np.abs(values))


def _skewness(values: npt.NDArray[np.float64]) -> float:
    """The third standardised moment, 0 for a constant."""
    centred = values - values.mean()
    spread = float(values.std())
    return float(((centred / spread) ** 3).mean()) if spread > 1e-12 * np.abs(values).max() else 0.0


def _fit_category(column: polars.Series, notices: list[Notice]) -> CategoryColumn:
    import polars as pl

    # Renamed: the user's column may be called "count" as well.
    words = as_words(column).drop_nulls().alias("word")
    counts = words.value_counts(sort=True, name="count")
    counts = counts.sort(["count", "word"], descending=[True, False])
    long = counts.filter(pl.col("word").str.len_chars() > _LONGEST_WORD)
    kept = counts.filter(pl.col("word").str.len_chars() <= _LONGEST_WORD)
    if len(long):
        notices.append(
            Notice(
                f"{_cells(int(long['count'].sum()))} of {column.name!r} longer than {_LONGEST_WORD} "
                "characters: unknown words"
            )
        )
    if counts.height > _MANY:
        kept = kept.filter(pl.col("count") >= _SEEN).head(_MOST)
        if kept.height and kept.height < counts.height:
            notices.append(
                Notice(
                    f"{column.name!r} has {counts.height} different words; the {kept.height} seen most "
                    f"often ({_SEEN} times or more) are kept, others are unknown"
                )
            )
    values = sorted(kept["word"].to_list(), key=lambda word: (natural(word), word))
    return CategoryColumn(name=column.name, values=tuple(values))


def _cells(count: int) -> str:
    return f"{count} cell{'' if count == 1 else 's'}"
