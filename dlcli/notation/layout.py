"""Detect how a CSV is laid out: separator, lines above the header, and whether there is a header."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlcli.notation.numbers import MISSING_SPELLINGS

if TYPE_CHECKING:
    import polars

_HEAD_CHARS = 2**20
_SEPARATORS = "\t;|,"  # commas last: they are also decimal points
_SAMPLE_LINES, _SAMPLE_ROWS = 200, 200
_MAX_PREAMBLE = 20  # lines
_REGULAR_SHARE = 0.9  # of the lines, with the same number of separators
_NUMERIC_SHARE = 0.8  # of the cells of a numeric column
# A quoted field begins after a separator; the lookbehind follows the quote because that is faster.
QUOTE_START = r'"(?:(?<=[,;\t|\n]")|(?<=\A"))'
QUOTED_FIELD = re.compile(QUOTE_START + r'(?:[^"]|"")*"')
_SEP_LINE = re.compile(r"\A\s*sep=(.)[^\S\n]*\r?\n", re.I)
_COMMA_NUMBER = re.compile(r"\s*[+-]?\d[\d.' ]*,\d+\s*")
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")
_FRACTION = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(\.\d*)?[eE][+-]?\d+|\d+,\d+)")


@dataclass(frozen=True)
class Layout:
    """``text`` begins with the header or the first row; ``skipped`` lines were above it.

    ``short_header``: the rows have one field more than the header, before the others.
    """

    text: str
    separator: str
    skipped: int = 0
    short_header: bool = False


def find_layout(text: str, *, tabs: bool) -> Layout:
    """Return the layout of a text with at least one line that is not blank."""
    match = _SEP_LINE.match(text)
    if match is not None:  # as Excel reads and writes it
        text = text[match.end() :]
        return Layout(text.lstrip("\r\n"), match[1])
    text = text.lstrip("\r\n")
    # Lines without the contents of quoted fields, which may hold anything.
    bare = QUOTED_FIELD.sub("x", text[:_HEAD_CHARS])
    lines = [line for line in bare.split("\n") if line.strip()][:_SAMPLE_LINES]
    separator = "\t" if tabs else _find_separator(lines)
    counts = [line.count(separator) for line in lines]
    usual = _usual(counts)
    start = next((i for i, line in enumerate(lines) if _begins(line, counts[i], usual)), 0)
    rest = counts[start:]
    if not usual or rest[1:].count(usual) < max(1, _REGULAR_SHARE * len(rest[1:])):
        return Layout(text, separator)
    text, skipped = _after_lines(text, start) if 0 < start <= _MAX_PREAMBLE else (text, 0)
    below = [line for line, count in zip(lines[start + 1 :], rest[1:], strict=True) if count == usual]
    named = rest[0] < usual and not all(line.rstrip().endswith(separator) for line in below)
    return Layout(text, separator, skipped, short_header=named)


def _begins(line: str, count: int, usual: int) -> bool:
    """Return whether a line can be the header: neither a title nor a comment."""
    return count == usual or (count > usual - 2 and count > 0 and not line.startswith("#"))


def has_header(names: list[str], body: polars.DataFrame) -> bool:
    """Return whether the first line names the columns, given some of the rows below it.

    It is a row if it has a decimal number or repeated integers only, or if some of its cells come again
    below in their own column and the others could: no word above numbers. A header that is repeated
    whole was copied with the rows, so rows that equal it show nothing.
    """
    if any(_FRACTION.fullmatch(name) for name in names):
        return False
    if all(re.fullmatch(r"[+-]?\d+", name) for name in names):
        return len(set(names)) == len(names)
    rows = [tuple((cell or "").strip() for cell in row) for row in body.head(_SAMPLE_ROWS).rows()]
    rows = [row for row in rows if row != tuple(names)]
    if len(set(filter(None, names))) < 2 or len(rows) < 2:
        return True
    again = False
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        cells = [cell for cell in column if cell]
        if not name or not cells:
            continue
        if _DATE.match(name) and all(_DATE.match(cell) for cell in cells):
            return False
        numeric = sum(_NUMBER.fullmatch(cell) is not None for cell in cells) >= _NUMERIC_SHARE * len(
            cells
        )
        if numeric and not _NUMBER.fullmatch(name) and name.lower() not in MISSING_SPELLINGS:
            return True
        again = again or name in cells
    return not again


def _usual(counts: list[int]) -> int:
    """Return the most frequent number of separators that is not 0, or 0."""
    frequent = Counter(count for count in counts if count).most_common(1)
    return frequent[0][0] if frequent else 0


def _find_separator(lines: list[str]) -> str:
    """Return the sign that divides the lines alike; a comma where nothing does.

    Of several, the first line decides: title lines above a header have none. Where each line has as
    many commas as other signs, these separate if all commas are in numbers.
    """
    shares = {}
    for sign in _SEPARATORS:
        counts = [line.count(sign) for line in lines]
        usual = _usual(counts)
        if not usual:
            continue
        rest = counts[counts.index(usual) :]
        if (share := rest.count(usual) / len(rest)) >= _REGULAR_SHARE:
            shares[sign] = (len(rest) == len(counts), share)
    in_first = [sign for sign, (matches, _) in shares.items() if matches]
    regular = in_first or list(shares)
    if len(regular) == 1:
        return regular[0]
    if regular:
        if "," not in regular:
            return regular[0]
        for sign in regular[:-1]:
            if _commas_are_decimal(lines[1:] or lines, sign):
                return sign
        return ","
    return _most_frequent(lines)


def _most_frequent(lines: list[str]) -> str:
    """Return the most frequent sign of the first line, or of all lines where it has none."""
    counts = {sign: lines[0].count(sign) for sign in ",;\t|"}
    if not any(counts.values()):
        counts = {sign: sum(line.count(sign) for line in lines) for sign in ",;\t|"}
    return max(counts, key=lambda sign: counts[sign])


def _commas_are_decimal(lines: list[str], separator: str) -> bool:
    fields = [field for line in lines for field in line.split(separator) if "," in field]
    return bool(fields) and all(_COMMA_NUMBER.fullmatch(field) for field in fields)


def _after_lines(text: str, start: int) -> tuple[str, int]:
    """Return the text after ``start`` lines that are not blank, and the number of lines before it."""
    position = skipped = 0
    while start or not text[position : text.find("\n", position)].strip():
        end = text.find("\n", position)
        start -= bool(text[position:end].strip())
        position, skipped = end + 1, skipped + 1
    return text[position:], skipped
