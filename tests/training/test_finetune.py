"""Fine-tuning: settings taken from the model's own run, zeros that stay zero, schedules of pruning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from dlcli.card import TransformRecord
from dlcli.commands.train_session.finetune import make_finetuner
from dlcli.compress.masks.apply import count_zeros
from dlcli.config import (
    FinetuneConfig,
    LossConfig,
    MeasureConfig,
    PruneSettings,
    TrainConfig,
)
from dlcli.deploy.prune import prune as pruning
from dlcli.errors import DlcliError, UsageError
from dlcli.events import ignore
from dlcli.formats.base import open_artifact
from dlcli.runs.folder import RunFolder
from dlcli.runs.saved import read_run, read_run_of
from dlcli.settings import merge, validate
from dlcli.training import run as training
from dlcli.training.finetune import FinetuneDefaults, finetune_plan
from dlcli.training.loop.state import load_newest
from dlcli.training.planning import make_plan, read_plan
from dlcli.training.prepare import prepare_run
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
    run = training.new_run(prepare_run(plan), tmp_path_factory.mktemp("trained"), "net")
    training.train(prepare_run(plan), run, ignore, state=None)
    return run


def asked(method: str, *, measure: dict[str, Any] | None = None, **config: Any) -> PruneSettings:
    tune = {"epochs": config.pop("epochs", 0), "device": "cpu"}
    said = {"prune": {"method": method, **config}, "finetune": tune}
    return validate(PruneSettings, {**said, "measure": {"latency": False, **(measure or {})}})


def test_masks_of_weights_that_are_not_there_are_refused() -> None:
    record = TransformRecord(kind="mask", args={"weights": ["0.weight", "0.kernel"]})
    with pytest.raises(DlcliError, match=r"does not have: 0\.kernel"):
        make_masks(nn.Sequential(nn.Linear(2, 2)), [record])


def test_a_run_hands_on_no_setting_of_a_teacher_that_is_not_requested(
    trained: RunFolder, tmp_path: Path
) -> None:
    source = open_artifact(trained.best, device="cpu")
    own = {"loss": {"distill_alpha": 0.9, "temperature": 4.0}, "fit": {"tensorboard": True}}
    saved = read_run_of(source.path)
    assert saved is not None
    saved = replace(saved, config=validate(TrainConfig, merge(BASE, own)))
    plans = [
        finetune_plan(
            source,
            saved,
            source.module(),
            (),
            FinetuneConfig(distill=distill, device="cpu"),
            MeasureConfig(),
            FinetuneDefaults(epochs=1, lr_share=1.0, distill_alpha=alpha),
        )
        for distill, alpha in ((False, 1.0), (True, None), (True, 1.0))
    ]
    for plan in plans:
        prepare_run(plan)
        assert not plan.config.fit.tensorboard  # nothing would write it
    assert plans[0].config.loss.teacher is None
    assert plans[0].config.loss.distill_alpha == LossConfig().distill_alpha
    assert [plan.config.loss.distill_alpha for plan in plans[1:]] == [0.9, 1.0]


def test_what_the_last_step_cannot_do_is_refused_before_any_training(
    trained: RunFolder, tmp_path: Path
) -> None:
    def never(plan: object, name: str) -> Any:
        raise AssertionError("it was trained")

    steps = {"schedule": "iterative", "steps": 2, "epochs": 2}
    for settings, said in (
        (asked("channel", amount=0.5, skip="nosuch", **steps), "no layer has that name"),
        (asked("channel", target_params=0.001, **steps), "cannot be reached"),
    ):
        with pytest.raises(UsageError, match=said):
            pruning.prune(trained.best, settings, name=None, runs_dir=tmp_path, finetuner=never)
    assert not list(tmp_path.iterdir())


def test_a_schedule_passes_over_zeros_that_are_there(trained: RunFolder, tmp_path: Path) -> None:
    finetuner = make_finetuner(tmp_path, ignore)

    def prune(path: Path, settings: PruneSettings, name: str) -> pruning.PruneResult:
        return pruning.prune(path, settings, name=name, runs_dir=tmp_path, finetuner=finetuner)

    first = prune(trained.best, asked("l1", amount=0.5), "first")
    steps = {"schedule": "iterative", "steps": 3}
    second = prune(RunFolder(first.run).best, asked("l1", amount=0.9, **steps), "second")
    assert second.zeros[0] == pytest.approx(0.9 * second.zeros[1], abs=3)


def test_an_average_that_is_requested_later_holds_the_zeros_too(
    trained: RunFolder, tmp_path: Path
) -> None:
    result = pruning.prune(
        trained.best,
        asked("l1", amount=0.5, epochs=1),
        name="masked",
        runs_dir=tmp_path,
        finetuner=make_finetuner(tmp_path, ignore),
    )
    run = RunFolder(result.run)
    plan = read_plan(
        read_run(run).with_changes({"fit": {"epochs": 2, "ema": 0.9, "keep_best": 2}}), fresh=False
    )
    training.train(prepare_run(plan), run, ignore, state=load_newest(run.state)[0])
    later = open_artifact(run.model("epoch-2"), device="cpu")
    (record,) = [found for found in later.card.transforms if found.kind == "mask"]
    rows = count_zeros(later.module(), record.args["weights"])
    assert sum(row.of - row.kept for row in rows) == record.args["zeros"]
