"""What the files of a benchmark still know: their workers answer the same samples, read once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlcli.benchmark.interleaved import Turns
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
class Question:
    """A split, encoded in one way, and the rows that read it so. ``samples_key`` names its samples."""

    task: TaskSpec
    data: EvalData
    rows: list[int]
    samples_key: str

    def samples(self, count: int) -> Inputs:
        """``count`` samples, evenly spread and repeated where there are fewer.

        Where lengths vary, the first is of median length: it is what batch 1 is timed on.
        """
        total = len(self.data.reader)
        inputs, kept = self.data.reader.read(
            np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))
        )
        if not len(kept):
            raise DlcliError(f"none of the samples of the {self.data.split} split can be read")
        order = np.arange(len(kept))
        names = [tensor.name for tensor in self.task.input.signature]
        if "lengths" in names:
            by_length = np.argsort(inputs[names.index("lengths")], kind="stable")
            median = by_length[len(by_length) // 2]
            order[[0, median]] = order[[median, 0]]
        rows = order[np.arange(count) % len(order)]
        return tuple(array[rows] for array in inputs)


@dataclass(frozen=True)
class Found:
    """One row's figures on its split; ``agreement`` is with the first row, where both read it alike."""

    metric: str
    metrics: dict[str, float]
    samples: int
    agreement: float | None
    error: str | None = None


def questions(rows: Sequence[tuple[int, Path, Card]], config: BenchConfig, emit: Emit) -> list[Question]:
    """The splits to measure on; none with ``accuracy`` off. Rows whose data is gone are in none of them.

    Raises: DlcliError, UsageError when data or a split that was asked for is not there.
    """
    if not config.accuracy:
        return []
    wanted = EvalConfig(
        data=config.data,
        data_dir=config.data_dir,
        split=config.split,
        workers=config.workers,
        offline=config.offline,
    )
    opened: dict[str, EvalData | None] = {}
    found: dict[tuple[str, str], Question] = {}
    for number, path, card in rows:
        task = card.task.model_dump_json()
        run = run_of(path)
        where = "" if run is None else str(run.path.resolve())
        source = "" if card.data is None else card.data.model_dump_json()
        key = f"{task}\0{where}\0{source}"
        if key not in opened:
            opened[key] = _open(card, path, wanted, emit)
        data = opened[key]
        if data is None:
            continue
        samples = hashlib.sha256("\0".join([source, *data.reader.samples.ids]).encode()).hexdigest()
        question = found.setdefault((task, samples), Question(card.task, data, [], samples))
        question.rows.append(number)
    return list(found.values())


def _open(card: Card, path: Path, wanted: EvalConfig, emit: Emit) -> EvalData | None:
    try:
        data = eval_data(card, path, wanted)
    except DlcliError as exc:
        if wanted.data is not None or wanted.split != "auto":
            raise
        emit(Warned(f"no accuracy of {path}: {exc.message}"))
        return None
    for message in data.warnings:
        emit(Warned(message))
    return data


def ask_all(
    turns: Turns, asked: Sequence[Question], seats: dict[int, int], emit: Emit
) -> dict[int, Found]:
    """The figures of every row in ``seats`` (row: place in ``turns``), by the process that was timed."""
    found: dict[int, Found] = {}
    for question in asked:
        found |= _ask(turns, question, [n for n in question.rows if n in seats], seats, emit)
    return found


def _ask(
    turns: Turns, question: Question, rows: list[int], seats: dict[int, int], emit: Emit
) -> dict[int, Found]:
    task, split = question.task, question.data.split
    counts = {n: make_counts(task) for n in rows}
    answers: dict[int, list[Outputs]] = {n: [] for n in rows}
    same: dict[int, list[tuple[float, int]]] = {n: [] for n in rows}
    errors: dict[int, str] = {}
    whole = task.kind == "embedding"  # neighbours are looked for among all
    for inputs, kept in batches(question.data.reader, default_batch_size(task), split, emit):
        targets = question.data.reader.targets(kept)
        first: Outputs | None = None
        for n in rows:
            if n in errors:
                continue
            try:
                answer = turns.answers(seats[n], inputs)
            except DlcliError as exc:
                errors[n] = f"{split}: {exc.message}"
                continue
            counts[n].update(answer, targets, inputs)
            if n == 0:
                first = answer
            if whole:
                answers[n].append(answer)
            elif first is not None and (share := agreement_of(first, answer, task)) is not None:
                same[n].append((share, len(kept)))
    found = {}
    for n in rows:
        if n in errors:
            found[n] = Found("", {}, 0, None, errors[n])
            continue
        agreement = None
        if whole and 0 in rows and 0 not in errors:
            agreement = agreement_of(np.concatenate(answers[0]), np.concatenate(answers[n]), task)
        elif same[n]:
            shares, weights = zip(*same[n], strict=True)
            agreement = float(np.average(shares, weights=weights))
        metrics = counts[n].metrics()
        found[n] = Found(default_monitor(task), metrics, counts[n].samples, agreement)
    return found
