"""Infer the types of columns (numbers, times or strings) and convert them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlcli.data.notices import Notice
from dlcli.wording import quoted

if TYPE_CHECKING:
    import polars

# Spellings of a missing value among numbers.
_MISSING_SPELLINGS = ("na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "?", ".")
# Cells that are not numbers are allowed in a numeric column of many distinct numbers, up to this share.
_MAX_INVALID = 0.05
_MIN_DISTINCT = 20
# Larger values count as infinite, because models compute in float32.
MAX_FINITE = 1e38
_THOUSANDS_PATTERN = r"^[+-]?\d{1,3}(,\d{3})+(\.\d+)?$"
# A date is not recognised where day and month are ambiguous (03/04/2020).
_DATE_FORMATS = (
    *("%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"),
    *("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y/%m/%d", "%Y/%m/%d %H:%M:%S"),
    *("%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S"),
    *("%d/%m/%Y", "%m/%d/%Y", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M"),
    *("%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S", "%d-%m-%Y", "%m-%d-%Y"),
)
_SAMPLE_ROWS = 200


def infer_type(column: polars.Series, *, keep_text: bool = False) -> tuple[polars.Series, Notice | None]:
    """Convert a column to Int64, Float64 (no NaN), Datetime or String; also return a notice or None."""
    import polars as pl

    dtype = column.dtype
    if dtype in (pl.Categorical, pl.Enum, pl.Null):
        column = column.cast(pl.String)
    elif dtype == pl.Decimal or dtype == pl.Int128:
        return column.cast(pl.Float64), None
    elif dtype.is_float():
        return column.fill_nan(None), None
    if column.dtype != pl.String:
        return column, None
    words = column.str.strip_chars()
    words = words.set(words == "", None)
    if keep_text or words.null_count() == len(words):
        return words, None
    numbers, notice = _parse_numbers(words)
    if numbers is not None:
        return numbers, notice
    return _parse_times(words), notice


def as_numbers(column: polars.Series) -> tuple[polars.Series, int]:
    """Convert any column to Float64, times to seconds; also return the number of invalid cells."""
    import polars as pl

    dtype = column.dtype
    if dtype == pl.String:
        words = column.str.strip_chars()
        numbers = _without_thousands_separators(words).cast(pl.Float64, strict=False)
        times = _parse_times(words) if numbers.null_count() == len(words) else words
        if times.dtype != pl.String:
            numbers = as_numbers(times)[0]
        missing = (words == "") | words.str.to_lowercase().is_in(_MISSING_SPELLINGS)
        invalid = int((numbers.is_null() & ~missing.fill_null(True)).sum())
        return numbers.fill_nan(None), invalid
    if dtype in (pl.Date, pl.Datetime):
        return column.cast(pl.Datetime("us")).dt.epoch("us").cast(pl.Float64) / 1e6, 0
    if dtype == pl.Duration:
        return column.dt.total_microseconds().cast(pl.Float64) / 1e6, 0
    if dtype == pl.Time:
        return column.cast(pl.Int64).cast(pl.Float64) / 1e9, 0
    if dtype.is_numeric() or dtype == pl.Boolean:
        return column.cast(pl.Float64).fill_nan(None), 0
    if dtype == pl.Null:
        return column.cast(pl.Float64), 0
    empty = pl.Series(column.name, [None] * len(column), dtype=pl.Float64)
    return empty, len(column) - column.null_count()


def as_strings(column: polars.Series) -> polars.Series:
    """Convert any column to stripped strings; an integer is written without a decimal point."""
    import polars as pl

    if column.dtype.is_float():
        whole = (column % 1 == 0) & (column.abs() < 2**53)
        if bool(whole.all()):
            column = column.cast(pl.Int64, strict=False)
    elif column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
        return pl.Series(column.name, [None] * len(column), dtype=pl.String)
    words = column.cast(pl.String).str.strip_chars()
    return words.set(words == "", None)


def _parse_numbers(words: polars.Series) -> tuple[polars.Series | None, Notice | None]:
    """Parse cells as numbers (None if too many are not); also return a notice of assumptions."""
    import polars as pl

    # 00123 is a code, not the number 123; 19 digits would lose precision.
    if words.str.contains(r"^[+-]?(0\d|\d{19}\d*$)").any():
        return None, None
    empty = words.is_null() | words.str.to_lowercase().is_in(_MISSING_SPELLINGS).fill_null(True)
    numbers = words.cast(pl.Float64, strict=False)
    invalid = numbers.is_null() & ~empty
    notice = None
    if invalid.any() and bool(words.filter(invalid).str.contains(_THOUSANDS_PATTERN).all()):
        words = _without_thousands_separators(words)
        numbers, invalid = (
            words.cast(pl.Float64, strict=False),
            pl.zeros(len(words), pl.Boolean, eager=True),
        )
        notice = Notice(f"commas in column {words.name!r} are read as thousands separators")
    numbers = numbers.set(empty, None).fill_nan(None)
    valid_count = len(numbers) - numbers.null_count()
    if not valid_count:
        return None, None
    invalid_count = int(invalid.sum())
    if invalid_count:
        if (
            invalid_count > _MAX_INVALID * (valid_count + invalid_count)
            or numbers.drop_nulls().n_unique() <= _MIN_DISTINCT
        ):
            return None, None
        shown = words.filter(invalid).unique(maintain_order=True).head(3).to_list()
        notice = Notice(
            f"{invalid_count} of {valid_count + invalid_count} cells of column {words.name!r} are not "
            "numbers and count as missing: " + ", ".join(quoted(cell) for cell in shown)
        )
    whole = words.filter(numbers.is_not_null()).str.contains(r"^[+-]?\d{1,18}$").all()
    return (numbers if not whole else words.cast(pl.Int64, strict=False)).alias(words.name), notice


def _without_thousands_separators(words: polars.Series) -> polars.Series:
    """Remove thousands separators: 1,234 becomes 1234."""
    commas = words.str.contains(_THOUSANDS_PATTERN).fill_null(False)
    return (
        words.zip_with(~commas, words.str.replace_all(",", "", literal=True)) if commas.any() else words
    )


def _parse_times(words: polars.Series) -> polars.Series:
    """Parse cells as Datetime (UTC where they have a time zone) if all have one format."""
    head = words.drop_nulls().head(_SAMPLE_ROWS)
    if not len(head) or not head.str.contains(r"^\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}").all():
        return words
    candidates = []
    for form in _DATE_FORMATS:
        zone = "UTC" if form.endswith("z") else None
        if head.str.to_datetime(form, strict=False, time_zone=zone).null_count():
            continue
        times = words.str.to_datetime(form, strict=False, time_zone=zone, time_unit="us")
        if times.null_count() == words.null_count():
            candidates.append(times)
    return candidates[0].dt.replace_time_zone(None) if len(candidates) == 1 else words
