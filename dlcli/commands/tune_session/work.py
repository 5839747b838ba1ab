"""Work on a study: trial after trial in this process, or in several."""

from __future__ import annotations

import gc
import math
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from dlcli.commands.options import Settings
from dlcli.commands.train_session.report import Screen
from dlcli.config import SearchConfig, TrainConfig
from dlcli.config.durations import parse_time
from dlcli.errors import DlcliError, Interrupted, UsageError
from dlcli.files import CannotWrite, write_text
from dlcli.out_of_memory import out_of_memory_message
from dlcli.runs.folder import RunFolder
from dlcli.runs.locks import RunBusy, run_lock
from dlcli.signals import signum_of
from dlcli.tune.objectives import naming_objective
from dlcli.tune.study import Study
from dlcli.wording import first_line

if TYPE_CHECKING:
    from dlcli.events import Emit
    from dlcli.runs.folds import FoldsFolder
    from dlcli.training.loop.job import Prune
    from dlcli.training.loop.state import Progress
    from dlcli.training.prepare import PreparedRun
    from dlcli.tune.trials import Claim, Trials
    from dlcli.ui.progress.study import StudyView

# What ends the search itself; any other error ends a trial.
_ENDS_ALL = (Interrupted, RunBusy, CannotWrite)


def check_installed() -> None:
    """Raises: DlcliError without Optuna."""
    if find_spec("optuna") is None:
        raise DlcliError("tune needs Optuna", hint='pip install "dlcli[tune]"')


def check_engine(tune: SearchConfig) -> None:
    """Raises: DlcliError without Ray where it is asked for; UsageError for its settings without it."""
    if tune.engine == "ray":
        if find_spec("ray") is None:
            raise DlcliError("--engine ray needs Ray", hint='pip install "dlcli[tune,ray]"')
        return
    for name in ("cpus_per_trial", "gpus_per_trial"):
        if getattr(tune, name) != SearchConfig.model_fields[name].default:
            raise UsageError(
                f"--{name.replace('_', '-')} is asked of a Ray cluster, and --engine is {tune.engine}",
                hint="--engine ray",
            )


def conduct(study: Study, screen: Screen) -> None:
    """Train the trials of a study, and show what it gave. Raises: DlcliError, Interrupted."""
    from dlcli.commands.tune_session.end import end_study
    from dlcli.commands.tune_session.workers import LocalWorkers, watch_workers
    from dlcli.tune.trials import Trials
    from dlcli.ui.progress.study import study_view

    trials = Trials(study)
    with study_view(study, screen.quiet, screen.as_json) as view:
        view.update(trials.all())
        with interruptible(study):
            if study.tune.engine == "ray":
                from dlcli.commands.tune_session.on_ray import ray_workers

                watch_workers(study, trials, view, ray_workers(study, view.event))
            elif study.tune.workers == 1:
                work(study, trials, view, view.event)
            else:
                watch_workers(study, trials, view, LocalWorkers(study))
    end_study(study, trials, screen)


@contextmanager
def interruptible(study: Study) -> Iterator[None]:
    """Context in which a signal ends the study's command with the one that goes on."""
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as exc:
        signum = exc.exit_code - 128 if isinstance(exc, Interrupted) else signum_of(exc)
        raise Interrupted(
            f"interrupted; study {study.folder.name} keeps all its trials",
            signum=signum,
            hint=f"go on with: {study.folder.resume_command}",
        ) from exc


def work(study: Study, trials: Trials, view: StudyView, show: Emit) -> None:
    """Train trials until none is left to begin, or the time is up. Raises: DlcliError, Interrupted."""
    clock = Clock(study, trials)
    while not clock.is_up():
        with trials.claim() as claim:
            if claim is None:
                return
            view.update(trials.all())
            TrialRun(study, trials, claim, clock, show).train()
        view.update(trials.all())
        gc.collect()  # the cycles of a model that is done hold its memory


@dataclass
class Clock:
    """The time of a study: what its trials took before, and what has gone since."""

    study: Study
    trials: Trials
    _since: float = field(default_factory=time.monotonic)
    _before: float = field(init=False)

    def __post_init__(self) -> None:
        spent = sum(trial.seconds for trial in self.trials.all())
        self._before = spent / self.study.tune.workers

    def is_up(self) -> bool:
        """Return whether ``--max-time`` is over."""
        limit = parse_time(self.study.tune.max_time)
        return limit is not None and self._before + time.monotonic() - self._since >= limit


@dataclass
class TrialRun:
    """A trial while it is trained, as a run like any other."""

    study: Study
    trials: Trials
    claim: Claim
    clock: Clock
    show: Emit

    def train(self) -> None:
        """Train the trial's run and record its end; an error of the trial alone is its result.

        Raises: Interrupted, CannotWrite, RunBusy.
        """
        number = self.claim.number
        began = time.monotonic()
        try:
            if self.study.folds is None:
                self._train_one()
            else:
                self._train_folds(self.study.folds)
        except _ENDS_ALL:
            raise
        except Exception as exc:
            expected = isinstance(exc, DlcliError)
            reason = exc.message if isinstance(exc, DlcliError) else _reason(exc)
            reason = naming_objective(reason, self.study.tune.objective)
            if not expected:
                write_text(self.study.folder.errors(number), traceback.format_exc())
            self.trials.finish(
                number, "failed", reason=reason, seconds=round(time.monotonic() - began, 3)
            )

    @property
    def _settings(self) -> Settings[TrainConfig]:
        proposal = self.claim.proposal
        flags = self.study.trial_settings(proposal.model, proposal.params)
        return Settings(TrainConfig, flags=flags)

    def _train_one(self) -> None:
        """Train the run of the trial and record its end."""
        run = self.study.folder.run(self.claim.number)

        def create() -> Settings[TrainConfig]:
            self.study.folder.discard_begun(self.claim.number)
            return self._settings

        self._train(run, create, self._prune)
        self._finish(run)

    def _train_folds(self, folds: int) -> None:
        """Train the folds of the trial, and record its end; no fold begins after ``--max-time``."""
        from dlcli.commands.train_session.folds import new_fold
        from dlcli.evaluation.evaluate_artifacts import evaluate_run
        from dlcli.evaluation.run_summaries import record_evaluation
        from dlcli.tune.trials import held_out, step_values

        number = self.claim.number
        group = self.study.folder.folds(number)
        if not group.record.is_file():
            group.create(folds, self._settings.overrides)
        values: dict[int, float] = {}
        for fold in range(1, folds + 1):
            run = group.run(fold)
            if self.clock.is_up() and not group.is_finished(fold):
                return
            with group.working_on(fold):
                self._train(run, partial(new_fold, group, fold, self._settings))
                if held_out(run) is None:
                    result, validation = evaluate_run(run, "test")
                    record_evaluation(run, validation, result, "tune")
            gc.collect()
            values = step_values(self.study, number)
            if not math.isfinite(values[fold]):
                raise DlcliError(f"fold {fold} has no finite {self.study.monitor}")
            values = {step: value for step, value in values.items() if step <= fold}
            if fold < folds and self.trials.prunes(number, values):
                break
        self._finish_folds(group, values)

    def _train(
        self, run: RunFolder, create: Callable[[], Settings[TrainConfig]], prune: Prune | None = None
    ) -> None:
        """Train a run from where it is; ``create`` frees its folder and gives a new one's settings."""
        from dlcli.commands.train_session.begin import prepare_new_run
        from dlcli.commands.train_session.run import train_saved
        from dlcli.runs.saved import read_run
        from dlcli.training.distributed.world import ALONE

        prepared: PreparedRun | None = None
        if not run.record.is_file():
            _, prepared = prepare_new_run(create(), run.path.parent, name=run.name, show=self.show)
        elif run.read_record().get("status") == "finished":
            return
        with run_lock(run.path):
            result = train_saved(read_run(run), ALONE, self.show, prepared=prepared, prune=prune)
        signum = result.fit.signum or result.fit.late_signum
        if signum is not None:
            raise Interrupted("interrupted", signum=signum)

    def _prune(self, progress: Progress) -> bool:
        """Whether the run ends after its epochs so far."""
        from dlcli.tune.trials import epoch_values

        if self.clock.is_up():
            return True
        run = self.study.folder.run(self.claim.number)
        values = epoch_values(run, self.study.monitor)
        values = {epoch: value for epoch, value in values.items() if epoch <= progress.epoch}
        return self.trials.prunes(self.claim.number, values)

    def _finish(self, run: RunFolder) -> None:
        from dlcli.commands.tune_session.second import second_of
        from dlcli.evaluation.run_summaries import summarise
        from dlcli.formats.base import read_card
        from dlcli.tune.trials import epoch_values

        record, number = run.read_record(), self.claim.number
        ended = record.get("reason") == "pruned"
        # The run says only that it was ended: by the pruner, or as the time was up.
        values = epoch_values(run, self.study.monitor)
        pruned = ended and not (self.clock.is_up() and not self.trials.prunes(number, values))
        self.trials.finish(
            number,
            "pruned" if pruned else "finished",
            value=read_card(run.best).metrics["val"][self.study.monitor],
            second=second_of(self.study, [run]),
            reason="time" if ended and not pruned else "",
            seconds=summarise(run).elapsed_s,
            epochs=record["epochs_done"],
        )

    def _finish_folds(self, group: FoldsFolder, values: dict[int, float]) -> None:
        """Record the end of a trial whose folds gave ``values``, as `step_values`."""
        from dlcli.commands.tune_session.second import second_of
        from dlcli.evaluation.run_summaries import summarise

        trained = max(values)
        runs = [group.run(fold) for fold in values]
        self.trials.finish(
            self.claim.number,
            "finished" if trained == self.study.folds else "pruned",
            value=values[trained],
            second=second_of(self.study, runs),
            folds=trained,
            seconds=sum(summarise(run).elapsed_s for run in runs),
            epochs=sum(run.read_record()["epochs_done"] for run in runs),
        )


def _reason(exc: Exception) -> str:
    return out_of_memory_message(exc) or f"{type(exc).__name__}: {first_line(exc)}"
