"""Whole series from text files: `.ts` of aeon and sktime, and wide rows as in the UCR archive.

Legend: N series, T_i steps of the i-th, C channels (dimensions). A missing value is NaN.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dlcli.data.notices import Notice
from dlcli.data.tables.cells import shorten
from dlcli.data.tables.charset import decode_text
from dlcli.errors import DlcliError
from dlcli.task import TaskKind

if TYPE_CHECKING:
    import polars

Values = npt.NDArray[np.floating]  # (T, C) of one series, or (N, T, C)

WIDE = (".tsv", ".txt")
_MIN_STEPS = 8  # below these a row of numbers is rather a row of a table
_HEAD_BYTES = 1 << 20
_MISSING = ("", "?")


@dataclass(frozen=True)
class SeriesFile:
    """The series of one split as they were read.

    ``series`` are N arrays (T_i, C), or one array (N, T, C) where all have one length. ``labels`` are
    columns of N cells, None where the file has none; ``task`` is the task that the format itself names.
    ``unequal``: the format says that lengths differ, whether they do here or not.
    """

    series: Sequence[Values] | Values
    labels: Mapping[str, polars.Series] | None = None
    task: TaskKind | None = None
    unequal: bool = False
    notices: tuple[Notice, ...] = ()

    @property
    def channels(self) -> int:
        """C, the same in every series."""
        return int(self.series[0].shape[1])


@dataclass
class _Header:
    """What the lines before @data say."""

    labelled: bool = False
    task: TaskKind | None = None
    classes: tuple[str, ...] = ()
    dimensions: int | None = None
    equal: bool | None = None
    notices: list[Notice] = field(default_factory=list)


def read_ts(path: Path) -> SeriesFile:
    """The series of a `.ts` file; dimensions are separated by ``:``, a missing value is ``?`` or NaN.

    A dimension that is shorter than the others of its series lacks its last values. Raises: DlcliError
    naming the line that is wrong, or when the values carry timestamps.
    """
    header = _Header()
    series: list[Values] = []
    labels: list[str | None] = []
    in_data = False
    for number, raw in enumerate(read_lines(path), 1):
        line, where = raw.strip(), f"{path}, line {number}"
        if not line or line.startswith("#"):
            continue
        if in_data:
            values, label = _case(line, header, where)
            if series and values.shape[1] != series[0].shape[1]:
                raise DlcliError(
                    f"{where}: {values.shape[1]} dimensions, but {series[0].shape[1]} before it"
                )
            series.append(values)
            labels.append(label)
        elif line.startswith("@"):
            in_data = _header_line(line, header, where)
        else:
            raise DlcliError(f"{where}: values before @data", hint="is it another kind of file?")
    if not series:
        raise DlcliError(f"{path} has no series" + ("" if in_data else " and no @data line"))
    unnamed = {label for label in labels if label is not None} - set(header.classes)
    if header.classes and unnamed:
        shown = ", ".join(repr(shorten(label)) for label in sorted(unnamed)[:3])
        header.notices.append(Notice(f"{path.name}: classes that its header does not name: {shown}"))
    if header.equal and len({len(values) for values in series}) > 1:
        message = f"{path.name}: its header says equalLength true, but lengths differ"
        header.notices.append(Notice(message))
    return SeriesFile(
        series=joined(series),
        labels=_column("class" if header.classes else "target", labels) if header.labelled else None,
        task=header.task,
        unequal=header.equal is False,
        notices=tuple(header.notices),
    )


def read_wide(path: Path, *, steps: int | None = None) -> SeriesFile:
    """Rows of numbers, one series of one channel each, the class in front.

    NaN at a row's end pads a shorter series. With ``steps`` (of a model that takes only that length),
    rows of exactly so many cells have no class. Raises: DlcliError naming the line that is wrong.
    """
    rows: list[tuple[int, list[str]]] = []
    for number, raw in enumerate(read_lines(path), 1):
        if raw.strip():
            rows.append((number, _split_cells(raw)))
    if not rows:
        raise DlcliError(f"{path} has no series")
    labelled = steps is None or any(len(cells) != steps for _, cells in rows)
    series: list[Values] = []
    labels: list[str | None] = []
    for number, cells in rows:
        where = f"{path}, line {number}"
        values = numbers(cells[1:] if labelled else cells, where)
        series.append(values[: _filled(values[:, None])][:, None])
        labels.append(_plain(cells[0]) if labelled else None)
    padded = sum(len(cells) - labelled != len(v) for (_, cells), v in zip(rows, series, strict=True))
    notices = [padding(padded, len(rows)).prefixed(path.name)] if padded else []
    if not labelled:
        return SeriesFile(series=joined(series), notices=tuple(notices))
    whole = all(label is None or _is_whole(label) for label in labels)
    fractions = not whole and all(label is None or _is_number(label) for label in labels)
    return SeriesFile(
        series=joined(series),
        labels=_column("class", labels, as_numbers=fractions),
        # The UCR archive is for classification; a number with a fraction is none of its classes.
        task="classification" if whole else None,
        notices=tuple(notices),
    )


def is_wide(path: Path) -> bool:
    """Whether the first lines are rows of numbers, long enough to be series, with no header."""
    if not path.name.lower().endswith(WIDE) or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            raw = file.read(_HEAD_BYTES)
            whole = not file.read(1)
    except OSError:
        return False
    text, _ = decode_text(raw)
    lines = text.splitlines()[: None if whole else -1]
    rows = [_split_cells(line) for line in itertools.islice((one for one in lines if one.strip()), 5)]
    return bool(rows) and all(
        len(cells) > _MIN_STEPS and _is_number(cells[0]) and all(map(_is_value, cells)) for cells in rows
    )


def read_lines(path: Path) -> list[str]:
    """The lines of a text file. Raises: DlcliError when it cannot be read or is no text."""
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise DlcliError(f"cannot read {path}: {exc.strerror or exc}") from exc
    text, _ = decode_text(raw)
    if "\0" in text[:4096]:
        raise DlcliError(f"{path} is no text: it holds zero bytes", hint="is it another kind of file?")
    return text.splitlines()


def numbers(cells: Sequence[str], where: str) -> npt.NDArray[np.float64]:
    """Cells as float64 (T,), an empty one and ``?`` as NaN. Raises: DlcliError naming a cell."""
    try:
        return np.array(cells, dtype=np.float64)
    except ValueError:
        pass
    out = np.full(len(cells), np.nan)
    for i, cell in enumerate(cells):
        if cell.strip() in _MISSING:
            continue
        try:
            out[i] = float(cell)
        except ValueError as exc:
            raise DlcliError(
                f"{where}: value {i} is {shorten(cell)!r}, which is no number",
                hint="a missing value is ? or NaN",
            ) from exc
    return out


def joined(series: Sequence[Values]) -> Sequence[Values] | Values:
    """One array (N, T, C) where all have one length, else as they are."""
    if len({values.shape for values in series}) > 1:
        return tuple(series)
    return np.stack(series)


def padding(count: int, total: int) -> Notice:
    """Return the notice about trailing NaN."""
    return Notice(f"{count} of {total} series end in NaN, which was read as padding: they are shorter")


def _filled(values: Values) -> int:
    """Steps up to the last that has a value, of (T, C)."""
    there = np.flatnonzero(~np.isnan(values).all(axis=1))
    return int(there[-1]) + 1 if len(there) else 0


def _header_line(line: str, header: _Header, where: str) -> bool:
    """Take in one line of the header; True for the last one."""
    key, *words = line.split()
    key = key.lower()
    if key == "@timestamps" and _truth(words, where):
        raise _timestamps(where)
    if key == "@equallength":
        header.equal = _truth(words, where)
    elif key in ("@dimensions", "@dimension") and words:
        header.dimensions = int(words[0]) if words[0].isdecimal() else None
    elif key in ("@classlabel", "@targetlabel"):
        header.labelled = header.labelled or _truth(words, where)
        if _truth(words, where):
            header.task = "classification" if key == "@classlabel" else "regression"
            header.classes = tuple(words[1:]) if key == "@classlabel" else ()
    return key == "@data"


def _truth(words: list[str], where: str) -> bool:
    if not words or words[0].lower() not in ("true", "false"):
        raise DlcliError(f"{where}: {words[0] if words else 'nothing'!r} where true or false is needed")
    return words[0].lower() == "true"


def _case(line: str, header: _Header, where: str) -> tuple[Values, str | None]:
    """One series (T, C) and its label."""
    if "(" in line:
        raise _timestamps(where)
    parts = line.split(":")
    label: str | None = None
    if header.labelled:
        label = parts.pop().strip()
        if not parts:
            raise DlcliError(f"{where}: a label and no values, or values and no label")
    if header.dimensions is not None and len(parts) != header.dimensions:
        raise DlcliError(f"{where}: {len(parts)} dimensions, but the header says {header.dimensions}")
    columns = [numbers(part.split(",") if part.strip() else [], where) for part in parts]
    values = np.full((max(map(len, columns)), len(columns)), np.nan)
    for i, column in enumerate(columns):
        values[: len(column), i] = column
    return values, None if label in _MISSING else label


def _timestamps(where: str) -> DlcliError:
    return DlcliError(
        f"{where}: values with timestamps are not read",
        hint="write plain values at even steps, with @timeStamps false",
    )


def _split_cells(line: str) -> list[str]:
    """The cells of a wide row: between tabs, or commas, or any spaces."""
    line = line.strip("\r\n")
    for separator in "\t,":
        if separator in line:
            return line.rstrip(separator + " ").split(separator)
    return line.split()


def _plain(cell: str) -> str | None:
    """A class as the archive means it: 1.0000000e+00 is 1."""
    cell = cell.strip()
    if not _is_number(cell):
        return None if cell in _MISSING or cell.lower() == "nan" else cell
    return str(int(float(cell))) if _is_whole(cell) else cell


def _is_number(cell: str) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except ValueError:
        return False


def _is_whole(cell: str) -> bool:
    return _is_number(cell) and float(cell).is_integer()


def _is_value(cell: str) -> bool:
    return cell.strip().lower() in (*_MISSING, "nan") or _is_number(cell)


def _column(
    name: str, labels: Sequence[str | None], *, as_numbers: bool = False
) -> dict[str, polars.Series]:
    import polars as pl

    words = pl.Series(name, labels, dtype=pl.String)
    return {name: words.cast(pl.Float64, strict=False) if as_numbers else words}
