"""The program of a shipped folder: run on a sample in a process of its own, compared with `predict`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dlcli.data.kinds import ReadOptions, kind_of
from dlcli.deploy.parity import RAW_TOLERANCE
from dlcli.deploy.reference import ReferenceEvaluator
from dlcli.deploy.ship.sample_files import sample_argument
from dlcli.evaluation.predict import predict
from dlcli.files import temporary_folder
from dlcli.formats.base import ModelFile, open_artifact
from dlcli.subprocesses import describe_exit
from dlcli.task import TaskSpec
from dlcli.wording import one_line, shorten

_SOME = 16  # samples to find one that can be read
_WORDS = {"image": "image", "text": "text", "series": "series", "tabular": "row"}
_TIMEOUT_S = 300.0


def why_no_program(program: Path, model: ModelFile, reference: ReferenceEvaluator) -> str:
    """Why a program does not do what `predict` does with ``model``; "" where it does.

    It is asked about a sample of ``reference`` that can be read, of a table about a few rows.
    """
    raw = reference.raw_samples(_SOME)
    with temporary_folder() as folder:
        argument = None if raw is None else sample_argument(raw[1], reference.task, folder)
        if argument is None:
            return f"there is no {_WORDS.get(reference.task.input.kind, 'sample')} to try it on"
        shown = shorten(one_line(Path(argument).name), 40)
        try:
            done = subprocess.run(
                [sys.executable, "-P", str(program), argument],
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                check=False,
                timeout=_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return f"on {shown} it did not end within {_TIMEOUT_S:g} s"
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [""])[-1]
            return f"on {shown} it ended with {describe_exit(done.returncode)}: {last}"
        task = model.card.task
        artifact = open_artifact(model, device="cpu", trust=True)
        kind = kind_of(task)
        reader = kind.reader(kind.inputs([argument], task), task, ReadOptions())
        predictions = list(predict(artifact.predict, reader, task))
    printed = [json.loads(line) for line in done.stdout.splitlines()]
    if len(printed) != len(predictions):
        return f"on {shown} it prints {len(printed)} lines where predict has {len(predictions)} answers"
    for own, prediction in zip(printed, predictions, strict=True):
        if prediction.error:
            return f"predict cannot read {shown}: {prediction.error}"
        if not agrees(own, prediction.rows, task):
            pair = (own, prediction.rows[0])
            mine, theirs = ({k: v for k, v in one.items() if k != "input"} for one in pair)
            return f"on {shown} it says {mine} where predict says {theirs}"
    return ""


def agrees(
    own: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    task: TaskSpec,
    *,
    tolerance: float = RAW_TOLERANCE,
) -> bool:
    """Whether the answer of a program is that of `predict`, ``rows`` of one sample.

    ``tolerance`` is that of probabilities and vectors; of numbers times their size, at least their std.
    """
    if task.targets:
        names = [target.name for target in task.targets]
        return all(
            _close(
                own[target.name],
                [row["values"][target.name] if len(names) > 1 else row["value"] for row in rows],
                tolerance,
                target.std,
            )
            for target in task.targets
        )
    (row,) = rows
    if any(own[key] != row[key] for key in ("label", "labels") if key in own):
        return False
    keys = [key for key in ("probability", "probabilities", "embedding") if key in own]
    return all(_close(own[key], row[key], tolerance) for key in keys)


def _close(own: Any, known: Any, tolerance: float, std: float | None = None) -> bool:
    """Whether numbers differ by the tolerance at most; with a ``std`` relative to them or it."""
    a, b = (np.array(list(_numbers(value))) for value in (own, known))
    if a.shape != b.shape:
        return False
    scale = 1.0 if std is None else np.maximum(np.abs(b), std)
    return bool(np.all(np.abs(a - b) <= tolerance * scale))


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value)]
    yield from value if isinstance(value, list) else [value]
