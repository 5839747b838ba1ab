"""Read tables of any format as typed columns: CSV and TSV, JSON lines (also gzipped), Parquet.

Cells are read as strings first, then each column is typed: it is numeric if all cells are numbers, or
all but a few of many. Empty cells are missing, and so are NA, NaN, null and the like among numbers.
"""

from __future__ import annotations

import functools
import gzip
import re
import sys
import unicodedata
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.data.notices import Notice
from dlcli.data.tables.clocks import join_clock
from dlcli.data.tables.infer import TypedFrame, infer_types
from dlcli.data.tables.json_lines import read_json_lines
from dlcli.data.tables.separated import read_separated
from dlcli.data.tables.split_names import SPLIT_NAMES
from dlcli.data.text.scripts import UNSPACED_SCRIPTS
from dlcli.errors import DlcliError, nearest
from dlcli.files import check_unpacked, unpacked_limit
from dlcli.notation.charset import decode_text
from dlcli.wording import first_line, plural, quoted, quoted_list, shorten

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import polars

TABLE_SUFFIXES = (
    *(".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".parquet"),
    *(".csv.gz", ".tsv.gz", ".jsonl.gz", ".ndjson.gz"),
)
STDIN = "-"
_DEFAULT_NAME = re.compile(r"column_\d+")
_HEAD_BYTES = 2**18


def is_table(path: Path) -> bool:
    """Return whether a file name has the suffix of a table."""
    return path.name.lower().endswith(TABLE_SUFFIXES)


def read_frame(
    path: Path,
    *,
    header: bool | None = None,
    as_text: Collection[str] = (),
    formats: Mapping[str, str] | None = None,
) -> tuple[polars.DataFrame, list[Notice]]:
    """Read all rows with typed columns; also return notices. See `read_typed`.

    A date and a time of day in two columns become one column of times, with the name of the date's.
    """
    typed = read_typed(path, header=header, as_text=as_text, formats=formats)
    frame, joined = join_clock(typed.frame)
    return frame, typed.notices + ([joined.prefixed(path.name)] if joined else [])


def read_typed(
    path: Path,
    *,
    header: bool | None = None,
    as_text: Collection[str] = (),
    only: Collection[str] | None = None,
    formats: Mapping[str, str] | None = None,
    names: Collection[str] = (),
) -> TypedFrame:
    """Read all rows with typed columns, and the formats of the numbers and times in them.

    Strings are stripped; missing values are null, never NaN. ``header``: whether the first line of a
    CSV names the columns (default: detected, see `layout.has_header`). The columns ``as_text``
    stay strings, and with ``only`` all others than these; ``formats`` are known ones. If none
    of ``names`` is there and they are those of a table without a header, it is read as one. The path
    "-" is standard input. Raises: DlcliError when the file cannot be read, is no table or has no rows.
    """
    typed = _read(path, rows=None, header=header, as_text=as_text, only=only, formats=formats)
    missing = set(names) - set(typed.frame.columns)
    if header is None and has_default_names(missing):
        typed = _read(path, rows=None, header=False, as_text=as_text, only=only, formats=formats)
    if not typed.frame.height:
        raise DlcliError(f"{path} has {'a header but ' if typed.frame.width else ''}no rows")
    return typed


def has_default_names(names: Collection[str]) -> bool:
    """Return whether all columns have the names of a table without a header."""
    return bool(names) and all(_DEFAULT_NAME.fullmatch(name) for name in names)


def read_head(path: Path, rows: int = 200) -> polars.DataFrame | None:
    """Read the first rows; None when there are none or they cannot be read."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return _head(str(path), stat.st_mtime_ns, stat.st_size, rows)


def need_column(frame: polars.DataFrame, name: str, *, what: str, path: object) -> None:
    """Raise DlcliError with the nearest name when ``frame`` has no column ``name``, the ``what``."""
    if name not in frame.columns:
        raise DlcliError(f"{path} has no column {name!r} ({what})", hint=nearest(name, frame.columns))


def need_columns(frame: polars.DataFrame, names: Sequence[str], *, what: str, path: object) -> None:
    """Raise DlcliError that names the missing columns, those of ``frame``, and all that are needed."""
    missing = [name for name in names if name not in frame.columns]
    if not missing:
        return
    has = f"it has {quoted_list(frame.columns, 8)}"
    if len(missing) > 1:
        lacks = f"{path} lacks {len(missing)} of {len(names)} columns ({what}): {quoted_list(missing)}"
        raise DlcliError(lacks, hint=has)
    close = nearest(missing[0], frame.columns)
    question = f"; {close}" if close.startswith("did you mean") else ""
    needs = f"; needed are {quoted_list(names, 8)}{question}"
    raise DlcliError(f"{path} has no column {missing[0]!r} ({what})", hint=has + needs)


def looks_like_text(column: polars.Series, *, distinct: bool = True) -> bool:
    """Return whether cells are text: a median of three words or more, and mostly ``distinct``.

    In scripts without spaces two characters count as a word.
    """
    import polars as pl

    if column.dtype != pl.String:
        return False
    cells = column.drop_nulls()
    if not len(cells):
        return False
    unspaced = cells.str.count_matches(f"[{UNSPACED_SCRIPTS}]")
    words = (cells.str.count_matches(r"\S+") + unspaced // 2).median()
    if not isinstance(words, float) or words < 3:
        return False
    return not distinct or cells.n_unique() > len(cells) / 2


def split_by_column(
    frame: polars.DataFrame, column: str, *, path: object
) -> dict[str, npt.NDArray[np.int64]]:
    """Return the row indices of train, val and test, which the cells of ``column`` name.

    Raises: DlcliError when there is no such column, a cell is empty or names no split.
    """
    import polars as pl

    need_column(frame, column, what="the split column", path=path)
    cells = frame[column].cast(pl.String).str.strip_chars().str.to_lowercase()
    invalid = [cell for cell in cells.unique(maintain_order=True).to_list() if cell not in SPLIT_NAMES]
    if invalid:
        count = int(cells.is_in(list(SPLIT_NAMES)).not_().fill_null(True).sum())
        shown = ", ".join("an empty cell" if cell is None else quoted(cell) for cell in invalid[:3])
        raise DlcliError(
            f"{path}: {plural(count, 'row')} of the split column {column!r} hold no split: {shown}",
            hint="valid values are " + ", ".join(SPLIT_NAMES),
        )
    splits = cells.replace_strict(SPLIT_NAMES)
    rows_of = {split: (splits == split).arg_true().to_numpy() for split in ("train", "val", "test")}
    return {split: rows.astype("int64") for split, rows in rows_of.items() if len(rows)}


@functools.lru_cache(maxsize=64)
def _head(path: str, mtime_ns: int, size: int, rows: int) -> polars.DataFrame | None:
    try:
        frame = _read(Path(path), rows=rows, header=None).frame
    except DlcliError:
        return None
    return join_clock(frame)[0] if frame.height else None


def _read(
    path: Path,
    *,
    rows: int | None,
    header: bool | None,
    as_text: Collection[str] = (),
    only: Collection[str] | None = None,
    formats: Mapping[str, str] | None = None,
) -> TypedFrame:
    import polars as pl

    name = path.name.lower().removesuffix(".gz")
    notices: list[Notice] = []
    separator = ","
    try:
        if name.endswith(".parquet"):
            frame = _nfc_columns(pl.read_parquet(path, n_rows=rows))
        else:
            raw = (
                stdin_bytes()
                if is_stdin(path)
                else _read_bytes(path, None if rows is None else _HEAD_BYTES)
            )
            text, notices = _decode(raw, path)
            if name.endswith((".jsonl", ".ndjson")) or (is_stdin(path) and text.lstrip()[:1] == "{"):
                frame = _nfc_columns(read_json_lines(text, path, rows))
            else:
                tabs = name.endswith((".tsv", ".tab"))
                frame, separator, more = read_separated(text, path, tabs=tabs, rows=rows, header=header)
                notices += more
    except pl.exceptions.PolarsError as exc:
        raise DlcliError(f"cannot read {path}: {shorten(first_line(exc), 160)}") from exc
    except OSError as exc:
        raise DlcliError(f"cannot read {path}: {exc.strerror or exc}") from exc
    typed = infer_types(
        frame,
        as_text=as_text,
        only=only,
        formats=formats,
        semicolon=separator == ";",
        guess=rows is not None,
    )
    typed.notices = [*notices, *(notice.prefixed(path.name) for notice in typed.notices)]
    return typed


def is_stdin(path: Path) -> bool:
    """Return whether a path means standard input."""
    return str(path) in (STDIN, "/dev/stdin")


@functools.lru_cache(maxsize=1)
def stdin_bytes() -> bytes:
    """Read standard input, once for all models of an ensemble."""
    return sys.stdin.buffer.read()


def _nfc_columns(frame: polars.DataFrame) -> polars.DataFrame:
    """Write letters with accents as single characters (Unicode NFC), so that equal words are equal."""
    import polars as pl

    strings = [c.name for c in frame.iter_columns() if c.dtype == pl.String and not _is_ascii(c)]
    return frame.with_columns(pl.col(strings).str.normalize("NFC")) if strings else frame


def _is_ascii(column: polars.Series) -> bool:
    return not column.str.contains(r"[^\x00-\x7f]").any()


def _read_bytes(path: Path, limit: int | None) -> bytes:
    """Read and decompress a file; with ``limit``, about that many bytes, in whole lines."""
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            is_packed = isinstance(file, gzip.GzipFile)
            most = unpacked_limit(path) + 1 if is_packed else -1
            raw = file.read(most if limit is None else limit)
            if is_packed:
                check_unpacked(path, len(raw))
            while (
                limit is not None
                and len(raw) >= limit
                and b"\n" not in raw[1:]
                and len(raw) < 64 * limit
            ):
                raw += file.read(limit)
    except (EOFError, zlib.error) as exc:
        raise DlcliError(f"cannot decompress {path}: it is damaged or incomplete") from exc
    return raw[: raw.rfind(b"\n") + 1] if limit is not None and len(raw) >= limit else raw


def _decode(raw: bytes, path: Path) -> tuple[str, list[Notice]]:
    text, encoding = decode_text(raw)
    if "\0" in text[:4096]:
        raise DlcliError(
            f"{path} is not a text file: it has zero bytes", hint="is it another kind of file?"
        )
    # Accents as single characters, so that equal words are equal whoever typed them.
    text = text if text.isascii() else unicodedata.normalize("NFC", text)
    if "\n" not in text and "\r" in text:
        text = text.replace("\r", "\n")
    if encoding == "UTF-8":
        return text, []
    lines = plural(sum(not line.isascii() for line in text.split("\n")), "line")
    message = f"{path.name} is not UTF-8: read as {encoding} ({lines} with non-ASCII characters)"
    return text, [Notice(message, "not-utf-8")]
