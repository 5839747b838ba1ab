"""``dlcli train``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.commands.options import Json, Quiet, RunsDir, Settings, takes_config
from dlcli.config import TrainConfig
from dlcli.errors import DlcliError, Interrupted, UsageError
from dlcli.files import write_text
from dlcli.runs import DEFAULT_ROOT, RunFolder, find_run, newest_run
from dlcli.settings import dump_yaml, merge

if TYPE_CHECKING:
    from dlcli.engine.training import TrainResult
    from dlcli.events import Emit

# What a resumed run may be told: nothing here changes what was learned so far.
_MAY_CHANGE = {
    "data.workers", "data.cache", "data.offline", "data.data_dir", "fit.epochs", "fit.device",
    "fit.patience", "fit.checkpoint_every", "fit.keep_states", "fit.log_every",
}  # fmt: skip


@takes_config(TrainConfig)
def command(
    settings: Settings[TrainConfig],
    *,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the run (default: model-data).")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", metavar="last|RUN", help="Go on with a run; needs nothing else."),
    ] = None,
    runs_dir: RunsDir = DEFAULT_ROOT,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a model on your data.

    The result is a run folder with the best model, the training state, metrics and plots. Ctrl-C
    saves and stops; --resume last goes on.
    """
    if resume is not None:
        if name is not None:
            raise UsageError("--name is for new runs; --resume already names one")
        settings.resolve()
        _check_changes(settings.said)
        run = find_run(resume, runs_dir)
        record = run.read_record()
        if _finished(record, settings.said):
            _say_finished(run, record, json_output)
            return

    from dlcli.engine.plan import make_plan, read_plan
    from dlcli.engine.state import load_newest
    from dlcli.engine.training import check_settings, new_run, train
    from dlcli.events import Tee, Warned
    from dlcli.ui.jsonl import MetricsLog, truncate_events
    from dlcli.ui.sinks import progress_sink

    with progress_sink(quiet, json_output) as show:
        state = None
        if resume is None:
            plan = make_plan(settings.resolve)
            run = new_run(plan, runs_dir, name)
        else:
            state, damaged = load_newest(run.state)
            for message in damaged:
                show(Warned(message))
            plan = read_plan(run, changes=settings.said, fresh=state is None)
            check_settings(plan)
            write_text(run.config, dump_yaml(plan.config))  # what changed holds from here on
            truncate_events(run.metrics, 0 if state is None else state.progress.step)
        with MetricsLog(run.metrics) as log:
            result = train(plan, run, Tee((show, log)), state=state)
        plots = _draw(result, show)
    _report(result, plots, json_output)


def _check_changes(said: dict[str, Any]) -> None:
    for group, values in said.items():
        for key in values if isinstance(values, dict) else ():
            if f"{group}.{key}" not in _MAY_CHANGE:
                raise UsageError(
                    f"--resume goes on with the run's own settings; {group}.{key} cannot change",
                    hint="leave the option out, or start a new run with --weights",
                )


def _finished(record: dict[str, Any], said: dict[str, Any]) -> bool:
    more = merge({"fit": {}}, said)["fit"].get(_what_adds_epochs(record))
    return record.get("status") == "finished" and more is None


def _what_adds_epochs(record: dict[str, Any]) -> str:
    """The setting that lets a finished run train on: more epochs do not undo an early stop."""
    return "patience" if record.get("stopped_early") else "epochs"


def _say_finished(run: RunFolder, record: dict[str, Any], as_json: bool) -> None:
    from dlcli.ui.console import stdout
    from dlcli.ui.report import print_json

    if as_json:
        artifact = str(run.best)
        print_json({"command": "train", "run": run.name, "artifact": artifact, "status": "finished"})
    else:
        early = "stopped early" if record.get("stopped_early") else "is finished"
        option = f"--{_what_adds_epochs(record)} N"
        stdout().print(f"run {run.name} {early}: {run.best}", markup=False)
        stdout().print(f"to train on: dlcli train --resume {_resume_name(run)} {option}", markup=False)


def _resume_name(run: RunFolder) -> str:
    """What finds the run again from here."""
    root = run.path.parent
    return run.name if root == DEFAULT_ROOT else f"{run.name} --runs-dir {root}"


def _draw(result: TrainResult, emit: Emit) -> list[Path]:
    """The plots of a run that was not interrupted; one that fails costs a warning, not the result."""
    from dlcli.events import Warned
    from dlcli.ui.plots import save_curves, save_result

    if result.validation is None:
        return []
    run, validation = result.run, result.validation
    drawn: list[Path] = []
    draws: list[Callable[[], list[Path]]] = [
        lambda: [save_curves(run.plots / "curves.png", run.metrics)],
        lambda: save_result(run.plots, validation),
    ]
    for draw in draws:
        try:
            drawn += draw()
        except DlcliError as exc:
            emit(Warned(f"no plot: {exc.message}"))
    return drawn


def _next(run: RunFolder) -> str:
    """The commands that follow, which name the run unless it is the one they take by themselves."""
    root = run.path.parent
    which = "" if root == DEFAULT_ROOT and newest_run(root) == run else f" {run.path}"
    return f"dlcli eval{which}   dlcli predict{which} FILE   dlcli export{which} --onnx"


def _scores(result: TrainResult) -> list[tuple[str, str]]:
    """The metric that chose the best epoch, with the number of samples, and the loss."""
    from dlcli.ui.text import figure

    assert result.validation is not None
    metrics, monitor = result.validation.metrics, result.monitor
    rows = [(monitor, f"{figure(metrics[monitor])} on {result.validation.samples:,} samples")]
    return [*rows, ("loss", figure(metrics["loss"]))] if monitor != "loss" else rows


def _report(result: TrainResult, plots: list[Path], as_json: bool) -> None:
    from dlcli.ui.report import print_json
    from dlcli.ui.tables import print_key_values

    run, progress = result.run, result.fit.progress
    if result.fit.signum is not None:
        raise Interrupted(
            f"interrupted at step {progress.step}; the state is saved in {run.state}",
            signum=result.fit.signum,
            hint=f"go on with: dlcli train --resume {_resume_name(run)}",
        )
    assert result.validation is not None  # it is missing only after a signal
    metrics = result.validation.metrics
    if as_json:
        print_json(
            {
                "command": "train",
                "run": str(run.path),
                "artifact": str(run.best),
                "status": "finished",
                "stopped_early": progress.stopped_early,
                "epochs": progress.epoch,
                "steps": progress.step,
                "best_epoch": progress.best_epoch,
                "elapsed_s": round(progress.elapsed_s, 3),
                "metrics": {"val": metrics},
                "bad_samples": result.bad_samples,
                "warnings": list(result.warnings),
                "plots": [str(plot) for plot in plots],
            }
        )
        return
    early = ", stopped early" if progress.stopped_early else ""
    rows = [
        ("best epoch", f"{progress.best_epoch} of {progress.epoch}{early}"),
        *((f"val {name}", value) for name, value in _scores(result)),
        ("model", str(run.best)),
        ("plots", f"{run.plots}{os.sep}{', '.join(p.name for p in plots)}" if plots else "none"),
        ("next", _next(run)),
    ]
    print_key_values(f"run {run.name}", rows)
