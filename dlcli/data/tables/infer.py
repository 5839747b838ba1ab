"""Infer the types of a table's columns: numbers, times or strings, each by one format of its cells.

Plain numbers are found for all columns at once, so that the time grows with the cells and not with the
columns; the others are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dlcli.data.notices import Notice
from dlcli.data.tables.cells import example_cells, missing_cells, parse_cells
from dlcli.notation.numbers import (
    PLAIN,
    NumberFormat,
    candidate_formats,
    choose_format,
    normalise,
    points_are_thousands,
    shows_decimal,
)
from dlcli.notation.times import find_times
from dlcli.wording import plural, quoted_list

if TYPE_CHECKING:
    import numpy.typing as npt
    import polars

# Cells that are not numbers are allowed in a numeric column of many distinct numbers, up to this share.
_MAX_INVALID, _MIN_DISTINCT = 0.05, 20
# From this share of numbers on, a column of words is mentioned with the cells that are none.
_MOSTLY_NUMBERS = 0.5
# 00123 is a code, not the number 123; 19 digits would lose precision.
_CODE = r"^[+-]?(0\d|\d{19}\d*$)"
_CONVENTIONAL = ("%Y-%m", "%Y/%m", "%H:%M")  # formats that need no note


@dataclass
class TypedFrame:
    """A table with typed columns; ``formats`` are those of the columns that were strings before."""

    frame: polars.DataFrame
    formats: dict[str, str] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)


@dataclass
class _Dressed:
    """A column that is no plain number: its words, null where missing, and formats of most cells."""

    words: polars.Series
    cells: polars.Series  # normalised, without missing ones
    candidates: list[NumberFormat]
    matched: int

    @property
    def ambiguous(self) -> bool:
        signs = {f.decimal for f in self.candidates if f.thousands in ("", ",")}
        return NumberFormat() not in self.candidates and len(signs) > 1


def infer_types(
    frame: polars.DataFrame,
    *,
    as_text: Collection[str] = (),
    only: Collection[str] | None = None,
    formats: Mapping[str, str] | None = None,
    semicolon: bool = False,
    guess: bool = False,
) -> TypedFrame:
    """Convert columns to Int64, Float64 (no NaN), Datetime, Duration or String.

    The columns ``as_text`` stay strings, and if ``only`` is given, all that are not in it; those
    in ``formats`` are read by these. ``semicolon``: whether
    semicolons separate the columns of the file, as where commas are decimal points; ``guess``: take the
    first order of day and month where the cells do not tell, as in the first rows of a file.
    """
    import polars as pl

    columns = {column.name: _simplify(column) for column in frame.iter_columns()}
    strings = [name for name, column in columns.items() if column.dtype == pl.String]
    if not strings or not frame.height:
        return TypedFrame(pl.DataFrame(list(columns.values())))
    texts = _stripped([columns[name] for name in strings])
    columns |= texts
    as_text = set(as_text) | (set() if only is None else set(strings) - set(only))
    typed = TypedFrame(frame)
    requested = {name: form for name, form in (formats or {}).items() if name in strings}
    for name, form in requested.items():
        if name not in as_text:
            columns[name] = parse_by(columns[name], form, typed.notices)
            typed.formats[name] = form
    open_names = [name for name in strings if name not in as_text and name not in requested]
    plain = _plain_numbers({name: texts[name] for name in open_names})
    columns |= plain
    typed.formats |= dict.fromkeys(plain, PLAIN)
    rest = {name: columns[name] for name in open_names if name not in plain}
    timed = {name for name, text in rest.items() if _infer_times(text, typed, columns, guess=guess)}
    rest = {name: text for name, text in rest.items() if name not in timed}
    _infer_dressed(rest, plain, texts, typed, columns, semicolon=semicolon)
    typed.frame = pl.DataFrame([columns[name] for name in frame.columns])
    return typed


def parse_by(words: polars.Series, form: str, notices: list[Notice]) -> polars.Series:
    """Convert strings by a known format; a notice names the cells that it does not fit."""
    words = words.set(missing_cells(words), None)
    parsed = parse_cells(words, form)
    invalid = parsed.is_null() & words.is_not_null()
    if invalid.any():
        cells = example_cells(words, invalid)
        message = f"{plural(int(invalid.sum()), 'cell')} of column {words.name!r} not of the format "
        notices.append(Notice(f"{message}{form}, count as missing: {cells}"))
    return parsed.alias(words.name)


def _simplify(column: polars.Series) -> polars.Series:
    """Convert the types that only some files have."""
    import polars as pl

    dtype = column.dtype
    if dtype in (pl.Categorical, pl.Enum, pl.Null):
        return column.cast(pl.String)
    if dtype == pl.Decimal or dtype == pl.Int128:
        return column.cast(pl.Float64)
    return column.fill_nan(None) if dtype.is_float() else column


def stack(columns: Sequence[polars.Series]) -> polars.Series:
    """Return columns one after the other as one, so that one call serves all of them."""
    import polars as pl

    return pl.concat([column.alias("") for column in columns]).rechunk()


def unstack(stacked: polars.Series, names: Sequence[str]) -> dict[str, polars.Series]:
    """Return the columns of a stack again, without a copy."""
    rows = len(stacked) // max(1, len(names))
    return {name: stacked.slice(i * rows, rows).alias(name) for i, name in enumerate(names)}


def by_column(mask: polars.Series, columns: int) -> npt.NDArray[np.bool_]:
    """Return a mask of a stack as an array (columns, rows), nulls as False."""
    array: npt.NDArray[np.bool_] = mask.fill_null(False).to_numpy()
    return array.reshape(columns, -1)


def any_in(mask: polars.Series, columns: int) -> npt.NDArray[np.bool_]:
    """Return whether a mask of a stack is true anywhere in each column (columns,)."""
    return np.asarray(by_column(mask, columns).any(axis=1))


def _stripped(columns: list[polars.Series]) -> dict[str, polars.Series]:
    cells = stack(columns).str.strip_chars()
    return unstack(cells.set(cells == "", None), [column.name for column in columns])


def _plain_numbers(texts: dict[str, polars.Series]) -> dict[str, polars.Series]:
    """Return the columns of plain numbers, Int64 or Float64, also with missing values spelled out."""
    import polars as pl

    numbers: dict[str, polars.Series] = {}
    for spelled in (False, True):
        names = [name for name in texts if name not in numbers]
        if not names:
            break
        cells = stack([texts[name] for name in names])
        if spelled:
            cells = cells.set(missing_cells(cells), None)
        floats = cells.cast(pl.Float64, strict=False)
        codes = any_in(cells.str.contains(_CODE), len(names))
        words = any_in(floats.is_null() & cells.is_not_null(), len(names))
        floats = floats.fill_nan(None)
        integers = cells.cast(pl.Int64, strict=False)
        fractions = any_in(integers.is_null() & floats.is_not_null(), len(names))
        valid = any_in(floats.is_not_null(), len(names))
        as_float, as_integer = unstack(floats, names), unstack(integers, names)
        for i in np.flatnonzero(valid & ~words & ~codes).tolist():
            numbers[names[i]] = (as_float if fractions[i] else as_integer)[names[i]]
    return numbers


def _infer_dressed(
    rest: dict[str, polars.Series],
    plain: dict[str, polars.Series],
    texts: dict[str, polars.Series],
    typed: TypedFrame,
    columns: dict[str, polars.Series],
    *,
    semicolon: bool,
) -> None:
    """Infer the columns that are no plain numbers; put them into ``columns`` and ``typed``."""
    dressed: dict[str, _Dressed] = {}
    for name, text in rest.items():
        words = text.set(missing_cells(text), None)
        if words.null_count() == len(words):
            continue
        if not words.str.contains(_CODE).any() and words.str.contains(r"\d").any():
            cells = normalise(words.drop_nulls())
            dressed[name] = _Dressed(words, cells, *candidate_formats(cells))
    decimal, points = _decimal_point(dressed, plain, texts)
    used: dict[str, list[str]] = {}
    for name, one in dressed.items():
        form = _accepted_format(one, typed, decimal=decimal, semicolon=semicolon)
        if form == NumberFormat(",") and points and not semicolon:
            message = f"{name!r} is read as words: commas are decimal points in no other column; "
            message += f"--set data.formats={{{name}: '{form}'}} reads numbers"
            typed.notices.append(Notice(message))
            continue
        if form is not None:
            columns[name] = _whole(form.parse(one.words), name)
            typed.formats[name] = str(form)
            if not columns[name].null_count() > one.words.null_count() or str(form) != PLAIN:
                used.setdefault(form.words(), []).append(name)
    pointed = "points are read as thousands separators"
    for name in _pointed_columns(plain, texts, decimal):
        form = NumberFormat(",", ".")
        columns[name] = _whole(form.parse(texts[name].set(missing_cells(texts[name]), None)), name)
        typed.formats[name] = str(form)
        used.setdefault(pointed, []).append(name)
    typed.notices += [Notice(f"{words} in {quoted_list(names)}") for words, names in used.items()]


def _infer_times(
    text: polars.Series, typed: TypedFrame, columns: dict[str, polars.Series], *, guess: bool
) -> bool:
    """Put a column of times into ``columns``; return whether it is one, or would be if it were clear."""
    words = text.set(missing_cells(text), None)
    times = find_times(words)
    if times is None:
        return False
    name = words.name
    if times.other is not None and not guess:
        example = words.drop_nulls()[0]
        message = f"{name!r} is read as words: {example!r} may be {times.format} or {times.other}; "
        typed.notices.append(Notice(f"{message}--set data.formats={{{name}: '{times.format}'}} decides"))
        return True
    columns[name] = times.times.alias(name)
    typed.formats[name] = times.format
    if not times.format.startswith(_CONVENTIONAL):
        typed.notices.append(Notice(f"times in {name!r} are read as {times.format}"))
    invalid = times.times.is_null() & words.is_not_null()
    if invalid.any():
        message = f"{plural(int(invalid.sum()), 'cell')} of column {name!r} not a time of the format "
        cells = example_cells(text, invalid)
        typed.notices.append(Notice(f"{message}{times.format}, count as missing: {cells}"))
    return True


def _decimal_point(
    dressed: dict[str, _Dressed], plain: dict[str, polars.Series], texts: dict[str, polars.Series]
) -> tuple[str | None, bool]:
    """Return the decimal point of the columns that show one, None if there is none or they differ.

    Also whether plain columns show that it is a point.
    """
    import polars as pl

    signs = set()
    for one in dressed.values():
        if one.candidates and not one.ambiguous and 2 * one.matched > len(one.cells):
            form = one.candidates[0]
            if shows_decimal(one.cells, form):
                signs.add(form.decimal)
    points = False
    if any(one.ambiguous for one in dressed.values()) or "," in signs:
        floats = [name for name, column in plain.items() if column.dtype == pl.Float64]
        points = any(shows_decimal(texts[name].drop_nulls(), NumberFormat()) for name in floats)
        signs |= {"."} if points else set()
    return signs.pop() if len(signs) == 1 else None, points


def _accepted_format(
    one: _Dressed, typed: TypedFrame, *, decimal: str | None, semicolon: bool
) -> NumberFormat | None:
    """Return the format of a column, None if it is one of words; notices name the cells without it."""
    if not one.candidates:
        return None
    form = choose_format(one.candidates, one.cells, decimal=decimal, semicolon=semicolon)
    if form.decimal == "." and not form.thousands and points_are_thousands(one.cells, decimal=decimal):
        form = NumberFormat(",", ".", form.unit)
    numbers = form.parse(one.words)
    invalid = numbers.is_null() & one.words.is_not_null()
    count, total, name = int(invalid.sum()), len(one.cells), one.words.name
    if not count:
        return form
    few = count <= _MAX_INVALID * total and numbers.drop_nulls().n_unique() > _MIN_DISTINCT
    if few:
        message = f"{count} of {total} cells of column {name!r} are not numbers and count as missing: "
    elif count <= (1 - _MOSTLY_NUMBERS) * total:
        message = (
            f"{name!r} is read as words: {count} of {total} cells are not numbers like the others: "
        )
    else:
        return None
    typed.notices.append(Notice(message + example_cells(one.words, invalid)))
    return form if few else None


def _pointed_columns(
    plain: dict[str, polars.Series], texts: dict[str, polars.Series], decimal: str | None
) -> list[str]:
    """Return the columns of plain numbers whose points separate thousands."""
    import polars as pl

    names = [name for name, column in plain.items() if column.dtype == pl.Float64]
    if not names or decimal == ".":
        return []
    cells = stack([texts[name] for name in names])
    other = cells.str.contains(r"^[+-]?[1-9]\d{0,2}(\.\d{3})?$|^0$").not_()
    likely = [names[i] for i in np.flatnonzero(~any_in(other, len(names))).tolist()]
    return [n for n in likely if points_are_thousands(texts[n].drop_nulls(), decimal=decimal)]


def _whole(numbers: polars.Series, name: str) -> polars.Series:
    """Return whole numbers as Int64, others unchanged."""
    import polars as pl

    numbers = numbers.fill_nan(None).alias(name)
    cells = numbers.drop_nulls()
    if len(cells) and bool(((cells % 1 == 0) & (cells.abs() < 2**53)).all()):
        return numbers.cast(pl.Int64, strict=False)
    return numbers
