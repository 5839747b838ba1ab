"""Sections about how a run came to be and what was made of it: files, data, model, settings, machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dlcli.config import TrainConfig
from dlcli.data.kinds import kind_of
from dlcli.errors import DlcliError
from dlcli.report.blocks import Block, Details, Facts, Notes, Section, Table
from dlcli.report.reading import Measured, RunFacts
from dlcli.report.records import Benchmark, BenchmarkRow, Change, Ratio, Side, SplitFacts
from dlcli.runs.folder import as_typed
from dlcli.settings import flat
from dlcli.task import TaskSpec
from dlcli.ui.text import duration, figure, milliseconds, signed, speed
from dlcli.wording import count, memory, plural, shorten, size

SETTING = 200  # characters of a value
CLASSES, LAYERS, SENTENCES = 100, 1000, 60  # rows of tables and lists; of others it says how many


def changes(facts: RunFacts) -> Section | None:
    """Before and after of each export, quantization and pruning, and the benchmark."""
    blocks: list[Block] = []
    for measured, change in facts.of(Change):
        blocks += _change(measured, change)
    for measured, benchmark in facts.of(Benchmark):
        blocks += _benchmark(measured, benchmark)
    return Section("files", "Exported, smaller and timed", blocks) if blocks else None


def _change(measured: Measured, change: Change) -> list[Block]:
    name = _file(change.output)
    lines = [*change.verdict, *([f"missed: {change.missed}"] if change.missed else [])]
    bad = bool(change.missed) or any(line.startswith(("DIFFERS", "WRONG")) for line in lines)
    notes: list[Block] = [Notes(lines, tone="bad" if bad else "")] if lines else []
    if measured.outdated:
        notes.append(Notes(["This was made of an older state of the model."], tone="warning"))
    method = f", {change.method}" if change.method else ""
    title = f"{measured.command}{method}: {name}"
    if change.before is None or change.after is None:
        return [Facts([(title, "not compared")]), *notes]
    before, after = change.before, change.after
    rows = [
        ["format", before.format, after.format, ""],
        [
            "size",
            size(before.size_bytes),
            size(after.size_bytes),
            _times(before.size_bytes, after.size_bytes),
        ],
        ["parameters", count(before.params), count(after.params), _times(before.params, after.params)],
    ]
    for metric in dict.fromkeys((change.metric, "loss", "ece")):
        if metric in before.metrics and metric in after.metrics:
            rows.append([metric, *_metrics(before, after, metric), _difference(change, metric)])
    if change.agreement is not None:
        rows.append(["agreement", "", f"{change.agreement:.2%}", ""])
    for batch, ratio in change.speedup.items():
        each = [f"{milliseconds(side.latency_ms.get(batch, math.nan))} ms" for side in (before, after)]
        rows.append([f"latency, batch {batch}", *each, _ratio(ratio)])
    on = f"measured on {count(change.samples)} samples of {change.split}" if change.split else ""
    clock = ""
    if change.clock == "cpu":
        clock = f"other programs used {change.busy_cores:.1f} cores: CPU time of one thread"
    note = "; ".join(part for part in (on, change.device, clock) if part)
    return [Table(title, ["", "before", "after", "change"], rows, note=note), *notes]


def _benchmark(measured: Measured, benchmark: Benchmark) -> list[Block]:
    batches = [str(batch) for batch in benchmark.batch_sizes]
    heads = ["file", "size", "metric", "agreement"]
    for batch in batches:
        heads += [f"ms, batch {batch}", "times as fast"]
    rows = [_timed(row, batches) for row in benchmark.rows]
    inputs = "real samples" if benchmark.inputs == "real" else "random noise"
    note = (
        f"Median of the forward pass on prepared tensors of {inputs}, in {benchmark.rounds} interleaved "
        f"rounds, {plural(benchmark.threads, 'thread')}; times as fast as the first row, with the range."
    )
    blocks: list[Block] = [Table("Benchmark", heads, rows, note=note)]
    failed = [f"{_file(row.artifact)}: {row.error}" for row in benchmark.rows if row.error]
    doubts = [benchmark.doubt] if benchmark.doubt else []
    if measured.outdated:
        doubts.append("It was measured of an older state of the model.")
    return [*blocks, *([Notes([*failed, *doubts], tone="warning")] if failed or doubts else [])]


def _timed(row: BenchmarkRow, batches: Sequence[str]) -> list[str]:
    name = ", ".join(
        [
            _file(row.artifact).rpartition("/")[2],
            *(v for v in (row.backend, row.amp) if v not in (None, "none")),
        ]
    )
    value = row.metrics.get(row.metric or "", math.nan)
    metric = "–" if math.isnan(value) else f"{row.metric} {figure(value)}"
    agreement = "–" if row.agreement is None else f"{row.agreement:.2%}"
    cells = [name, size(row.size_bytes), metric, agreement]
    for batch in batches:
        cells.append(milliseconds(row.latency_ms.get(batch, math.nan)))
        cells.append(_ratio(row.speedup[batch]) if batch in row.speedup else "–")
    return cells


def _metrics(before: Side, after: Side, metric: str) -> list[str]:
    return [figure(side.metrics[metric]) for side in (before, after)]


def _difference(change: Change, metric: str) -> str:
    assert change.before is not None
    assert change.after is not None
    if metric != change.metric:
        return signed(change.after.metrics[metric] - change.before.metrics[metric])
    low, high = change.interval
    known = math.isfinite(low) and math.isfinite(high)
    return signed(change.difference) + (f" ({signed(low)} to {signed(high)})" if known else "")


def _ratio(ratio: Ratio) -> str:
    if ratio.doubt or not math.isfinite(ratio.median):
        return f"not known{f': {ratio.doubt}' if ratio.doubt else ''}"
    return f"{ratio.median:.2f} x ({ratio.low:.2f} to {ratio.high:.2f})"


def _times(before: int, after: int) -> str:
    return "" if not before or before == after else f"x {after / before:.3g}"


def _file(path: str) -> str:
    """The last two parts of a path: folders are named alike on other machines, homes are not."""
    return "/".join(path.replace("\\", "/").rsplit("/", 2)[-2:])


def data(facts: RunFacts) -> Section | None:
    """What the data holds, how it was read, and what was found in it."""
    record, started = facts.record, facts.started
    known = record.data
    splits = known.splits or {
        name: SplitFacts(samples=number) for name, number in (started.samples if started else {}).items()
    }
    origin = known.origin or (started.data if started else "")
    rows = [("data", origin), ("kind", known.kind or (started.kind if started else ""))]
    rows += [("fingerprint", record.fingerprint or "")]
    blocks: list[Block] = [Facts([(name, value) for name, value in rows if value])]
    if splits:
        held = known.splits
        body = [
            [
                name,
                count(s.samples),
                ("given by the data" if s.given else "held out by dlcli") if held else "–",
            ]
            for name, s in splits.items()
        ]
        blocks.append(Table("Splits", ["split", "samples", "origin"], body, words=(2,)))
    blocks += _target_tables(splits)
    notes = list(dict.fromkeys([*record.notes, *(started.notes if started else ())]))
    if notes:
        blocks.append(Details(f"How it was read: {plural(len(notes), 'note')}", [Notes(_some(notes))]))
    if facts.warnings or record.warnings:
        warnings = list(dict.fromkeys([*record.warnings, *facts.warnings]))
        blocks.append(Notes(_some([f"warning: {line}" for line in warnings]), tone="warning"))
    if record.bad_samples:
        bad = [[shorten(n, 100), shorten(why, 200)] for n, why in record.bad_samples.items()]
        table = Table("Left out", ["sample", "reason"], bad[:CLASSES], words=(1,))
        title = f"{plural(len(bad), 'unreadable sample')} left out"
        blocks.append(Details(title, [table]))
    blocks += _encoders(facts)
    return Section("data", "Data", blocks) if splits or origin else None


def _target_tables(splits: dict[str, SplitFacts]) -> list[Block]:
    """Samples of each class, or quantiles of each target, by split."""
    classes = list(dict.fromkeys(name for one in splits.values() for name in one.classes))
    targets = [(split, *pair) for split, one in splits.items() for pair in one.targets.items()]
    if classes:
        heads = ["class", *splits]
        order = sorted(
            classes, key=lambda name: -sum(one.classes.get(name, 0) for one in splits.values())
        )
        rows = [
            [shorten(name, 60), *(count(one.classes.get(name, 0)) for one in splits.values())]
            for name in order[:CLASSES]
        ]
        note = f"The {CLASSES} largest of {count(len(order))}." if len(order) > CLASSES else ""
        table = Table("Samples of each class, the largest first", heads, rows, note=note)
        return [table] if len(rows) <= 12 else [Details(plural(len(order), "class"), [table])]
    if targets:
        names = list(targets[0][2])
        rows = [
            [
                f"{shorten(target, 60)}, {split}",
                *("–" if (v := values.get(n)) is None else figure(v) for n in names),
            ]
            for split, target, values in targets[:CLASSES]
        ]
        return [Table("Range of the targets, in the data's own units", ["target", *names], rows)]
    return []


def _encoders(facts: RunFacts) -> list[Block]:
    """How samples become tensors, as the model's card describes it."""
    if not facts.record.plan.task:
        return []
    try:
        task = TaskSpec.model_validate(facts.record.plan.task)
        description = kind_of(task).describe(task.input)
    except (DlcliError, ValueError):  # of another version, or damaged: the rest is shown
        return []
    blocks: list[Block] = [Facts(description.facts)] if description.facts else []
    for title, rows in description.tables:
        table = Table(
            title, ["", "how it is encoded"], [list(row) for row in rows[:CLASSES]], words=(1,)
        )
        blocks.append(table)
    return [Details("How samples become tensors", blocks)] if blocks else []


def model(facts: RunFacts) -> Section | None:
    """The model: its arguments, weights, size, and layers."""
    plan, summary, started = facts.record.plan, facts.summary, facts.started
    rows = [
        ("model", plan.model.name or summary.model),
        ("weights from", plan.weights_from),
        ("fine-tuned from", _file(plan.parent or "")),
        ("parameters", "" if summary.params is None else count(summary.params)),
        ("trainable", "" if started is None else count(started.trainable_params)),
        ("file", "" if summary.best_bytes is None else size(summary.best_bytes)),
        *((name, shorten(str(value), SETTING)) for name, value in plan.model.args.items()),
    ]
    blocks: list[Block] = [Facts([(name, value) for name, value in rows if value])]
    layers = [
        [
            one.path or "(the model)",
            one.type,
            ", ".join(
                f"{name} {' x '.join(map(str, dims)) or '1'}" for name, dims in one.shapes.items()
            ),
            count(one.params),
        ]
        for one in facts.record.layers[:LAYERS]
    ]
    if layers:
        table = Table("Layers", ["layer", "type", "tensors", "parameters"], layers, words=(1, 2))
        blocks.append(Details(plural(len(layers), "layer"), [table]))
    return Section("model", "Model", blocks) if rows[0][1] else None


def settings(facts: RunFacts) -> Section | None:
    """The settings that are not the default, with their origins, and all of them."""
    own = facts.started.settings if facts.started else {}
    if not own:
        return None
    defaults = flat(TrainConfig())
    origins = facts.record.origins
    changed = {k: v for k, v in own.items() if k in origins or v != defaults.get(k)}
    heads = ["setting", "value", "default", *(["origin"] if origins else [])]
    rows = [
        [key, _value(value), _value(defaults.get(key)), *([origins.get(key, "–")] if origins else [])]
        for key, value in changed.items()
    ]
    everything = [[key, _value(value)] for key, value in own.items()]
    table = Table("All settings", ["setting", "value"], everything, words=(1,))
    blocks: list[Block] = [
        Table("Settings that are not the default", heads, rows, words=(1, 2, 3))
        if rows
        else Notes(["Every setting is the default."]),
        Details(f"All {len(everything)} settings", [table]),
    ]
    return Section("settings", "Settings", blocks)


def environment(facts: RunFacts) -> Section:
    """Machine, versions, time, and the commands that made the run."""
    record, machine = facts.record, facts.record.machine
    started = facts.started
    rows = [
        ("device", record.device or (started.device if started else "")),
        ("precision", "" if started is None else started.amp.replace("none", "float32")),
        ("processes", count(record.world_size) if record.world_size else ""),
        ("processor", machine.cpu),
        ("cores", count(machine.cores) if machine.cores else ""),
        ("memory", memory(machine.memory_bytes / 2**20) if machine.memory_bytes else ""),
        ("system", machine.system),
        *record.versions.items(),
        ("git commit", record.git or ""),
        ("seed", "" if record.seed is None else str(record.seed)),
    ]
    blocks: list[Block] = [Facts([(name, value) for name, value in rows if value])]
    seconds = record.time.seconds
    total = sum(seconds.values())
    if total > 0:
        body = [[name, duration(part), f"{part / total:.0%}"] for name, part in seconds.items()]
        rate = record.time.samples_per_s
        note = "" if rate is None else f"{speed(rate)} samples a second in training"
        blocks.append(Table("Where the time went", ["phase", "time", "share"], body, note=note))
    commands = [(record.started_at, record.argv)]
    commands += [(one.started_at, one.argv) for one in record.resumed]
    commands += [(one.started_at, one.argv) for one in facts.measured if one.command != "train"]
    body = [[when(at), _typed(argv)] for at, argv in dict.fromkeys(commands) if argv]
    if body:
        blocks.append(Table("Commands", ["started (UTC)", "command"], body, words=(1,)))
    return Section("environment", "Machine and commands", blocks)


def when(started_at: str) -> str:
    """``2026-11-29 17:31``."""
    return started_at[:16].replace("T", " ")


def _typed(argv: Sequence[str]) -> str:
    """A command line as it is typed, with the program's name for its path."""
    program = argv[0].replace("\\", "/").rpartition("/")[2]
    return shorten(" ".join([program, *map(as_typed, argv[1:])]), 1000)


def _value(value: Any) -> str:
    return "–" if value is None else shorten(str(value), SETTING)


def _some(lines: Sequence[str]) -> list[str]:
    more = [f"and {len(lines) - SENTENCES:,} more"] if len(lines) > SENTENCES else []
    return [*(shorten(line, 1000) for line in lines[:SENTENCES]), *more]
