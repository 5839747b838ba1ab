"""Train a run, in this process or in several, and report what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.config import LaunchConfig, TrainConfig
from dlcli.errors import DlcliError, Interrupted
from dlcli.runs.folder import DEFAULT_ROOT, RunFolder, as_typed, newest_run, resume_command
from dlcli.runs.locks import hold
from dlcli.runs.saved import SavedRun
from dlcli.subprocesses import child_command

if TYPE_CHECKING:
    from dlcli.events import Emit
    from dlcli.training.distributed.world import World
    from dlcli.training.loop.state import TrainingState
    from dlcli.training.prepare import PreparedRun
    from dlcli.training.run import TrainResult

# Its ``main(argv)`` is a rank. A name, since it imports this module.
_RANK_MODULE = "dlcli.commands.train_session.worker"


def train_run(
    saved: SavedRun,
    *,
    quiet: bool,
    as_json: bool,
    prepared: PreparedRun | None = None,
    launch: LaunchConfig | None = None,
) -> None:
    """Train a run from its last state, in this process or in several; then report.

    Without ``prepared`` it is read from the run's folder. ``launch`` is this machine's part, where
    that is not the run's own. Raises: DlcliError, Interrupted.
    """
    from dlcli.events import Noted
    from dlcli.training.distributed.ranks import check_machines, local_ranks, needs_launcher
    from dlcli.training.distributed.world import ALONE
    from dlcli.training.planning import read_plan
    from dlcli.ui.progress.sinks import progress_sink

    run, config = saved.folder, saved.config
    launch = launch or config.launch
    check_machines(launch, run.name)
    ranks = local_ranks(launch, config.fit.device)
    if ranks.notice:
        with progress_sink(quiet, as_json) as show:
            show(Noted(ranks.notice))
    if not needs_launcher(launch, ranks):
        train_here(saved, ALONE, quiet=quiet, as_json=as_json, prepared=prepared)
        return

    from dlcli.training.distributed import launch as launching
    from dlcli.training.prepare import prepare_run

    if saved.changes:
        prepare_run(read_plan(saved, fresh=False))  # before they are the run's own
    with hold(run.path):
        saved.write_settings()  # the processes read the folder alone
    flags = (*(["--quiet"] if quiet else []), *(["--json"] if as_json else []))
    try:
        command = child_command(_RANK_MODULE, str(run.path), *flags)
        launching.launch(run, launch, ranks, command, resume=resume_command(run))
    finally:
        _show_cursor()


def train_here(
    saved: SavedRun, world: World, *, quiet: bool, as_json: bool, prepared: PreparedRun | None = None
) -> None:
    """Train a run in this process, which may be one of several; the main one shows and reports."""
    from dlcli.events import Warned, ignore
    from dlcli.training.loop.state import load_state
    from dlcli.training.planning import read_plan
    from dlcli.training.prepare import prepare_run
    from dlcli.training.run import train
    from dlcli.ui.progress.metrics_log import truncate_events
    from dlcli.ui.progress.run_sinks import run_sinks
    from dlcli.ui.progress.sinks import progress_sink

    run = saved.folder
    with ExitStack() as stack:
        show: Emit = ignore
        if world.main:
            unlocked = stack.enter_context(hold(run.path))  # one writer
            show = stack.enter_context(progress_sink(quiet, as_json))
            if unlocked:
                show(Warned(unlocked))
        state = None
        if prepared is None:
            # One choice for all: a disk that several machines share may show them different states.
            newest = world.run_on_main(lambda: _newest(run, show))
            state = None if newest is None else load_state(run.state / newest)
            prepared = prepare_run(read_plan(saved, fresh=state is None))
        if world.restarted_after:
            show(Warned(f"started again: {world.restarted_after}"))
        if world.main:
            for message in _changes_told(saved, state):
                show(Warned(message))
            saved.write_settings()
            truncate_events(run.metrics, 0 if state is None else state.progress.step)
        emit = show
        if world.main:
            emit = stack.enter_context(run_sinks(run, prepared.plan.config.fit, show))
        result = train(prepared, run, emit, state=state, world=world)
        plots = _draw(result, show) if world.main else []
    if world.main or result.fit.signum is not None:
        _report(result, plots, saved.config, as_json)


def _newest(run: RunFolder, show: Emit) -> str | None:
    """The name of the newest state that is whole."""
    from dlcli.events import Warned
    from dlcli.training.loop.state import load_newest

    state, damaged = load_newest(run.state)
    for message in damaged:
        show(Warned(message))
    return None if state is None else state.path.name


def _changes_told(saved: SavedRun, state: TrainingState | None) -> list[str]:
    """What a resumed run should know of its new settings."""
    if state is None or not any(
        key in ("fit.epochs", "fit.max_steps") or key.startswith("optim.") for key in saved.changes
    ):
        return []
    return [
        f"the schedule is built anew for what is left: the first {state.progress.step} steps followed "
        "the old one, so this is not the run that the new settings would have given from the start"
    ]


def _draw(result: TrainResult, emit: Emit) -> list[Path]:
    """The plots of a run that was not interrupted; one that fails costs a warning, not the result."""
    from dlcli.events import Warned
    from dlcli.ui.plots.run import save_curves, save_result

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
    which = "" if root == DEFAULT_ROOT and newest_run(root) == run else f" {as_typed(run.path)}"
    return f"dlcli eval{which}   dlcli predict{which} FILE   dlcli export{which} --onnx"


def _scores(result: TrainResult) -> list[tuple[str, str]]:
    """The metric that chose the best epoch, with the number of samples, and the loss."""
    from dlcli.ui.text import figure

    assert result.validation is not None
    metrics, monitor = result.validation.metrics, result.monitor
    rows = [(monitor, f"{figure(metrics[monitor])} on {result.validation.samples:,} samples")]
    return [*rows, ("loss", figure(metrics["loss"]))] if monitor != "loss" else rows


def _report(result: TrainResult, plots: list[Path], config: TrainConfig, as_json: bool) -> None:
    from dlcli.ui.json_output import print_json
    from dlcli.ui.tables import print_key_values

    run, progress = result.run, result.fit.progress
    if result.fit.signum is not None:
        raise Interrupted(
            f"interrupted at step {progress.step}; the state is saved in {run.state}",
            signum=result.fit.signum,
            hint=f"resume with: {resume_command(run)}",
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
                "reason": progress.reason or "epochs",
                "epochs": progress.epochs_begun,
                "steps": progress.step,
                "best_epoch": progress.best_epoch,
                "elapsed_s": round(progress.elapsed_s, 3),
                "skipped_steps": progress.skipped,
                "metrics": {"val": metrics},
                "bad_samples": result.bad_samples,
                "warnings": list(result.warnings),
                "plots": [str(plot) for plot in plots],
            }
        )
        return
    early = {
        "patience": ", stopped early",
        "steps": ", ended by --max-steps",
        "time": ", ended by --max-time",
    }.get(progress.reason, "")
    rows = [
        ("best epoch", f"{progress.best_epoch} of {progress.epochs_begun}{early}"),
        *((f"val {name}", value) for name, value in _scores(result)),
        *_test_note(config),
        ("model", str(run.best)),
        ("plots", f"{run.plots}{os.sep}{', '.join(p.name for p in plots)}" if plots else "none"),
        ("next", _next(run)),
    ]
    print_key_values(f"run {run.name}", rows)


def _test_note(config: TrainConfig) -> list[tuple[str, str]]:
    """That a test run was validated on what it learnt."""
    few = config.fit.overfit_batches
    return [("note", "a test: these are the training samples")] if few else []


def _show_cursor() -> None:
    """A process that was ended in the midst of a live view could not put its terminal in order."""
    if os.isatty(2):
        os.write(2, b"\x1b[?25h")
