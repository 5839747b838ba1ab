"""Parse the cells of CSV and TSV, quotes and uneven rows included."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.data.notices import Notice, left_out
from dlcli.data.tables.infer import by_column, stack
from dlcli.data.tables.same_names import SameNames
from dlcli.errors import DlcliError
from dlcli.notation.layout import QUOTE_START, QUOTED_FIELD, Layout, find_layout, has_header
from dlcli.wording import plural, quoted_list

if TYPE_CHECKING:
    import polars

_HEAD_CHARS = 2**20
_OPEN_QUOTE = re.compile(QUOTE_START)


def read_separated(
    text: str, path: Path, *, tabs: bool, rows: int | None, header: bool | None
) -> tuple[polars.DataFrame, str, list[Notice]]:
    """Parse cells as strings, null or "" where missing, under unique column names.

    Also returns the separator, and notices.

    ``rows``: at most this many, of a text that may end anywhere. ``header``: as of `read_frame`. Raises:
    DlcliError for invalid quotes.
    """
    import polars as pl

    if not text.strip():
        return pl.DataFrame(), ",", []
    notices: list[Notice] = []
    layout = find_layout(text, tabs=tabs)
    separator = layout.separator
    if not tabs and separator != ",":
        shown = "tabs" if separator == "\t" else repr(separator)
        notices.append(Notice(f"columns are separated by {shown}"))
    if layout.skipped:
        message = f"{plural(layout.skipped, 'line')} above the header skipped"
        notices.append(Notice(message))
    if layout.short_header:
        message = "the rows have one field more than the header; the first is read as a row name"
        notices.append(Notice(message))
    cells, about_rows = _parse_cells(layout, path, tabs=tabs, rows=rows)
    notices += about_rows
    names = [name.strip() if name is not None else "" for name in cells.row(0)]
    body = cells.slice(1)
    if header is None:
        header = has_header(names, body)
        notices += _about_header(names, header)
    cells = body if header else cells
    names, about_names = _unique_names(names if header else [""] * len(names))
    if header:
        notices += about_names
    cells.columns = names
    cells, about_blank = _drop_empty(cells)
    return cells, separator, [notice.prefixed(path.name) for notice in [*notices, *about_blank]]


def _about_header(names: list[str], header: bool) -> list[Notice]:
    """Return a notice where it is not obvious whether the first line is a header."""
    if header:
        if all(name.isdecimal() for name in names):
            return [Notice("the first line, all integers, is read as the header")]
        return []
    why = "has numbers"
    if not any(re.search(r"\d", name) for name in names):
        why = "holds values of the rows below"
    message = f"the first line {why}, so the columns have no names; --header reads it as the header"
    return [Notice(message)]


def _drop_empty(cells: polars.DataFrame) -> tuple[polars.DataFrame, list[Notice]]:
    """Drop empty rows, and empty last columns without a name: separators at the ends of lines."""
    import polars as pl

    if not cells.height:
        return cells, []
    notices = []
    filled = by_column(stack(cells.get_columns()).str.contains(r"\S"), cells.width)
    empty = pl.Series(~filled.any(axis=0))
    if empty.any():
        # Blank lines after the last row are common.
        last = int((~empty).arg_true().max() or 0) if not empty.all() else -1  # type: ignore[arg-type]
        if inner := int(empty[: last + 1].sum()):
            notices.append(Notice(f"{plural(inner, 'empty row')} skipped"))
        cells = cells.filter(~empty)
    used = [bool(column.any()) for column in filled]
    while cells.width > 1 and cells.columns[-1] == f"column_{cells.width}" and not used[cells.width - 1]:
        cells = _without_last(cells)
    return cells, notices


def _complete_records(text: str) -> str:
    """Return ``text`` before the record with an unclosed quoted field, or "" if there is none."""
    masked = QUOTED_FIELD.sub(lambda match: "x" * len(match[0]), text)
    opened = _OPEN_QUOTE.search(masked)
    return "" if opened is None else text[: masked.rfind("\n", 0, opened.start()) + 1]


def _parse_cells(
    layout: Layout, path: Path, *, tabs: bool, rows: int | None
) -> tuple[polars.DataFrame, list[Notice]]:
    """Parse all cells as strings, the header as row 0; also return notices of rows of another width.

    Quotes are plain characters where parsing them fails or gives multi-line cells in a TSV, and all rows
    have the same width without them.
    """
    import polars as pl

    text, separator = layout.text, layout.separator
    if layout.short_header:  # its first field is that of the names of the rows
        text = separator + text
    try:
        frame = _parse(text, separator, quote='"', rows=rows)
    except pl.exceptions.PolarsError as exc:
        closed = "" if rows is None else _complete_records(text)
        if closed.count("\n") > 1:  # the header and a row, of the beginning of a file
            closed_layout = Layout(closed, separator)
            return _parse_cells(closed_layout, path, tabs=tabs, rows=rows)
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
    """Parse all cells as strings, null where missing. The last column has the surplus of longer rows."""
    import polars as pl

    head = QUOTED_FIELD.sub("", text[:_HEAD_CHARS]) if quote else text
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
    )


def _parse_unquoted(text: str, separator: str, rows: int | None) -> polars.DataFrame | None:
    """Parse quotes as plain characters; None unless all rows then have the same width."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len({line.count(separator) for line in lines}) > 1:
        return None
    frame = _parse(text, separator, quote=None, rows=rows)
    return _without_last(frame)


def _has_multiline_cells(frame: polars.DataFrame) -> bool:
    return bool(stack(frame.get_columns()).str.contains("\n", literal=True).any())


def _without_last(frame: polars.DataFrame) -> polars.DataFrame:
    import polars as pl

    return pl.DataFrame(frame.get_columns()[:-1])


def _drop_spare_column(
    frame: polars.DataFrame, text: str, separator: str
) -> tuple[polars.DataFrame, list[Notice]]:
    """Drop the spare column; also return notices of rows longer or shorter than the first."""
    spare = frame[frame.columns[-1]].fill_null("")
    frame = _without_last(frame)
    notices = []
    longer = int((spare != "").sum())
    if longer:
        message = f"{longer} row{'s have' if longer > 1 else ' has'} more than {frame.width} fields; "
        notices.append(left_out(f"{message}the additional fields are ignored"))
    if frame.width > 1 and bool((frame[frame.columns[-1]].fill_null("") == "").any()):
        lines = [line for line in QUOTED_FIELD.sub("", text).split("\n")[: frame.height] if line.strip()]
        shorter = sum(line.count(separator) < frame.width - 1 for line in lines)
        if shorter:
            message = (
                f"{shorter} row{'s have' if shorter > 1 else ' has'} fewer than {frame.width} fields; "
            )
            notices.append(Notice(f"{message}the absent ones count as missing"))
    return frame, notices


def _unique_names(names: list[str]) -> tuple[list[str], list[Notice]]:
    """Make column names unique and not empty; also return notices of changed names."""
    notices: list[Notice] = []
    out: list[str] = []
    originals, taken = set(names), set[str]()
    unnamed = []
    for i, name in enumerate(names):
        new, count = name or f"column_{i + 1}", 2
        while new in taken or (new != name and new in originals):
            new = f"{name or f'column_{i + 1}'}_{count}"
            count += 1
        if not name:
            unnamed.append(new)
        out.append(new)
        taken.add(new)
    if unnamed:
        message = f"{plural(len(unnamed), 'column')} without a name"
        notices.append(Notice(f"{message}: {quoted_list(unnamed)}"))
    same = SameNames.of(names, out)
    return out, notices if same is None else [*notices, same]
