"""Read whole series from text files: `.ts` of aeon and sktime, and wide rows as in the UCR archive.

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
from dlcli.errors import DlcliError
from dlcli.notation.charset import decode_text
from dlcli.task import TaskKind
from dlcli.wording import quoted

if TYPE_CHECKING:
    import polars

Values = npt.NDArray[np.floating]  # (T, C) of one series, or (N, T, C)

WIDE_SUFFIXES = (".tsv", ".txt")
_MIN_STEPS = 8  # with fewer, a row of numbers is probably a row of a table
_HEAD_BYTES = 1 << 20
_MISSING = ("", "?")


@dataclass(frozen=True)
class SeriesFile:
    """The series of one split.

    ``series`` are N arrays (T_i, C), or one array (N, T, C) where all have one length. ``labels`` are
    columns of N cells, None where the file has none; ``task`` is the one that the format states.
    ``unequal``: the format states that lengths differ.
    """

    series: Sequence[Values] | Values
    labels: Mapping[str, polars.Series] | None = None
    task: TaskKind | None = None
    unequal: bool = False
    notices: tuple[Notice, ...] = ()

    @property
    def channels(self) -> int:
        """The number of channels C, the same in every series."""
        return int(self.series[0].shape[1])


@dataclass
class _Header:
    """The header of a `.ts` file, the lines before @data."""

    labelled: bool = False
    task: TaskKind | None = None
    classes: tuple[str, ...] = ()
    dimensions: int | None = None
    equal: bool | None = None
    notices: list[Notice] = field(default_factory=list)


def read_ts(path: Path) -> SeriesFile:
    """Read a `.ts` file: dimensions are separated by ``:``, missing values are ``?`` or NaN.

    A dimension that is shorter than the others of its series is padded with NaN. Raises: DlcliError
    naming an invalid line, or when values have timestamps.
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
            values, label = _parse_series(line, header, where)
            if series and values.shape[1] != series[0].shape[1]:
                raise DlcliError(
                    f"{where}: {values.shape[1]} dimensions, but {series[0].shape[1]} before"
                )
            series.append(values)
            labels.append(label)
        elif line.startswith("@"):
            in_data = _parse_header_line(line, header, where)
        else:
            raise DlcliError(f"{where}: values before @data", hint="is it another kind of file?")
    if not series:
        raise DlcliError(f"{path} has no series" + ("" if in_data else " and no @data line"))
    unnamed = {label for label in labels if label is not None} - set(header.classes)
    if header.classes and unnamed:
        shown = ", ".join(quoted(label) for label in sorted(unnamed)[:3])
        header.notices.append(Notice(f"{path.name}: classes that are not in its header: {shown}"))
    if header.equal and len({len(values) for values in series}) > 1:
        message = f"{path.name}: equalLength is true in its header, but lengths differ"
        header.notices.append(Notice(message))
    return SeriesFile(
        series=stack_equal(series),
        labels=_label_column("class" if header.classes else "target", labels)
        if header.labelled
        else None,
        task=header.task,
        unequal=header.equal is False,
        notices=tuple(header.notices),
    )


def read_wide(path: Path, *, steps: int | None = None) -> SeriesFile:
    """Read rows of a class and numbers, each one series of one channel.

    NaN at the end of a row pads a shorter series. With ``steps`` (of a model with a fixed length), rows
    of exactly that many cells have no class. Raises: DlcliError naming an invalid line.
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
        values = parse_numbers(cells[1:] if labelled else cells, where)
        series.append(values[: _valid_length(values[:, None])][:, None])
        labels.append(_class_name(cells[0]) if labelled else None)
    padded = sum(len(cells) - labelled != len(v) for (_, cells), v in zip(rows, series, strict=True))
    notices = [padding_notice(padded, len(rows)).prefixed(path.name)] if padded else []
    if not labelled:
        return SeriesFile(series=stack_equal(series), notices=tuple(notices))
    whole = all(label is None or _is_whole(label) for label in labels)
    fractions = not whole and all(label is None or _is_number(label) for label in labels)
    return SeriesFile(
        series=stack_equal(series),
        labels=_label_column("class", labels, as_numbers=fractions),
        # Classes of the UCR archive are integers; a number with a fraction is a regression target.
        task="classification" if whole else None,
        notices=tuple(notices),
    )


def is_wide(path: Path) -> bool:
    """Return whether the first lines are rows of numbers long enough to be series."""
    if not path.name.lower().endswith(WIDE_SUFFIXES) or not path.is_file():
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
        len(cells) > _MIN_STEPS and _is_number(cells[0]) and all(map(_is_number_or_missing, cells))
        for cells in rows
    )


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file. Raises: DlcliError when it cannot be read or is not text."""
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise DlcliError(f"cannot read {path}: {exc.strerror or exc}") from exc
    text, _ = decode_text(raw)
    if "\0" in text[:4096]:
        raise DlcliError(
            f"{path} is not a text file: it has zero bytes", hint="is it another kind of file?"
        )
    return text.splitlines()


def parse_numbers(cells: Sequence[str], where: str) -> npt.NDArray[np.float64]:
    """Parse cells as float64 (T,); "" and ``?`` are NaN. Raises: DlcliError naming an invalid cell."""
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
                f"{where}: value {i} is {quoted(cell)}, which is not a number",
                hint="a missing value is ? or NaN",
            ) from exc
    return out


def stack_equal(series: Sequence[Values]) -> Sequence[Values] | Values:
    """Stack series to (N, T, C) where all have one length, else return them unchanged."""
    if len({values.shape for values in series}) > 1:
        return tuple(series)
    return np.stack(series)


def padding_notice(count: int, total: int) -> Notice:
    """Return the notice about trailing NaN."""
    return Notice(f"{count} of {total} series end in NaN, which is treated as padding")


def _valid_length(values: Values) -> int:
    """Return the number of steps of (T, C) up to the last with a value."""
    present = np.flatnonzero(~np.isnan(values).all(axis=1))
    return int(present[-1]) + 1 if len(present) else 0


def _parse_header_line(line: str, header: _Header, where: str) -> bool:
    """Parse one line of the header into ``header``; return whether it is the last."""
    key, *words = line.split()
    key = key.lower()
    if key == "@timestamps" and _parse_bool(words, where):
        raise _timestamps_error(where)
    if key == "@equallength":
        header.equal = _parse_bool(words, where)
    elif key in ("@dimensions", "@dimension") and words:
        header.dimensions = int(words[0]) if words[0].isdecimal() else None
    elif key in ("@classlabel", "@targetlabel"):
        header.labelled = header.labelled or _parse_bool(words, where)
        if _parse_bool(words, where):
            header.task = "classification" if key == "@classlabel" else "regression"
            header.classes = tuple(words[1:]) if key == "@classlabel" else ()
    return key == "@data"


def _parse_bool(words: list[str], where: str) -> bool:
    if not words or words[0].lower() not in ("true", "false"):
        raise DlcliError(
            f"{where}: {words[0] if words else 'nothing'!r} where true or false is expected"
        )
    return words[0].lower() == "true"


def _parse_series(line: str, header: _Header, where: str) -> tuple[Values, str | None]:
    """Parse a line as one series (T, C) and its label."""
    if "(" in line:
        raise _timestamps_error(where)
    parts = line.split(":")
    label: str | None = None
    if header.labelled:
        label = parts.pop().strip()
        if not parts:
            raise DlcliError(f"{where}: a label without values, or values without a label")
    if header.dimensions is not None and len(parts) != header.dimensions:
        raise DlcliError(f"{where}: {len(parts)} dimensions, but {header.dimensions} in the header")
    columns = [parse_numbers(part.split(",") if part.strip() else [], where) for part in parts]
    values = np.full((max(map(len, columns)), len(columns)), np.nan)
    for i, column in enumerate(columns):
        values[: len(column), i] = column
    return values, None if label in _MISSING else label


def _timestamps_error(where: str) -> DlcliError:
    return DlcliError(
        f"{where}: values with timestamps are not supported",
        hint="use values at regular steps, with @timeStamps false",
    )


def _split_cells(line: str) -> list[str]:
    """Split a wide row at tabs, commas or whitespace."""
    line = line.strip("\r\n")
    for separator in "\t,":
        if separator in line:
            return line.rstrip(separator + " ").split(separator)
    return line.split()


def _class_name(cell: str) -> str | None:
    """Return the class in a cell, or None; 1.0000000e+00 is the class 1."""
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


def _is_number_or_missing(cell: str) -> bool:
    return cell.strip().lower() in (*_MISSING, "nan") or _is_number(cell)


def _label_column(
    name: str, labels: Sequence[str | None], *, as_numbers: bool = False
) -> dict[str, polars.Series]:
    import polars as pl

    column = pl.Series(name, labels, dtype=pl.String)
    return {name: column.cast(pl.Float64, strict=False) if as_numbers else column}
