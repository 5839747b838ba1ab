"""Summaries of run folders, from their files alone: without torch, and without their data.

A folder that cannot be read does not hide the others: its problems are part of its summary.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dlcli.config import TrainConfig
from dlcli.errors import DlcliError, UsageError, nearest
from dlcli.evaluation.metrics import EvalResult, default_monitor, directions
from dlcli.formats.base import read_card
from dlcli.runs.folder import FOLDS, RunFolder, list_runs, read_events
from dlcli.runs.measurements import Measurement, read_measurement, write_measurement
from dlcli.runs.saved import read_settings
from dlcli.runs.unfinished import parent_of, status_of

STATUSES = ("finished", "interrupted", "failed", "running", "stopped")
DEFAULTS = "default"  # the column that a single run is compared with


@dataclass(frozen=True)
class RunSummary:
    """One run. Unknown values are None, "" or NaN; ``problems`` say why.

    ``best`` is the value of ``monitor`` in epoch ``best_epoch``; ``metrics`` are all validation metrics
    of that epoch, whose model best.safetensors is, of ``best_bytes``. ``test`` are the metrics of that
    model on the test split, if it was evaluated there. ``elapsed_s`` is time spent on
    training. ``note`` is what somebody wrote about it. ``parent`` is the model that the run fine-tunes,
    "" for other runs. ``status`` is one of
    `STATUSES` or "unknown"; "stopped" is a run whose record says "running" while no process holds its
    lock: it was killed.
    """

    name: str
    path: str
    status: str = "unknown"
    model: str = ""
    data: str = ""
    task: str = ""
    monitor: str = ""
    best: float = math.nan
    best_epoch: int | None = None
    epochs_done: int = 0
    epochs: int | None = None
    params: int | None = None
    best_bytes: int | None = None
    elapsed_s: float = math.nan
    started_at: str = ""
    parent: str = ""
    note: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def summaries(root: Path) -> list[RunSummary]:
    """Summarise the runs in ``root``, oldest first, after folders of runs without run.json.

    Runs of a cross-validation have the name of its folder before theirs.
    Empty if ``root`` does not exist. Raises: DlcliError when ``root`` is not a folder.
    """
    if not root.exists():
        return []
    if not root.is_dir():
        raise DlcliError(f"{root} is a file, not a folder of runs", hint="give --runs-dir FOLDER")
    folders = [RunFolder(path) for path in sorted(root.iterdir()) if path.is_dir()]
    without_record = [run for run in folders if not run.record.is_file() and _was_a_run(run)]
    nested = [
        replace(summarise(run), name=f"{folder.name}/{run.name}")
        for folder in folders
        if (folder.path / FOLDS).is_file()
        for run in list_runs(folder.path)
    ]
    return [*nested, *map(summarise, (*without_record, *list_runs(root)))]


def summarise(run: RunFolder) -> RunSummary:
    """Summarise one run, as far as its files can be read."""
    problems: list[str] = []
    record: dict[str, Any] = {}
    events: list[dict[str, Any]] = []
    try:
        record = run.read_record()
    except DlcliError as exc:
        problems.append(exc.message)
    if run.metrics.exists():
        try:
            events = read_events(run.metrics)
        except DlcliError as exc:
            problems.append(exc.message)
    status = status_of(run, record)
    plan = _mapping(record.get("plan"))
    started, progress = _last(events, "RunStarted"), _progress(events)
    if not events and run.best.is_file():  # of `prune --epochs 0`: only its card has metrics
        try:
            card = read_card(run.best)
        except DlcliError as exc:
            problems.append(exc.message)
        else:
            metrics, monitor = card.metrics.get("val", {}), default_monitor(card.task)
            best = metrics.get(monitor, math.nan)
            progress |= {"metrics": metrics, "monitor": monitor, "best": best}
            data = "" if card.data is None else card.data.data
            started = {"data": data, "params": card.params}
    task = _mapping(plan.get("task")).get("kind")
    note = ""
    try:
        note = run.read_note()
    except DlcliError as exc:
        problems.append(exc.message)
    return RunSummary(
        name=run.name,
        path=str(run.path),
        status=status if status in STATUSES else "unknown",
        model=str(started.get("model") or _mapping(plan.get("model")).get("name") or ""),
        data=str(started.get("data") or ""),
        task=str(started.get("task") or task or ""),
        epochs=_whole(started.get("epochs")),
        params=_whole(started.get("params")),
        best_bytes=_size(run.best),
        started_at=str(record.get("started_at", "")),
        parent=parent_of(record),
        note=note,
        problems=tuple(problems),
        test=_test_metrics(run, _mapping(progress["metrics"])),
        **progress,
    )


def _test_metrics(run: RunFolder, validation: Mapping[str, float]) -> dict[str, float]:
    """The recorded metrics on the test split; none where they are of another model, or damaged."""
    one = read_measurement(run, evaluation_name("test"))
    if one is None or not is_of(one, validation):
        return {}
    return {k: _number(v) for k, v in _mapping(one.result.get("metrics")).items()}


def record_evaluation(
    run: RunFolder, validation: Mapping[str, float], result: EvalResult, command: str
) -> None:
    """Record what a run's best model reaches on a split, for `summarise` and the report.

    ``validation`` are its metrics on val, by which it is known that the model is still the same. Raises:
    DlcliError when it cannot be written.
    """
    name = evaluation_name(result.split)
    write_measurement(run, name, command=command, model=validation, result=asdict(result))


def evaluation_name(split: str) -> str:
    """The name of the measurement that is the evaluation of a run's best model on a split."""
    return f"eval-{split}"


def is_of(measurement: Measurement, validation: Mapping[str, float]) -> bool:
    """Whether it was measured of the best model, whose metrics on val are ``validation``."""
    own, theirs = (
        {name: value for name, value in metrics.items() if math.isfinite(value)}
        for metrics in (measurement.model, validation)
    )
    return own == theirs


def sort_by(runs: Sequence[RunSummary], metric: str) -> list[RunSummary]:
    """Sort by ``metric`` of the best epoch, best first; runs without it last. Raises: UsageError."""
    known = {name for run in runs for name in run.metrics}
    if metric not in known:
        raise UsageError(
            f"--sort {metric!r}: no run here has such a metric",
            hint=nearest(metric, known or directions()),
        )
    sign = -directions().get(metric, 1)

    def key(run: RunSummary) -> tuple[bool, float]:
        value = run.metrics.get(metric, math.nan)
        return (True, 0.0) if math.isnan(value) else (False, sign * value)

    return sorted(runs, key=key)


def differences(runs: Sequence[RunFolder]) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """The settings that differ between runs, by dotted key; and the problems of each run.

    Values are in the order of the runs; None where a run does not have the setting. The fingerprint of
    the data and versions count as settings. A single run is compared with the defaults, as the second
    value.
    """
    problems: dict[str, str] = {}
    default = flatten(TrainConfig().model_dump(mode="json"))
    # A run of an older version lacks newer settings: their defaults are what it was trained with.
    columns = [default | _settings_of(run, problems) for run in runs]
    if len(runs) == 1:
        groups = set(TrainConfig.model_fields)  # versions and data have no default
        columns = [{k: v for k, v in columns[0].items() if k.partition(".")[0] in groups}, default]
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = {key: [column.get(key) for column in columns] for key in keys}
    return {k: v for k, v in rows.items() if any(x != v[0] for x in v[1:])}, problems


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key to value; empty groups disappear."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _settings_of(run: RunFolder, problems: dict[str, str]) -> dict[str, Any]:
    """A run's settings, data, first weights and versions; errors go to ``problems``."""
    settings: dict[str, Any] = {}
    record: dict[str, Any] = {}
    try:
        record = run.read_record()
        settings = read_settings(run, record)
    except DlcliError as exc:
        problems[run.name] = exc.message.replace("--config ", "")
    content = {
        "data fingerprint": record.get("fingerprint"),
        "weights from": _mapping(record.get("plan")).get("weights_from"),
        "versions": _mapping(record.get("versions")),
    }
    return flatten({**settings, **{k: v for k, v in content.items() if v is not None}})


def _progress(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Progress and best metrics of a run, as fields of its summary."""
    epochs = [event for event in events if event.get("event") == "EpochDone"]
    finished = _last(events, "RunFinished")
    better = [event for event in epochs if event.get("improved") is True]
    best = better[-1] if better else {}
    metrics = {name: _number(value) for name, value in _mapping(best.get("val")).items()}
    monitor = str(best.get("monitor") or finished.get("monitor") or "")
    times = [_number(event.get("elapsed_s")) for event in events if "elapsed_s" in event]
    return {
        "monitor": monitor,
        "best": metrics.get(monitor, _number(finished.get("best"))),
        "best_epoch": _whole(best.get("epoch")) or _whole(finished.get("best_epoch")),
        "epochs_done": max((_whole(event.get("epoch")) or 0 for event in epochs), default=0),
        "elapsed_s": times[-1] if times else math.nan,
        "metrics": metrics,
    }


def _was_a_run(run: RunFolder) -> bool:
    return any(path.exists() for path in (run.config, run.metrics, run.best, run.state))


def _last(events: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next((event for event in reversed(events) if event.get("event") == kind), {})


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> float:
    known = isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**1000)
    return float(value) if known else math.nan  # type: ignore[arg-type]


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None
