"""The trials of a study, as its journal has them: claimed by one process each, and finished once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalStorage
from optuna.trial import FrozenTrial, TrialState

from dlcli.errors import DlcliError
from dlcli.evaluation.run_summaries import evaluation_name, is_of
from dlcli.formats.base import read_card
from dlcli.runs.folder import RunFolder, read_events
from dlcli.runs.locks import RunBusy, is_locked
from dlcli.runs.measurements import read_measurement
from dlcli.tune.journal import RUN, Journal
from dlcli.tune.proposals import (
    Proposal,
    is_default,
    is_pruned,
    proposal_of,
    propose,
    running_trial,
)
from dlcli.tune.study import Study

_STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


@dataclass(frozen=True)
class Trial:
    """A trial. ``value`` is the monitored metric of its best epoch, NaN where there is none yet.

    ``status`` is "finished", "pruned", "failed" (``reason`` says why), "running" or "stopped": it has
    begun, and no process works on it. ``settings`` are those searched, with their values. ``folds`` is
    how many are trained of a trial that is a cross-validation, whose value is their mean, else 0.
    ``second`` is the second objective, NaN without one.
    """

    number: int
    run: RunFolder
    status: str
    model: str
    settings: dict[str, Any]
    value: float = math.nan
    epochs: int = 0
    seconds: float = 0.0
    reason: str = ""
    default: bool = False
    folds: int = 0
    second: float = math.nan

    @property
    def name(self) -> str:
        return self.run.name

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        facts = ("number", "status", "model", "settings", "value", "epochs", "seconds", "reason")
        values = {name: getattr(self, name) for name in (*facts, "default", "folds", "second")}
        return {"run": str(self.run.path), **values}


@dataclass(frozen=True)
class Claim:
    """A trial that this process works on: its number, what it tries, whether it had begun before."""

    number: int
    proposal: Proposal
    begun: bool


@dataclass
class Trials:
    """The trials of a study, read from its journal and written to it."""

    study: Study
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        study = self.study
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.journal = Journal(study.folder.journal, study.folder.name, study.directions)
        try:
            self._storage = JournalStorage(self.journal)
            with self.journal.locked():
                if not self._storage.get_all_studies():
                    directions = [
                        optuna.study.StudyDirection(2 if direction > 0 else 1)
                        for direction in study.directions
                    ]
                    self._storage.create_new_study(directions, study.folder.name)
            self._id = self._storage.get_all_studies()[0]._study_id
            self._recorded()
        except (KeyError, ValueError, TypeError, AssertionError) as exc:
            raise DlcliError(
                f"{study.folder.journal} is damaged: {exc!r}",
                hint=f"the trials are runs of their own: dlcli runs --runs-dir {study.folder.path}",
            ) from exc

    @contextmanager
    def claim(self) -> Iterator[Claim | None]:
        """Context in which this process alone works on a trial; None where no more are to begin.

        One that has begun and that nobody works on comes first.
        """
        with ExitStack() as stack:
            with self.journal.locked():
                claimed = self._claim(stack)
            yield claimed

    def _claim(self, stack: ExitStack) -> Claim | None:
        recorded = self._recorded()
        for trial in recorded:
            if trial.state == TrialState.RUNNING and self._lock(stack, trial.number):
                return Claim(trial.number, proposal_of(self.study, trial), begun=True)
        number = len(recorded)
        if number >= self.study.trials:
            return None
        proposal = propose(self.study, number, recorded)
        if not self._lock(stack, number):
            raise RunBusy(
                f"{self.study.folder.claim(number)} is locked by a process that lost its journal"
            )
        name = self.study.folder.run(number).name
        self._storage.create_new_trial(self._id, running_trial(self.study, proposal, {RUN: name}))
        return Claim(number, proposal, begun=False)

    def _lock(self, stack: ExitStack, number: int) -> bool:
        if is_locked(self.study.folder.claim(number)):
            return False
        try:
            stack.enter_context(self.study.folder.working_on(number))
        except RunBusy:
            return False
        return True

    def prunes(self, number: int, values: Mapping[int, float]) -> bool:
        """Return whether a trial ends after the last epoch or fold in ``values``."""
        return is_pruned(self.study, number, self._recorded(), values)[0]

    def finish(
        self,
        number: int,
        status: str,
        *,
        value: float = math.nan,
        second: float = math.nan,
        reason: str = "",
        **facts: Any,
    ) -> None:
        """Record the end of a trial. The state is written last: until then it counts as running."""
        trial = self._recorded()[number]
        if trial.state.is_finished():
            return
        # Optuna takes intermediate values of one objective alone.
        values = {} if self.study.second else step_values(self.study, number)
        for step, one in values.items():
            self._storage.set_trial_intermediate_value(trial._trial_id, step, one)
        for key, note in is_pruned(self.study, number, self._recorded(), values)[1].items():
            self._storage.set_trial_system_attr(trial._trial_id, key, note)
        for key, fact in {**facts, "reason": reason}.items():
            self._storage.set_trial_user_attr(trial._trial_id, key, fact)
        objectives = [value, second] if self.study.second else [value]
        state = next(state for state, name in _STATES.items() if name == status)
        self._storage.set_trial_state_values(
            trial._trial_id, state, None if math.isnan(value) else objectives
        )

    def all(self) -> list[Trial]:
        """Return the trials that have begun, by number."""
        return [self._trial(trial) for trial in self._recorded()]

    def as_optuna(self) -> optuna.Study:
        """Return the study for Optuna's own analyses."""
        return optuna.load_study(study_name=self.study.folder.name, storage=self._storage)

    def _recorded(self) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._id, deepcopy=False)

    def _trial(self, trial: FrozenTrial) -> Trial:
        study, number = self.study, trial.number
        proposal = proposal_of(study, trial)
        space = study.models[proposal.model].space
        status = _STATES[trial.state]
        if status == "running" and not is_locked(study.folder.claim(number)):
            status = "stopped"
        return Trial(
            number=number,
            run=study.folder.run(number),
            status=status,
            model=proposal.model,
            settings={key: space[key].value(param) for key, param in proposal.params.items()},
            value=math.nan if trial.values is None else trial.values[0],
            epochs=int(trial.user_attrs.get("epochs", 0)),
            seconds=float(trial.user_attrs.get("seconds", 0.0)),
            reason=str(trial.user_attrs.get("reason", "")),
            default=is_default(study, number),
            folds=int(trial.user_attrs.get("folds", 0)),
            second=trial.values[1] if study.second and trial.values is not None else math.nan,
        )


def without_deleted(study: Study, trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials; one that has finished, and whose model was deleted since, has failed."""
    return [
        trial
        if trial.status != "finished" or all(path.is_file() for path in _models(study, trial.number))
        else replace(trial, status="failed", reason="its model is gone")
        for trial in trials
    ]


def _models(study: Study, number: int) -> list[Path]:
    """The model of a trial, or those of its folds."""
    if study.folds is None:
        return [study.folder.run(number).best]
    group = study.folder.folds(number)
    return [group.run(fold).best for fold in range(1, study.folds + 1)]


def step_values(study: Study, number: int) -> dict[int, float]:
    """Return the monitored metric of each epoch of a trial, or the mean of its folds up to each."""
    if study.folds is None:
        return epoch_values(study.folder.run(number), study.monitor)
    values: list[float] = []
    for fold in range(1, study.folds + 1):
        measured = held_out(study.folder.folds(number).run(fold))
        if measured is None:
            break
        values.append(measured.get(study.monitor, math.nan))
    return {fold: sum(values[:fold]) / fold for fold in range(1, len(values) + 1)}


def held_out(run: RunFolder) -> dict[str, float] | None:
    """Return the recorded metrics of a fold's best model on what it holds out; None where none are."""
    if not run.record.is_file() or run.read_record().get("status") != "finished":
        return None
    measured = read_measurement(run, evaluation_name("test"))
    if measured is None or not is_of(measured, read_card(run.best).metrics["val"]):
        return None
    return {name: float(value) for name, value in measured.result["metrics"].items()}


def epoch_values(run: RunFolder, monitor: str) -> dict[int, float]:
    """Return the monitored metric of each epoch of a run, as far as it is a finite number."""
    events = read_events(run.metrics) if run.metrics.is_file() else []
    values = {
        event["epoch"]: event["val"].get(monitor) for event in events if event["event"] == "EpochDone"
    }
    return {epoch: value for epoch, value in values.items() if value is not None}


def best_of(trials: list[Trial], direction: int) -> Trial | None:
    """Return the finished trial with the best value, of equal ones the first; None without any."""
    finished = [trial for trial in trials if trial.status == "finished"]
    return max(finished, key=lambda trial: (direction * trial.value, -trial.number), default=None)
