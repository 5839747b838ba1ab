"""The screen of `dlcli benchmark`, fitted to its width, and the results as CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.files import atomic_file
from dlcli.ui.console import stdout
from dlcli.ui.narrow import GAP
from dlcli.ui.parts import print_parts
from dlcli.ui.tables import print_key_values
from dlcli.ui.text import csv_cell, figure, milliseconds, rate
from dlcli.wording import memory, plural, printable, shorten, size

if TYPE_CHECKING:
    from dlcli.benchmark.report import BenchmarkResult, BenchmarkRow

NARROW = 100  # columns of a screen
NAME_WIDTH, SHORT_NAME = 36, 24
MISSING = "-"
UNKNOWN = "not known"
FIELDS = (
    "artifact", "format", "backend", "amp", "device", "provider", "threads", "size_bytes", "params",
    "macs", "metric", "value", "agreement", "samples", "startup_s", "peak_mib", "batch_size", "calls",
    "p50_ms", "p95_ms", "p99_ms", "throughput", "speedup", "speedup_low", "speedup_high", "clock",
    "doubt", "front", "error",
)  # fmt: skip


def names_of(rows: Sequence[BenchmarkRow]) -> list[str]:
    """Return names of the rows: file (with its folder if they differ), backend and precision."""
    folders = {row.path.resolve().parent for row in rows}
    names = []
    for row in rows:
        path = row.path.resolve()
        name = path.name if len(folders) == 1 else f"{path.parent.name}/{path.name}"
        variants = [row.backend] if row.backend not in ("", "eager") else []
        variants += [row.amp] if row.amp != "none" else []
        names.append(printable(", ".join([name, *variants])))
    return names


@dataclass(frozen=True)
class _Column:
    """A heading and the cells below it, one per row."""

    name: str
    cells: list[str]

    @property
    def width(self) -> int:
        return max(map(len, (self.name, *self.cells)))

    @property
    def empty(self) -> bool:
        return all(cell == MISSING for cell in self.cells)


def print_benchmark(result: BenchmarkResult, files: Mapping[str, Path | None]) -> None:
    """Print how it was measured, each row's size and accuracy, and its speed at each batch size."""
    rows = result.rows
    print_key_values("benchmark", [*_facts(result), *((n, str(p)) for n, p in files.items() if p)])
    digits = len(str(len(rows)))
    numbers = [str(number).rjust(digits) for number in range(1, len(rows) + 1)]
    width = stdout().width
    longest = NAME_WIDTH if width > NARROW else SHORT_NAME
    names = [shorten(name, longest) for name in names_of(rows)]
    labels = [f"{number}  {name}" for number, name in zip(numbers, names, strict=True)]
    _print_columns("models", labels, _costs(rows))
    room = width - 2 - max(map(len, labels))
    timed = {batch for row in rows if row.timing for batch in row.timing.speeds}
    for batch in (batch for batch in result.batch_sizes if batch in timed):
        columns = _speeds(rows, batch)
        fits = sum(column.width + GAP for column in columns) <= room
        _print_columns(f"batch {batch}, ms", labels if fits else numbers, columns)
    failed = [(number.strip(), row.error) for number, row in zip(numbers, rows, strict=True)]
    if result.failed:
        stdout().print()
        print_key_values("failed", [(number, why) for number, why in failed if why is not None])


def _facts(result: BenchmarkResult) -> list[tuple[str, str]]:
    """Return how the results were measured, and what the headings mean."""
    rows = result.rows
    devices = dict.fromkeys(row.timing.device for row in rows if row.timing and row.timing.device)
    inputs = "real samples" if result.inputs == "real" else "random noise"
    each = f"{result.seconds:g} s per row and batch size, in {result.rounds} interleaved rounds"
    facts = [
        ("device", ", ".join(devices) or MISSING),
        ("timed", f"the forward pass on prepared tensors of {inputs}; {each}"),
    ]
    facts += _load_facts(result)
    counts: dict[int, list[str]] = {}
    for number, row in enumerate(rows, 1):
        if row.metrics:
            counts.setdefault(row.samples, []).append(str(number))
    if counts:
        on = [
            plural(samples, "sample") + (f" ({', '.join(numbers)})" if len(counts) > 1 else "")
            for samples, numbers in counts.items()
        ]
        facts.append(("measured on", f"{', '.join(on)} of {result.split}"))
    if any(row.agreement is not None for row in rows[1:]):
        facts.append(("agreement", "share of samples with the prediction of row 1"))
    if len(rows) > 1:
        facts.append(("faster", "times as fast as row 1: median, and range over the rounds"))
    if any(row.front for row in rows):
        first = f"latency at batch {result.batch_sizes[0]}"
        facts.append(("best for", f"no other row is as good with less {first} (or size)"))
    return facts


def doubts_of(result: BenchmarkResult) -> list[str]:
    """Return why some speeds or ratios are not known, each reason once."""
    reasons = dict.fromkeys(
        doubt
        for row in result.rows
        for doubt in (
            *(speed.doubt for speed in (row.timing.speeds.values() if row.timing else ())),
            *(ratio.doubt for ratio in row.speedup.values()),
        )
        if doubt
    )
    return list(reasons)


def clock_note(result: BenchmarkResult) -> str:
    """Return the sentence on the clock where other programs had the cores, else nothing."""
    if result.clock != "cpu":
        return ""
    return f"CPU time of one thread: other programs used {result.busy_cores:.1f} cores"


def _load_facts(result: BenchmarkResult) -> list[tuple[str, str]]:
    note = clock_note(result)
    facts = [("clock", f"{note}, so it is not the time on the clock")] if note else []
    return facts + [("not known", doubt) for doubt in doubts_of(result)]


def _print_columns(title: str, labels: list[str], columns: list[_Column]) -> None:
    """Print the columns that have a cell, next to the rows' labels."""
    shown = [column for column in columns if not column.empty]
    rows = [[label, *(column.cells[i] for column in shown)] for i, label in enumerate(labels)]
    print_parts(title, ["", *(column.name for column in shown)], rows)


def _costs(rows: Sequence[BenchmarkRow]) -> list[_Column]:
    metric = next((row.metric for row in rows if row.metric), "accuracy")
    columns: dict[str, Callable[[BenchmarkRow], str]] = {
        "size": lambda row: size(row.size_bytes) if row.size_bytes else MISSING,
        "params": lambda row: _count(row.params),
        "MACs": lambda row: _count(row.macs),
        metric: lambda row: figure(row.metrics[row.metric]) if row.metrics else MISSING,
        "agreement": lambda row: MISSING if row.agreement is None else f"{row.agreement:.2%}",
        "memory": lambda row: _known(row, "peak_mib", memory),
        "start-up": lambda row: _known(row, "startup_s", lambda x: f"{x:.1f} s"),
        "best for": lambda row: ", ".join(row.front) or MISSING,
        "format": lambda row: row.format or MISSING,
    }
    return [_Column(name, [cell(row) for row in rows]) for name, cell in columns.items()]


def _speeds(rows: Sequence[BenchmarkRow], batch: int) -> list[_Column]:
    cells = []
    for number, row in enumerate(rows):
        speed = None if row.timing is None else row.timing.speeds.get(batch)
        if speed is None:
            cells.append(["failed", *[MISSING] * 4])
            continue
        ratio = row.speedup.get(batch)
        faster = MISSING
        if number and ratio is not None:
            faster = (
                f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})" if ratio.known else UNKNOWN
            )
        percentiles = [milliseconds(x) for x in (speed.p50_ms, speed.p95_ms, speed.p99_ms)]
        cells.append([*percentiles, rate(speed.throughput), faster])
    names = ("p50", "p95", "p99", "samples/s", "faster")
    return [_Column(name, [line[i] for line in cells]) for i, name in enumerate(names)]


def _count(value: int | None) -> str:
    """Format a large number: 11.2 M, 592 M, 1.81 G."""
    if not value:
        return MISSING
    for unit, divisor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= divisor:
            return f"{value / divisor:.3g} {unit}"
    return str(value)


def _known(row: BenchmarkRow, name: str, format_value: Callable[[float], str]) -> str:
    value = float("nan") if row.timing is None else float(getattr(row.timing, name))
    return format_value(value) if math.isfinite(value) else MISSING


def write_csv(path: Path, result: BenchmarkResult) -> None:
    """Write a line for each row and batch size; a row without timings has one line with its error.

    Raises: DlcliError when it cannot be written.
    """
    with atomic_file(path) as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        for row in result.rows:
            for line in _lines(row, result.threads):
                writer.writerow({name: csv_cell(value) for name, value in line.items()})


def _lines(row: BenchmarkRow, threads: int) -> list[dict[str, object]]:
    fields = row.to_dict()
    base = {name: fields[name] for name in FIELDS if name in fields and name not in ("speedup",)}
    base |= {
        "threads": threads,
        "value": row.metrics.get(row.metric),
        "front": " ".join(row.front),
    }
    lines: list[dict[str, object]] = []
    for batch, speed in ({} if row.timing is None else row.timing.speeds).items():
        ratio = row.speedup.get(batch)
        line = {
            "batch_size": batch,
            "calls": speed.calls,
            "p50_ms": speed.p50_ms,
            "p95_ms": speed.p95_ms,
            "p99_ms": speed.p99_ms,
            "throughput": speed.throughput,
            "clock": speed.clock,
            "doubt": speed.doubt or (ratio.doubt if ratio is not None else ""),
        }
        if ratio is not None:
            line |= {"speedup": ratio.median, "speedup_low": ratio.low, "speedup_high": ratio.high}
        lines.append({**base, **line})
    return lines or [base]
