"""What a study gave: its best trial, whether that is better than the default, and how sure that is."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dlcli.benchmark.statistics import pareto_front
from dlcli.config import EvalConfig
from dlcli.errors import DlcliError
from dlcli.evaluation.comparing import compare_models
from dlcli.evaluation.eval_data import eval_data
from dlcli.evaluation.evaluate_artifacts import evaluate_run
from dlcli.evaluation.folds import APART, compare_folds
from dlcli.evaluation.intervals import Z
from dlcli.evaluation.metrics.base import MemberRow
from dlcli.evaluation.run_summaries import record_evaluation
from dlcli.events import Emit, Warned, ignore
from dlcli.formats.base import Artifact, open_artifact, recognize
from dlcli.runs.saved import read_run
from dlcli.settings import dump_yaml
from dlcli.tune.study import Study
from dlcli.tune.trials import Trial, Trials, best_of

COMPARED = 10  # of the best trials, whose models are evaluated on the validation split once more
# With fewer finished trials an importance says little.
ENOUGH_FOR_IMPORTANCE = 8


@dataclass(frozen=True)
class Outcome:
    """What a study gave.

    ``rows`` has the best trials' differences from trial 0, by number; ``test`` are the best model's
    metrics on the test split, of ``test_samples``, which no trial saw; empty where the data has none.
    ``importance`` of each setting adds up to 1. ``chance`` is how far ahead of trial 0 the best of as
    many equally good trials would be on average; NaN where that is unknown. Of a study with folds the
    differences are over what all folds hold out, and the best model is the mean of those of its folds.
    ``front`` are the finished trials that no other one beats in both objectives, by number, the best of
    the metric first; empty in a study of one objective.
    """

    study: Study
    trials: tuple[Trial, ...]
    best: Trial
    rows: dict[int, MemberRow] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    test_samples: int = 0
    importance: dict[str, float] = field(default_factory=dict)
    chance: float = math.nan
    damaged: int = 0
    front: tuple[int, ...] = ()

    def front_of(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """Return those of the trials ``numbers`` that no other of them beats in both objectives."""
        study, trials = self.study, [self.trials[number] for number in numbers]
        points = [
            (study.direction * trial.value, -study.second_direction * trial.second) for trial in trials
        ]
        best = [trial for trial, on in zip(trials, pareto_front(points), strict=True) if on]
        return tuple(t.number for t in sorted(best, key=lambda t: -study.direction * t.value))

    @property
    def artifact(self) -> Path:
        """The best trial's model: of folds the file of all their models, or else their folder."""
        if self.study.folds is None:
            return self.best.run.best
        group = self.study.folder.folds(self.best.number)
        return group.ensemble if group.ensemble.is_file() else group.path

    def best_settings(self) -> str:
        """The best trial's settings as YAML, for `train --config`; with folds, without them."""
        if self.study.folds is None:
            return self.best.run.config.read_text(encoding="utf-8")
        config = read_run(self.study.folder.folds(self.best.number).run(1)).config
        data = config.data.model_copy(update={"folds": None, "fold": None})
        return dump_yaml(config.model_copy(update={"data": data}))

    @property
    def pooled(self) -> bool:
        """Whether differences are over all held-out samples together, and values means of folds."""
        return self.study.folds is not None and self.study.task not in APART

    @property
    def gain(self) -> float:
        """The best trial's metric minus that of trial 0, as positive where it is better."""
        row = self.rows.get(self.best.number)
        return math.nan if row is None else self.study.direction * row.difference

    @property
    def better(self) -> bool | None:
        """Whether the best trial is significantly better than trial 0; None where that is not clear."""
        row = self.rows.get(self.best.number)
        return None if row is None else row.better

    @property
    def too_small(self) -> bool:
        """Whether the validation split is too small for the number of trials."""
        return math.isfinite(self.chance) and self.gain < self.chance

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        study = self.study
        return {
            "study": str(study.folder.path),
            "monitor": study.monitor,
            "best": self.best.to_dict(),
            "best_config": str(study.folder.best),
            "folds": study.folds,
            "artifact": str(self.artifact),
            "difference_from_default": _as_dict(self.rows.get(self.best.number)),
            "better_than_default": self.better,
            "gain_by_chance": self.chance,
            "val_samples": study.val_samples,
            "val_too_small": self.too_small,
            "test": {"metrics": self.test, "samples": self.test_samples} if self.test else None,
            "importance": self.importance,
            "trials": [
                {**trial.to_dict(), "difference": _as_dict(self.rows.get(trial.number))}
                for trial in self.trials
            ],
            "damaged_lines": self.damaged,
            "second": study.second or None,
            "front": list(self.front),
        }


def outcome_of(
    study: Study, trials: Trials, ended: Sequence[Trial], *, emit: Emit = ignore
) -> Outcome | None:
    """Return what a study gave; None where no trial has finished.

    ``ended`` are all trials, with values of a second objective that can be compared. The models of trial
    0 and of the best trials are evaluated on the validation split, or on their folds, and the best one
    on the test split; ``test`` of folds is left to the caller. Raises: DlcliError.
    """
    best = best_of(list(ended), study.direction)
    if best is None:
        return None
    outcome = Outcome(study, tuple(ended), best, damaged=trials.journal.damaged)
    if study.second:
        finished = [trial.number for trial in ended if trial.status == "finished"]
        outcome = replace(outcome, front=outcome.front_of(finished))
        best = ended[outcome.front[0]]  # of those with the best metric the best of the second objective
        outcome = replace(outcome, best=best)
    default = ended[0]
    if default.status == "finished":
        outcome = replace(outcome, rows=_compared(study, default, best, ended))
    if outcome.best.number in outcome.rows:
        outcome = replace(outcome, chance=_chance(outcome))
    test, samples = _tested(study, best, emit)
    return replace(outcome, test=test, test_samples=samples, importance=_importance(trials, ended))


def _compared(
    study: Study, default: Trial, best: Trial, trials: Sequence[Trial]
) -> dict[int, MemberRow]:
    """Return the differences of the best trials from trial 0, paired over the validation samples."""
    others = [trial for trial in trials if trial.status == "finished" and trial is not default]
    if not others:
        return {}
    # Of trials with equal metrics the best one is not left out.
    ranked = sorted(others, key=lambda trial: (-study.direction * trial.value, trial is not best))
    ranked = ranked[:COMPARED]
    if study.folds is not None:
        count = study.folds
        groups = [study.folder.folds(trial.number) for trial in (default, *ranked)]
        paths = [[group.run(fold).best for fold in range(1, count + 1)] for group in groups]
        return {t.number: row for t, row in zip(ranked, compare_folds(paths)[1:], strict=True)}
    config = EvalConfig(split="val")
    models = [_opened(trial, config) for trial in (default, *ranked)]
    data = eval_data(models[0].card, models[0].path, config)
    rows = compare_models(models, data, config).models[1:]
    return {trial.number: row for trial, row in zip(ranked, rows, strict=True)}


def _opened(trial: Trial, config: EvalConfig) -> Artifact:
    return open_artifact(recognize(trial.run.best), device=config.device)


def _tested(study: Study, best: Trial, emit: Emit) -> tuple[dict[str, float], int]:
    """Return the best model's metrics on the test split, and its samples; recorded in its run too."""
    if "test" not in study.splits or study.folds is not None:
        return {}, 0
    result, validation = evaluate_run(best.run, "test")
    try:
        record_evaluation(best.run, validation, result, "tune")
    except DlcliError as exc:
        emit(Warned(f"not recorded in the run: {exc.message}"))
    return result.metrics, result.samples


def _chance(outcome: Outcome) -> float:
    """Return the expected maximum of the differences of equally good trials from trial 0.

    They are taken as normal with the standard error of the best one's difference; their maximum is by
    Blom's formula (1958).
    """
    from scipy.special import ndtri

    row = outcome.rows[outcome.best.number]
    if not (math.isfinite(row.low) and math.isfinite(row.high)):
        return math.nan
    count = sum(trial.status == "finished" for trial in outcome.trials) - 1
    std = (row.high - row.low) / (2 * Z)
    return max(0.0, std * float(ndtri((count - 0.375) / (count + 0.25))))


def _importance(trials: Trials, ended: Sequence[Trial]) -> dict[str, float]:
    """Return the importance of each setting by PED-ANOVA (Watanabe et al., arXiv:2304.10255)."""
    import optuna

    finished = [trial for trial in ended if trial.status == "finished"]
    if len(finished) < ENOUGH_FOR_IMPORTANCE or len({trial.value for trial in finished}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few trials; the screen says how many there are
        importance = optuna.importance.get_param_importances(
            trials.as_optuna(), target=lambda trial: trial.values[0]
        )
    return {key: float(value) for key, value in importance.items()}


def _as_dict(row: MemberRow | None) -> dict[str, Any] | None:
    if row is None:
        return None
    names = ("metric", "difference", "low", "high", "better")
    return {name: value for name, value in asdict(row).items() if name in names}
