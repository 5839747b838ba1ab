"""The end of a study: its best trial, the comparison with the default, plots."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from dlcli.commands.train_session.report import Screen
from dlcli.errors import DlcliError
from dlcli.files import finite, write_json, write_text
from dlcli.tune.study import Study
from dlcli.wording import plural

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dlcli.events import Emit
    from dlcli.tune.outcome import Outcome
    from dlcli.tune.trials import Trial, Trials


def end_study(study: Study, trials: Trials, screen: Screen) -> None:
    """Show what a study gave, and write it into its folder.

    Raises: DlcliError where no trial has finished.
    """
    from dlcli.commands.train_session.folds import conclude_folds
    from dlcli.commands.tune_session.second import timed_together
    from dlcli.events import Warned
    from dlcli.tune.outcome import outcome_of
    from dlcli.tune.trials import without_deleted
    from dlcli.ui.json_output import print_json
    from dlcli.ui.progress.sinks import progress_sink
    from dlcli.ui.tune import print_outcome

    with progress_sink(screen.quiet, screen.as_json) as show:
        ended = without_deleted(study, trials.all())
        outcome = outcome_of(study, trials, timed_together(study, ended), emit=show)
        if outcome is None:
            raise _none_finished(study, ended)
        if note := running_note(trials):
            show(Warned(note))
        if study.folds is not None:
            group = study.folder.folds(outcome.best.number)
            folds, _, _ = conclude_folds(group, study.folds, show)
            outcome = replace(outcome, test=folds.test, test_samples=folds.test_samples)
        write_text(study.folder.best, outcome.best_settings())
        plots = _draw(outcome, show)
    result = {
        "command": "tune",
        **outcome.to_dict(),
        "plots": [str(plot) for plot in plots],
    }
    write_json(study.folder.result, finite(result))
    if screen.as_json:
        print_json(result)
    else:
        print_outcome(outcome, plots)


def running_note(trials: Trials) -> str:
    """Say that other processes still work on trials, whose result is not in this one, else ""."""
    running = sum(trial.status == "running" for trial in trials.all())
    if not running:
        return ""
    return (
        f"other processes still work on {plural(running, 'trial')}: the last of them to end writes "
        f"{trials.study.folder.best.name} and the result anew"
    )


def _none_finished(study: Study, ended: Sequence[Trial]) -> DlcliError:
    """The error of a study without a model."""
    reasons = Counter(trial.reason for trial in ended if trial.status == "failed")
    if not reasons:
        return DlcliError(
            f"no trial of study {study.folder.name} has finished", hint=study.folder.resume_command
        )
    reason, count = reasons.most_common(1)[0]
    return DlcliError(
        f"{plural(len(ended), 'trial')}, and none has finished; {count} failed with: {reason}",
        hint=f"the first alone: dlcli train --resume trial-000 --runs-dir {study.folder.path}",
    )


def _draw(outcome: Outcome, show: Emit) -> list[Path]:
    from dlcli.events import Warned
    from dlcli.ui.plots.study import save_study

    try:
        return save_study(outcome)
    except DlcliError as exc:
        show(Warned(f"no plot: {exc.message}"))
        return []
