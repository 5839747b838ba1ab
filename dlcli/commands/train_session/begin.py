"""Begin a run: in this process, as one of several machines, or among the ranks of torchrun or srun."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.commands.options import Settings
from dlcli.commands.train_session.granted import check_reach
from dlcli.commands.train_session.join import check_launch_settings, find_or_create_run, join_group
from dlcli.commands.train_session.report import Screen, report_finished
from dlcli.commands.train_session.run import train_run
from dlcli.config import TrainConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.runs.folder import RunFolder, run_of, safe_name
from dlcli.runs.saved import read_run, resume_changes
from dlcli.settings import merge, with_origins

if TYPE_CHECKING:
    from dlcli.data.base import DataSource
    from dlcli.events import Emit
    from dlcli.training.plan import Plan
    from dlcli.training.prepare import PreparedRun


def begin_run(
    settings: Settings[TrainConfig], name: str | None, root: Path, screen: Screen
) -> RunFolder:
    """Create a run below ``root`` and train it. Raises: DlcliError, Interrupted."""
    from dlcli.training.distributed.external_launcher import external_group
    from dlcli.training.request import check_request, open_requested

    config = settings.resolve()
    check_request(config)
    check_steps(settings)
    create = partial(create_prepared_run, settings, name=name, screen=screen)
    group = external_group()
    if group is not None:
        check_launch_settings(group, settings)
        return join_group(
            group,
            config,
            lambda: find_or_create_run(group, root, lambda folder: create(folder)[0]),
            screen,
        )
    # Mistakes in the settings and the data are errors before torch is imported, which takes seconds.
    source = open_requested(config)
    from dlcli.training.distributed.ranks import check_machines, local_ranks, machine_range

    # Checked here, so that settings that cannot be launched leave no folder.
    check_reach(config, config.launch)
    check_machines(config.launch, name)
    local_ranks(config.launch, config.fit.device)
    if machine_range(config.launch) == (1, 1):
        run, prepared = create(root, source=source)
        train_run(read_run(run), screen, prepared=prepared)
        return run

    from dlcli.training.distributed.shared_folder import create_or_join_run, launch_id

    assert name is not None  # `check_machines` requires it
    run, created = create_or_join_run(
        root, name, launch_id(config), lambda folder: create(folder, source=source)[0]
    )
    saved = read_run(run)
    if not created and saved.record.get("status") == "finished":
        report_finished(run, saved.record, screen)
    else:
        train_run(saved, screen, launch=config.launch)
    return run


def show_dry_run(settings: Settings[TrainConfig], screen: Screen) -> None:
    """Show the plan of a run with these settings, of folds that of the first. Raises: DlcliError."""
    from dlcli.training.request import open_requested

    config = settings.resolve()
    source = open_requested(config)
    check_reach(config, config.launch)
    from dlcli.training.planning import make_plan
    from dlcli.ui.dry_run import show_plan

    plan = make_plan(settings.resolve, source)
    data = plan.config.data
    if data.fold is not None:
        note = f"this is fold {data.fold} of {data.folds}, and each fold is a run of its own"
        plan = replace(plan, notes=(note, *plan.notes))
    show_plan(plan, settings.origins(plan.recipe), quiet=screen.quiet, as_json=screen.as_json)


def create_prepared_run(
    settings: Settings[TrainConfig],
    root: Path,
    *,
    name: str | None,
    screen: Screen,
    source: DataSource | None = None,
) -> tuple[RunFolder, PreparedRun]:
    """`prepare_new_run`, with its progress on the screen."""
    from dlcli.ui.progress.sinks import progress_sink

    with progress_sink(screen.quiet, screen.as_json) as show:
        return prepare_new_run(settings, root, name=name, show=show, source=source)


def prepare_new_run(
    settings: Settings[TrainConfig],
    root: Path,
    *,
    name: str | None,
    show: Emit,
    source: DataSource | None = None,
) -> tuple[RunFolder, PreparedRun]:
    """Plan and prepare a run, with "auto" resolved, and create its folder below ``root``.

    ``source`` is its data, where that is listed already. Raises: DlcliError.
    """
    from dlcli.events import Warned
    from dlcli.training.autotune.resolve import resolve_auto
    from dlcli.training.planning import make_plan
    from dlcli.training.prepare import prepare_run
    from dlcli.training.run import new_run
    from dlcli.ui.plots.lr_sweep import save_sweep
    from dlcli.ui.progress.tensorboard import check_installed

    for message in _not_repeated(settings):
        show(Warned(message))
    plan = make_plan(settings.resolve, source)
    if plan.config.fit.tensorboard:
        check_installed()
    prepared = prepare_run(resolve_auto(plan, show))
    run = new_run(prepared, root, name, _origins(settings, plan, prepared))
    if name is not None and run.name != safe_name(name):
        show(Warned(f"there is a run {safe_name(name)} already, so this one is {run.name}"))
    if prepared.plan.lr_sweep is not None:
        try:
            save_sweep(run.plots / "lr.png", prepared.plan.lr_sweep)
        except DlcliError as exc:
            show(Warned(f"no plot: {exc.message}"))
    return run, prepared


def check_steps(settings: Settings[TrainConfig]) -> None:
    """Raises: UsageError where a number of epochs and one of steps, which raises it, were both typed."""
    typed = merge(settings.sets, settings.flags).get("fit", {})
    least = settings.resolve().fit.min_steps
    if "epochs" in typed and "min_steps" in typed and least > 1:  # every run has one step
        raise UsageError(
            f"fit.min_steps = {least} raises the epochs where --epochs does not give their number",
            hint="leave one of them out",
        )


def _origins(settings: Settings[TrainConfig], plan: Plan, prepared: PreparedRun) -> dict[str, str]:
    """Where the settings that are not the default came from."""
    origins = settings.origins(plan.recipe)
    rows = with_origins(plan.config, prepared.plan.config, origins)
    return {key: origin for key, (_, origin) in rows.items() if origin != "default"}


def _not_repeated(settings: Settings[TrainConfig]) -> list[str]:
    """Warnings about ``--config`` of a run whose settings changed while it was trained."""
    run = run_of(Path(settings.file_name)) if settings.file_name else None
    changes = [] if run is None else resume_changes(run)
    if run is None or not changes:
        return []
    return [
        f"--config {settings.file_name}: run {run.name} was resumed with other settings "
        f"({'; '.join(changes)}); here the last ones hold from the start, so the two runs differ"
    ]
