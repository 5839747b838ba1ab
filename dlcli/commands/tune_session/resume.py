"""Go on with a study: what may change, and whether it is finished."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dlcli import __version__
from dlcli.commands.options import Settings
from dlcli.commands.train_session.granted import check_reach
from dlcli.commands.train_session.report import Screen
from dlcli.commands.tune_session.work import check_engine
from dlcli.config import TrainConfig, TuneConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.files import read_json
from dlcli.settings import flat, is_set, validate
from dlcli.tune.study import Study, find_study, read_study

# What a study that goes on may change: how long, and where.
_BUDGET = ("trials", "max_time", "workers", "engine", "cpus_per_trial", "gpus_per_trial")


def resume_study(text: str, settings: Settings[TuneConfig], root: Path, screen: Screen) -> Study | None:
    """Return the study to go on with; None where it is finished, which is shown.

    Raises: DlcliError for other data than it began with; UsageError for settings that would change it.
    """
    config = settings.resolve()  # unknown settings are an error for a finished study too
    study = _with_budget(read_study(find_study(text, root)), settings.overrides, config)
    from dlcli.events import Warned
    from dlcli.tune.journal import damage_note
    from dlcli.tune.trials import Trials
    from dlcli.ui.progress.sinks import progress_sink

    recorded = Trials(study)
    if note := damage_note(recorded.journal):
        with progress_sink(screen.quiet, screen.as_json) as show:
            show(Warned(note))
    trials = recorded.all()
    ended = all(trial.status not in ("running", "stopped") for trial in trials)
    if ended and len(trials) >= study.trials and study.folder.result.is_file():
        _report_finished(study, screen)
        return None
    check_engine(study.tune)
    _check_data(study)
    if study.version != __version__:
        with progress_sink(screen.quiet, screen.as_json) as show:
            show(
                Warned(
                    f"study {study.folder.name} was begun by dlcli {study.version}, and this is "
                    f"{__version__}: its next trials may differ from those before for that alone"
                )
            )
    study.write()
    return study


def _with_budget(study: Study, overrides: dict[str, Any], config: TuneConfig) -> Study:
    """Return the study with the budget that was typed. Raises: UsageError for any other setting."""
    changes: dict[str, Any] = {}
    own = flat(TuneConfig.model_validate({**study.settings, "tune": study.tune.model_dump()}))
    for key, value in flat(config).items():
        group, _, name = key.partition(".")
        if not is_set(overrides, key):
            continue
        if group == "tune" and name in _BUDGET:
            changes[name] = value
        elif value != own[key] and not (key == "data.data" and os.path.abspath(value) == own[key]):
            raise UsageError(
                f"--resume takes the study's own settings, and {key} = {value!r} is not one of them",
                hint="leave it out, or begin a new study; budgets, --workers and --engine may change",
            )
    return study.with_tune(changes) if changes else study


def _check_data(study: Study) -> None:
    """Raises: DlcliError where the data is missing or not that of the study."""
    from dlcli.training.request import open_requested

    model = next(iter(study.models))
    config = validate(TrainConfig, study.request(model))
    check_reach(config, config.launch)
    source = open_requested(config)
    if source.fingerprint != study.fingerprint:
        raise DlcliError(
            f"study {study.folder.name} cannot go on: {source.origin} is not the data that it began "
            "with, so its trials could not be compared",
            hint="put the data back as it was, or begin a new study",
        )


def _report_finished(study: Study, screen: Screen) -> None:
    from dlcli.ui.json_output import print_json
    from dlcli.ui.tune import print_finished

    result = read_json(study.folder.result)
    if screen.as_json:
        print_json(result)
    else:
        print_finished(study, result)
