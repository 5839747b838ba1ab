"""Parsing of CSV and TSV: separator, quotes, header."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.data.notices import Notice, left_out
from dlcli.data.tables.cells import quoted_list
from dlcli.errors import DlcliError

if TYPE_CHECKING:
    import polars

_HEAD_CHARS = 2**20
# A quoted field, which begins after a separator. (The quote stands first for the search's speed.)
_BEGINS = r'"(?:(?<=[,;\t|\n]")|(?<=\A"))'
_QUOTED = re.compile(_BEGINS + r'(?:[^"]|"")*"')
_OPEN = re.compile(_BEGINS)


def read_separated(
    text: str, path: Path, *, tabs: bool, rows: int | None, header: bool | None
) -> tuple[polars.DataFrame, list[Notice]]:
    """The cells as words, "" where missing, under names that are all different; and notices.

    ``rows``: only so many, of a text that may be cut off anywhere. ``header``: as of `read_frame`.
    Raises: DlcliError when quotes cannot be understood.
    """
    import polars as pl

    if not text.strip():
        return pl.DataFrame(), []
    notices: list[Notice] = []
    first = _first_record(text)
    separator = "\t" if tabs else _separator(first)
    if not tabs and separator != ",":
        shown = "tabs" if separator == "\t" else repr(separator)
        notices.append(Notice(f"{path.name}: columns are separated by {shown}"))
    cells, about_rows = _cells(text, separator, path, tabs=tabs, rows=rows)
    notices += [notice.prefixed(path.name) for notice in about_rows]
    names = [name.strip() if name is not None else "" for name in cells.row(0)]
    if header is None:
        header = not _holds_data(names)
        if not header:
            message = "its first line holds numbers, so its columns have no names"
            notices.append(Notice(message).prefixed(path.name))
        elif all(name.isdecimal() for name in names):
            message = "its first line, all whole numbers, was taken for the header"
            notices.append(Notice(message).prefixed(path.name))
    if not header:
        names = [""] * len(names)
    names, about_names = _unique(names)
    if header:
        notices += [notice.prefixed(path.name) for notice in about_names]
    cells = cells.slice(1 if header else 0)
    cells.columns = names
    empty = cells.select(pl.all_horizontal(pl.all().str.strip_chars().fill_null("") == "")).to_series()
    if empty.any():
        # Blank lines after the last row are common.
        last = int((~empty).arg_true().max() or 0) if not empty.all() else -1  # type: ignore[arg-type]
        if inner := int(empty[: last + 1].sum()):
            notices.append(Notice(f"{path.name}: {inner} empty row{'s' if inner > 1 else ''} skipped"))
        cells = cells.filter(~empty)
    if separator == ";":
        cells, decimal = _decimal_commas(cells)
        notices += [decimal.prefixed(path.name)] if decimal else []
    return cells, notices


def _closed(text: str) -> str:
    """``text`` up to the record in which a quoted field stays open; "" if none does."""
    masked = _QUOTED.sub(lambda match: "x" * len(match[0]), text)
    opened = _OPEN.search(masked)
    return "" if opened is None else text[: masked.rfind("\n", 0, opened.start()) + 1]


def _first_record(text: str) -> str:
    """The first line that is not blank, whatever is quoted there cut out."""
    bare = _QUOTED.sub("", text[:_HEAD_CHARS])
    return next((line for line in bare.split("\n") if line.strip()), "")


def _separator(first: str) -> str:
    counts = {separator: first.count(separator) for separator in ",;\t|"}
    return max(counts, key=lambda separator: counts[separator])  # a comma where there is none of them


def _cells(
    text: str, separator: str, path: Path, *, tabs: bool, rows: int | None
) -> tuple[polars.DataFrame, list[Notice]]:
    """Every cell as a word, the header being row 0, and notices on rows of another width.

    A file of texts may hold quotes that quote nothing. Where reading them as quotes fails, or makes
    cells of several lines out of a TSV, and every row has the same width without, they are plain
    characters.
    """
    import polars as pl

    text = text.lstrip("\r\n")
    try:
        frame = _parse(text, separator, quote='"', rows=rows)
    except pl.exceptions.PolarsError as exc:
        closed = "" if rows is None else _closed(text)
        if closed.count("\n") > 1:  # the header and a row: what was cut off is the beginning of a file
            return _cells(closed, separator, path, tabs=tabs, rows=rows)
        plain = _plain(text, separator, rows)
        if plain is None:
            raise DlcliError(
                f"{path}: a quoted field is not closed, or goes on after its closing quote",
                hint='a field that holds a quote is written "like ""this"""',
            ) from exc
        return plain, [Notice("its quotes do not pair up, so they were read as plain characters")]
    if tabs and '"' in text and _some_lines(frame):
        plain = _plain(text, separator, rows)
        if plain is not None:
            message = "its quotes are no quotes around fields: they were read as plain characters"
            return plain, [Notice(message)]
    return _trimmed(frame, text, separator)


def _parse(text: str, separator: str, *, quote: str | None, rows: int | None) -> polars.DataFrame:
    """All cells as words; missing ones are "". The last column holds what rows have too much."""
    import polars as pl

    head = _QUOTED.sub("", text[:_HEAD_CHARS]) if quote else text
    width = head.split("\n", 1)[0].count(separator) + 1
    # A header of our own, with a column to spare, so that polars neither renames nor types anything.
    names = separator.join(f"c{i}" for i in range(width + 1))
    return pl.read_csv(
        f"{names}\n{text}".encode(),
        separator=separator,
        quote_char=quote,
        infer_schema=False,
        truncate_ragged_lines=True,
        n_rows=None if rows is None else rows + 1,
    ).with_columns(pl.all().fill_null(""))


def _plain(text: str, separator: str, rows: int | None) -> polars.DataFrame | None:
    """The cells where quotes are plain characters, if every row then has the same width."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len({line.count(separator) for line in lines}) > 1:
        return None
    frame = _parse(text, separator, quote=None, rows=rows)
    return frame.drop(frame.columns[-1])


def _some_lines(frame: polars.DataFrame) -> bool:
    import polars as pl

    return bool(frame.select(pl.any_horizontal(pl.all().str.contains("\n", literal=True).any())).item())


def _trimmed(
    frame: polars.DataFrame, text: str, separator: str
) -> tuple[polars.DataFrame, list[Notice]]:
    """The frame without its spare column, and how many rows were longer or shorter than the first."""
    spare = frame[frame.columns[-1]]
    frame = frame.drop(frame.columns[-1])
    notices = []
    longer = int((spare != "").sum())
    if longer:
        message = f"{longer} row{'s have' if longer > 1 else ' has'} more than {frame.width} fields; "
        notices.append(left_out(f"{message}the fields beyond those are not used"))
    if frame.width > 1 and bool((frame[frame.columns[-1]] == "").any()):
        lines = [line for line in _QUOTED.sub("", text).split("\n")[: frame.height] if line.strip()]
        shorter = sum(line.count(separator) < frame.width - 1 for line in lines)
        if shorter:
            message = (
                f"{shorter} row{'s have' if shorter > 1 else ' has'} fewer than {frame.width} fields; "
            )
            notices.append(Notice(f"{message}the others count as missing"))
    return frame, notices


def _holds_data(names: list[str]) -> bool:
    """Whether a first line is no header: a number with a decimal point, or equal whole numbers."""
    if any(re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+|\d+(\.\d*)?[eE][+-]?\d+)", name) for name in names):
        return True
    return all(re.fullmatch(r"[+-]?\d+", name) for name in names) and len(set(names)) < len(names)


def _unique(names: list[str]) -> tuple[list[str], list[Notice]]:
    """Names that are all there and all different, and notices on those that were changed."""
    notices: list[Notice] = []
    out: list[str] = []
    taken = set(names)
    unnamed, again = [], []
    for i, name in enumerate(names):
        new, count = name or f"column_{i + 1}", 2
        while new in out or (new != name and new in taken):
            new = f"{name or f'column_{i + 1}'}_{count}"
            count += 1
        if not name:
            unnamed.append(new)
        elif new != name:
            again.append(new)
        out.append(new)
    if unnamed:
        message = f"{len(unnamed)} column{'s' if len(unnamed) > 1 else ''} without a name"
        notices.append(Notice(f"{message}: {quoted_list(unnamed)}"))
    if again:
        notices.append(Notice(f"column names that occur twice were changed: {quoted_list(again)}"))
    return out, notices


def _decimal_commas(cells: polars.DataFrame) -> tuple[polars.DataFrame, Notice | None]:
    """Columns such as 3,5 as 3.5: where a semicolon separates, a comma is a decimal point."""
    import polars as pl

    number = r"^\s*[+-]?\d+(,\d+)?\s*$"
    with_comma = [
        column.name
        for column in cells.iter_columns()
        if column.str.contains(",", literal=True).any()
        and bool((column.str.contains(number) | (column.str.strip_chars() == "")).all())
    ]
    if not with_comma:
        return cells, None
    cells = cells.with_columns(pl.col(with_comma).str.replace(",", ".", literal=True))
    return cells, Notice(f"a comma is the decimal point in {quoted_list(with_comma)}")
