"""Train a run of a folder, in this process or in several, and report its result."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from dlcli.commands.train_session.granted import check_reach
from dlcli.commands.train_session.report import Screen, illustrate, report_result
from dlcli.config import LaunchConfig
from dlcli.runs.folder import RunFolder, command_now, resume_command
from dlcli.runs.locks import run_lock
from dlcli.runs.saved import SavedRun
from dlcli.settings import flat
from dlcli.subprocesses import child_command
from dlcli.trust import trusts_all

if TYPE_CHECKING:
    from dlcli.events import Emit
    from dlcli.training.distributed.world import World
    from dlcli.training.loop.job import Prune
    from dlcli.training.loop.state import TrainingState
    from dlcli.training.prepare import PreparedRun
    from dlcli.training.run import TrainResult

_REPEATED = {"fit.epochs", "fit.epochs_history"}
# The module of a rank's process, by name since it imports this one.
_RANK_MODULE = "dlcli.commands.train_session.worker"


def train_run(
    saved: SavedRun,
    screen: Screen,
    *,
    prepared: PreparedRun | None = None,
    launch: LaunchConfig | None = None,
) -> None:
    """Train a run from its last state, in this process or in several, and report its result.

    ``prepared`` is a new run's; by default it is made from the folder. ``launch`` replaces the run's own
    launch settings on this machine. Raises: DlcliError, Interrupted.
    """
    from dlcli.events import Noted
    from dlcli.training.distributed.ranks import check_machines, local_ranks, needs_launcher
    from dlcli.training.distributed.world import ALONE
    from dlcli.training.planning import read_plan
    from dlcli.ui.progress.sinks import progress_sink

    run, config = saved.folder, saved.config
    launch = launch or config.launch
    check_reach(config, launch)
    check_machines(launch, run.name)
    ranks = local_ranks(launch, config.fit.device)
    if ranks.notice:
        with progress_sink(screen.quiet, screen.as_json) as show:
            show(Noted(ranks.notice))
    if not needs_launcher(launch, ranks):
        train_here(saved, ALONE, screen, prepared=prepared)
        return

    from dlcli.training.distributed import launch as launching
    from dlcli.training.prepare import prepare_run

    if saved.changes:
        prepare_run(read_plan(saved, fresh=False))  # refuse bad changes before they are written
        saved = saved.resumed_at(_newest_step(run))
    with run_lock(run.path):
        saved.write_settings()  # the processes read them from the folder
        _note_resume(run)
    flags = [*screen.flags, *(["--trust"] if trusts_all() else [])]
    try:
        command = child_command(_RANK_MODULE, str(run.path), *flags)
        launching.launch(run, launch, ranks, command, resume=resume_command(run))
    finally:
        _show_cursor()


def train_here(
    saved: SavedRun, world: World, screen: Screen, *, prepared: PreparedRun | None = None
) -> None:
    """Train a run in this process, which may be one of several; the main one shows and reports.

    Raises: DlcliError, Interrupted.
    """
    from dlcli.events import Warned, ignore
    from dlcli.ui.progress.sinks import progress_sink

    with ExitStack() as stack:
        show: Emit = ignore
        if world.main:
            lock_warning = stack.enter_context(run_lock(saved.folder.path))
            show = stack.enter_context(progress_sink(screen.quiet, screen.as_json))
            if lock_warning:
                show(Warned(lock_warning))
        result = train_saved(saved, world, show, prepared=prepared)
        plots = illustrate(result, show) if world.main else []
    if world.main or result.fit.signum is not None:
        report_result(result, plots, saved.config, screen)


def train_saved(
    saved: SavedRun,
    world: World,
    show: Emit,
    *,
    prepared: PreparedRun | None = None,
    prune: Prune | None = None,
) -> TrainResult:
    """Train a run of a folder from its last state, with its log and all that its settings enable.

    ``prepared`` is a new run's; by default it is made from the folder. ``prune`` is that of
    `dlcli.training.run.train`. The main process holds the run's lock. Raises: DlcliError, Interrupted.
    """
    from dlcli.events import Noted, Warned
    from dlcli.training.loop.state import load_state
    from dlcli.training.planning import read_plan
    from dlcli.training.prepare import prepare_run
    from dlcli.training.run import train
    from dlcli.ui.progress.metrics_log import truncate_events
    from dlcli.ui.progress.run_sinks import run_sinks

    run = saved.folder
    with ExitStack() as stack:
        state = None
        if prepared is None:
            # Rank 0 chooses: machines that share a disk may see different states.
            newest = world.run_on_main(lambda: _newest_state(run, show))
            state = None if newest is None else load_state(run.state / newest)
            saved = saved.resumed_at(0 if state is None else state.progress.step)
            prepared = prepare_run(read_plan(saved, fresh=state is None))
        if world.restarted_after:
            show(Warned(f"restarted: {world.restarted_after}"))
        if world.main:
            if saved.changes:
                show(Noted(f"settings that differ from before: {_changed_settings(saved)}"))
            for message in (*saved.edits, *_change_warnings(saved, state)):
                show(Warned(message))
            saved.write_settings()
            _note_resume(run, processes=world.size)
            truncate_events(run.metrics, 0 if state is None else state.progress.step)
        emit = show
        if world.main:
            emit = stack.enter_context(run_sinks(run, prepared.plan.config.fit, show))
        return train(prepared, run, emit, state=state, world=world, prune=prune)


def _note_resume(run: RunFolder, *, processes: int = 1) -> None:
    """Record the command that resumes a run, if it has begun before.

    Of several processes the launcher has recorded it: their own command lines are dlcli's.
    """
    if run.metrics.is_file() and processes == 1:
        run.update_record(resumed=[*run.read_record().get("resumed", []), command_now()])


def _newest_step(run: RunFolder) -> int:
    """The step of the newest undamaged state; 0 where there is none."""
    from dlcli.training.loop.state import load_newest

    state, _ = load_newest(run.state)
    return 0 if state is None else state.progress.step


def _newest_state(run: RunFolder, show: Emit) -> str | None:
    """The name of the newest undamaged state; each damaged one is a warning."""
    from dlcli.events import Warned
    from dlcli.training.loop.state import load_newest

    state, damaged = load_newest(run.state)
    for message in damaged:
        show(Warned(message))
    return None if state is None else state.path.name


def _changed_settings(saved: SavedRun) -> str:
    """List the settings that were typed, or changed in config.yaml: ``fit.epochs 2 -> 4``."""
    own = flat(saved.stored)
    return ", ".join(f"{key} {own[key]} -> {value}" for key, value in saved.changes.items())


def _change_warnings(saved: SavedRun, state: TrainingState | None) -> list[str]:
    """Warnings about the changed settings of a resumed run."""
    if state is None or not any(
        key in ("fit.epochs", "fit.max_steps") or key.startswith("optim.") for key in saved.changes
    ):
        return []
    return [
        f"the schedule is recomputed for the remaining steps: the first {state.progress.step} followed "
        "the old one, so the run differs from one that had the new settings from the start"
        + ("; its --config repeats both" if set(saved.changes) <= _REPEATED else "")
    ]


def _show_cursor() -> None:
    """Show the terminal's cursor, which a rank that was killed during a live view left hidden."""
    if os.isatty(2):
        os.write(2, b"\x1b[?25h")
