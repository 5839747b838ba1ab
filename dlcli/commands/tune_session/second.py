"""The second objective of a study: measured of each trial, and at the end side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.errors import DlcliError
from dlcli.runs.folder import RunFolder
from dlcli.tune.objectives import COSTS
from dlcli.tune.study import Study

if TYPE_CHECKING:
    from dlcli.benchmark.report import BenchmarkRow
    from dlcli.tune.trials import Trial

_SECONDS, _ROUNDS = 0.3, 3  # of a trial
_IN_TURN_SECONDS, _IN_TURN_ROUNDS = 1.0, 5  # of each architecture at the end


def second_of(study: Study, runs: Sequence[RunFolder]) -> float:
    """Return the second objective of a trial's runs; NaN in a study without one.

    A metric is the mean over them, a cost that of the first one's model. Raises: DlcliError.
    """
    from dlcli.formats.base import read_card
    from dlcli.tune.trials import held_out

    name = study.second
    if not name:
        return math.nan
    if name not in COSTS:
        metrics = [
            read_card(r.best).metrics["val"] if study.folds is None else held_out(r) for r in runs
        ]
        values = [(own or {}).get(name, math.nan) for own in metrics]
        value = sum(values) / len(values)
    elif name == "size":
        value = float(runs[0].best.stat().st_size)
    else:
        row = _benchmark(runs[:1], _SECONDS, _ROUNDS)[0]
        value = _latency(row) if name == "latency" else float(row.macs or math.nan)
    if not math.isfinite(value):
        raise DlcliError(f"{name} of {runs[0].best} could not be measured")
    return value


def timed_together(study: Study, trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials with latencies that can be compared: each architecture timed once, in turn.

    Trials of one architecture get one latency: what differs between them is noise. Raises: DlcliError.
    """
    from dlcli.formats.base import read_card

    finished = [trial.number for trial in trials if trial.status == "finished"]
    if study.second != "latency" or len(finished) < 2:
        return list(trials)
    runs = {number: study.first_run(number) for number in finished}
    kinds = {number: read_card(run.best).model.model_dump_json() for number, run in runs.items()}
    first_of_kind = {kinds[number]: runs[number] for number in reversed(finished)}
    rows = _benchmark(list(first_of_kind.values()), _IN_TURN_SECONDS, _IN_TURN_ROUNDS)
    timed = dict(zip(first_of_kind, map(_latency, rows), strict=True))
    return [
        replace(trial, second=timed[kinds[trial.number]]) if trial.number in kinds else trial
        for trial in trials
    ]


def _benchmark(runs: Sequence[RunFolder], seconds: float, rounds: int) -> list[BenchmarkRow]:
    """Return the rows of the runs' best models. Raises: DlcliError where one fails."""
    from dlcli.benchmark.run import benchmark
    from dlcli.config import BenchConfig
    from dlcli.runs.saved import read_run

    device = read_run(runs[0]).config.fit.device
    config = BenchConfig(
        accuracy=False,
        batch_sizes="1",
        seconds=seconds,
        rounds=rounds,
        device=device if device.startswith("cuda") else "cpu",
    )
    # Code of the model's has run when it was trained.
    rows = benchmark([Path(run.best) for run in runs], config, trust=True).rows
    for row in rows:
        if row.error is not None:
            raise DlcliError(f"{row.path} could not be measured: {row.error}")
    return list(rows)


def _latency(row: BenchmarkRow) -> float:
    """Return the median latency of one sample in ms."""
    speed = None if row.timing is None else row.timing.speeds.get(1)
    return math.nan if speed is None else speed.p50_ms
