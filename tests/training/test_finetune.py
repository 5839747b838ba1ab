"""Fine-tuning and bounds: settings that a run hands on, zeros that are held, searches that go wrong."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from torch import nn

from dlcli.benchmark.statistics import Ratio
from dlcli.card import TransformRecord
from dlcli.commands.train_session.finetune import make_tuner
from dlcli.compress.channels.prune import NothingToPrune
from dlcli.compress.masks import count_zeros
from dlcli.config import (
    ExportConfig,
    LossConfig,
    MeasureConfig,
    PruneSettings,
    TrainConfig,
    TuneConfig,
    parse_bound,
)
from dlcli.deploy import parity
from dlcli.deploy.compare import Comparison, MeasuredModel
from dlcli.deploy.parity import BatchParity
from dlcli.deploy.prune import prune as pruning
from dlcli.deploy.prune.pipeline import Made, PruneJob
from dlcli.deploy.prune.transform import Goal
from dlcli.deploy.reference import MetricDelta
from dlcli.deploy.verdicts import verdict
from dlcli.errors import DlcliError, UsageError
from dlcli.events import ignore
from dlcli.files import write_text
from dlcli.formats.base import open_artifact
from dlcli.formats.checkpoint import card_of
from dlcli.runs.folder import RunFolder
from dlcli.settings import dump_yaml, merge, validate
from dlcli.training import run as training
from dlcli.training.finetune import TuneDefaults, tuning_plan
from dlcli.training.loop.state import load_newest
from dlcli.training.plan import make_plan, read_plan
from dlcli.training.pruning_masks import make_masks

BASE = {
    "data": {"data": "digits"},
    "model": {"name": "mlp", "args": {"widths": [64, 32]}},
    "fit": {"epochs": 1, "batch_size": 500, "device": "cpu"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A small net on digits."""
    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, BASE)))
    run = training.new_run(plan, tmp_path_factory.mktemp("trained"), "net")
    training.train(plan, run, ignore, state=None)
    return run


def asked(method: str, *, measure: dict[str, Any] | None = None, **config: Any) -> PruneSettings:
    tune = {"epochs": config.pop("epochs", 0), "device": "cpu"}
    said = {"prune": {"method": method, **config}, "tune": tune}
    return validate(PruneSettings, {**said, "measure": {"latency": False, **(measure or {})}})


def delta_of(drop: float, before: float = 0.95) -> MetricDelta:
    return MetricDelta({}, "accuracy", before, -drop, -1.0, 1.0, drop, None)


def test_a_bound_that_is_just_met_is_kept() -> None:
    assert 0.95 - 0.94 > 0.01  # of floats
    assert delta_of(0.95 - 0.94).within(parse_bound("0.01"))
    assert delta_of(0.9 - 0.855, 0.9).within(parse_bound("5%"))
    assert not delta_of(0.95 - 0.9399).within(parse_bound("0.01"))
    assert not delta_of(math.nan).within(parse_bound("0.01"))
    assert delta_of(0.0, 0.0).within(parse_bound("1%"))
    assert not delta_of(1e-6, 0.0).within(parse_bound("1%"))


def test_masks_of_weights_that_are_not_there_are_refused() -> None:
    record = TransformRecord(kind="mask", args={"weights": ["0.weight", "0.kernel"]})
    with pytest.raises(DlcliError, match=r"does not have: 0\.kernel"):
        make_masks(nn.Sequential(nn.Linear(2, 2)), [record])


def test_a_run_hands_on_no_setting_of_a_teacher_that_is_not_asked(
    trained: RunFolder, tmp_path: Path
) -> None:
    source = open_artifact(trained.best, device="cpu")
    own = {"loss": {"distill_alpha": 0.9, "temperature": 4.0}, "fit": {"tensorboard": True}}
    before = trained.config.read_text()
    write_text(trained.config, dump_yaml(validate(TrainConfig, merge(BASE, own))))
    try:
        plans = [
            tuning_plan(
                source,
                source.module(),
                (),
                TuneConfig(distill=distill, device="cpu"),
                MeasureConfig(),
                TuneDefaults(epochs=1, lr_share=1.0, distill_alpha=alpha),
            )
            for distill, alpha in ((False, 1.0), (True, None), (True, 1.0))
        ]
    finally:
        write_text(trained.config, before)
    for plan in plans:
        training.check_settings(plan)
        assert not plan.config.fit.tensorboard  # nothing would write it
    assert plans[0].config.loss.teacher is None
    assert plans[0].config.loss.distill_alpha == LossConfig().distill_alpha
    assert [plan.config.loss.distill_alpha for plan in plans[1:]] == [0.9, 1.0]


def search(drops: dict[float, float | None], bound: str) -> tuple[float, list[float]]:
    """What a search finds where amounts have these drops (None: nothing to prune), and its tries."""

    def make(goal: Goal, name: str) -> Made:
        drop = drops[goal.value]
        if drop is None:
            raise NothingToPrune("an amount that removes nothing")
        artifact = SimpleNamespace(card=SimpleNamespace(params=1), path=Path(__file__))
        run = RunFolder(Path(name))
        return cast(
            Made,
            SimpleNamespace(goal=goal, run=run, artifact=artifact, delta=delta_of(drop), elapsed_s=0.0),
        )

    job = cast(PruneJob, SimpleNamespace(make=make, emit=ignore, cost=lambda: ""))
    allowed = parse_bound(bound)
    assert allowed is not None
    goals = [Goal("amount", amount) for amount in drops]
    best, attempts = pruning._search(job, goals, allowed, "net-l1")
    return best.goal.value, [attempt.amount for attempt in attempts]


def test_an_amount_that_takes_nothing_out_does_not_end_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "drop_run", lambda run: None)
    assert search({0.2: None, 0.4: 0.3, 0.6: 0.5}, "0.1") == (0.4, [0.4])
    assert search({0.2: None, 0.4: None, 0.6: 0.05}, "0.1") == (0.6, [0.6])
    with pytest.raises(NothingToPrune):
        search({0.2: None, 0.4: None, 0.6: None}, "0.1")


def test_a_search_keeps_no_model_whose_metric_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "drop_run", lambda run: None)
    assert search({0.2: 0.4, 0.4: math.nan, 0.6: 0.5}, "0.1") == (0.2, [0.4, 0.2])


def test_what_the_last_step_cannot_do_is_refused_before_any_training(
    trained: RunFolder, tmp_path: Path
) -> None:
    def never(plan: object, name: str) -> Any:
        raise AssertionError("it was trained")

    steps = {"schedule": "iterative", "steps": 2, "epochs": 2}
    for settings, said in (
        (asked("channel", amount=0.5, skip="nosuch", **steps), "no layer is called so"),
        (asked("channel", target_params=0.001, **steps), "cannot be reached"),
        (asked("l1", amount=0.5, measure={"batch_sizes": "1,x"}), "--batch-sizes"),
    ):
        with pytest.raises(UsageError, match=said):
            pruning.prune(trained.best, settings, name=None, runs_dir=tmp_path, tuner=never)
    assert not list(tmp_path.iterdir())


def test_a_schedule_passes_over_zeros_that_are_there(trained: RunFolder, tmp_path: Path) -> None:
    tuner = make_tuner(tmp_path, ignore)

    def prune(path: Path, settings: PruneSettings, name: str) -> pruning.PruneResult:
        return pruning.prune(path, settings, name=name, runs_dir=tmp_path, tuner=tuner)

    first = prune(trained.best, asked("l1", amount=0.5), "first")
    steps = {"schedule": "iterative", "steps": 3}
    second = prune(RunFolder(first.run).best, asked("l1", amount=0.9, **steps), "second")
    assert second.zeros[0] == pytest.approx(0.9 * second.zeros[1], abs=3)


def test_an_average_that_is_asked_for_later_holds_the_zeros_too(
    trained: RunFolder, tmp_path: Path
) -> None:
    result = pruning.prune(
        trained.best,
        asked("l1", amount=0.5, epochs=1),
        name="masked",
        runs_dir=tmp_path,
        tuner=make_tuner(tmp_path, ignore),
    )
    run = RunFolder(result.run)
    plan = read_plan(run, changes={"fit": {"epochs": 2, "ema": 0.9, "keep_best": 2}}, fresh=False)
    training.train(plan, run, ignore, state=load_newest(run.state)[0])
    later = open_artifact(run.model("epoch-2"), device="cpu")
    (record,) = [found for found in later.card.transforms if found.kind == "mask"]
    rows = count_zeros(later.module(), record.args["weights"])
    assert sum(row.of - row.kept for row in rows) == record.args["zeros"]


def test_a_metric_without_an_interval_is_not_said_to_differ_by_chance() -> None:
    side = MeasuredModel("best.safetensors", "torch", 10, 1, {}, {}, {"f1_macro": 0.9})
    unknown = MetricDelta({"f1_macro": 0.4}, "f1_macro", 0.9, -0.5, -math.inf, math.inf, 0.5, 0.4)
    said = verdict(Comparison(side, side, unknown, "val", 100, "", {}, "cpu"))[0]
    assert "interval is not known" in said
    assert "no difference" not in said


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        ((6.9, 6.0, 3774.0), "speed at batch 1 NOT KNOWN: 6.00 to 3774.00 times as fast"),
        ((6.9, 6.0, 9.0), "6.90 times faster at batch 1"),
        ((1.1, 0.9, 1.4), "no difference in speed at batch 1 beyond chance"),
        ((0.5, 0.4, 0.7), "SLOWER at batch 1: 0.50 of the speed"),
    ],
)
def test_a_ratio_that_jumps_from_round_to_round_is_no_verdict(
    rounds: tuple[float, float, float], said: str
) -> None:
    side = MeasuredModel("best.safetensors", "torch", 10, 1, {}, {}, {"accuracy": 0.9})
    same = MetricDelta({"accuracy": 0.9}, "accuracy", 0.9, 0.0, -0.01, 0.01, 0.0, 1.0)
    found = Comparison(side, side, same, "val", 100, "", {"1": Ratio(*rounds)}, "cpu")
    assert verdict(found, expect_smaller=False)[1].startswith(said)


def test_an_exported_file_that_just_keeps_its_bound_passes(trained: RunFolder) -> None:
    task = card_of(trained.best).task
    assert 0.955 - 0.95 > 0.005  # of floats

    def found(accuracy: float) -> list[str]:
        same = BatchParity(1, None, 0.0, 0.0, 1.0, {"accuracy": accuracy})
        return parity._missed(same, {"accuracy": 0.955}, 1e-3, ExportConfig(max_drop=0.005), task)

    assert found(0.95) == []
    assert found(0.949) == ["accuracy gets worse by 0.006 at batch 1, where 0.005 is allowed"]
