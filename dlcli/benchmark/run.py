"""Benchmark of model files: latency, throughput, memory and metrics of each, measured interleaved."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dlcli.benchmark.accuracy import EvalGroup, RowMetrics, eval_groups, evaluate_rows
from dlcli.benchmark.backends import check_backend
from dlcli.benchmark.interleaved import InterleavedTimer
from dlcli.benchmark.raw import in_words, placeholder
from dlcli.benchmark.report import BenchmarkResult, BenchmarkRow, with_comparisons
from dlcli.benchmark.slot import RunSpec, Timing
from dlcli.card import Card
from dlcli.config import BenchConfig, parse_names
from dlcli.data.base import Inputs
from dlcli.data.prepare import random_inputs
from dlcli.errors import DlcliError
from dlcli.events import Emit, Noted, Warned, ignore
from dlcli.formats.base import FORMATS, ModelFile, recognize, require_extra, sniff_format
from dlcli.formats.onnx.raw import read_raw
from dlcli.runs.folder import RunFolder
from dlcli.transforms import ADOPTED, find_record


def artifacts_of(run: RunFolder, emit: Emit = ignore) -> list[Path]:
    """Return the files of a run's best model, in all formats, the original first.

    Not other epochs, files named .failed, sidecar files and, with a note, files of formats that this
    machine cannot run. A file with a format's suffix counts even if
    it cannot be read: its row says why.
    """
    suffixes = tuple(entry.suffix for _, entry in FORMATS.entries())
    paths = []
    for path in sorted(run.path.glob("best.*")):
        if path.suffix == ".failed":
            continue
        try:
            why = sniff_format(path).unrunnable()
        except DlcliError:
            if not path.name.endswith(suffixes):
                continue
            why = ""
        if why:
            emit(Noted(f"{path} is left out: {why}"))
            continue
        paths.append(path)
    if not paths:
        raise DlcliError(f"run {run.name} has no model yet: {run.best} does not exist")
    return sorted(paths, key=lambda path: path != run.best)


def benchmark(
    paths: Sequence[Path | ModelFile], config: BenchConfig, *, trust: bool = False, emit: Emit = ignore
) -> BenchmarkResult:
    """Measure every file, torch models once for each backend. Raises: UsageError, DlcliError.

    An ONNX file without a card is timed on random inputs. A row that fails has an ``error``; the others
    are measured all the same.
    """
    sizes = config.sizes
    backends = parse_names(config.backends)
    for backend in backends or ("",):
        check_backend(backend, config.device)
    known = [pair for path in paths for pair in _rows_of(path, backends, config.amp, emit)]
    rows = [row for row, _ in known]
    files = {number: file for number, (_, file) in enumerate(known) if file is not None}
    cards = {number: file.card for number, file in files.items() if not file.is_foreign}
    groups = eval_groups([(n, rows[n].path, card) for n, card in cards.items()], config, emit)
    inputs = _inputs(groups, cards, max(sizes))
    jobs = [
        (_spec(rows[n], file, config, trust), inputs.get(n) or placeholder(max(sizes)))
        for n, file in files.items()
    ]
    timer = InterleavedTimer(
        jobs,
        sizes,
        seconds=config.seconds,
        rounds=config.rounds,
        threads=config.threads,
        limit_s=config.time_limit,
        emit=emit,
    )
    with timer:
        timer.run()
        slots = {n: slot for slot, n in enumerate(files)}
        timings = timer.timings()
        alive = {n: slot for n, slot in slots.items() if timings[slot].error is None}
        metrics = evaluate_rows(timer, groups, alive, emit)
        own = {n: card for n, card in cards.items() if find_record(card.transforms, ADOPTED) is None}
        macs = _macs(timer, {n: slot for n, slot in alive.items() if n in own}, own, emit)
    for n, slot in slots.items():
        rows[n] = _measured(rows[n], timings[slot], metrics.get(n), macs.get(n))
    return BenchmarkResult(
        rows=tuple(with_comparisons(rows, groups, sizes)),
        batch_sizes=sizes,
        threads=timer.threads,
        seconds=config.seconds,
        rounds=config.rounds,
        split=", ".join(dict.fromkeys(group.data.split for group in groups)),
        inputs="real" if groups else "random",
        busy_cores=round(statistics.median(timer.busy_cores or [0.0]), 2),
        clock=timer.clock,
        doubt=timer.doubt,
    )


def _rows_of(
    path: Path | ModelFile, backends: Sequence[str], amp: str, emit: Emit
) -> list[tuple[BenchmarkRow, ModelFile | None]]:
    """Return the rows of a file with what is known before it runs; no file where it cannot be read."""
    named = path if isinstance(path, Path) else path.path
    size = named.stat().st_size if named.is_file() else 0
    name = ""
    try:
        file = recognize(path) if isinstance(path, Path) else path
        name = file.format.name
        require_extra(file.format)
        size = file.size
        if name == "onnx" and file.is_foreign:
            inputs, params = read_raw(named)
            emit(Warned(in_words(named, inputs)))
            return [(BenchmarkRow(named, name, "", "none", size, params=params), file)]
        params = file.card.params
    except DlcliError as exc:
        error = exc.message + (f" ({exc.hint})" if exc.hint else "")
        return [(BenchmarkRow(named, name, "", "none", size, error=error), None)]
    return [
        (BenchmarkRow(named, name, backend, amp if backend else "none", size, params=params), file)
        for backend in (backends if file.format.trainable else ("",))
    ]


def _spec(row: BenchmarkRow, file: ModelFile, config: BenchConfig, trust: bool) -> RunSpec:
    backend = row.backend or "eager"
    return RunSpec(file.content, backend, config.device, row.amp, trust, file.is_foreign)


def _inputs(groups: Sequence[EvalGroup], cards: Mapping[int, Card], count: int) -> dict[int, Inputs]:
    """Return the inputs each row is timed on: samples of its data, or noise; equal ones are shared."""
    inputs: dict[int, Inputs] = {}
    for group in groups:
        inputs |= dict.fromkeys(group.rows, group.samples(count))
    noise: dict[str, Inputs] = {}
    for number, card in cards.items():
        if number not in inputs:
            key = card.task.input.model_dump_json()
            if key not in noise:
                noise[key] = random_inputs(card.task, count)
            inputs[number] = noise[key]
    return inputs


def _macs(
    timer: InterleavedTimer, slots: Mapping[int, int], cards: Mapping[int, Card], emit: Emit
) -> dict[int, int]:
    """Return the multiply-adds by row; an architecture that several rows share is counted once."""
    counted: dict[str, int | None] = {}
    by_row = {}
    for number, slot in slots.items():
        card = cards[number]
        key = card.model_copy(update={"metrics": {}, "epoch": None, "parent": None}).to_json()
        if key not in counted:
            try:
                counted[key] = timer.macs(slot)
            except DlcliError as exc:
                emit(Warned(f"the multiply-adds of {card.model.name} are not known: {exc.message}"))
                counted[key] = None
        if (macs := counted[key]) is not None:
            by_row[number] = macs
    return by_row


def _measured(
    row: BenchmarkRow, timing: Timing, metrics: RowMetrics | None, macs: int | None
) -> BenchmarkRow:
    error = timing.error
    if error is None and timing.failed:
        error = "; ".join(f"batch {size}: {reason}" for size, reason in timing.failed.items())
    if metrics is None:
        return replace(row, timing=timing, macs=macs, error=error)
    return replace(
        row,
        timing=timing,
        macs=macs,
        metric=metrics.metric,
        metrics=metrics.metrics,
        agreement=metrics.agreement,
        samples=metrics.samples,
        error=error or metrics.error,
    )
