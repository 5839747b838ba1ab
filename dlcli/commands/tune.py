"""``dlcli tune``."""

from __future__ import annotations

from typing import Annotated

import typer

from dlcli.commands.options import Json, Quiet, RunsDir, Settings, Trust, takes_config
from dlcli.config import TuneConfig
from dlcli.errors import UsageError
from dlcli.runs.folder import DEFAULT_ROOT

# Trials share one device, and the search has a time of its own.
_WITHOUT = (
    "fit.max_time",
    "data.workers",
    "launch.devices",
    "launch.nnodes",
    "launch.rdzv_endpoint",
    "launch.max_restarts",
    "launch.timeout_s",
)

# In --help-all: what is rather searched than set, or rarely set in a search.
_ADVANCED = (
    "model.pretrained",
    "model.weights",
    "model.freeze",
    "loss.name",
    "optim.optimizer",
    "optim.lr",
    "optim.scheduler",
    "augment.level",
    "fit.patience",
    "tune.cpus_per_trial",
    "tune.gpus_per_trial",
)


@takes_config(TuneConfig, without=_WITHOUT, advanced=_ADVANCED)
def command(
    settings: Settings[TuneConfig],
    *,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the study (default: tune-model-data).")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", metavar="last|STUDY", help="Go on with a study, or join it."),
    ] = None,
    trust: Trust = False,
    runs_dir: RunsDir = DEFAULT_ROOT,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search for settings that are better than a model's defaults.

    Every trial is a run of its own in the study's folder; the first has the default settings, and the
    best is compared with it on the same samples. Ctrl-C saves and stops; --resume STUDY goes on.

    Examples:
        dlcli tune --model cnn --data digits --trials 20
        dlcli tune --model mlp --data houses.csv --target price --sampler random
        dlcli tune --resume last --trials 40
    """
    from dlcli.commands.train_session.report import Screen
    from dlcli.commands.tune_session.begin import begin_study
    from dlcli.commands.tune_session.resume import resume_study
    from dlcli.commands.tune_session.work import check_installed, conduct

    check_installed()
    screen = Screen(quiet, json_output)
    if resume is None:
        conduct(begin_study(settings, name, runs_dir, screen), screen)
        return
    if name is not None:
        raise UsageError("--name is for new studies; --resume already names one")
    study = resume_study(resume, settings, runs_dir, screen)
    if study is not None:
        conduct(study, screen)
