"""Tables of JSON lines: an object a line, whose keys are the columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.errors import DlcliError
from dlcli.files import parse_json
from dlcli.wording import first_line, shorten

if TYPE_CHECKING:
    import polars


def read_json_lines(text: str, path: Path, rows: int | None) -> polars.DataFrame:
    """The table of a text, or its first ``rows``.

    NaN, which is no JSON but which Python writes, is null. Raises: DlcliError naming the first line that
    is no object.
    """
    import polars as pl

    numbered = [pair for pair in enumerate(text.split("\n"), 1) if pair[1].strip()][:rows]
    if not numbered:
        return pl.DataFrame()
    try:
        return _parse([line for _, line in numbered])
    except pl.exceptions.PolarsError:
        lines = [json.dumps(_object(line, number, path)) for number, line in numbered]
    try:
        return _parse(lines)
    except pl.exceptions.PolarsError as exc:
        raise _no_table(path, shorten(first_line(exc), 160)) from exc


def _parse(lines: list[str]) -> polars.DataFrame:
    import polars as pl

    return pl.read_ndjson("\n".join(lines).encode(), infer_schema_length=None)


def _object(line: str, number: int, path: Path) -> dict[str, Any]:
    """The object of a line. Raises: DlcliError."""

    def constant(word: str) -> None:
        if word != "NaN":
            raise ValueError(f"{word} is no number of JSON")

    try:
        value = parse_json(line, constant=constant)
    except json.JSONDecodeError as exc:
        raise _no_table(path, f"line {number}, character {exc.colno}: {exc.msg}") from exc
    except ValueError as exc:
        raise _no_table(path, f"line {number}: {exc}") from exc
    if not isinstance(value, dict):
        raise _no_table(path, f"line {number} is no object")
    return value


def _no_table(path: Path, reason: str) -> DlcliError:
    return DlcliError(
        f"{path} is not a JSON lines file: {reason}",
        hint='each line must be one object, such as {"age": 3, "label": "cat"}',
    )
