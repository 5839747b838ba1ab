"""Runs that go on with other settings: what of their state still holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dlcli.config import TrainConfig
from dlcli.errors import UsageError
from dlcli.events import Event, Warned, ignore
from dlcli.runs.folder import RunFolder
from dlcli.runs.saved import read_run
from dlcli.settings import merge, validate
from dlcli.training import run as training
from dlcli.training.build_job import make_job
from dlcli.training.distributed.world import ALONE
from dlcli.training.loop.job import FitJob
from dlcli.training.loop.model import set_train_mode
from dlcli.training.loop.state import Progress, load_newest
from dlcli.training.loop.step import optimizer_step
from dlcli.training.planning import make_plan, read_plan
from dlcli.training.prepare import prepare_run
from dlcli.training.readers import make_readers

# 1,439 training digits in batches of 300: 5 steps an epoch.
BASE = {
    "data": {"data": "digits"},
    "model": {"name": "cnn", "args": {"widths": [4, 8], "hidden": 16}},
    "optim": {"optimizer": "momentum", "lr": 0.02},
    "fit": {"epochs": 1, "batch_size": 300, "log_every": 0, "device": "cpu"},
}


def train(root: Path, **changes: Any) -> training.TrainResult:
    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, BASE, changes)))
    return training.train(
        prepare_run(plan), training.new_run(prepare_run(plan), root, "run"), ignore, state=None
    )


def resume(
    run: RunFolder, emit: Callable[[Event], None] = ignore, **changes: Any
) -> training.TrainResult:
    state, _ = load_newest(run.state)
    changes = merge({"fit": {"epochs": 2}}, changes)
    return training.train(
        prepare_run(read_plan(read_run(run).with_changes(changes), fresh=False)), run, emit, state=state
    )


def job_of(root: Path, **changes: Any) -> FitJob:
    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, BASE, changes)))
    module, *_ = plan.build()
    readers = make_readers(plan, ALONE)
    return make_job(plan, RunFolder(root), module, None, readers, torch.device("cpu"), ignore, ALONE).job


def test_fewer_micro_batches_are_what_a_run_goes_on_with(tmp_path: Path) -> None:
    run = train(tmp_path, fit={"grad_accum_steps": 4}).run
    assert run.read_record()["micro_batch"] == 75
    resume(run, fit={"grad_accum_steps": 1})
    assert run.read_record()["micro_batch"] == 300


def test_micro_batches_stay_as_small_as_memory_made_them(tmp_path: Path) -> None:
    run = train(tmp_path).run
    state, _ = load_newest(run.state)
    assert state is not None
    state.progress.micro = 50
    changes = {"fit": {"epochs": 2}}
    training.train(
        prepare_run(read_plan(read_run(run).with_changes(changes), fresh=False)),
        run,
        ignore,
        state=state,
    )
    assert run.read_record()["micro_batch"] == 50


# Each of them puts the optimizer's parameters into other groups, in another order.
@pytest.mark.parametrize(
    "changes", [{"optim": {"backbone_lr": 2.0}}, {"model": {"freeze": "features.0"}}]
)
def test_momenta_stay_with_their_parameters(tmp_path: Path, changes: dict[str, Any]) -> None:
    first = job_of(tmp_path)
    set_train_mode(first.model.module)
    batch = next(first.batches.epoch(0))
    optimizer_step(first, batch, batch.count)
    first.files.save_state(Progress(step=1))
    state, _ = load_newest(RunFolder(tmp_path).state)
    assert state is not None
    second = job_of(tmp_path, **changes)
    state.restore(second.model.module, second.optimizer, second.scaler, second.model.averages)
    states = {name: first.optimizer.state[p] for name, p in first.model.module.named_parameters()}
    held = {id(p) for group in second.optimizer.param_groups for p in group["params"]}
    compared = 0
    for name, parameter in second.model.module.named_parameters():
        if id(parameter) in held:
            own = second.optimizer.state[parameter]["momentum_buffer"]
            assert torch.equal(own, states[name]["momentum_buffer"]), name
            compared += 1
    assert compared > 3


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop", "muon", "sgd", "lion"])
def test_another_optimizer_begins_without_a_state_and_says_so(tmp_path: Path, optimizer: str) -> None:
    events: list[Event] = []
    run = train(tmp_path).run
    result = resume(run, events.append, optim={"optimizer": optimizer, "lr": 1e-3})
    assert result.fit.progress.step == 10
    warnings = [event.message for event in events if isinstance(event, Warned)]
    assert any("the optimizer has changed" in message for message in warnings)


def test_the_same_optimizer_goes_on_in_silence(tmp_path: Path) -> None:
    events: list[Event] = []
    resume(train(tmp_path).run, events.append)
    assert not any(isinstance(event, Warned) for event in events)


@pytest.mark.parametrize("changes", [{"optim": {"lr": "auto"}}, {"fit": {"batch_size": "auto"}}])
def test_a_run_that_has_begun_looks_for_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = train(tmp_path).run
    with pytest.raises(UsageError, match="= auto is resolved before a run begins"):
        read_plan(read_run(run).with_changes(changes), fresh=False)
