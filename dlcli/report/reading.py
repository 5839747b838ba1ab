"""Read what a run folder holds, for its report. Everything is validated: a run may be another person's.

A file, or a part of one, that is damaged or of an unknown form is left out, and ``problems`` say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from dlcli.errors import DlcliError
from dlcli.evaluation.metrics import EvalResult
from dlcli.evaluation.run_summaries import RunSummary, is_of, summarise
from dlcli.events import EpochDone, Event, RunFinished, RunStarted, StepDone, Warned
from dlcli.report.records import Benchmark, Change, RunRecord
from dlcli.runs.folder import RunFolder, read_events
from dlcli.runs.measurements import Measurement, read_measurements

T = TypeVar("T")

MEASUREMENTS = 60  # the newest ones

_EVENTS: dict[str, TypeAdapter[Any]] = {}
_KINDS: tuple[type[Event], ...] = (EpochDone, RunFinished, RunStarted, StepDone, Warned)
_EVALUATIONS = ("train", "eval", "tune")
_CHANGES = ("export", "quantize", "prune")


@dataclass(frozen=True)
class Measured:
    """A measurement of a form that the page knows; ``outdated``: of a model that has changed since."""

    name: str
    command: str
    argv: tuple[str, ...]
    started_at: str
    outdated: bool
    result: EvalResult | Change | Benchmark


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run."""

    folder: RunFolder
    summary: RunSummary
    record: RunRecord
    epochs: tuple[EpochDone, ...] = ()
    steps: tuple[StepDone, ...] = ()
    started: RunStarted | None = None
    finished: RunFinished | None = None
    warnings: tuple[str, ...] = ()
    measured: tuple[Measured, ...] = ()
    problems: tuple[str, ...] = field(default=())

    def evaluations(self) -> dict[str, EvalResult]:
        """The evaluations of the run's best model as it is now, by split, test first."""
        own = {
            one.result.split: one.result
            for one in self.measured
            if isinstance(one.result, EvalResult) and not one.outdated
        }
        order = ("test", "val", "train")
        known = [split for split in order if split in own]
        return {split: own[split] for split in (*known, *(own.keys() - {*known}))}

    def of(self, kind: type[T]) -> list[tuple[Measured, T]]:
        """Measurements of a kind, oldest first."""
        return [(one, one.result) for one in self.measured if isinstance(one.result, kind)]


def read_facts(run: RunFolder) -> RunFacts:
    """Read a run's files, as far as that is possible. Raises: DlcliError where there is no run."""
    if not run.record.is_file():
        raise DlcliError(f"{run.path} holds no run: {run.record} does not exist")
    summary = summarise(run)
    problems = list(summary.problems)
    record = RunRecord()
    with suppress(DlcliError):  # the summary says what is wrong
        content = run.read_record()
        try:
            record = valid(RunRecord, content, str(run.record))
        except DlcliError as exc:
            problems.append(exc.message)
    events = _events(run, problems)
    files, damaged = read_measurements(run)
    measured = list(_measured(files[-MEASUREMENTS:], summary, problems))
    epochs = _of(events, EpochDone)
    begun = _of(events, RunStarted)
    ended = _of(events, RunFinished)
    return RunFacts(
        folder=run,
        summary=summary,
        record=record,
        # By number: an epoch that was repeated after a crash counts once, as it went last.
        epochs=tuple(one for _, one in sorted({one.epoch: one for one in epochs}.items())),
        steps=tuple(_of(events, StepDone)),
        started=begun[-1] if begun else None,
        finished=ended[-1] if ended else None,
        warnings=tuple(dict.fromkeys(one.message for one in _of(events, Warned))),
        measured=tuple(measured),
        problems=tuple(dict.fromkeys([*problems, *damaged])),
    )


def _events(run: RunFolder, problems: list[str]) -> list[Event]:
    """The events that the page shows; those of another form are counted as a problem."""
    if not run.metrics.is_file():
        return []
    try:
        lines = read_events(run.metrics)
    except DlcliError:  # the summary says so
        return []
    kinds = {kind.__name__: kind for kind in _KINDS}
    events, unknown = [], 0
    for line in lines:
        kind = kinds.get(str(line.get("event")))
        if kind is None:
            continue
        if kind.__name__ not in _EVENTS:
            _EVENTS[kind.__name__] = TypeAdapter(kind)
        try:
            event = _EVENTS[kind.__name__].validate_python(_with_nan(line))
        except ValidationError:
            unknown += 1
            continue
        if _countable(line):
            events.append(event)
        else:
            unknown += 1
    if unknown:
        problems.append(f"{run.metrics}: {unknown:,} events are not of the form that dlcli writes")
    return events


def _with_nan(line: Mapping[str, Any]) -> dict[str, Any]:
    """An event whose losses and metrics that were not finite, and are null in the file, are NaN."""
    nan = float("nan")
    out = {
        key: nan if value is None and key in ("loss", "best") else value for key, value in line.items()
    }
    if isinstance(val := out.get("val"), Mapping):
        out["val"] = {key: nan if value is None else value for key, value in val.items()}
    return out


def _of(events: Iterable[Event], kind: type[T]) -> list[T]:
    return [event for event in events if isinstance(event, kind)]


def _measured(
    files: Iterable[Measurement], summary: RunSummary, problems: list[str]
) -> Iterable[Measured]:
    forms: dict[str, Any] = dict.fromkeys(_EVALUATIONS, EvalResult)
    forms |= dict.fromkeys(_CHANGES, Change) | {"benchmark": Benchmark}
    for one in files:
        form = forms.get(one.command)
        if form is None:
            problems.append(f"measured/{one.name}.json is of an unknown command, {one.command!r}")
            continue
        try:
            result = valid(form, one.result, f"measured/{one.name}.json")
        except DlcliError as exc:
            problems.append(exc.message)
            continue
        outdated = not is_of(one, summary.metrics)
        yield Measured(one.name, one.command, one.argv, one.started_at, outdated, result)


def valid(form: type[T], content: Any, where: str) -> T:
    """Raises: DlcliError that names the first field that is not as it should be."""
    try:
        value = TypeAdapter(form).validate_python(content)
        if not _countable(content):
            raise ValueError("a whole number is larger than any that dlcli writes")
        if isinstance(value, EvalResult):
            _check_shares(value)
    except ValidationError as exc:
        first = exc.errors()[0]
        path = ".".join(map(str, first["loc"]))
        raise DlcliError(f"{where} is damaged: {path}: {first['msg'].lower()}") from exc
    except ValueError as exc:
        raise DlcliError(f"{where} is damaged: {exc}") from exc
    return value


def _countable(value: Any) -> bool:
    """Whether every whole number, at any depth, is one that a float holds."""
    if isinstance(value, int):
        return abs(value) <= 2**53
    if isinstance(value, Mapping):
        return all(map(_countable, value.values()))
    return all(map(_countable, value)) if isinstance(value, list) else True


def _check_shares(result: EvalResult) -> None:
    """Raises: ValueError for shares and counts that no evaluation gives; pictures are drawn of them."""
    shares = [part for row in result.per_class for part in (row.precision, row.recall)]
    shares += [part for one in result.reliability for part in (one.low, one.high, one.accuracy)]
    shares += [one.confidence for one in result.reliability]
    if result.task in ("classification", "multilabel"):
        shares.append(result.metrics.get("accuracy", 0.0))
    counts = [number for row in result.confusion for number in row]
    counts += [number for row in result.per_class for number in (row.samples, row.predicted)]
    counts += [result.samples, *(one.samples for one in result.reliability)]
    if not all(0 <= share <= 1 for share in shares):
        raise ValueError("a share is not between 0 and 1")
    if any(number < 0 for number in counts) or any(not one.samples for one in result.reliability):
        raise ValueError("a number of samples is negative, or a bin has none")
