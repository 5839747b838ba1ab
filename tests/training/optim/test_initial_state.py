"""Runs that begin with the optimizer of another program's checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_runs import resume_run

from dlcli.config import TrainConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.events import ignore
from dlcli.runs.saved import read_run
from dlcli.settings import merge, validate
from dlcli.training import run as training
from dlcli.training.loop.state import load_newest
from dlcli.training.optim.make import make_optimizer, set_lr
from dlcli.training.optim.optimizer_state import load_entries, parameter_names
from dlcli.training.plan import Plan
from dlcli.training.planning import make_plan, read_plan
from dlcli.training.prepare import prepare_run
from dlcli.training.request import open_requested
from dlcli.zoo.base import find_model

BASE: dict[str, Any] = {
    "data": {"data": "digits"},
    "model": {"name": "cnn", "args": {"widths": [4, 6], "hidden": 12}},
    "optim": {"optimizer": "adam", "weight_decay": 0.0},
    "fit": {"epochs": 1, "batch_size": 300, "device": "cpu", "tensorboard": False, "min_steps": 1},
}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, momentum=0.9),
    "adagrad": torch.optim.Adagrad,
}


def plan_of(weights: Path | None = None, **settings: Any) -> Plan:
    model = {} if weights is None else {"weights": str(weights), "optimizer_state": True}
    resolve = lambda recipe: validate(TrainConfig, merge(recipe, BASE, {"model": model}, settings))  # noqa: E731
    return make_plan(resolve)


def add_gradients(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def tutorial(
    make: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    parameters: Callable[[nn.Module], Any] = lambda module: module.parameters(),
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model and its optimizer after three steps of a loop of one's own."""
    module, *_ = plan_of().build()
    optimizer = make(parameters(module))
    for seed in range(3):
        add_gradients(module, seed)
        optimizer.step()
    return module, optimizer


def save(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> Path:
    states = {"model_state_dict": module.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    torch.save({"epoch": 3, "loss": torch.tensor(0.3), **states}, path)
    return path


def check_continues(path: Path, module: nn.Module, theirs: torch.optim.Optimizer, name: str) -> None:
    """What dlcli's optimizer remembers is theirs, and so is the next step."""
    plan = plan_of(path, optim={"optimizer": name})
    prepared = prepare_run(plan)
    own, head = prepared.module, find_model("cnn", "image").head(prepared.module)
    optimizer = make_optimizer(own, plan.config.optim, head=head)
    load_entries(own, optimizer, prepared.optimizer_entries)
    twins = dict(own.named_parameters())
    for key, parameter in module.named_parameters():
        for name, value in theirs.state[parameter].items():
            assert torch.equal(
                torch.as_tensor(optimizer.state[twins[key]][name]), torch.as_tensor(value)
            )
    for part in (module, own):
        add_gradients(part, 9)
    set_lr(optimizer, theirs.param_groups[0]["lr"])
    for each in (optimizer, theirs):
        for group in each.param_groups:
            group["weight_decay"] = 0.0
        each.step()
    for key, parameter in module.named_parameters():
        assert torch.allclose(twins[key], parameter, atol=1e-6), key


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizer_goes_on_as_in_its_own_program(name: str, tmp_path: Path) -> None:
    module, optimizer = tutorial(OPTIMIZERS[name])
    check_continues(save(tmp_path / "c.pth", module, optimizer), module, optimizer, name)


def test_spellings_of_others(tmp_path: Path) -> None:
    module, optimizer = tutorial()
    state, own = module.state_dict(), optimizer.state_dict()
    prefixed = {f"model.{name}": tensor for name, tensor in state.items()}
    for number, checkpoint in enumerate(
        (
            {"state_dict": prefixed, "optimizer_states": [own], "lr_schedulers": [{"last_epoch": 1}]},
            {"model": state, "optimizer": own, "epoch": 2},
            {"epoch": 1, "arch": "cnn", "state_dict": state, "optimizer": own, "version": 2},
            {"net": {f"module.{name}": tensor for name, tensor in state.items()}, "optim": own},
        )
    ):
        path = tmp_path / f"{number}.pth"
        torch.save(checkpoint, path)
        entries = prepare_run(plan_of(path)).optimizer_entries
        assert set(entries) == dict(module.named_parameters()).keys(), number


def test_groups_with_and_without_weight_decay(tmp_path: Path) -> None:
    def groups(module: nn.Module) -> list[dict[str, Any]]:
        vectors = [p for p in module.parameters() if p.ndim <= 1]
        return [
            {"params": vectors, "weight_decay": 0.0},
            {"params": [p for p in module.parameters() if p.ndim > 1]},
        ]

    module, optimizer = tutorial(torch.optim.AdamW, groups)
    check_continues(save(tmp_path / "c.pth", module, optimizer), module, optimizer, "adamw")


def test_a_head_of_other_classes_begins_without_a_state(tmp_path: Path) -> None:
    module, _ = tutorial()
    head = find_model("cnn", "image").head(module)
    layer = module.get_submodule(head)
    last = [name for name, p in layer.named_parameters() if p.ndim == 2][-1].rpartition(".")[0]
    layer.set_submodule(last, nn.Linear(12, 7))
    optimizer = torch.optim.Adam(module.parameters())
    add_gradients(module, 0)
    optimizer.step()
    prepared = prepare_run(plan_of(save(tmp_path / "c.pth", module, optimizer)))
    missing = prepared.module.state_dict().keys() - prepared.optimizer_entries.keys()
    assert {f"{head}.{last}.{name}" for name in ("weight", "bias")} <= missing
    own = dict(prepared.module.named_parameters())
    assert len(prepared.optimizer_entries) == len(own) - 2
    assert f"{len(own) - 2} of {len(own)} parameters" in prepared.load_notes[-1]


def test_what_is_not_that_optimizer_is_refused(tmp_path: Path) -> None:
    module, optimizer = tutorial()
    path = tmp_path / "c.pth"
    save(path, module, optimizer)
    with pytest.raises(UsageError, match="keeps exp_avg, exp_avg_sq, step, and momentum keeps moment"):
        prepare_run(plan_of(path, optim={"optimizer": "momentum"}))
    with pytest.raises(UsageError, match=r"and adam keeps .*max_exp_avg_sq"):
        prepare_run(plan_of(path, optim={"args": {"amsgrad": True}}))
    head = find_model("cnn", "image").head(module)
    save(path, *tutorial(parameters=lambda m: m.get_submodule(head).parameters()))
    with pytest.raises(UsageError, match=r"not one of model.parameters\(\): it has .* parameters"):
        prepare_run(plan_of(path))
    save(path, *tutorial(parameters=lambda m: list(m.parameters())[::-1]))
    with pytest.raises(UsageError, match=r"exp_avg of parameter 0 is \(10,\), and features"):
        prepare_run(plan_of(path))
    save(path, module, torch.optim.Adam(module.parameters()))
    with pytest.raises(UsageError, match="remembers nothing"):
        prepare_run(plan_of(path))
    for extra, reason in (
        ({}, "no optimizer's state"),
        ({"d": 1, "g": 2}, "the states of 2 optimizers"),
    ):
        states = dict.fromkeys(extra, optimizer.state_dict())
        torch.save({"model": module.state_dict(), **states}, path)
        with pytest.raises(DlcliError, match=reason):
            prepare_run(plan_of(path))
    with pytest.raises(UsageError, match="--optimizer-state is for --weights"):
        open_requested(validate(TrainConfig, merge(BASE, {"model": {"optimizer_state": True}})))


def test_a_state_that_is_not_requested_is_mentioned(tmp_path: Path) -> None:
    path = save(tmp_path / "c.pth", *tutorial())
    prepared = prepare_run(plan_of(path, model={"optimizer_state": False}))
    assert not prepared.optimizer_entries
    assert "--optimizer-state begins with it" in prepared.load_notes[-1]


def test_a_run_begins_with_it_and_resumes_from_before_its_first_state(tmp_path: Path) -> None:
    module, optimizer = tutorial()
    prepared = prepare_run(plan_of(save(tmp_path / "c.pth", module, optimizer)))
    run = training.new_run(prepared, tmp_path, "one")
    training.train(prepared, run, ignore, state=None)
    state, _ = load_newest(run.state)
    assert state is not None
    steps = {float(value) for name, value in state.tensors.items() if name.endswith("/step")}
    assert steps == {3.0 + state.progress.step}
    again = training.new_run(prepare_run(read_plan(read_run(run), fresh=True)), tmp_path, "two")
    resume_run(again)  # killed before its first state
    other, _ = load_newest(again.state)
    assert other is not None
    assert all(torch.equal(other.tensors[name], tensor) for name, tensor in state.tensors.items())
    own = make_optimizer(module, prepared.plan.config.optim, head="head")
    assert state.values.optimizer is not None
    assert state.values.optimizer.parameters == parameter_names(module, own)
