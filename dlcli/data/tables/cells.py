"""A column of words as what it is: numbers, times or words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dlcli.data.notices import Notice

if TYPE_CHECKING:
    import polars

# What stands for "missing" among numbers.
_MISSING = ("na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "?", ".")
# Cells that are no numbers make a column one of words, unless they are few among many numbers.
_FEW = 0.05
_MANY_NUMBERS = 20
# A model computes in 32 bits: what is larger is as good as infinite.
LARGEST = 1e38
_THOUSANDS = r"^[+-]?\d{1,3}(,\d{3})+(\.\d+)?$"
# An order of day and month that the cells leave open (03/04/2020) is no date.
_DATES = (
    *("%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"),
    *("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y/%m/%d", "%Y/%m/%d %H:%M:%S"),
    *("%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S"),
    *("%d/%m/%Y", "%m/%d/%Y", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M"),
    *("%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S", "%d-%m-%Y", "%m-%d-%Y"),
)
_LOOKED_AT = 200


def shorten(text: str, width: int = 40) -> str:
    """``text`` on one line, cut to ``width`` characters."""
    line = " ".join(text[: 4 * width].split())
    return line if len(line) <= width and len(text) <= 4 * width else line[: width - 3] + "..."


def listed(names: Sequence[str]) -> str:
    """The first five names in quotes, and how many more there are."""
    shown = ", ".join(repr(shorten(name)) for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def typed(column: polars.Series, *, keep_text: bool = False) -> tuple[polars.Series, Notice | None]:
    """The column as numbers (Int64 or Float64, no NaN), Datetime, or words; and a notice, or None."""
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
    numbers, notice = _numbers(words)
    if numbers is not None:
        return numbers, notice
    return _times(words), notice


def as_numbers(column: polars.Series) -> tuple[polars.Series, int]:
    """Any column as Float64, and how many cells hold something that is no number. Times are seconds."""
    import polars as pl

    dtype = column.dtype
    if dtype == pl.String:
        words = column.str.strip_chars()
        numbers = _plain_thousands(words).cast(pl.Float64, strict=False)
        times = _times(words) if numbers.null_count() == len(words) else words
        if times.dtype != pl.String:
            numbers = as_numbers(times)[0]
        missing = (words == "") | words.str.to_lowercase().is_in(_MISSING)
        strange = int((numbers.is_null() & ~missing.fill_null(True)).sum())
        return numbers.fill_nan(None), strange
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
    blank = pl.Series(column.name, [None] * len(column), dtype=pl.Float64)
    return blank, len(column) - column.null_count()


def as_words(column: polars.Series) -> polars.Series:
    """Any column as stripped words; a whole number is written without a decimal point."""
    import polars as pl

    if column.dtype.is_float():
        whole = (column % 1 == 0) & (column.abs() < 2**53)
        if bool(whole.all()):
            column = column.cast(pl.Int64, strict=False)
    elif column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
        return pl.Series(column.name, [None] * len(column), dtype=pl.String)
    words = column.cast(pl.String).str.strip_chars()
    return words.set(words == "", None)


def _numbers(words: polars.Series) -> tuple[polars.Series | None, Notice | None]:
    """The cells as numbers, or None; and a notice on what was lost or assumed."""
    import polars as pl

    # 00123 is a code, not the number 123; as a number, a code of 19 digits would lose some.
    if words.str.contains(r"^[+-]?(0\d|\d{19}\d*$)").any():
        return None, None
    empty = words.is_null() | words.str.to_lowercase().is_in(_MISSING).fill_null(True)
    numbers = words.cast(pl.Float64, strict=False)
    strange = numbers.is_null() & ~empty
    notice = None
    if strange.any() and bool(words.filter(strange).str.contains(_THOUSANDS).all()):
        words = _plain_thousands(words)
        numbers, strange = (
            words.cast(pl.Float64, strict=False),
            pl.zeros(len(words), pl.Boolean, eager=True),
        )
        notice = Notice(f"commas in column {words.name!r} were read as separators of thousands")
    numbers = numbers.set(empty, None).fill_nan(None)
    good = len(numbers) - numbers.null_count()
    if not good:
        return None, None
    lost = int(strange.sum())
    if lost:
        if lost > _FEW * (good + lost) or numbers.drop_nulls().n_unique() <= _MANY_NUMBERS:
            return None, None
        shown = words.filter(strange).unique(maintain_order=True).head(3).to_list()
        notice = Notice(
            f"{lost} of {good + lost} cells of column {words.name!r} are no numbers "
            "and count as missing: " + ", ".join(repr(shorten(cell)) for cell in shown)
        )
    whole = words.filter(numbers.is_not_null()).str.contains(r"^[+-]?\d{1,18}$").all()
    return (numbers if not whole else words.cast(pl.Int64, strict=False)).alias(words.name), notice


def _plain_thousands(words: polars.Series) -> polars.Series:
    """1,234 as 1234, and other cells as they are."""
    commas = words.str.contains(_THOUSANDS).fill_null(False)
    return (
        words.zip_with(~commas, words.str.replace_all(",", "", literal=True)) if commas.any() else words
    )


def _times(words: polars.Series) -> polars.Series:
    """The cells as Datetime (UTC where they name a zone) if all have one format, else as is."""

    there = words.drop_nulls()
    head = there.head(_LOOKED_AT)
    if not len(head) or not head.str.contains(r"^\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}").all():
        return words
    fits = []
    for form in _DATES:
        zone = "UTC" if form.endswith("z") else None
        if head.str.to_datetime(form, strict=False, time_zone=zone).null_count():
            continue
        times = words.str.to_datetime(form, strict=False, time_zone=zone, time_unit="us")
        if times.null_count() == words.null_count():
            fits.append(times)
    return fits[0].dt.replace_time_zone(None) if len(fits) == 1 else words
