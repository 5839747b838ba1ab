"""Cross-validation: train a run for each fold, then evaluate each model on what it has not seen."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.commands.options import Settings
from dlcli.commands.train_session.begin import check_steps, create_prepared_run
from dlcli.commands.train_session.granted import check_reach
from dlcli.commands.train_session.report import Screen
from dlcli.commands.train_session.run import train_run
from dlcli.config import TrainConfig
from dlcli.errors import DlcliError, Interrupted, UsageError
from dlcli.files import finite
from dlcli.runs.folder import RunFolder
from dlcli.runs.folds import FoldsFolder, open_folds
from dlcli.runs.locks import RunBusy, is_locked
from dlcli.runs.saved import read_run, read_settings
from dlcli.settings import merge

if TYPE_CHECKING:
    from dlcli.evaluation.folds import FoldModels, FoldsResult
    from dlcli.evaluation.label_issues import LabelIssue
    from dlcli.events import Emit

_POLL_S = 1.0


def begin_folds(settings: Settings[TrainConfig], name: str | None, root: Path, screen: Screen) -> None:
    """Train and evaluate the folds of ``settings``; those that are trained already stay.

    Raises: UsageError, DlcliError, Interrupted.
    """
    from dlcli.training.distributed.ranks import check_machines, local_ranks, machine_range
    from dlcli.training.request import open_requested

    _check_alone()
    first = of_fold(settings, 1).resolve()
    check_steps(settings)
    source = open_requested(first)
    check_reach(first, first.launch)
    check_machines(first.launch, name)
    local_ranks(first.launch, first.fit.device)
    if machine_range(first.launch) != (1, 1):
        raise UsageError(
            "--folds trains on one machine",
            hint="several machines share the folds where each starts the same command, with one --name "
            "in a folder that they share",
        )
    overrides = merge(settings.overrides, {"data": {"data": source.origin}})
    default = f"{str(first.model.name).rpartition(':')[2]}-{source.name}-folds"
    group = open_folds(root, name or default, overrides, named=name is not None)
    _train_folds(group, settings, screen)


def resume_folds(group: FoldsFolder, settings: Settings[TrainConfig], screen: Screen) -> None:
    """Train the folds that are left, and evaluate all. Raises: UsageError, DlcliError, Interrupted."""
    _check_alone()
    if settings.overrides:
        raise UsageError(
            f"--resume of {group.path}, a cross-validation, takes no other settings",
            hint=f"leave them out, or name one run: --resume {group.run(1).path}",
        )
    stored = Settings(TrainConfig, file=group.read()["settings"], file_name=str(group.record))
    _train_folds(group, stored, screen)


def _check_alone() -> None:
    from dlcli.training.distributed.external_launcher import external_group

    group = external_group()
    if group is not None:
        raise UsageError(
            f"--folds trains one run after another, which {group.launcher} would start together",
            hint="start a run for each fold: --folds 5 --set data.fold=1",
        )


def _train_folds(group: FoldsFolder, settings: Settings[TrainConfig], screen: Screen) -> None:
    from dlcli.events import Noted
    from dlcli.ui.progress.sinks import progress_sink

    folds = group.read()["folds"]
    each = replace(screen, result=False)
    for fold in range(1, folds + 1):
        if group.is_finished(fold):
            continue
        with progress_sink(screen.quiet, screen.as_json) as show:
            show(Noted(f"fold {fold} of {folds}, in {group.run(fold).path}"))
        try:
            with group.working_on(fold):
                _train_fold(group, fold, settings, each)
        except RunBusy:
            with progress_sink(screen.quiet, screen.as_json) as show:
                show(Noted(f"fold {fold} is trained by another process"))
        except Interrupted as exc:
            exc.hint = f"resume with: {group.resume_command}"
            raise
    left = [fold for fold in range(1, folds + 1) if not group.is_finished(fold)]
    if left:
        _report_left(group, left, screen)
    else:
        _report(group, folds, screen)


def _train_fold(group: FoldsFolder, fold: int, settings: Settings[TrainConfig], screen: Screen) -> None:
    """Train the run of a fold from where it is. Raises: DlcliError, Interrupted."""
    run, prepared = group.run(fold), None
    if not run.record.is_file():
        run, prepared = create_prepared_run(
            new_fold(group, fold, settings), group.path, name=run.name, screen=screen
        )
    elif group.is_finished(fold):
        return
    train_run(read_run(run), screen, prepared=prepared)


def new_fold(group: FoldsFolder, fold: int, settings: Settings[TrainConfig]) -> Settings[TrainConfig]:
    """Return the settings of a fold that has not begun, whose folder is free then.

    To be called under the lock of `RunGroup.claim`. Raises: DlcliError.
    """
    group.discard_begun(fold)
    return of_fold(settings if fold == 1 else _settings_of_first(group), fold)


def _settings_of_first(group: FoldsFolder) -> Settings[TrainConfig]:
    """The settings of the first fold's run, which all others repeat: what was "auto" is measured once.

    Waits for the process that is about to create it. Raises: DlcliError.
    """
    first = group.run(1)
    while not first.record.is_file():
        if not is_locked(group.claim(1)):
            raise DlcliError(
                f"{first.path} is missing, whose settings the other folds repeat",
                hint=f"train it: {group.resume_command}",
            )
        time.sleep(_POLL_S)
    return Settings(
        TrainConfig, file=read_settings(first, first.read_record()), file_name=str(first.path)
    )


def of_fold(settings: Settings[TrainConfig], fold: int) -> Settings[TrainConfig]:
    """The settings of the run that holds out one fold."""
    flags: dict[str, Any] = merge(settings.flags, {"data": {"fold": fold}})
    return replace(settings, flags=flags)


def _report_left(group: FoldsFolder, left: list[int], screen: Screen) -> None:
    from dlcli.ui.console import stdout
    from dlcli.ui.json_output import print_json
    from dlcli.wording import listed, plural

    facts = {"command": "train", "folds": str(group.path), "status": "running", "left": left}
    if screen.as_json:
        print_json(facts)
        return
    numbers = listed(list(map(str, left)), 10)
    stdout().print(
        f"{plural(len(left), 'fold')} left ({numbers}), which other processes train; the last of them "
        f"to end reports all. If none does: {group.resume_command}",
        soft_wrap=True,
    )


def _report(group: FoldsFolder, folds: int, screen: Screen) -> None:
    """Evaluate the folds, write out-of-fold.csv and the result, and print it."""
    from dlcli.events import Warned
    from dlcli.report.page import write_folds
    from dlcli.ui.folds import print_folds
    from dlcli.ui.json_output import print_json
    from dlcli.ui.progress.sinks import progress_sink

    with progress_sink(screen.quiet, screen.as_json) as show:
        result, issues, reason = conclude_folds(group, folds, show)
        try:
            write_folds(group)
        except DlcliError as exc:  # the figures are shown all the same
            show(Warned(f"no report: {exc.message}"))
    if screen.as_json:
        facts = {"command": "train", "folds": str(group.path), "status": "finished"}
        counted = {
            "out_of_fold": str(group.predictions),
            "report": str(group.report),
            "label_issues": len(issues),
            "ensemble": str(group.ensemble) if group.ensemble.is_file() else None,
            "no_ensemble": reason or None,
        }
        print_json({**facts, **counted, **result.to_dict()})
    else:
        print_folds(result, group, issues, has_test=group.has_test(), reason=reason)


def conclude_folds(
    group: FoldsFolder, folds: int, show: Emit
) -> tuple[FoldsResult, list[LabelIssue], str]:
    """Evaluate the folds; write their predictions, their result and, where they can be, one file.

    Returns the result, the labels that the models contradict, and why there is no such file, or "".
    Raises: DlcliError.
    """
    from dlcli.evaluation.ensemble import no_mean
    from dlcli.evaluation.folds import FoldModels
    from dlcli.evaluation.label_issues import LabelIssues
    from dlcli.ui.folds import write_label_issues, write_out_of_fold

    runs = [group.run(fold) for fold in range(1, folds + 1)]
    models = FoldModels([run.best for run in runs], device=read_run(runs[0]).config.fit.device)
    reason = no_mean(models.task.kind)
    result = models.evaluate(show)
    if group.has_test() and not reason:
        tested = models.test(runs[0], show)
        result = replace(result, test=tested.metrics, test_samples=tested.samples)
    reason = reason or _write_ensemble(group, runs, models, show)
    labels = LabelIssues()
    write_out_of_fold(group.predictions, labels.collect(models.predictions()), models.task)
    issues = labels.ranked()
    if models.task.kind == "classification":
        write_label_issues(group.label_issues, issues)
    group.update(result=finite(result.to_dict()))
    return result, issues, reason


def _write_ensemble(group: FoldsFolder, runs: list[RunFolder], models: FoldModels, show: Emit) -> str:
    """Write the models as one file; return why there is none, "" where there is. Raises: DlcliError."""
    from dlcli.deploy.ensemble import write_ensemble
    from dlcli.events import Noted

    show(Noted(f"writing {group.ensemble}"))
    try:
        write_ensemble([run.best for run in runs], group.ensemble, models.held_out)
    except UsageError as exc:
        return exc.message
    return ""
