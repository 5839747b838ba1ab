"""The page of a study: its trials, the best one, and what each setting did, from its result.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from dlcli.errors import DlcliError
from dlcli.evaluation.folds import APART
from dlcli.files import read_json
from dlcli.report import charts, svg
from dlcli.report.blocks import Block, Facts, Figure, Figures, Notes, Page, Section, Table
from dlcli.report.records import StudyRecord, StudyResult, TrialFacts
from dlcli.tune.study import StudyFolder
from dlcli.ui.progress.study import second_text, value_text
from dlcli.ui.text import duration, figure, signed
from dlcli.wording import plural, shorten

_NAME, _VALUE = 40, 60  # characters of a setting and of its value
_AXIS, _SIDE, _TALL = 120, 24, 262  # of parallel coordinates, in units
_MOST_AXES = 10
_VERDICTS = {True: "better", False: "worse", None: "not significant"}


def study_page(folder: StudyFolder, written: str) -> Page:
    """Return the page of a study that has ended once. Raises: DlcliError for one without a result."""
    if not folder.result.is_file():
        raise DlcliError(
            f"{folder.path} has no result yet: its report is of a study that has ended",
            hint=folder.resume_command,
        )
    try:
        study = StudyRecord.model_validate(read_json(folder.record))
        result = StudyResult.model_validate(read_json(folder.result))
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DlcliError(f"{folder.path} cannot be shown: {where}: {first['msg']}") from exc
    sections = [
        _results(study, result),
        _pictures(study, result),
        _trials(study, result),
        _failed(result),
    ]
    return Page(
        title=folder.name,
        subtitle=f"A search on {study.data}, {study.task}, by {study.tune.sampler}. "
        f"{_against_default(study, result)}",
        tiles=_tiles(study, result),
        sections=[one for one in sections if one is not None],
        written=written,
    )


def _tiles(study: StudyRecord, result: StudyResult) -> list[tuple[str, str, str]]:
    monitor, tiles = study.monitor, list[tuple[str, str, str]]()
    if result.test is not None and monitor in result.test.metrics:
        value = figure(result.test.metrics[monitor])
        tiles.append((f"test {monitor}", value, plural(result.test.samples, "sample")))
    samples = plural(study.val_samples, "sample")
    tiles.append((f"{study.estimate} {monitor}", _figure(result.best.value), f"best trial, {samples}"))
    tiles.append(("trials", str(len(result.trials)), f"best: {result.best.name}"))
    tiles.append(("training", duration(sum(trial.seconds for trial in result.trials)), "all trials"))
    return tiles


def _against_default(study: StudyRecord, result: StudyResult) -> str:
    """Say whether the best trial is better than the default settings."""
    row = result.difference_from_default
    if result.best.number == 0:
        return "No trial is better than the default settings."
    if row is None or row.low is None or row.high is None:
        return "Its best trial is not compared with the default settings, which have not finished."
    words = {True: "better", False: "worse", None: "not significantly better"}[row.better]
    over = f"paired on {study.samples}"
    if study.folds is not None and study.task not in APART:
        over = f"paired on all {study.samples} together; the trials' values are means of folds"
    return (
        f"The best trial is {words} than the default settings: {signed(row.difference)} {study.monitor} "
        f"(95 % interval {signed(row.low)} to {signed(row.high)}, {over})."
    )


def _results(study: StudyRecord, result: StudyResult) -> Section:
    settings = [(key, shorten(value_text(value), _VALUE)) for key, value in result.best.settings.items()]
    test = "the data has no test split, so the figure that chose this trial is the only one"
    if result.test is not None:
        samples = plural(result.test.samples, "sample")
        metrics = ", ".join(f"{name} {figure(value)}" for name, value in result.test.metrics.items())
        test = f"on {samples} of the test split, which the search never saw: {metrics}"
    facts = [("best trial", result.best.name), ("model", result.best.model), *settings, ("test", test)]
    facts += [("best settings", result.best_config), ("file", result.artifact)]
    blocks: list[Block] = [Facts(facts)]
    notes = []
    if result.val_too_small and result.gain_by_chance is not None:
        notes.append(
            f"{study.samples} are few for so many trials: of as many equally good settings the best "
            f"would be ahead of the default by {figure(result.gain_by_chance)} by chance."
        )
    if result.damaged_lines:
        notes.append(f"{plural(result.damaged_lines, 'damaged line')} of the journal left out.")
    return Section("results", "Results", [*blocks, *([Notes(notes, tone="warning")] if notes else [])])


def _pictures(study: StudyRecord, result: StudyResult) -> Section:
    drawn = [_front(study, result), _history(study, result), _parallel(study, result)]
    blocks: list[Block] = [Figures([one for one in drawn if one is not None])]
    if result.importance:
        finished = sum(trial.status == "finished" for trial in result.trials)
        rows = [
            [shorten(key, _NAME), f"{100 * share:.0f} %", charts.share(share)]
            for key, share in result.importance.items()
        ]
        caption = "Importance of each setting"
        note = f"PED-ANOVA (arXiv:2304.10255) of {plural(finished, 'finished trial')}; adds up to 100 %."
        blocks.append(Table(caption, ["setting", "importance", ""], rows, note=note))
    return Section("search", "The search", blocks)


def _history(study: StudyRecord, result: StudyResult) -> Figure | None:
    """The metric of each trial, and the best so far."""
    kinds: dict[str, list[tuple[int, float]]] = {"finished": [], "pruned": []}
    for trial in result.trials:
        if trial.status in kinds and trial.value is not None:
            kinds[trial.status].append((trial.number, trial.value))
    if not kinds["finished"]:
        return None
    values = [value for points in kinds.values() for _, value in points]
    x = svg.Scale(-0.5, max(t.number for t in result.trials) + 0.5, svg.LEFT, svg.WIDTH - svg.RIGHT)
    y = svg.scale(values, svg.HEIGHT - svg.BOTTOM, svg.TOP)
    steps, best = list[tuple[float, float]](), None
    for number, value in kinds["finished"]:
        if best is not None:
            steps.append((x(number), y(best)))
        best = value if best is None or study.direction * (value - best) > 0 else best
        steps.append((x(number), y(best)))
    caption = f"{study.estimate} {study.monitor} of each trial"
    parts = [svg.axes(x, y, "trial", whole=True), svg.path(steps, "line c1")]
    for colour, points in zip(("c4", "c0"), (kinds["pruned"], kinds["finished"]), strict=True):
        parts.append(svg.dots([(x(at), y(value)) for at, value in points], colour))
    legend = [("c0", "finished"), ("c1", "best so far")]
    legend += [("c4", "pruned")] if kinds["pruned"] else []
    label = f"{caption}: from {figure(values[0])}, the best {_figure(best)}"
    return Figure(caption, svg.drawing(parts, label), label, legend)


def _front(study: StudyRecord, result: StudyResult) -> Figure | None:
    """The finished trials by both objectives; those that no other one beats are joined."""
    trials = [t for t in result.trials if t.status == "finished" and t.second is not None]
    if not study.second or not trials:
        return None
    points = {t.number: (t.second or 0.0, t.value or 0.0) for t in trials}
    x = svg.scale([at for at, _ in points.values()], svg.LEFT, svg.WIDTH - svg.RIGHT)
    y = svg.scale([value for _, value in points.values()], svg.HEIGHT - svg.BOTTOM, svg.TOP)
    places = {number: (x(at), y(value)) for number, (at, value) in points.items()}
    front = sorted(places[number] for number in result.front)
    others = [place for number, place in places.items() if number not in result.front]
    unit = {"latency": ", ms", "size": ", bytes"}.get(study.second, "")
    caption = f"{study.estimate} {study.monitor} against {study.second}{unit}"
    parts = [svg.axes(x, y, f"{study.second}{unit}"), svg.path(front, "line c0")]
    parts += [svg.dots(others, "c4"), svg.dots(front, "c0")]
    label = f"{caption}: {plural(len(front), 'trial')} that no other beats in both"
    legend = [("c0", "front"), ("c4", "others")]
    return Figure(caption, svg.drawing(parts, label), label, legend)


@dataclass(frozen=True)
class _Axis:
    """One axis of the parallel coordinates: positions from 0, at the bottom, to 1."""

    name: str
    places: dict[int, float]
    labels: dict[float, str]


def _parallel(study: StudyRecord, result: StudyResult) -> Figure | None:
    """Each trial as a line over one axis a setting and one of the metric; the best one stands out."""
    trials = [t for t in result.trials if t.status in ("finished", "pruned") and t.value is not None]
    keys = list(dict.fromkeys(key for trial in trials for key in trial.settings))[: _MOST_AXES - 2]
    if len(trials) < 2 or not keys:
        return None
    axes = [_axis(key, {t.number: t.settings.get(key) for t in trials}) for key in keys]
    if len({trial.model for trial in trials}) > 1:
        axes.insert(0, _axis("model", {t.number: t.model for t in trials}))
    axes.append(_axis(f"{study.estimate} {study.monitor}", {t.number: t.value for t in trials}))
    left = 60
    width = 2 * left + _AXIS * (len(axes) - 1)
    top, bottom = 46, _TALL - _SIDE

    def at(i: int, place: float) -> tuple[float, float]:
        return left + i * _AXIS, bottom - place * (bottom - top)

    parts = []
    for trial in sorted(trials, key=lambda t: t.number == result.best.number):
        number = trial.number
        points = [at(i, one.places[number]) for i, one in enumerate(axes) if number in one.places]
        is_best = number == result.best.number
        parts.append(svg.path(points, "line c1" if is_best else "others c0"))
    for i, one in enumerate(axes):
        x, _ = at(i, 0)
        parts.append(svg.line(x, bottom, x, top, "axis"))
        parts.append(svg.text(x, 12 if i % 2 else 26, shorten(one.name, 24), "label mid"))
        for place, name in one.labels.items():
            parts.append(svg.text(x + 4, at(i, place)[1] - 2, shorten(name, 14), "tick"))
    caption = "Settings of all trials"
    label = f"{caption}, {len(trials)} lines over {', '.join(one.name for one in axes)}"
    legend = [("c1", f"best: {result.best.name}"), ("c0", "others")]
    return Figure(
        caption, svg.drawing(parts, label, width=width, height=_TALL), label, legend, wide=True
    )


def _axis(name: str, values: dict[int, Any]) -> _Axis:
    """An axis of the values of trials; of numbers that differ by a large factor it is logarithmic."""
    known = {number: value for number, value in values.items() if value is not None}
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in known.values()):
        numbers = {k: float(v) for k, v in known.items() if math.isfinite(v)}
        low, high = min(numbers.values()), max(numbers.values())
        scale = svg.Scale(low, high, 0, 1, log=low > 0 and high > svg.LOG_RANGE * low)
        places = {k: 0.5 if low == high else scale(v) for k, v in numbers.items()}
        ends = {0.5: low} if low == high else {0.0: low, 1.0: high}
        return _Axis(name, places, {place: f"{value:.4g}" for place, value in ends.items()})
    names = list(dict.fromkeys(map(str, known.values())))
    where = {text: i / max(1, len(names) - 1) for i, text in enumerate(names)}
    return _Axis(name, {k: where[str(v)] for k, v in known.items()}, {p: t for t, p in where.items()})


def _trials(study: StudyRecord, result: StudyResult) -> Section:
    keys = list(dict.fromkeys(key for trial in result.trials for key in trial.settings))
    heads = [
        "trial",
        "status",
        "value",
        "difference from trial 0",
        "verdict",
        "model",
        *([study.second, "front"] if study.second else []),
        *keys,
        "epochs",
        "time",
    ]
    rows = [
        _row(trial, keys, _second(study, result, trial) if study.second else [])
        for trial in result.trials
    ]
    first = 8 if study.second else 6
    words = (1, 4, 5, *range(first - 1, first + len(keys)))
    note = "Differences are paired over the same samples, with their 95 % interval."
    return Section("trials", "Trials", [Table("Trials", heads, rows, words=words, note=note)])


def _second(study: StudyRecord, result: StudyResult, trial: TrialFacts) -> list[str]:
    """The cells of a second objective, and of whether no other trial beats this one in both."""
    value = math.nan if trial.second is None else trial.second
    return [second_text(study.second, value), "yes" if trial.number in result.front else ""]


def _row(trial: TrialFacts, keys: Sequence[str], second: Sequence[str]) -> list[str]:
    row, interval, verdict = trial.difference, "–", "–"
    if row is not None and row.low is not None and row.high is not None:
        interval, verdict = f"{signed(row.low)} to {signed(row.high)}", _VERDICTS[row.better]
    return [
        trial.name,
        trial.status,
        _figure(trial.value),
        interval,
        verdict,
        trial.model,
        *second,
        *(
            shorten(value_text(trial.settings[key]), _VALUE) if key in trial.settings else "–"
            for key in keys
        ),
        str(trial.epochs),
        duration(trial.seconds),
    ]


def _failed(result: StudyResult) -> Section | None:
    lines = [f"{t.name}: {t.reason}" for t in result.trials if t.status == "failed"]
    return Section("failed", "Failed", [Notes(lines, tone="warning")]) if lines else None


def _figure(value: float | None) -> str:
    return "–" if value is None else figure(value)
