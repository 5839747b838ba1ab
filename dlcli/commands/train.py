"""``dlcli train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.commands.options import Json, Quiet, RunsDir, Settings, takes_config
from dlcli.commands.running import resume_name, train_here, train_run
from dlcli.config import TrainConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.runs import DEFAULT_ROOT, RunFolder, find_run, list_runs
from dlcli.settings import flat, merge, nested, validate

if TYPE_CHECKING:
    from dlcli.engine.distributed.found import FoundGroup
    from dlcli.engine.plan import Plan

# What a resumed run may be told: nothing here changes what a step sees, but for what dividing changes.
_MAY_CHANGE = {
    "data.workers", "data.cache", "data.offline", "data.data_dir", "fit.epochs", "fit.max_steps",
    "fit.max_time", "fit.device", "fit.grad_accum_steps", "fit.grad_checkpointing", "fit.compile",
    "fit.patience", "fit.max_bad_steps", "fit.checkpoint_every", "fit.keep_states", "fit.keep_best",
    "fit.tensorboard", "fit.histograms", "fit.log_every", "launch.devices", "launch.nnodes",
    "launch.rdzv_endpoint", "launch.max_restarts", "launch.timeout_s",
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
    force: Annotated[
        bool, typer.Option("--force", help="Resume with settings that change what is learnt.")
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
        from dlcli.engine.distributed.found import found_group

        settings.resolve()
        run = find_run(resume, runs_dir)
        if _finished(run.read_record(), settings.said):
            _say_finished(run, run.read_record(), json_output)
            return
        changed = check_changes(run, settings.said, force=force)
        found = found_group()
        if found is not None:
            if changed:
                raise UsageError(
                    f"--resume under {found.launcher} takes the run's own settings",
                    hint="change them first without it: dlcli train --resume RUN --devices N ...",
                )
            _join_group(found, settings, name, runs_dir, quiet=quiet, as_json=json_output, resumed=run)
            return
        train_run(run, quiet=quiet, as_json=json_output, changed=changed)
        return
    if force:
        raise UsageError("--force is for --resume")
    if dry_run:
        from dlcli.engine.plan import make_plan
        from dlcli.ui.dryrun import show_plan

        plan = make_plan(settings.resolve)
        show_plan(plan, settings.origins(plan.recipe), as_json=json_output)
    elif not _joins(settings, name, runs_dir, quiet=quiet, as_json=json_output):
        run, plan = _new_run(settings, runs_dir, name, quiet, json_output)
        train_run(run, quiet=quiet, as_json=json_output, plan=plan)


def _joins(
    settings: Settings[TrainConfig], name: str | None, runs_dir: Path, *, quiet: bool, as_json: bool
) -> bool:
    """Train as one of several machines, or as one of the processes that another launcher started.

    Whether it was so; else this process is to train alone.
    """
    from dlcli.engine.distributed.found import found_group
    from dlcli.engine.distributed.ranks import check_machines, machines

    config = settings.resolve()
    found = found_group()
    if found is not None:
        _join_group(found, settings, name, runs_dir, quiet=quiet, as_json=as_json)
        return True
    check_machines(config.launch, name)
    if machines(config.launch) == (1, 1):
        return False

    from dlcli.engine.distributed.shared import launch_id, shared_run

    assert name is not None  # `check_machines` asks for it
    run, made = shared_run(
        runs_dir, name, launch_id(config), lambda root: _new_run(settings, root, name, quiet, as_json)[0]
    )
    if not made and run.read_record().get("status") == "finished":
        _say_finished(run, run.read_record(), as_json)
    else:
        train_run(run, quiet=quiet, as_json=as_json, launch=config.launch)
    return True


def _join_group(
    found: FoundGroup,
    settings: Settings[TrainConfig],
    name: str | None,
    runs_dir: Path,
    *,
    quiet: bool,
    as_json: bool,
    resumed: RunFolder | None = None,
) -> None:
    """Be a rank among processes of torchrun or srun; the first one makes the run or finds it again."""
    from dlcli.engine.distributed.worker import membership

    config = settings.resolve()
    found.adopt()

    def lead() -> str:
        if resumed is not None:
            return str(resumed.path)
        for run in reversed(list_runs(runs_dir)):
            if run.read_record().get("group") == found.key:
                return str(run.path)  # of an earlier life of this group
        run, _ = _new_run(settings, runs_dir, name, quiet, as_json)
        run.write_record({**run.read_record(), "group": found.key})
        return str(run.path)

    with membership(config.launch, config.fit.device) as world:
        run = RunFolder(Path(world.lead(lead)))
        train_here(run, world, quiet=quiet, as_json=as_json)


def _new_run(
    settings: Settings[TrainConfig], root: Path, name: str | None, quiet: bool, as_json: bool
) -> tuple[RunFolder, Plan]:
    """A run's folder and its plan, with what was "auto" in the settings looked for."""
    from dlcli.engine.auto.resolve import resolve_auto
    from dlcli.engine.plan import make_plan
    from dlcli.engine.training import new_run
    from dlcli.events import Warned
    from dlcli.ui.lr_plot import save_sweep
    from dlcli.ui.sinks import progress_sink
    from dlcli.ui.tensorboard import check_installed

    with progress_sink(quiet, as_json) as show:
        plan = make_plan(settings.resolve)
        if plan.config.fit.tensorboard:
            check_installed()
        plan = resolve_auto(plan, show)
        run = new_run(plan, root, name)
        if plan.lr_sweep is not None:
            try:
                save_sweep(run.plots / "lr.png", plan.lr_sweep)
            except DlcliError as exc:
                show(Warned(f"no plot: {exc.message}"))
    return run, plan


def check_changes(run: RunFolder, said: dict[str, Any], *, force: bool) -> dict[str, Any]:
    """What a resumed run is told that is new to it, as nested settings.

    Raises: UsageError with the differences when they change what is learnt, unless forced.
    """
    from dlcli.engine.plan import current_settings

    own = flat(validate(TrainConfig, current_settings(run)))
    told = flat(validate(TrainConfig, merge(current_settings(run), said)))
    changed = {key: told[key] for key in told if told[key] != own[key]}
    strange = [f"{key}: {own[key]} -> {told[key]}" for key in changed if key not in _MAY_CHANGE]
    if strange and not force:
        raise UsageError(
            f"--resume goes on with the run's own settings, and these differ: {'; '.join(strange)}",
            hint="leave them out, add --force to change the rest of the run, or start a new run from "
            f"its weights: --weights {run.best}",
        )
    return merge(*(nested(key, value) for key, value in changed.items())) if changed else {}


def _finished(record: dict[str, Any], said: dict[str, Any]) -> bool:
    if record.get("status") != "finished":
        return False
    told = merge({"fit": {}}, said)["fit"]
    return told.get(_what_goes_on(record)) is None


def _what_goes_on(record: dict[str, Any]) -> str:
    """The setting that lets a finished run train on: more epochs do not undo an early stop."""
    reason = "patience" if record.get("stopped_early") else record.get("reason")
    return {"patience": "patience", "steps": "max_steps", "time": "max_time"}.get(reason or "", "epochs")


def _say_finished(run: RunFolder, record: dict[str, Any], as_json: bool) -> None:
    from dlcli.ui.console import stdout
    from dlcli.ui.report import print_json

    if as_json:
        artifact = str(run.best)
        print_json({"command": "train", "run": run.name, "artifact": artifact, "status": "finished"})
    else:
        early = "stopped early" if record.get("stopped_early") else "is finished"
        option = f"--{_what_goes_on(record).replace('_', '-')} N"
        stdout().print(f"run {run.name} {early}: {run.best}", markup=False)
        stdout().print(f"to train on: dlcli train --resume {resume_name(run)} {option}", markup=False)
