"""Streaming writers of predictions: table, CSV, JSON, JSON lines."""

from __future__ import annotations

import codecs
import csv
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from dlcli.files import atomic_file
from dlcli.ui.json_output import SCHEMA, to_json
from dlcli.ui.predict import interval_ends, print_predictions
from dlcli.ui.text import csv_cell
from dlcli.wording import printable_lines

if TYPE_CHECKING:
    from dlcli.task import TaskSpec

Row = Mapping[str, Any]
# The keys of a prediction in JSON besides its columns in CSV.
_JSON_KEYS = {
    "classification": ("top_k", "probabilities"),
    "multilabel": ("probabilities",),
    "regression": ("values", "low", "high"),
    "forecast": ("values", "time", "series", "low", "high"),
    "embedding": ("embedding",),
}


@dataclass(frozen=True)
class Head:
    """What is known before the first row, and ``failed``, which grows while rows are written.

    ``facts`` are the first keys of the JSON object; ``inputs`` are the names of all inputs. ``top_k``
    is the number of classes per row, None where the probability of each is written. ``keys`` are the
    columns that name a row besides its input; on a screen that of ``id_column`` replaces the input.
    ``intervals``: whether rows have the ends of an interval.
    """

    facts: Mapping[str, Any]
    task: TaskSpec
    inputs: Sequence[str]
    top_k: int | None
    failed: list[dict[str, Any]]
    keys: tuple[str, ...] = ()
    id_column: str | None = None
    intervals: bool = False


class _Terminal:
    """Stdout where it is a terminal: control characters of names are escaped, which files keep."""

    def write(self, text: str) -> int:
        return sys.stdout.write(printable_lines(text))


@contextmanager
def destination(path: Path | None) -> Iterator[IO[str]]:
    """Yield stdout, or a file that appears when the block succeeds."""
    # A file's name may hold bytes that are no UTF-8; they are written as they are.
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            is_ascii = codecs.lookup(sys.stdout.encoding).name == "ascii"
            encoding = "utf-8" if is_ascii else sys.stdout.encoding
            sys.stdout.reconfigure(encoding=encoding, errors="surrogateescape")
        yield cast("IO[str]", _Terminal()) if sys.stdout.isatty() else sys.stdout
        sys.stdout.flush()
        return
    with (
        atomic_file(path) as tmp,
        tmp.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        yield file


def write_table(rows: Iterable[Row], file: IO[str], head: Head) -> None:
    """Print aligned columns on stdout."""
    name = head.id_column
    if name is not None:
        rows = ({**row, "input": cell_text(row[name])} for row in rows)
    print_predictions(rows, head.task, head.inputs, timed="time" in head.keys, intervals=head.intervals)


def write_csv(rows: Iterable[Row], file: IO[str], head: Head) -> None:
    """Write a header and a line per row. The columns depend on the task and the keys alone.

    ``label_2, probability_2`` ... are the classes after the first; ``probability_NAME`` and
    ``value_NAME`` belong to a class, a label or a target; ``labels`` are joined by "|"; ``e0, e1`` ...
    are the numbers of an embedding. No text begins as a formula does (`csv_cell`).
    """
    out = csv.writer(file, lineterminator="\n")
    ends = interval_columns(head.task) if head.intervals else []
    columns = ["input", *head.keys, *prediction_columns(head.task, head.top_k), *ends]
    out.writerow(map(csv_cell, columns))
    for row in rows:
        out.writerow(map(csv_cell, _cells(row, head)))


def cell_text(cell: object) -> str:
    """Return a cell of the input as a text; "" for an empty one."""
    return "" if cell is None else str(cell)


def reserved_names(task: TaskSpec, top_k: int | None) -> set[str]:
    """Return the names of columns and keys that predictions have, in CSV or JSON."""
    columns = [*prediction_columns(task, top_k), *interval_columns(task)]
    return {"input", "error", *_JSON_KEYS.get(task.kind, ()), *columns}


def interval_columns(task: TaskSpec) -> list[str]:
    """Return the columns of the ends of intervals in CSV: those of each target in turn."""
    if task.kind not in ("regression", "forecast"):
        return []
    return [f"{end}_{target.name}" for target in task.targets for end in ("low", "high")]


def prediction_columns(task: TaskSpec, top_k: int | None) -> list[str]:
    """Return the columns of a prediction in CSV."""
    values = [f"value_{target.name}" for target in task.targets]
    by_class = [f"probability_{name}" for name in task.class_names]
    ranked = [
        column if rank == 1 else f"{column}_{rank}"
        for rank in range(1, (top_k or 1) + 1)
        for column in ("label", "probability")
    ]
    return {
        "classification": [*ranked, *(by_class if top_k is None else ())],
        "multilabel": ["labels", *by_class],
        "regression": values,
        "forecast": ["step", *values],
        "seq2seq": ["text"],
        "embedding": [f"e{i}" for i in range(task.embedding_size)],
    }[task.kind]


def _cells(row: Row, head: Head) -> list[Any]:
    """Return the cells of a row."""
    keys = [row.get(name, "") for name in head.keys]
    ends = [f"{value:.9g}" for pair in interval_ends(row) for value in pair] if head.intervals else []
    return [row["input"], *keys, *prediction_cells(row, head.task, head.top_k), *ends]


def prediction_cells(row: Row, task: TaskSpec, top_k: int | None) -> list[Any]:
    """Return the cells of `prediction_columns`, with all digits of a float32."""
    cells: list[Any] = []
    kind = task.kind
    if kind == "classification" and top_k is not None:
        for item in row["top_k"]:
            cells += [item["label"], f"{item['probability']:.6f}"]
    elif kind in ("classification", "multilabel"):
        one = kind == "classification"
        cells += [row["label"], f"{row['probability']:.6f}"] if one else ["|".join(row["labels"])]
        cells += [f"{p:.6f}" for p in row["probabilities"].values()]
    elif kind == "seq2seq":
        cells.append(row["text"])
    elif kind == "embedding":
        cells += [f"{value:.8g}" for value in row["embedding"]]
    else:
        cells += [row["step"]] if kind == "forecast" else []
        values = row["values"].values() if "values" in row else [row["value"]]
        cells += [f"{value:.9g}" for value in values]
    return cells


def write_jsonl(rows: Iterable[Row], file: IO[str], head: Head) -> None:
    """Write one object per line."""
    for row in rows:
        file.write(to_json(row) + "\n")


def write_json(rows: Iterable[Row], file: IO[str], head: Head) -> None:
    """Write one object: the facts of ``head``, ``predictions``, and ``failed``.

    It is written row by row, in bounded memory.
    """
    start = to_json({"schema": SCHEMA, **head.facts})
    file.write(start[:-1] + ', "predictions": [')
    for number, row in enumerate(rows):
        file.write((",\n" if number else "\n") + to_json(row))
    file.write('\n], "failed": ' + to_json({"": head.failed})[len('{"": ') : -1] + "}\n")


WRITERS: dict[str, Callable[[Iterable[Row], IO[str], Head], None]] = {
    "table": write_table,
    "csv": write_csv,
    "json": write_json,
    "jsonl": write_jsonl,
}
