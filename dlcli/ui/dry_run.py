"""The screen of ``dlcli train --dry-run``: plan, memory, schedule, time, and origins of settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dlcli import wording
from dlcli.settings import with_origins
from dlcli.ui import console as consoles
from dlcli.ui import text
from dlcli.ui.json_output import print_json
from dlcli.ui.plots.linechart import line_chart
from dlcli.ui.progress.lines import plan as plan_rows
from dlcli.ui.progress.sinks import progress_sink
from dlcli.ui.sections import Row, Section, print_sections

if TYPE_CHECKING:
    from dlcli.training.autotune.dry_run import DryRun, TimeEstimate
    from dlcli.training.autotune.lr_sweep import LrSweep
    from dlcli.training.plan import Plan

_WIDEST, _HEIGHT = 100, 9  # of the chart
_VALUE_WIDTH = 40


def show_plan(plan: Plan, origins: Mapping[str, str], *, quiet: bool, as_json: bool) -> None:
    """Try out a plan and print it. ``origins`` says where each setting comes from.

    Raises: UsageError, DlcliError as the run would.
    """
    from dlcli.training.autotune.dry_run import dry_run

    with progress_sink(quiet, as_json) as show:
        result = dry_run(plan, show)
    settings = with_origins(plan.config, result.plan.config, origins)
    if as_json:
        print_json(_facts(result, settings))
        return
    _print(result, settings)


def _facts(result: DryRun, settings: Mapping[str, tuple[Any, str]]) -> dict[str, Any]:
    """Return everything, JSON-ready."""
    event, plan, time = result.started, result.plan, result.time
    memory = asdict(result.memory)
    micro = memory.pop("micro")
    return {
        "command": "train",
        "dry_run": True,
        "data": {
            "data": event.data,
            "kind": event.kind,
            "task": event.task,
            "samples": event.samples,
            "classes": list(plan.task.class_names),
            "input_shape": list(event.input_shape),
        },
        "model": {
            "name": event.model,
            "weights_from": plan.weights_from,
            "params": event.params,
            "trainable_params": event.trainable_params,
            "macs": result.macs,
        },
        "device": {"name": event.device, "amp": event.amp, "processes": event.world_size},
        "memory_bytes": {
            **memory,
            "total": result.memory.total,
            "measured_peak": result.peak,
            "micro_batch": micro,
        },
        "steps": {
            "epochs": event.epochs,
            "per_epoch": event.steps_per_epoch,
            "total": event.total_steps,
            "batch_size": event.batch_size,
            "division": event.division,
        },
        "schedule": {
            "scheduler": event.scheduler,
            "points": [list(point) for point in result.schedule],
            "thaws": list(result.unfreeze_steps),
        },
        "time_s": {
            "timed_steps": list(time.steps),
            "training": time.training,
            "evaluation": time.evaluation,
            "total": time.total,
            "limit": time.limit,
        },
        "lr_sweep": None if plan.lr_sweep is None else plan.lr_sweep.to_dict(),
        "monitor": event.monitor,
        "notes": list(event.notes),
        "warnings": list(result.warnings),
        "settings": {
            key: {"value": value, "origin": origin} for key, (value, origin) in settings.items()
        },
    }


def _print(result: DryRun, settings: Mapping[str, tuple[Any, str]]) -> None:
    event = result.started
    rows = []
    for word, value in plan_rows(event):
        rows.append(Row(word, value))
        if word == "model":
            macs = f"{wording.plural(result.macs, 'multiply-add')} a sample"
            rows.append(Row("", f"{macs}, weights from {result.plan.weights_from}"))
    print_sections(
        [
            Section("plan (nothing is trained, nothing is written)", rows),
            Section("warnings", [Row("", value) for value in result.warnings]),
            Section(_memory_title(result), _memory_rows(result)),
            Section("time, estimated", _time_rows(result)),
        ]
    )
    _print_schedule(result)
    if result.plan.lr_sweep is not None:
        _print_sweep(result.plan.lr_sweep)
    _print_settings(settings)


def _print_settings(settings: Mapping[str, tuple[Any, str]]) -> None:
    """Print the settings that are not the general defaults, with their origins in one column."""
    shown = {
        key: (_value(value), source) for key, (value, source) in settings.items() if source != "default"
    }
    width = max((len(value) for value, _ in shown.values()), default=0)
    title = f"settings that are not the default ({len(settings) - len(shown)} more: --json)"
    rows = [Row(key, f"{value.ljust(width)}  {source}") for key, (value, source) in shown.items()]
    consoles.stdout().print()
    print_sections([Section(title, rows)])


def _memory_title(result: DryRun) -> str:
    layers = ", with all layers unfrozen" if result.unfreeze_steps else ""
    return f"memory of a training step on one device, from a trial step{layers}"


def _memory_rows(result: DryRun) -> list[Row]:
    memory = result.memory
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        f"state of {result.started.optimizer}": memory.optimizer,
        "averages": memory.averages,
        "batch": memory.batch,
        "activations": memory.activations,
    }
    nonzero = {name: size for name, size in parts.items() if size}
    width = max(len(_bytes(size)) for size in (*nonzero.values(), memory.total))
    notes = {"activations": f"  saved for the backward pass of {wording.plural(memory.micro, 'sample')}"}
    rows = [Row(name, _bytes(size).rjust(width) + notes.get(name, "")) for name, size in nonzero.items()]
    rows.append(Row("total", f"{_bytes(memory.total).rjust(width)}  plus temporary buffers of layers"))
    if result.peak is not None:
        rows.append(Row("measured peak", _bytes(result.peak).rjust(width)))
    return rows


def _time_rows(result: DryRun) -> list[Row]:
    time, event = result.time, result.started
    rows = [
        Row("step", _timed(time)),
        Row("training", f"{_short(time.training)} for {wording.plural(event.total_steps, 'step')}"),
        Row("evaluation", f"{_short(time.evaluation)}, after each epoch and at the end"),
    ]
    if time.limit is not None and time.total == time.limit:
        rows.append(Row("total", f"{_short(time.total)}, limited by --max-time"))
    else:
        rows.append(Row("total", _short(time.total)))
    config = result.plan.config.fit
    if config.compile != "none":
        rows.append(Row("", f"timed without --compile {config.compile}"))
    if event.world_size > 1:
        rows.append(Row("", "timed in one process: the all-reduce of gradients comes on top"))
    return rows


def _timed(time: TimeEstimate) -> str:
    low, *_, high = sorted(time.steps)
    middle = sorted(time.steps)[len(time.steps) // 2]
    return f"{_short(middle)} (median of {len(time.steps)}, {_short(low)} to {_short(high)})"


def _print_schedule(result: DryRun) -> None:
    event = result.started
    _print_chart(
        f"learning rate by step ({wording.count(event.steps_per_epoch)} an epoch)",
        result.schedule,
        label=lambda rate: f"{rate:.3g}",
        x_label=lambda step: wording.count(round(step)),
        marks=result.unfreeze_steps,
    )
    console = consoles.stdout()
    if event.scheduler == "plateau":
        console.print("  reductions depend on the metric", soft_wrap=True)
    if result.unfreeze_steps:
        steps = ", ".join(wording.count(step) for step in result.unfreeze_steps)
        console.print(f"  layers are unfrozen at step {steps}", soft_wrap=True)


def _print_sweep(sweep: LrSweep) -> None:
    """Plot the smoothed losses by rate; the divergent end of the sweep is clipped."""
    most = 1.2 * max(sweep.smoothed[:10])
    _print_chart(
        f"loss by learning rate; --lr auto chose {sweep.suggestion:g}",
        [(math.log10(r), min(loss, most)) for r, loss in zip(sweep.rates, sweep.smoothed, strict=True)],
        label=lambda loss: f"{loss:.3g}",
        x_label=lambda power: f"{10**power:.1e}",
        marks=[math.log10(sweep.suggestion)],
    )


def _print_chart(
    title: str,
    points: Sequence[tuple[float, float]],
    *,
    label: Callable[[float], str],
    x_label: Callable[[float], str],
    marks: Sequence[float],
) -> None:
    from rich.text import Text

    console = consoles.stdout()
    console.print()
    console.print(Text(title, "bold"))
    chart = line_chart(
        points,
        width=min(console.width - 2, _WIDEST),
        height=_HEIGHT,
        label=label,
        x_label=x_label,
        marks=marks,
        ascii_only=console.options.ascii_only,
    )
    for line in chart:
        console.print(f"  {line}", soft_wrap=True)


def _value(value: Any) -> str:
    """Return a setting's value as on the command line."""
    shown = (
        ",".join(map(str, value))
        if isinstance(value, Sequence) and not isinstance(value, str)
        else text.from_here(value)
        if isinstance(value, str)
        else value
    )
    return wording.shorten(wording.printable(str(shown)), _VALUE_WIDTH)


def _bytes(size: int) -> str:
    if size < 2**20:
        return f"{size / 2**10:.0f} KiB" if size >= 2**10 else f"{size} B"
    return f"{size / 2**20:.1f} MiB" if size < 10 * 2**20 else wording.memory(size / 2**20)


def _short(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 0.9995 else text.duration(seconds)
