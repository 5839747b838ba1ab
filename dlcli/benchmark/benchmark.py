"""`dlcli benchmark`: files side by side, with what each costs and what each still knows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dlcli.benchmark.accuracy import Found, Question, ask_all, questions
from dlcli.benchmark.backends import check_backend
from dlcli.benchmark.interleaved import Candidate, Timing, Turns
from dlcli.benchmark.statistics import Ratio, paired, unbeaten
from dlcli.card import Card
from dlcli.config import BenchConfig, parse_names
from dlcli.data.base import Inputs
from dlcli.data.prepare import random_inputs
from dlcli.errors import DlcliError
from dlcli.evaluation.metrics import DIRECTIONS
from dlcli.events import Emit, Warned, ignore
from dlcli.formats.base import FORMATS, recognize, require_extra, sniff_format
from dlcli.runs.folder import RunFolder


@dataclass(frozen=True)
class Row:
    """A file, run in one way.

    ``macs`` are multiply-adds for one sample, None where the architecture cannot be counted.
    ``speedup`` is against the first row, by batch size; empty for a model of other data. ``front`` names
    the costs, "latency" of the first batch size and "size", for which no other row is as good in the
    metric and cheaper. ``error`` is the first thing that failed.
    """

    path: Path
    format: str
    backend: str  # of a torch model; empty for a file that brings its own way to run
    amp: str
    size_bytes: int
    params: int = 0
    macs: int | None = None
    metric: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    agreement: float | None = None
    samples: int = 0
    timing: Timing | None = None
    speedup: dict[int, Ratio] = field(default_factory=dict)
    front: tuple[str, ...] = ()
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        timing = self.timing
        speeds = {} if timing is None else timing.speeds
        return {
            "artifact": str(self.path),
            "format": self.format,
            "backend": self.backend or None,
            "amp": self.amp,
            "device": None if timing is None else timing.device,
            "size_bytes": self.size_bytes,
            "params": self.params,
            "macs": self.macs,
            "metric": self.metric or None,
            "metrics": self.metrics,
            "agreement": self.agreement,
            "samples": self.samples,
            "startup_s": None if timing is None else timing.startup_s,
            "peak_mib": None if timing is None else timing.peak_mib,
            "latency_ms": {str(size): speed.p50_ms for size, speed in speeds.items()},
            "throughput": {str(size): speed.throughput for size, speed in speeds.items()},
            "latency": {
                str(size): {
                    "p50_ms": speed.p50_ms,
                    "p95_ms": speed.p95_ms,
                    "p99_ms": speed.p99_ms,
                    "calls": speed.calls,
                    "rounds_ms": list(speed.rounds),
                }
                for size, speed in speeds.items()
            },
            "speedup": {str(size): asdict(ratio) for size, ratio in self.speedup.items()},
            "front": list(self.front),
            "error": self.error,
            "failed": {} if timing is None else {str(s): why for s, why in timing.failed.items()},
        }


@dataclass(frozen=True)
class BenchResult:
    """All rows, and how they were measured. ``split`` is empty where no accuracy was measured.

    ``busy_cores`` is how many cores other programs used meanwhile.
    """

    rows: tuple[Row, ...]
    batch_sizes: tuple[int, ...]
    threads: int
    seconds: float
    rounds: int
    split: str
    inputs: str  # "real" or "random"
    busy_cores: float = 0.0

    @property
    def failed(self) -> list[Row]:
        """The rows of which something is missing."""
        return [row for row in self.rows if row.error is not None]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "batch_sizes": list(self.batch_sizes),
            "threads": self.threads,
            "seconds": self.seconds,
            "rounds": self.rounds,
            "split": self.split or None,
            "inputs": self.inputs,
            "busy_cores": self.busy_cores,
            "rows": [row.to_dict() for row in self.rows],
            "failed": len(self.failed),
        }


def artifacts_of(run: RunFolder) -> list[Path]:
    """The model files of a run that are its best epoch in one format or another; the original first.

    Kept epochs, files named .failed and what lies beside a model are none. A file with a format's
    suffix counts even when it cannot be read: its row will say why.
    """
    suffixes = tuple(entry.suffix for _, entry in FORMATS.entries())
    found = []
    for path in sorted(run.path.glob("best.*")):
        if path.suffix == ".failed":
            continue
        try:
            sniff_format(path)
        except DlcliError:
            if not path.name.endswith(suffixes):
                continue
        found.append(path)
    if not found:
        raise DlcliError(f"run {run.name} has no model yet: {run.best} does not exist")
    return sorted(found, key=lambda path: path != run.best)


def benchmark(
    paths: Sequence[Path], config: BenchConfig, *, trust: bool = False, emit: Emit = ignore
) -> BenchResult:
    """Measure every file, torch models once for each backend. Raises: UsageError, DlcliError.

    A row that fails has an ``error``, and the others go on.
    """
    sizes = config.sizes
    backends = parse_names(config.backends)
    for backend in backends or ("",):
        check_backend(backend, config.device)
    drafts = [row for path in paths for row in _drafts(path, backends, config.amp)]
    good = [number for number, (row, _) in enumerate(drafts) if row.error is None]
    cards = {number: card for number, (_, card) in enumerate(drafts) if card is not None}
    asked = questions([(n, drafts[n][0].path, cards[n]) for n in good], config, emit)
    inputs = _inputs(asked, [cards[n] for n in good], good, max(sizes))
    jobs = [(_candidate(drafts[n][0], config, trust), inputs[n]) for n in good]
    with Turns(jobs, sizes, threads=config.threads, emit=emit) as turns:
        turns.run(seconds=config.seconds, rounds=config.rounds)
        timings = turns.timings()
        seats = {n: seat for seat, n in enumerate(good)}
        alive = [n for n in good if timings[seats[n]].error is None]
        found = ask_all(turns, asked, {n: seats[n] for n in alive}, emit)
        macs = _macs(turns, {n: seats[n] for n in alive}, cards, emit)
        threads, busy = turns.threads, turns.busy
    rows = [row for row, _ in drafts]
    for number in good:
        rows[number] = _measured(
            rows[number], timings[seats[number]], found.get(number), macs.get(number)
        )
    return BenchResult(
        rows=tuple(_compared(rows, asked, sizes)),
        batch_sizes=sizes,
        threads=threads,
        seconds=config.seconds,
        rounds=config.rounds,
        split=", ".join(dict.fromkeys(question.data.split for question in asked)),
        inputs="real" if asked else "random",
        busy_cores=round(statistics.median(busy), 2),
    )


def _drafts(path: Path, backends: Sequence[str], amp: str) -> list[tuple[Row, Card | None]]:
    """A file's rows with what is known before it runs."""
    size = path.stat().st_size if path.is_file() else 0
    name = ""
    try:
        file = recognize(path)
        name = file.format.name
        require_extra(file.format)
        card, size = file.card, file.size
    except DlcliError as exc:
        why = exc.message + (f" ({exc.hint})" if exc.hint else "")
        return [(Row(path, name, "", "none", size, error=why), None)]
    ways = backends if file.format.trainable else ("",)
    return [
        (Row(path, name, way, amp if way else "none", size, params=card.params), card) for way in ways
    ]


def _candidate(row: Row, config: BenchConfig, trust: bool) -> Candidate:
    return Candidate(row.path, row.backend or "eager", config.device, row.amp, trust)


def _inputs(
    asked: Sequence[Question], cards: Sequence[Card], numbers: Sequence[int], count: int
) -> dict[int, Inputs]:
    """What each row is timed on: samples of its data, or noise; rows that read alike share it."""
    found: dict[int, Inputs] = {}
    for question in asked:
        samples = question.samples(count)
        found |= dict.fromkeys(question.rows, samples)
    noise: dict[str, Inputs] = {}
    for number, card in zip(numbers, cards, strict=True):
        if number not in found:
            key = card.task.input.model_dump_json()
            if key not in noise:
                noise[key] = random_inputs(card.task, count)
            found[number] = noise[key]
    return found


def _macs(turns: Turns, seats: dict[int, int], cards: dict[int, Card], emit: Emit) -> dict[int, int]:
    """Multiply-adds by row; an architecture that several rows share is counted once."""
    counted: dict[str, int | None] = {}
    found = {}
    for number, seat in seats.items():
        card = cards[number]
        key = card.model_copy(update={"metrics": {}, "epoch": None, "parent": None}).to_json()
        if key not in counted:
            try:
                counted[key] = turns.macs(seat)
            except DlcliError as exc:
                emit(Warned(f"the multiply-adds of {card.model.name} are not known: {exc.message}"))
                counted[key] = None
        if (macs := counted[key]) is not None:
            found[number] = macs
    return found


def _measured(row: Row, timing: Timing, found: Found | None, macs: int | None) -> Row:
    error = timing.error
    if error is None and timing.failed:
        error = "; ".join(f"batch {size}: {why}" for size, why in timing.failed.items())
    if found is None:
        return replace(row, timing=timing, macs=macs, error=error)
    return replace(
        row,
        timing=timing,
        macs=macs,
        metric=found.metric,
        metrics=found.metrics,
        agreement=found.agreement,
        samples=found.samples,
        error=error or found.error,
    )


def _compared(rows: list[Row], asked: Sequence[Question], sizes: Sequence[int]) -> list[Row]:
    """The rows with their speed-up over the first, and the front among those that compare with it."""
    first = rows[0].timing
    data = {number: question.samples_key for question in asked for number in question.rows}
    for number, row in enumerate(rows):
        if first is None or row.timing is None:
            continue
        if data.get(number, data.get(0)) != data.get(0, data.get(number)):
            continue  # it does another job
        both = [size for size in sizes if size in first.speeds and size in row.timing.speeds]
        ratios = {size: paired(first.speeds[size], row.timing.speeds[size]) for size in both}
        rows[number] = replace(row, speedup=ratios)
    for group in _comparable(rows, asked):
        costs = {
            "latency": [_latency(rows[n], sizes[0]) for n in group],
            "size": [float(rows[n].size_bytes) for n in group],
        }
        for name, values in costs.items():
            points = [(_value(rows[n]), cost) for n, cost in zip(group, values, strict=True)]
            for n, best in zip(group, unbeaten(points), strict=True):
                if best:
                    rows[n] = replace(rows[n], front=(*rows[n].front, name))
    return rows


def _comparable(rows: Sequence[Row], asked: Sequence[Question]) -> list[list[int]]:
    """Rows that answered the same samples in the same metric."""
    groups: dict[tuple[str, str], list[int]] = {}
    for question in asked:
        for number in question.rows:
            if rows[number].metrics:
                groups.setdefault((rows[number].metric, question.samples_key), []).append(number)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def _value(row: Row) -> float:
    return row.metrics[row.metric] * DIRECTIONS[row.metric]


def _latency(row: Row, size: int) -> float:
    speed = None if row.timing is None else row.timing.speeds.get(size)
    return float("nan") if speed is None else speed.p50_ms
