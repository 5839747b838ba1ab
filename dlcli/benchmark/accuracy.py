"""Metrics of the rows of a benchmark: their workers predict the same samples, which are read once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlcli.benchmark.interleaved import InterleavedTimer
from dlcli.card import Card
from dlcli.config import BenchConfig, EvalConfig
from dlcli.data.base import Inputs
from dlcli.errors import DlcliError
from dlcli.evaluation.agreement import agreement_of
from dlcli.evaluation.eval_data import EvalData, eval_data
from dlcli.evaluation.evaluate import batches, default_batch_size
from dlcli.evaluation.metrics import default_monitor, make_counts
from dlcli.events import Emit, Warned
from dlcli.formats.base import Outputs
from dlcli.runs.folder import run_of
from dlcli.task import TaskSpec


@dataclass(frozen=True)
class EvalGroup:
    """Rows that are evaluated on the same encoded split; ``samples_key`` identifies its samples."""

    task: TaskSpec
    data: EvalData
    rows: list[int]
    samples_key: str

    def samples(self, count: int) -> Inputs:
        """Return ``count`` samples, evenly spaced, repeated where there are fewer.

        Where lengths vary, the first is of median length: batch 1 is timed on it.
        """
        total = len(self.data.reader)
        inputs, read = self.data.reader.read(
            np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))
        )
        if not len(read):
            raise DlcliError(f"none of the samples of the {self.data.split} split can be read")
        order = np.arange(len(read))
        names = [tensor.name for tensor in self.task.input.signature]
        if "lengths" in names:
            by_length = np.argsort(inputs[names.index("lengths")], kind="stable")
            median = by_length[len(by_length) // 2]
            order[[0, median]] = order[[median, 0]]
        rows = order[np.arange(count) % len(order)]
        return tuple(array[rows] for array in inputs)


@dataclass(frozen=True)
class RowMetrics:
    """Metrics of one row on its split.

    ``agreement`` is the share of predictions equal to those of the first row, None where that one is
    of other data.
    """

    metric: str
    metrics: dict[str, float]
    samples: int
    agreement: float | None
    error: str | None = None


def eval_groups(
    rows: Sequence[tuple[int, Path, Card]], config: BenchConfig, emit: Emit
) -> list[EvalGroup]:
    """Group rows by the split they are evaluated on; a row whose data is gone is in no group.

    No groups without ``config.accuracy``. Raises: DlcliError, UsageError when requested data or a
    requested split cannot be opened.
    """
    if not config.accuracy:
        return []
    eval_config = EvalConfig(
        data=config.data,
        data_dir=config.data_dir,
        split=config.split,
        workers=config.workers,
        offline=config.offline,
    )
    opened: dict[str, EvalData | None] = {}
    groups: dict[tuple[str, str], EvalGroup] = {}
    for number, path, card in rows:
        task = card.task.model_dump_json()
        run = run_of(path)
        folder = "" if run is None else str(run.path.resolve())
        source = "" if card.data is None else card.data.model_dump_json()
        key = f"{task}\0{folder}\0{source}"
        if key not in opened:
            opened[key] = _open(card, path, eval_config, emit)
        data = opened[key]
        if data is None:
            continue
        samples = hashlib.sha256("\0".join([source, *data.reader.samples.ids]).encode()).hexdigest()
        group = groups.setdefault((task, samples), EvalGroup(card.task, data, [], samples))
        group.rows.append(number)
    return list(groups.values())


def _open(card: Card, path: Path, config: EvalConfig, emit: Emit) -> EvalData | None:
    try:
        data = eval_data(card, path, config)
    except DlcliError as exc:
        if config.data is not None or config.split != "auto":
            raise
        emit(Warned(f"no metrics of {path}: {exc.message}"))
        return None
    for message in data.warnings:
        emit(Warned(message))
    return data


def evaluate_rows(
    timer: InterleavedTimer, groups: Sequence[EvalGroup], slots: Mapping[int, int], emit: Emit
) -> dict[int, RowMetrics]:
    """Return the metrics of every row in ``slots`` (row: worker), by the process that was timed."""
    metrics: dict[int, RowMetrics] = {}
    for group in groups:
        metrics |= _evaluate_group(timer, group, slots, emit)
    return metrics


def _evaluate_group(
    timer: InterleavedTimer, group: EvalGroup, slots: Mapping[int, int], emit: Emit
) -> dict[int, RowMetrics]:
    task, split = group.task, group.data.split
    rows = [n for n in group.rows if n in slots]
    counts = {n: make_counts(task) for n in rows}
    agreements = {n: _Agreement(task) for n in rows}
    errors: dict[int, str] = {}
    for inputs, indices in batches(group.data.reader, default_batch_size(task), split, emit):
        targets = group.data.reader.targets(indices)
        series = group.data.reader.series(indices)
        first: Outputs | None = None
        for n in rows:
            if n in errors:
                continue
            try:
                outputs = timer.predict(slots[n], inputs)
            except DlcliError as exc:
                errors[n] = f"{split}: {exc.message}"
                continue
            counts[n].update(outputs, targets, inputs, series)
            if n == 0:
                first = outputs
            if first is not None:
                agreements[n].add(first, outputs)
    metrics = {}
    for n in rows:
        if n in errors:
            metrics[n] = RowMetrics("", {}, 0, None, errors[n])
            continue
        agreement = None if 0 in errors else agreements[n].value()
        samples = counts[n].samples
        metrics[n] = RowMetrics(default_monitor(task), counts[n].metrics(), samples, agreement)
    return metrics


class _Agreement:
    """Share of predictions of two rows that are equal, over batches.

    Nearest neighbours are among all samples, so that embeddings are collected first.
    """

    def __init__(self, task: TaskSpec) -> None:
        self._task = task
        self._pairs: list[tuple[Outputs, Outputs]] = []
        self._shares: list[tuple[float, int]] = []

    def add(self, reference: Outputs, outputs: Outputs) -> None:
        if self._task.kind == "embedding":
            self._pairs.append((reference, outputs))
        elif (share := agreement_of(reference, outputs, self._task)) is not None:
            self._shares.append((share, len(outputs)))

    def value(self) -> float | None:
        if self._pairs:
            references, outputs = zip(*self._pairs, strict=True)
            return agreement_of(np.concatenate(references), np.concatenate(outputs), self._task)
        if not self._shares:
            return None
        shares, samples = zip(*self._shares, strict=True)
        return float(np.average(shares, weights=samples))
