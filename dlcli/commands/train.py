"""``dlcli train``."""

from __future__ import annotations

from typing import Annotated

import typer

from dlcli.commands.options import Json, Quiet, RunsDir, Settings, Trust, takes_config
from dlcli.config import TrainConfig
from dlcli.errors import UsageError
from dlcli.runs.folder import DEFAULT_ROOT, find_run


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
    trust: Trust = False,
    runs_dir: RunsDir = DEFAULT_ROOT,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a model on your data.

    The result is a run folder with the best model, the training state, metrics and plots. Ctrl-C
    saves and stops; --resume last resumes.

    Examples:
        dlcli train --model cnn --data digits
        dlcli train --model resnet18 --data ./imgs --epochs 20 --patience 5
        dlcli train --resume last
    """
    from dlcli.commands.train_session.begin import begin_run, show_dry_run
    from dlcli.commands.train_session.folds import begin_folds, of_fold, resume_folds
    from dlcli.commands.train_session.granted import grant_reach
    from dlcli.commands.train_session.report import Screen
    from dlcli.commands.train_session.resume import resume_run
    from dlcli.runs.folds import FoldsFolder

    if resume is None and force:
        raise UsageError("--force is for --resume")
    screen = Screen(quiet, json_output)
    grant_reach(settings)
    data = settings.resolve().data
    all_folds = data.folds is not None and data.fold is None
    if resume is not None:
        if name is not None:
            raise UsageError("--name is for new runs; --resume already names one")
        if dry_run:
            raise UsageError("--dry-run is for new runs; --resume prints the plan of its run")
        group = FoldsFolder.find(resume, runs_dir)
        if group is not None:
            resume_folds(group, settings, screen)
        else:
            resume_run(find_run(resume, runs_dir), settings, screen, force=force)
    elif dry_run:
        show_dry_run(of_fold(settings, 1) if all_folds else settings, screen)
    elif all_folds:
        begin_folds(settings, name, runs_dir, screen)
    else:
        begin_run(settings, name, runs_dir, screen)
