"""How people write times: dates in any order, month names, quarters, AM and PM, times of day.

A column has one format, inferred from the cells of the training file and written in the directives of
`strptime`, with %q for a quarter. A format without a date is a time of day or a duration.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars

_DATES = (
    *("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d.%m.%y", "%d/%m/%Y", "%m/%d/%Y", "%d/%m/%y"),
    *("%m/%d/%y", "%d-%m-%Y", "%m-%d-%Y", "%d-%m-%y", "%m-%d-%y", "%d %B %Y", "%d %B %y", "%d. %B %Y"),
    *("%d-%B-%Y", "%d-%B-%y", "%B %d, %Y", "%B %d %Y", "%Y-%B-%d", "%Y %B %d"),
)
_CLOCKS = ("%H:%M", "%H:%M:%S%.f", "%I:%M %p", "%I:%M:%S %p", "%H.%M.%S")
_MONTHS = (
    *("%Y-%m", "%Y/%m", "%m/%Y", "%m.%Y", "%B %Y", "%B-%Y", "%B-%y", "%Y %B", "%Y-%B", "%YM%m"),
    *("%YQ%q", "%Y Q%q", "%Y-Q%q", "Q%q %Y", "Q%q-%Y", "%q. Quartal %Y"),
)
_ZONED = tuple(f"%Y-%m-%d {clock}%#z" for clock in ("%H:%M", "%H:%M:%S%.f"))
_FORMATS = (
    *_DATES,
    *(f"{date} {clock}" for date in _DATES for clock in _CLOCKS if ":" in clock),
    *(*_ZONED, "%B %d %H:%M:%S %Y", *_MONTHS, *_CLOCKS),
)
_DIRECTIVES = {
    **{"%Y": r"\d{4}", "%y": r"\d{2}", "%m": r"\d{1,2}", "%d": r"\d{1,2}", "%B": r"[A-Za-z]{3,9}"},
    **{"%H": r"\d{1,2}", "%I": r"\d{1,2}", "%M": r"\d{2}", "%S": r"\d{2}", "%.f": r"(?:\.\d+)?"},
    **{"%p": r"[AaPp][Mm]", "%#z": r"(?:Z|[+-]\d{2}:?\d{2})", "%q": r"[1-4]"},
}
_GATE = r"^\s*(?:\d{1,4}\s?[-/.:QMqm ]|[A-Za-z]{3,9}\.?,?[ -]|Q[1-4])"
_SAMPLE = 50  # cells that a format is tried on first
_MIN_SORTED = 5  # cells, since three are sorted by chance
_MAX_INVALID, _MIN_TOLERANT = 0.05, 20  # share of invalid cells, in at least so many distinct ones


@dataclass(frozen=True)
class TimeColumn:
    """Parsed times: Datetime, or Duration of times of day; null where a cell is invalid.

    ``other`` is a second format that all cells support, if no evidence chose one.
    """

    times: polars.Series
    format: str
    other: str | None = None


def is_time_format(text: str) -> bool:
    """Return whether a text has directives of `strptime`."""
    return re.search(r"%[#.]?[A-Za-z]", text) is not None


def find_times(words: polars.Series) -> TimeColumn | None:
    """Return the times of stripped cells, null where missing, or None where they are none.

    Up to 5 % of the cells may be invalid in a column of more than 20 distinct ones. Where day and month
    could be either, the order is the one in which the times increase or decrease, or in which
    the day is the same in several years; else the first is returned and ``other`` is set.
    """
    cells = words.drop_nulls()
    if not len(cells):
        return None
    sample = cells.gather_every(max(1, len(cells) // _SAMPLE)).head(_SAMPLE)
    if sample.str.contains(_GATE).mean() < 1 - _MAX_INVALID:  # type: ignore[operator]
        return None
    normal = _normalise(words)
    texts = _normalise(sample).to_list()
    parsed: list[tuple[int, TimeColumn]] = []
    for form in _FORMATS:
        pattern = _pattern(form)
        if sum(pattern.fullmatch(text) is not None for text in texts) < (1 - _MAX_INVALID) * len(texts):
            continue
        times = _parse(normal, form)
        invalid = times.null_count() - words.null_count()
        if not invalid or (
            invalid <= _MAX_INVALID * len(cells) and times.drop_nulls().n_unique() > _MIN_TOLERANT
        ):
            parsed.append((invalid, TimeColumn(times, form)))
    if not parsed:
        return None
    fewest = min(invalid for invalid, _ in parsed)
    return _choose([column for invalid, column in parsed if invalid == fewest])


def parse_times(words: polars.Series, form: str) -> polars.Series:
    """Parse stripped cells as Datetime, or Duration of a time of day; null where they do not fit."""
    return _parse(_normalise(words), form)


def seconds(times: polars.Series) -> polars.Series:
    """Return times as Float64 seconds since 1970, or since midnight."""
    import polars as pl

    if times.dtype == pl.Duration:
        return times.dt.total_microseconds().cast(pl.Float64) / 1e6
    if times.dtype == pl.Time:
        return times.cast(pl.Int64).cast(pl.Float64) / 1e9
    return times.cast(pl.Datetime("us")).dt.epoch("us").cast(pl.Float64) / 1e6


def time_text(value: float) -> str:
    """Return `seconds` as text: those of the first day as a time of day, others as a date and time."""
    import numpy as np

    text = str(np.datetime64(round(value), "s")).replace("T", " ")
    return text.removeprefix("1970-01-01 ").removesuffix(" 00:00:00")


def _choose(columns: list[TimeColumn]) -> TimeColumn:
    first = columns[0]
    rest = [column for column in columns[1:] if not column.times.equals(first.times)]
    if not rest:
        return first
    candidates = [first, *rest]
    for test in (_is_sorted, _has_one_day):
        passed = [column for column in candidates if test(column.times)]
        if len(passed) == 1:
            return passed[0]
    return TimeColumn(first.times, first.format, rest[0].format)


def _is_sorted(times: polars.Series) -> bool:
    cells = times.drop_nulls()
    return len(cells) >= _MIN_SORTED and (cells.is_sorted() or cells.is_sorted(descending=True))


def _has_one_day(times: polars.Series) -> bool:
    import polars as pl

    cells = times.drop_nulls()
    if len(cells) < 3 or times.dtype != pl.Datetime or cells.dt.day().n_unique() > 1:
        return False
    # In a single year, 01/01 to 01/12 may as well be the first days of January.
    return cells.dt.year().n_unique() > 1


@functools.lru_cache(maxsize=512)
def _pattern(form: str) -> re.Pattern[str]:
    """Compile a regular expression of whole cells of a format: strptime takes a year 21 for %Y."""
    parts = re.split(r"(%[#.]?[A-Za-z])", form)
    return re.compile("".join(_DIRECTIVES.get(part) or re.escape(part) for part in parts))


def _normalise(words: polars.Series) -> polars.Series:
    """Write one space between parts, AM and PM after one, and no weekday or zone name."""
    words = words.str.replace_all(r"[\s\u00a0\u202f]+", " ").str.strip_chars()
    words = words.str.replace(r"^(\d{4}-\d{1,2}-\d{1,2})T", "${1} ")
    if not words.str.contains(r"[A-Za-z]").any():
        return words
    words = words.str.replace(r"(?i)^(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,? ", "")
    words = words.str.replace(r"(?i) ?\b([ap])\.?m\b\.?$", " ${1}m").str.replace(
        r"(^| )(\d{1,2}) (am|pm|AM|PM|Am|Pm|aM|pM)$", "${1}${2}:00 ${3}"
    )
    words = words.str.replace(r" (?:[A-Z]{3,4})( \d{4})$", "${1}").str.replace(r" (?:UTC|GMT)$", "")
    words = words.str.replace(r"(?i)\bsept\b", "Sep").str.replace(r"([A-Za-z]{3})\.", "${1}")
    return words.str.replace(r"(\d) ([+-]\d{2}:?\d{2})$", "${1}${2}")


def _parse(words: polars.Series, form: str) -> polars.Series:
    """Parse normalised cells."""
    import polars as pl

    words = words.set(~words.str.contains(f"^(?:{_pattern(form).pattern})$"), None)
    if form in _CLOCKS:
        return _parse_clock(words, form)
    if "%q" in form:
        year, quarter = words.str.extract(r"(\d{4})"), words.str.extract(r"(?:Q|^)([1-4])(?:\D|$)")
        months = quarter.cast(pl.Int64, strict=False) * 3 - 2
        words, form = year + "-" + months.cast(pl.String) + "-1", "%Y-%m-%d"
    elif form in _MONTHS:
        words, form = words + " 1", form + " %d"
    zone = "UTC" if form.endswith("z") else None
    times = words.str.to_datetime(form, strict=False, time_zone=zone, time_unit="us")
    return times.dt.replace_time_zone(None)


def _parse_clock(words: polars.Series, form: str) -> polars.Series:
    import polars as pl

    words = words.str.replace_all(".", ":", literal=True) if form == "%H.%M.%S" else words
    groups = [words.str.extract(rf"^(?:[\d.]+:){{{i}}}([\d.]+)").cast(pl.Float64) for i in range(3)]
    hours, minutes, rest = groups[0], groups[1], groups[2].fill_null(0.0)
    if "%p" in form:
        afternoon = words.str.contains(r"(?i)pm$").cast(pl.Float64)
        hours = hours.set(hours > 12, None) % 12 + 12 * afternoon
    total = hours * 3600 + minutes.set(minutes > 59, None) * 60 + rest.set(rest >= 60, None)
    return (total * 1e6).round().cast(pl.Int64).cast(pl.Duration("us")).alias(words.name)
