"""``dlcli train``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlcli.commands.options import Json, Quiet, RunsDir, Settings, takes_config
from dlcli.commands.train_session.resume import is_finished, say_finished, with_changes
from dlcli.commands.train_session.run import train_here, train_run
from dlcli.config import TrainConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.runs.folder import DEFAULT_ROOT, RunFolder, find_run, list_runs, safe_name
from dlcli.runs.saved import read_run
from dlcli.settings import merge

if TYPE_CHECKING:
    from dlcli.training.distributed.external_launcher import ExternalGroup
    from dlcli.training.prepare import PreparedRun


@takes_config(TrainConfig)
def command(
    settings: Settings[TrainConfig],
    *,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the run (default: model-data).")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", metavar="last|RUN", help="Resume a run; needs no other options."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", hidden=True, help="Resume with settings that change the training.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show the plan: data, model, memory, schedule, time; train nothing."
        ),
    ] = False,
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
        if dry_run:
            raise UsageError("--dry-run is for new runs; a run's plan is printed when it goes on")
        run = find_run(resume, runs_dir)
        _go_on(run, settings, force=force, quiet=quiet, as_json=json_output)
    elif force:
        raise UsageError("--force is for --resume")
    elif dry_run:
        _show_plan(settings, quiet=quiet, as_json=json_output)
    else:
        _begin(settings, name, runs_dir, quiet=quiet, as_json=json_output)


def _go_on(
    run: RunFolder, settings: Settings[TrainConfig], *, force: bool, quiet: bool, as_json: bool
) -> None:
    """Train an old run on, unless there is nothing left to do."""
    from dlcli.training.distributed.external_launcher import external_group

    settings.resolve()  # what is no setting at all is refused also where the run is finished
    group = external_group()
    record = run.read_record()
    if is_finished(record, settings.overrides):
        if group is None or group.main:
            say_finished(run, record, as_json)
        return
    saved = with_changes(read_run(run), settings.overrides, force=force)
    if group is None:
        train_run(saved, quiet=quiet, as_json=as_json)
        return
    if saved.changes:
        raise UsageError(
            f"--resume under {group.launcher} takes the run's own settings",
            hint="leave the others out, or start a new run from its weights: --weights RUN",
        )
    _join_group(group, saved.config, lambda: run, quiet=quiet, as_json=as_json)


def _show_plan(settings: Settings[TrainConfig], *, quiet: bool, as_json: bool) -> None:
    """What a run with these settings would be."""
    from dlcli.training.planning import make_plan
    from dlcli.ui.dry_run import show_plan

    plan = make_plan(settings.resolve)
    show_plan(plan, settings.origins(plan.recipe), quiet=quiet, as_json=as_json)


def _begin(
    settings: Settings[TrainConfig], name: str | None, root: Path, *, quiet: bool, as_json: bool
) -> None:
    """Train a new run: here, as one of several machines, or in processes that somebody else started."""
    from dlcli.training.distributed.external_launcher import external_group
    from dlcli.training.distributed.ranks import check_machines, local_ranks, machine_range

    config = settings.resolve()

    def make(folder: Path) -> tuple[RunFolder, PreparedRun]:
        return _new_run(settings, folder, name, quiet, as_json)

    group = external_group()
    if group is not None:
        _refuse_launch(group, settings)
        _join_group(group, config, lambda: _run_of(group, root, make), quiet=quiet, as_json=as_json)
        return
    # What cannot be launched leaves no folder behind.
    check_machines(config.launch, name)
    local_ranks(config.launch, config.fit.device)
    if machine_range(config.launch) == (1, 1):
        run, prepared = make(root)
        train_run(read_run(run), quiet=quiet, as_json=as_json, prepared=prepared)
        return

    from dlcli.training.distributed.shared_folder import create_or_join_run, launch_id

    assert name is not None  # `check_machines` asks for it
    run, created = create_or_join_run(root, name, launch_id(config), lambda folder: make(folder)[0])
    saved = read_run(run)
    if not created and saved.record.get("status") == "finished":
        say_finished(run, saved.record, as_json)
    else:
        train_run(saved, quiet=quiet, as_json=as_json, launch=config.launch)


def _join_group(
    group: ExternalGroup,
    config: TrainConfig,
    find_run_folder: Callable[[], RunFolder],
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    """Be a rank among processes of torchrun or srun; the first one calls ``find_run_folder``."""
    from dlcli.training.distributed.ranks import local_ranks
    from dlcli.training.distributed.worker import joined_world

    here = int(group.variables["LOCAL_WORLD_SIZE"])
    if "," in config.launch.devices and local_ranks(config.launch, config.fit.device).count != here:
        raise UsageError(
            f"--devices {config.launch.devices} is not a device for each process: "
            f"{group.launcher} started {here} on this machine"
        )
    group.set_environment()
    with joined_world(config.launch, config.fit.device) as world:
        run = RunFolder(Path(world.run_on_main(lambda: str(find_run_folder().path))))
        train_here(read_run(run), world, quiet=quiet, as_json=as_json)


def _run_of(
    group: ExternalGroup, root: Path, make: Callable[[Path], tuple[RunFolder, PreparedRun]]
) -> RunFolder:
    """The run that this group began before it was restarted, or a new one."""
    for run in reversed(list_runs(root)):
        with suppress(DlcliError):  # a damaged record is that of another run
            if run.read_record().get("group") == group.key:
                return run
    run, _ = make(root)
    run.update_record(group=group.key)
    return run


def _refuse_launch(group: ExternalGroup, settings: Settings[TrainConfig]) -> None:
    """What was asked of a launcher must not be ignored where another one did the work."""
    typed = merge(settings.sets, settings.flags).get("launch", {})
    for key, flag in (
        ("devices", "--devices"),
        ("nnodes", "--nnodes"),
        ("rdzv_endpoint", "--rdzv-endpoint"),
        ("max_restarts", "--max-restarts"),
    ):
        # A list of devices still says which of them the processes use.
        if key in typed and not (key == "devices" and "," in str(typed[key])):
            raise UsageError(
                f"{flag} is for dlcli's own launcher, and {group.launcher} started these processes",
                hint=f"leave it out: {group.launcher} says how many there are",
            )


def _new_run(
    settings: Settings[TrainConfig], root: Path, name: str | None, quiet: bool, as_json: bool
) -> tuple[RunFolder, PreparedRun]:
    """Create a run's folder from the settings, with "auto" resolved."""
    from dlcli.events import Warned
    from dlcli.training.autotune.resolve import resolve_auto
    from dlcli.training.planning import make_plan
    from dlcli.training.prepare import prepare_run
    from dlcli.training.run import new_run
    from dlcli.ui.plots.lr_sweep import save_sweep
    from dlcli.ui.progress.sinks import progress_sink
    from dlcli.ui.progress.tensorboard import check_installed

    with progress_sink(quiet, as_json) as show:
        plan = make_plan(settings.resolve)
        if plan.config.fit.tensorboard:
            check_installed()
        prepared = prepare_run(resolve_auto(plan, show))
        run = new_run(prepared, root, name)
        if name is not None and run.name != safe_name(name):
            show(Warned(f"there is a run {safe_name(name)} already, so this one is {run.name}"))
        if prepared.plan.lr_sweep is not None:
            try:
                save_sweep(run.plots / "lr.png", prepared.plan.lr_sweep)
            except DlcliError as exc:
                show(Warned(f"no plot: {exc.message}"))
    return run, prepared
