"""How people write numbers: decimal commas, separators of thousands, currencies, percent, minus signs.

A column has one `NumberFormat`, inferred from the cells of the training file. It is written as an
example, such as "1.234,5" or "$1,234.5"; cards and ``data.formats`` hold that text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars

PLAIN = "1234.5"
# Spellings of a missing value among numbers.
MISSING_SPELLINGS = (
    *(
        "na",
        "n/a",
        "#n/a",
        "<na>",
        "n.a.",
        "n. a.",
        "k.a.",
        "k. a.",
        "s/d",
        "nan",
        "nat",
        "null",
        "none",
    ),
    *("nil", "-", "--", "\u2013", "\u2014", "?", ".", "#nv", "#div/0!", "#value!", "#wert!", "#ref!"),
)
_CHARACTERS = {
    **dict.fromkeys("\u2212\u2012\u2013\ufe63\uff0d", "-"),  # minus signs and dashes
    **dict.fromkeys("\u00a0\u2007\u2009\u202f", " "),  # no-break and thin spaces
    **dict.fromkeys("\u2019\u02bc", "'"),
}
_UNITS = (
    *("US$", "A$", "C$", "R$", "$", "€", "£", "¥", "₹", "₩", "₽", "₺", "₫", "₪", "฿", "₴", "%", "‰"),
    *("USD", "EUR", "GBP", "CHF", "JPY", "CNY", "INR", "SEK", "NOK", "DKK", "PLN", "CZK", "HUF", "BRL"),
    *("kr", "zł", "Kč", "Ft", "°C", "°F", "°"),
)
_LETTERS = r"[A-Za-zµ²³/°]{1,6}"
_UNIT = "|".join(re.escape(unit) for unit in _UNITS)
# Points or commas that may be separators of thousands: before groups of three digits.
_GROUPS = {sign: rf"^[+-]?(?:[1-9]\d{{0,2}}(?:{re.escape(sign)}\d{{3}})+|\d{{1,3}})$" for sign in ".,"}
_MIN_GROUPED = 20  # cells, from which on groups of three digits are no accident


@dataclass(frozen=True)
class NumberFormat:
    """One way to write numbers; ``unit`` is a sign before or after each number."""

    decimal: str = "."
    thousands: str = ""
    unit: str = ""

    @classmethod
    def of(cls, example: str) -> NumberFormat | None:
        """Return the format of a text such as "1.234,5 €", or None if it describes none."""
        match = re.fullmatch(
            rf"({_UNIT})?\s*1([,.' ]?)234([.,])5\s*({_UNIT}|{_LETTERS})?", example.strip()
        )
        if match is None or match[2] == match[3]:
            return None
        return cls(decimal=match[3], thousands=match[2], unit=match[1] or match[4] or "")

    def __str__(self) -> str:
        digits = f"1{self.thousands}234{self.decimal}5"
        return f"{self.unit}{digits}" if self.unit.endswith("$") else f"{digits}{self.unit}"

    @cached_property
    def pattern(self) -> str:
        """A regular expression of whole cells, without the unit."""
        decimal, group = re.escape(self.decimal), re.escape(self.thousands)
        whole = r"\d+"
        if group:
            whole = rf"(?:[1-9]\d{{0,2}}(?:{group}\d{{3}})+|\d+)"
        if group == ",":  # also 12,34,567
            whole = rf"(?:[1-9]\d?(?:,\d{{2}})+,\d{{3}}|{whole})"
        return rf"^[+-]?(?:{whole}(?:{decimal}\d*)?|{decimal}\d+)(?:[eE][+-]?\d+)?$"

    def matches(self, cells: polars.Series) -> polars.Series:
        """Return which normalised cells (without a unit) are numbers of this format."""
        return cells.str.contains(self.pattern)

    def parse(self, cells: polars.Series) -> polars.Series:
        """Convert stripped cells to Float64, null where a cell is not of this format.

        Where the format has no separator of thousands, the sign that is no decimal point may be one.
        """
        import polars as pl

        if str(self) == PLAIN:
            plain = cells.cast(pl.Float64, strict=False)
            if plain.null_count() == cells.null_count():
                return plain
        cells = normalise(cells)
        bare = _without_unit(cells, self.unit) if self.unit else cells
        if not self.thousands:
            sign = "," if self.decimal == "." else "."
            grouped = NumberFormat(self.decimal, sign).matches(bare).fill_null(False)
            bare = bare.zip_with(~grouped, bare.str.replace_all(sign, "", literal=True))
        sound = self.matches(bare)
        if self.unit in ("%", "‰"):  # 45 beside 45% may be 4500%
            sound &= cells.str.contains(self.unit, literal=True) | bare.str.contains(r"^0*[.,]?0*$")
        digits = bare.set(~sound, None)
        if self.thousands:
            digits = digits.str.replace_all(self.thousands, "", literal=True)
        if self.decimal != ".":
            digits = digits.str.replace(self.decimal, ".", literal=True)
        numbers = digits.cast(pl.Float64, strict=False)
        if str(self) == PLAIN:  # such as inf
            return plain.zip_with(plain.is_not_null(), numbers)
        return numbers

    def words(self) -> str:
        """Return what a note says of columns in this format."""
        parts = ["a comma is the decimal point"] if self.decimal == "," else []
        if self.thousands:
            sign = {",": "commas", ".": "points", "'": "apostrophes", " ": "spaces"}[self.thousands]
            parts.append(f"{sign} are read as thousands separators")
        if self.unit:
            parts.append(f"{self.unit} is the unit")
        return ", ".join(parts) or "signs and spaces are normalised"


_FORMATS = (
    NumberFormat(),
    NumberFormat(".", ","),
    NumberFormat(","),
    NumberFormat(",", "."),
    NumberFormat(".", "'"),
    NumberFormat(".", " "),
    NumberFormat(",", " "),
    NumberFormat(",", "'"),
)


def normalise(cells: polars.Series) -> polars.Series:
    """Write minus signs, spaces and apostrophes in ASCII, and (12.50) and 12.50- as -12.50."""
    if not cells.str.contains(r"[^0-9.,]").any():
        return cells
    cells = cells.str.replace_many(list(_CHARACTERS), list(_CHARACTERS.values())).str.strip_chars()
    cells = cells.str.replace(r"^([^\d()]*)\(([^()]*\d[^()]*)\)([^\d()]*)$", "-${1}${2}${3}")
    return cells.str.replace(r"^([^-]*\d)\s?-$", "-${1}")


def candidate_formats(cells: polars.Series) -> tuple[list[NumberFormat], int]:
    """Return the formats that most cells are written in, the simplest first, and how many these are.

    ``cells`` are normalised and not null. Only formats whose signs occur in the cells are tried.
    """
    unit = ""
    units = (
        cells.str.extract(rf"(?:^[+-]?\s*|[\d\s])({_UNIT})\s*(?:[+-]?[\d.,]|$)").drop_nulls().unique()
    )
    if len(units) == 1:
        unit = units[0]
    else:  # one that all cells have, such as kg
        letters = cells.str.extract(rf"^[+-]?\d(?:[\d.,' ]*\d)?\s?({_LETTERS})$")
        if not letters.null_count() and letters.n_unique() == 1 and len(letters) > 1:
            unit = letters[0]
    cells = _without_unit(cells, unit) if unit else cells
    if _are_codes(cells):
        return [], 0
    present = {sign for sign in ",.' " if cells.str.contains(sign, literal=True).any()}
    best: list[NumberFormat] = []
    most = 0
    for form in _FORMATS:
        signs = {form.thousands} | ({form.decimal} - {"."})
        if form != _FORMATS[0] and not signs & present:
            continue
        count = int(form.matches(cells).sum())
        if count > most:
            best, most = [], count
        if count == most and most:
            best.append(NumberFormat(form.decimal, form.thousands, unit))
    return best, most


def choose_format(
    candidates: list[NumberFormat], cells: polars.Series, *, decimal: str | None, semicolon: bool
) -> NumberFormat:
    """Return one of ``candidates``: they differ where a comma is a decimal point or one of thousands.

    ``decimal`` is the decimal point of the file's other columns, if they have one. Otherwise commas
    separate thousands where all smaller numbers have none, or in a file that is not separated by
    semicolons, as files with decimal commas are.
    """
    first = candidates[0]
    grouped = next((f for f in candidates if f.thousands == ","), None)
    fraction = next((f for f in candidates if f.decimal == "," and not f.thousands), None)
    if grouped is None or fraction is None or first not in (grouped, fraction):
        return first
    if decimal is not None:
        return grouped if decimal == "." else fraction
    cells = _without_unit(cells, first.unit) if first.unit else cells
    plain = cells.filter(~cells.str.contains(",", literal=True))
    if len(plain) and not plain.str.contains(r"\d{4}").any():
        return grouped
    return fraction if semicolon else grouped


def points_are_thousands(cells: polars.Series, *, decimal: str | None) -> bool:
    """Return whether 1.234 means 1234 in cells without commas.

    It does in a file of decimal commas, or where many numbers have a point, always before three digits,
    and those below 1000 have none: decimals would vary in number.
    """
    points = cells.str.contains(".", literal=True)
    if not points.any() or not cells.str.contains(_GROUPS["."]).all():
        return False
    if decimal is not None:
        return decimal == ","
    hundreds = int(cells.filter(~points).str.contains(r"\d{3}").sum())
    return int(points.sum()) >= _MIN_GROUPED and hundreds > 0


def shows_decimal(cells: polars.Series, form: NumberFormat) -> bool:
    """Return whether cells of a format show that its decimal point is none of thousands."""
    cells = cells.filter(cells.str.contains(form.decimal, literal=True))
    if form.thousands:
        return bool(len(cells))
    return bool(len(cells)) and not cells.str.contains(_GROUPS[form.decimal]).all()


def _are_codes(cells: polars.Series) -> bool:
    """Return whether all cells are as long and have several spaces, as numbers of telephones."""
    spaces = cells.str.count_matches(" ", literal=True)
    return bool((spaces > 1).all()) and cells.str.len_chars().n_unique() == 1 and len(cells) > 1


def _without_unit(cells: polars.Series, unit: str) -> polars.Series:
    sign = re.escape(unit)
    return (
        cells.str.replace(rf"^([+-]?)\s*{sign}\s*", "${1}")
        .str.replace(rf"\s*{sign}$", "")
        .str.replace(r"^([+-])\s+", "${1}")
    )
