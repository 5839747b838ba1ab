"""Go on with a study: what may change, and whether it is finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlcli import __version__
from dlcli.commands.options import Settings
from dlcli.commands.train_session.granted import check_reach
from dlcli.commands.train_session.report import Screen
from dlcli.config import TrainConfig, TuneConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.files import read_json
from dlcli.settings import flat, merge, nested, validate
from dlcli.tune.study import Study, StudyFolder, find_study, read_study

_BUDGET = ("trials", "max_time", "workers")  # what a study that goes on may change


def resume_study(text: str, settings: Settings[TuneConfig], root: Path, screen: Screen) -> Study | None:
    """Return the study to go on with; None where it is finished, which is shown.

    Raises: DlcliError for other data than it began with; UsageError for settings that would change it.
    """
    settings.resolve()  # unknown settings are an error for a finished study too
    study = _with_budget(read_study(find_study(text, root)), settings.overrides)
    from dlcli.tune.trials import Trials

    trials = Trials(study).all()
    ended = all(trial.status not in ("running", "stopped") for trial in trials)
    if ended and len(trials) >= study.trials and study.folder.result.is_file():
        _report_finished(study.folder, screen)
        return None
    _check_data(study)
    if study.version != __version__:
        from dlcli.events import Warned
        from dlcli.ui.progress.sinks import progress_sink

        with progress_sink(screen.quiet, screen.as_json) as show:
            show(
                Warned(
                    f"study {study.folder.name} was begun by dlcli {study.version}, and this is "
                    f"{__version__}: its next trials may differ from those before for that alone"
                )
            )
    study.write()
    return study


def _with_budget(study: Study, overrides: dict[str, Any]) -> Study:
    """Return the study with the budget that was typed. Raises: UsageError for any other setting."""
    changes = {}
    for key, value in _leaves(overrides):
        group, _, name = key.partition(".")
        if group == "tune" and name in _BUDGET:
            changes[name] = value
            continue
        own = flat(study.tune).get(name) if group == "tune" else _own(study, key)
        if value != own:
            raise UsageError(
                f"--resume takes the study's own settings, and {key} = {value!r} is not one of them",
                hint="leave it out, or begin a new study; --trials, --max-time and --workers may change",
            )
    return study.with_tune(changes) if changes else study


def _own(study: Study, key: str) -> Any:
    value: Any = study.settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _leaves(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            leaves += _leaves(value, f"{prefix}{key}.")
        else:
            leaves.append((f"{prefix}{key}", list(value) if isinstance(value, tuple) else value))
    return leaves


def _check_data(study: Study) -> None:
    """Raises: DlcliError where the data is missing or not that of the study."""
    from dlcli.training.request import open_requested

    model = next(iter(study.models))
    config = validate(TrainConfig, merge(study.settings, nested("model.name", model)))
    check_reach(config, config.launch)
    source = open_requested(config)
    if source.fingerprint != study.fingerprint:
        raise DlcliError(
            f"study {study.folder.name} cannot go on: {source.origin} is not the data that it began "
            "with, so its trials could not be compared",
            hint="put the data back as it was, or begin a new study",
        )


def _report_finished(folder: StudyFolder, screen: Screen) -> None:
    from dlcli.ui.json_output import print_json
    from dlcli.ui.tune import print_finished

    result = read_json(folder.result)
    if screen.as_json:
        print_json(result)
    else:
        print_finished(folder, result)
