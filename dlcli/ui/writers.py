"""Predictions as a table, CSV, JSON or JSON lines, written as they come."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from dlcli.files import atomic_file
from dlcli.ui.report import SCHEMA, to_json
from dlcli.ui.tables import print_predictions

Row = Mapping[str, Any]


@contextmanager
def destination(path: Path | None) -> Iterator[IO[str]]:
    """stdout, or a file that appears when the block has ended well."""
    # A file's name may hold bytes that are no UTF-8; they are written as they are.
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")
        yield sys.stdout
        sys.stdout.flush()
        return
    with (
        atomic_file(path) as tmp,
        tmp.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        yield file


def write_table(rows: Iterable[Row], file: IO[str], head: Mapping[str, Any]) -> None:
    """Aligned columns for people, on stdout."""
    print_predictions(rows)


def write_csv(rows: Iterable[Row], file: IO[str], head: Mapping[str, Any]) -> None:
    """file, label, probability, then label_2, probability_2 ... of the classes behind it."""
    out = csv.writer(file, lineterminator="\n")
    columns = ["file", "label", "probability"]
    for rank in range(2, int(head["top_k"]) + 1):
        columns += [f"label_{rank}", f"probability_{rank}"]
    out.writerow(columns)
    for row in rows:
        ranked = [x for item in row["top_k"] for x in (item["label"], f"{item['probability']:.6f}")]
        out.writerow([row["file"], *ranked])


def write_jsonl(rows: Iterable[Row], file: IO[str], head: Mapping[str, Any]) -> None:
    """One object a line."""
    for row in rows:
        file.write(to_json(row) + "\n")


def write_json(rows: Iterable[Row], file: IO[str], head: Mapping[str, Any]) -> None:
    """One object: what ``head`` holds, ``predictions``, and ``failed``, which ``head`` fills meanwhile.

    It is written row by row, so any number of rows takes bounded memory.
    """
    failed = head["failed"]
    start = to_json({"schema": SCHEMA, **{k: v for k, v in head.items() if k != "failed"}})
    file.write(start[:-1] + ', "predictions": [')
    for number, row in enumerate(rows):
        file.write((",\n" if number else "\n") + to_json(row))
    file.write('\n], "failed": ' + to_json({"": failed})[len('{"": ') : -1] + "}\n")


WRITERS: dict[str, Callable[[Iterable[Row], IO[str], Mapping[str, Any]], None]] = {
    "table": write_table,
    "csv": write_csv,
    "json": write_json,
    "jsonl": write_jsonl,
}
