"""Parse CSV and TSV: separator, quotes, header."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.data.notices import Notice, left_out
from dlcli.errors import DlcliError
from dlcli.wording import plural, quoted_list

if TYPE_CHECKING:
    import polars

_HEAD_CHARS = 2**20
# A quoted field begins after a separator; the lookbehind follows the quote because that is faster.
_QUOTE_START = r'"(?:(?<=[,;\t|\n]")|(?<=\A"))'
_QUOTED_FIELD = re.compile(_QUOTE_START + r'(?:[^"]|"")*"')
_OPEN_QUOTE = re.compile(_QUOTE_START)


def read_separated(
    text: str, path: Path, *, tabs: bool, rows: int | None, header: bool | None
) -> tuple[polars.DataFrame, list[Notice]]:
    """Parse cells as strings ("" where missing) under unique column names; also return notices.

    ``rows``: at most this many, of a text that may end anywhere. ``header``: as of `read_frame`. Raises:
    DlcliError for invalid quotes.
    """
    import polars as pl

    if not text.strip():
        return pl.DataFrame(), []
    notices: list[Notice] = []
    first = _first_record(text)
    separator = "\t" if tabs else _find_separator(first)
    if not tabs and separator != ",":
        shown = "tabs" if separator == "\t" else repr(separator)
        notices.append(Notice(f"{path.name}: columns are separated by {shown}"))
    cells, about_rows = _parse_cells(text, separator, path, tabs=tabs, rows=rows)
    notices += [notice.prefixed(path.name) for notice in about_rows]
    names = [name.strip() if name is not None else "" for name in cells.row(0)]
    if header is None:
        header = not _is_data_row(names)
        if not header:
            message = "the first line has numbers, so the columns have no names"
            notices.append(Notice(message).prefixed(path.name))
        elif all(name.isdecimal() for name in names):
            message = "the first line, all integers, is read as the header"
            notices.append(Notice(message).prefixed(path.name))
    if not header:
        names = [""] * len(names)
    names, about_names = _unique_names(names)
    if header:
        notices += [notice.prefixed(path.name) for notice in about_names]
    cells = cells.slice(1 if header else 0)
    cells.columns = names
    empty = cells.select(pl.all_horizontal(pl.all().str.strip_chars().fill_null("") == "")).to_series()
    if empty.any():
        # Blank lines after the last row are common.
        last = int((~empty).arg_true().max() or 0) if not empty.all() else -1  # type: ignore[arg-type]
        if inner := int(empty[: last + 1].sum()):
            notices.append(Notice(f"{path.name}: {plural(inner, 'empty row')} skipped"))
        cells = cells.filter(~empty)
    if separator == ";":
        cells, decimal = _convert_decimal_commas(cells)
        notices += [decimal.prefixed(path.name)] if decimal else []
    return cells, notices


def _complete_records(text: str) -> str:
    """Return ``text`` before the record with an unclosed quoted field, or "" if there is none."""
    masked = _QUOTED_FIELD.sub(lambda match: "x" * len(match[0]), text)
    opened = _OPEN_QUOTE.search(masked)
    return "" if opened is None else text[: masked.rfind("\n", 0, opened.start()) + 1]


def _first_record(text: str) -> str:
    """Return the first line that is not blank, without its quoted fields."""
    bare = _QUOTED_FIELD.sub("", text[:_HEAD_CHARS])
    return next((line for line in bare.split("\n") if line.strip()), "")


def _find_separator(first: str) -> str:
    counts = {separator: first.count(separator) for separator in ",;\t|"}
    return max(counts, key=lambda separator: counts[separator])  # a comma if none of them occurs


def _parse_cells(
    text: str, separator: str, path: Path, *, tabs: bool, rows: int | None
) -> tuple[polars.DataFrame, list[Notice]]:
    """Parse all cells as strings, the header as row 0; also return notices of rows of another width.

    Quotes are plain characters where parsing them fails or gives multi-line cells in a TSV, and all rows
    have the same width without them.
    """
    import polars as pl

    text = text.lstrip("\r\n")
    try:
        frame = _parse(text, separator, quote='"', rows=rows)
    except pl.exceptions.PolarsError as exc:
        closed = "" if rows is None else _complete_records(text)
        if closed.count("\n") > 1:  # the header and a row, of the beginning of a file
            return _parse_cells(closed, separator, path, tabs=tabs, rows=rows)
        plain = _parse_unquoted(text, separator, rows)
        if plain is None:
            raise DlcliError(
                f"{path}: a quoted field is not closed, or continues after its closing quote",
                hint='a quote in a field is written "like ""this"""',
            ) from exc
        return plain, [Notice("its quotes are unbalanced and read as plain characters")]
    if tabs and '"' in text and _has_multiline_cells(frame):
        plain = _parse_unquoted(text, separator, rows)
        if plain is not None:
            message = "its quotes do not enclose fields and are read as plain characters"
            return plain, [Notice(message)]
    return _drop_spare_column(frame, text, separator)


def _parse(text: str, separator: str, *, quote: str | None, rows: int | None) -> polars.DataFrame:
    """Parse all cells as strings, "" where missing. The last column has the surplus of longer rows."""
    import polars as pl

    head = _QUOTED_FIELD.sub("", text[:_HEAD_CHARS]) if quote else text
    width = head.split("\n", 1)[0].count(separator) + 1
    # An artificial header with a spare column, so that polars neither renames nor infers anything.
    names = separator.join(f"c{i}" for i in range(width + 1))
    return pl.read_csv(
        f"{names}\n{text}".encode(),
        separator=separator,
        quote_char=quote,
        infer_schema=False,
        truncate_ragged_lines=True,
        n_rows=None if rows is None else rows + 1,
    ).with_columns(pl.all().fill_null(""))


def _parse_unquoted(text: str, separator: str, rows: int | None) -> polars.DataFrame | None:
    """Parse quotes as plain characters; None unless all rows then have the same width."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len({line.count(separator) for line in lines}) > 1:
        return None
    frame = _parse(text, separator, quote=None, rows=rows)
    return frame.drop(frame.columns[-1])


def _has_multiline_cells(frame: polars.DataFrame) -> bool:
    import polars as pl

    return bool(frame.select(pl.any_horizontal(pl.all().str.contains("\n", literal=True).any())).item())


def _drop_spare_column(
    frame: polars.DataFrame, text: str, separator: str
) -> tuple[polars.DataFrame, list[Notice]]:
    """Drop the spare column; also return notices of rows longer or shorter than the first."""
    spare = frame[frame.columns[-1]]
    frame = frame.drop(frame.columns[-1])
    notices = []
    longer = int((spare != "").sum())
    if longer:
        message = f"{longer} row{'s have' if longer > 1 else ' has'} more than {frame.width} fields; "
        notices.append(left_out(f"{message}the additional fields are ignored"))
    if frame.width > 1 and bool((frame[frame.columns[-1]] == "").any()):
        lines = [
            line for line in _QUOTED_FIELD.sub("", text).split("\n")[: frame.height] if line.strip()
        ]
        shorter = sum(line.count(separator) < frame.width - 1 for line in lines)
        if shorter:
            message = (
                f"{shorter} row{'s have' if shorter > 1 else ' has'} fewer than {frame.width} fields; "
            )
            notices.append(Notice(f"{message}the absent ones count as missing"))
    return frame, notices


def _is_data_row(names: list[str]) -> bool:
    """Return whether a first line is data: it has a decimal number, or repeated integers only."""
    if any(re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+|\d+(\.\d*)?[eE][+-]?\d+)", name) for name in names):
        return True
    return all(re.fullmatch(r"[+-]?\d+", name) for name in names) and len(set(names)) < len(names)


def _unique_names(names: list[str]) -> tuple[list[str], list[Notice]]:
    """Make column names unique and not empty; also return notices of changed names."""
    notices: list[Notice] = []
    out: list[str] = []
    originals = set(names)
    unnamed, renamed = [], []
    for i, name in enumerate(names):
        new, count = name or f"column_{i + 1}", 2
        while new in out or (new != name and new in originals):
            new = f"{name or f'column_{i + 1}'}_{count}"
            count += 1
        if not name:
            unnamed.append(new)
        elif new != name:
            renamed.append(new)
        out.append(new)
    if unnamed:
        message = f"{plural(len(unnamed), 'column')} without a name"
        notices.append(Notice(f"{message}: {quoted_list(unnamed)}"))
    if renamed:
        notices.append(Notice(f"duplicate column names were changed: {quoted_list(renamed)}"))
    return out, notices


def _convert_decimal_commas(cells: polars.DataFrame) -> tuple[polars.DataFrame, Notice | None]:
    """Convert decimal commas (3,5) to points in a table separated by semicolons."""
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
