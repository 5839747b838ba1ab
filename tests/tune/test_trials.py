"""The trials of a study: proposals and pruning are functions, the journal survives what damages it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from dlcli.config import SearchConfig
from dlcli.errors import DlcliError
from dlcli.tune import outcome
from dlcli.tune.proposals import is_pruned
from dlcli.tune.study import ModelSearch, Study, StudyFolder, read_study
from dlcli.tune.trials import Claim, Trials, best_of
from dlcli.ui.json_output import to_json

ONE = {"mlp": ModelSearch({"optim.lr": "1e-4..1e-1:log", "optim.optimizer": "adam|sgd"}, {})}


def make_study(path: Path, models: dict[str, ModelSearch] = ONE, **tune: Any) -> Study:
    models = {
        name: ModelSearch(
            search.domains, {"optim.lr": 1e-3, "optim.optimizer": "adam"} | search.defaults
        )
        for name, search in models.items()
    }
    study = Study(
        folder=StudyFolder(path),
        version="0.2.0",
        settings={"data": {"data": "d.csv"}},
        tune=SearchConfig(**{"trials": 12, **tune}),
        models=models,
        monitor="accuracy",
        direction=1,
        task="classification",
        seed=3,
        epochs=9,
        data="d",
        fingerprint="f",
        val_samples=100,
        splits=("train", "val"),
    )
    path.mkdir(exist_ok=True)
    study.write()
    return study


def curve(trial: Claim) -> dict[int, float]:
    """The metric of each epoch: best at a rate of 0.01, and better with adam."""
    lr = float(trial.proposal.params.get("optim.lr", 1e-3))
    bonus = 0.05 * (trial.proposal.params.get("optim.optimizer") == "adam")
    end = 0.9 - 0.1 * abs(math.log10(lr) + 2) + bonus
    return {epoch: end * (1 - 0.5**epoch) for epoch in range(1, 10)}


def write_curve(study: Study, number: int, values: dict[int, float]) -> None:
    run = study.folder.run(number)
    run.path.mkdir(exist_ok=True)
    lines = [
        to_json({"event": "EpochDone", "epoch": epoch, "val": {"accuracy": value}})
        for epoch, value in values.items()
    ]
    run.metrics.write_text("\n".join(lines) + "\n")


def run_one(study: Study, trials: Trials) -> bool:
    """Train a trial as `work` does; False when none is left."""
    with trials.claim() as claim:
        if claim is None:
            return False
        values = {}
        for epoch, value in curve(claim).items():
            values[epoch] = value
            if trials.prunes(claim.number, values):
                break
        write_curve(study, claim.number, values)
        status = "finished" if len(values) == 9 else "pruned"
        trials.finish(claim.number, status, value=values[len(values)], epochs=len(values))
    return True


def facts(study: Study) -> list[tuple[Any, ...]]:
    return [(t.number, t.status, t.model, t.settings, t.value, t.epochs) for t in Trials(study).all()]


SAMPLERS = [
    pytest.param({"sampler": "tpe", "pruner": "median"}, id="tpe-median"),
    pytest.param({"sampler": "tpe", "pruner": "hyperband"}, id="tpe-hyperband"),
    pytest.param({"sampler": "random", "pruner": "hyperband"}, id="random"),
    pytest.param({"sampler": "gp", "pruner": "none", "trials": 8}, id="gp"),
]


@pytest.mark.parametrize("tune", SAMPLERS)
def test_a_study_is_the_same_when_each_trial_is_of_another_process(tmp_path: Path, tune: Any) -> None:
    study = make_study(tmp_path / "study", **tune)
    trials = Trials(study)
    while run_one(study, trials):
        pass
    rows = facts(study)
    assert len(rows) == study.trials
    shutil.rmtree(tmp_path / "study")
    study = make_study(tmp_path / "study", **tune)
    while run_one(study, Trials(study)):  # a fresh object knows no more than the journal
        pass
    assert facts(study) == rows


def test_the_first_trial_has_the_default_settings_and_is_never_pruned(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    with Trials(study).claim() as claim:
        assert claim is not None
        assert claim.proposal.params == {"optim.lr": 1e-3, "optim.optimizer": "adam"}
    assert not is_pruned(study, 0, [], dict.fromkeys(range(1, 9), 0.0))[0]


def test_a_default_outside_of_the_range_is_no_parameter(tmp_path: Path) -> None:
    models = {"mlp": ModelSearch({"optim.lr": "0.1..1"}, {"optim.lr": 1e-3})}
    with Trials(make_study(tmp_path / "study", models)).claim() as claim:
        assert claim is not None
        assert claim.proposal.params == {}


def test_hyperband_and_median_prune_the_worst(tmp_path: Path) -> None:
    for pruner in ("median", "hyperband"):
        study = make_study(tmp_path / pruner, pruner=pruner, sampler="random", trials=25)
        trials = Trials(study)
        while run_one(study, trials):
            pass
        ended = trials.all()
        pruned = [trial for trial in ended if trial.status == "pruned"]
        best = best_of(ended, 1)
        assert best is not None
        assert pruned
        assert all(trial.epochs < 9 for trial in pruned)


def test_of_folds_the_mean_of_all_so_far_decides(tmp_path: Path) -> None:
    """A first fold above those of other trials does not keep a trial whose mean is below."""
    study = replace(make_study(tmp_path / "study", trials=9), folds=3)
    others = [
        optuna.trial.create_trial(value=0.8, intermediate_values={1: 0.8, 2: 0.8, 3: 0.8})
        for _ in range(5)
    ]
    assert not is_pruned(study, 5, others, {1: 0.9})[0]
    assert is_pruned(study, 5, others, {1: 0.9, 2: 0.7})[0]
    assert is_pruned(study, 5, others, {1: 0.7})[0]


@pytest.mark.parametrize(
    ("sampler", "rates", "count"),
    [("grid", "1e-3|1e-2", 4), ("tpe", "1e-3|1e-2", 4), ("random", "1e-2|1e-1", 5)],
)
def test_a_finite_space_is_searched_whole_and_no_setting_twice(
    tmp_path: Path, sampler: str, rates: str, count: int
) -> None:
    models = {"mlp": ModelSearch({"optim.lr": rates, "optim.optimizer": "adam|sgd"}, {})}
    study = make_study(tmp_path / "study", models, sampler=sampler, trials=50, pruner="none")
    assert study.trials == count  # the default, 1e-3 and adam, is one of the first four
    trials = Trials(study)
    while run_one(study, trials):
        pass
    tried = [tuple(trial.settings.values()) for trial in trials.all()]
    pairs = [(float(rate), name) for rate in rates.split("|") for name in ("adam", "sgd")]
    assert len(tried) == len(set(tried)) == count
    assert set(pairs) <= set(tried)


def test_steps_of_a_range_are_not_tried_twice(tmp_path: Path) -> None:
    models = {"mlp": ModelSearch({"optim.lr": "0.1..0.5:0.1", "optim.optimizer": "adam|sgd"}, {})}
    study = make_study(tmp_path / "study", models, trials=50, pruner="none")
    trials = Trials(study)
    while run_one(study, trials):
        pass
    tried = {(round(t.settings["optim.lr"], 6), t.settings["optim.optimizer"]) for t in trials.all()[1:]}
    assert len(tried) == len(trials.all()) - 1 == 10


def test_several_models_have_settings_of_their_own(tmp_path: Path) -> None:
    models = {
        "mlp": ModelSearch({"optim.lr": "1e-4..1e-2:log"}, {}),
        "linear": ModelSearch({"optim.lr": "1e-2..1:log"}, {"optim.lr": 0.1}),
    }
    study = make_study(tmp_path / "study", models, trials=14)
    trials = Trials(study)
    while run_one(study, trials):
        pass
    ended = trials.all()
    assert [trial.model for trial in ended[:2]] == ["mlp", "linear"]
    assert [trial.default for trial in ended[:3]] == [True, True, False]
    for trial in ended:
        low, high = (1e-4, 1e-2) if trial.model == "mlp" else (1e-2, 1)
        assert low <= trial.settings["optim.lr"] <= high
    settings = study.trial_settings("linear", {"optim.lr": 0.5})
    assert settings == {"data": {"data": "d.csv"}, "model": {"name": "linear"}, "optim": {"lr": 0.5}}


@contextmanager
def claimed(trials: Trials) -> Iterator[Claim]:
    with trials.claim() as claim:
        assert claim is not None
        yield claim


def test_a_trial_is_worked_on_once_and_taken_over_when_its_process_is_gone(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    with claimed(Trials(study)) as first, claimed(Trials(study)) as second:
        assert (first.number, second.number) == (0, 1)
        assert [trial.status for trial in Trials(study).all()] == ["running", "running"]
    assert [trial.status for trial in Trials(study).all()] == ["stopped", "stopped"]
    with claimed(Trials(study)) as again:
        assert again == Claim(0, first.proposal, begun=True)


@pytest.mark.parametrize(("latencies", "best"), [((3.0, 2.0, 1.0), 1), ((2.0, 2.0, 1.0), 0)])
def test_of_equal_metrics_the_last_timing_decides_and_then_the_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, latencies: tuple[float, ...], best: int
) -> None:
    for name, nothing in (("_compared", {}), ("_tested", ({}, 0)), ("_importance", {})):
        monkeypatch.setattr(outcome, name, lambda *args, nothing=nothing: nothing)
    study = replace(make_study(tmp_path / "s", trials=3, pruner="none"), second="latency")
    trials = Trials(study)
    for value, rough in ((0.9, 1.0), (0.9, 2.0), (0.8, 3.0)):
        with trials.claim() as claim:
            assert claim is not None
            trials.finish(claim.number, "finished", value=value, second=rough)
    ended = [replace(t, second=s) for t, s in zip(trials.all(), latencies, strict=True)]
    result = outcome.outcome_of(study, trials, ended)
    assert result is not None
    assert result.best.number == best
    assert result.front[0] == best


def test_optuna_reads_the_journal(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    trials = Trials(study)
    while run_one(study, trials):
        pass
    storage = JournalStorage(JournalFileBackend(str(study.folder.journal)))
    loaded = optuna.load_study(study_name="study", storage=storage)
    best = best_of(trials.all(), 1)
    assert best is not None
    assert (loaded.best_trial.number, loaded.best_value) == (best.number, best.value)


@pytest.mark.parametrize("line", range(9))
def test_a_damaged_line_costs_no_other_trial(tmp_path: Path, line: int) -> None:
    study = make_study(tmp_path / "study", pruner="none", trials=4)
    trials = Trials(study)
    while run_one(study, trials):
        pass
    before = facts(study)
    lines = study.folder.journal.read_bytes().split(b"\n")
    at = len(lines) * line // 9
    lines[at] = lines[at][: len(lines[at]) // 2] + b"\x00\xff"
    study.folder.journal.write_bytes(b"\n".join(lines))
    trials = Trials(study)
    assert trials.journal.damaged == 1
    after = facts(study)
    assert len(after) == 4
    changed = [i for i in range(4) if after[i] != before[i]]
    assert len(changed) <= 1
    while run_one(study, trials):
        pass
    for old, new in zip(before, facts(study), strict=True):
        assert new[1] == "failed" or new[:5] == old[:5]


def test_a_line_that_a_kill_cut_off_is_ended_before_the_next_one(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", trials=3)
    assert run_one(study, Trials(study))
    with study.folder.journal.open("ab") as file:
        file.write(b'{"op_code":4,"work')
    trials = Trials(study)
    assert trials.journal.damaged == 0
    while run_one(study, trials):
        pass
    assert len(trials.all()) == 3
    assert Trials(study).journal.damaged == 1


def test_a_study_record_that_is_damaged_is_an_error(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    study.folder.record.write_text('{"version": "0.2.0", "settings": {}}')
    with pytest.raises(DlcliError, match="is damaged"):
        read_study(study.folder)


def test_a_study_that_was_deleted_does_not_come_back(tmp_path: Path) -> None:
    """By a process that still works on it."""
    study = make_study(tmp_path / "study", trials=3)
    trials = Trials(study)
    assert run_one(study, trials)
    shutil.rmtree(study.folder.path)
    with pytest.raises(DlcliError), trials.claim():
        pass
    with pytest.raises(DlcliError), study.folder.working_on(1):
        pass
    assert not study.folder.path.exists()


def test_looking_at_a_study_makes_no_lock(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", trials=3)
    trials = Trials(study)
    with trials.claim():
        pass
    shutil.rmtree(study.folder.path / "locks")
    assert trials.all()[0].status == "stopped"
    assert not (study.folder.path / "locks").exists()
