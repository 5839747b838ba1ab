"""What a trial tries, and whether it ends early: functions of the seed and of the trials before it.

Optuna's samplers and pruners have a state of their own: random generators, notes in the storage. Here
each question is put to a sampler and a pruner that are made for it, with a generator seeded by the
number of the trial, over a study in memory that has the trials before it. So a search that was killed
goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from dlcli.tune.space import Choices, Domain, combination, grid_size, same_params
from dlcli.tune.study import Study

MODEL = "model.name"  # the parameter of a study of several models
# Random before TPE or GP begins; Optuna's default of 10 is much of a small study.
STARTUP_TRIALS = 6
_ATTEMPTS = 10  # times that a sampler is asked for settings that were not tried


@dataclass(frozen=True)
class Proposal:
    """What a trial tries: a model, and parameters of its `Space`."""

    model: str
    params: dict[str, Any]


def is_default(study: Study, number: int) -> bool:
    """Return whether a trial has the default settings of its model: the first of each model has."""
    return number < len(study.models)


def propose(study: Study, number: int, before: Sequence[FrozenTrial]) -> Proposal:
    """Return what a trial tries, after those ``before`` it, some of which may still run.

    Where a model has a finite number of settings, none is tried twice: the metric of the same settings,
    seed and data is known. The study has as many trials (`Study.trials`).
    """
    models = list(study.models)
    if is_default(study, number):
        model = models[number]
        return Proposal(model, study.models[model].default_params)
    tried = {_identity(study, proposal_of(study, trial)) for trial in before}
    sizes = [grid_size(search.space) for search in study.models.values()]
    if study.tune.sampler == "grid":
        return _untried(study, sizes, 0, tried)
    with _quiet():
        memory = _memory(study, number, before, pruner=None)
        for _ in range(_ATTEMPTS):
            proposal = _ask(study, memory)
            if _identity(study, proposal) not in tried:
                return proposal
    start = random.Random(_seed(study, number)).randrange(sum(size or 0 for size in sizes))
    return _untried(study, sizes, start, tried)


def _ask(study: Study, memory: optuna.Study) -> Proposal:
    """Return what the sampler of a study in memory proposes."""
    models = list(study.models)
    trial = memory.ask()
    model = models[0] if len(models) == 1 else trial.suggest_categorical(MODEL, models)
    params = {
        key: _suggest(trial, _name(study, model, key), distribution(domain))
        for key, domain in study.models[model].space.items()
    }
    return Proposal(model, params)


def _identity(study: Study, proposal: Proposal) -> object:
    """Return what proposals share that are the same settings; unique where a space has no end."""
    space = study.models[proposal.model].space
    if grid_size(space) is None or len(proposal.params) < len(space):
        return object()
    return proposal.model, same_params(space, proposal.params)


def _untried(
    study: Study, sizes: Sequence[int | None], start: int, tried: Collection[object]
) -> Proposal:
    """Return the first combination, from ``start`` around to it, that is not among those tried."""
    total = sum(size or 0 for size in sizes)
    for step in range(total):
        proposal = _combination(study, sizes, (start + step) % total)
        if _identity(study, proposal) not in tried:
            return proposal
    raise AssertionError("a study has no more trials than different settings")


def _combination(study: Study, sizes: Sequence[int | None], index: int) -> Proposal:
    """Return the combination of an index, model after model; of finite spaces alone."""
    for (model, search), size in zip(study.models.items(), sizes, strict=True):
        if index < (size or 0):
            return Proposal(model, combination(search.space, index))
        index -= size or 0
    raise AssertionError("an index is below the number of combinations")


def is_pruned(
    study: Study, number: int, before: Sequence[FrozenTrial], values: Mapping[int, float]
) -> tuple[bool, dict[str, Any]]:
    """Return whether a trial ends after the last step in ``values``, and the pruner's notes on it.

    ``values`` has the monitored metric by epoch, or its mean over the folds up to each; ``before`` are
    as for `propose`, with their own notes.
    """
    if study.tune.pruner == "none" or is_default(study, number):
        return False, {}
    with _quiet():
        memory = _memory(study, number, before, pruner=_pruner(study))
        trial = memory.ask()
        pruned = False
        # Pruners take the best of all epochs; of means over folds the last one has all of them.
        for step in sorted(values) if study.folds is None else sorted(values)[-1:]:
            trial.report(values[step], step)
            pruned = trial.should_prune()
            if pruned:
                break
        return pruned, dict(memory.get_trials()[-1].system_attrs)


def running_trial(study: Study, proposal: Proposal, attributes: Mapping[str, Any]) -> FrozenTrial:
    """Return a trial that runs, as Optuna records it."""
    space = study.models[proposal.model].space
    distributions: dict[str, BaseDistribution] = {
        _name(study, proposal.model, key): distribution(space[key]) for key in proposal.params
    }
    params = {_name(study, proposal.model, key): param for key, param in proposal.params.items()}
    if len(study.models) > 1:
        distributions[MODEL] = CategoricalDistribution(list(study.models))
        params[MODEL] = proposal.model
    return optuna.trial.create_trial(
        state=TrialState.RUNNING, params=params, distributions=distributions, user_attrs=dict(attributes)
    )


def proposal_of(study: Study, trial: FrozenTrial) -> Proposal:
    """Return what a recorded trial tries."""
    model = str(trial.params.get(MODEL, next(iter(study.models))))
    params = {
        key: trial.params[name]
        for key in study.models[model].domains
        if (name := _name(study, model, key)) in trial.params
    }
    return Proposal(model, params)


def distribution(domain: Domain) -> BaseDistribution:
    """Return Optuna's distribution of a domain."""
    if isinstance(domain, Choices):
        return CategoricalDistribution(domain.texts)
    if domain.whole:
        step = 1 if domain.step is None else int(domain.step)
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log, step=step)
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


def _suggest(trial: optuna.Trial, name: str, chosen: BaseDistribution) -> Any:
    if isinstance(chosen, CategoricalDistribution):
        return trial.suggest_categorical(name, chosen.choices)
    if isinstance(chosen, IntDistribution):
        return trial.suggest_int(name, chosen.low, chosen.high, step=chosen.step, log=chosen.log)
    assert isinstance(chosen, FloatDistribution)
    return trial.suggest_float(name, chosen.low, chosen.high, step=chosen.step, log=chosen.log)


def _name(study: Study, model: str, key: str) -> str:
    """Return the name of a parameter: ranges differ between models, so each has its own."""
    return key if len(study.models) == 1 else f"{model}/{key}"


def _memory(
    study: Study,
    number: int,
    before: Sequence[FrozenTrial],
    *,
    pruner: optuna.pruners.BasePruner | None,
) -> optuna.Study:
    """Return a study in memory with the trials before a number, and samplers of its own."""
    memory = optuna.create_study(
        study_name="study",  # Hyperband divides trials by it: not by the name of the folder
        directions=["maximize" if direction > 0 else "minimize" for direction in study.directions],
        sampler=_sampler(study, number),
        pruner=pruner or optuna.pruners.NopPruner(),
    )
    memory.add_trials(before[:number])
    return memory


def _seed(study: Study, number: int) -> int:
    digest = hashlib.sha256(f"{study.seed} {number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _sampler(study: Study, number: int) -> optuna.samplers.BaseSampler:
    seed = _seed(study, number)
    match study.tune.sampler:
        case "tpe":
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
        case "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
        case _:
            return optuna.samplers.RandomSampler(seed=seed)


def _pruner(study: Study) -> optuna.pruners.BasePruner:
    if study.tune.pruner == "median":
        # A third of the epochs: a rate that still rises says little about the end.
        warmup = study.epochs // 3 if study.folds is None else 0
        return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=warmup)
    return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=study.epochs, reduction_factor=3)


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's own lines are left out: dlcli shows its own, and tries no experimental argument."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
