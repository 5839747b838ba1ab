"""Optimizers and schedules of the user's own: what they get, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from dlcli.config import OptimConfig, TrainConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.events import ignore
from dlcli.settings import merge, validate
from dlcli.training.autotune.resolve import resolve_auto
from dlcli.training.optim.make import check_optim, make_optimizer
from dlcli.training.optim.schedule import describe, lr_factor
from dlcli.training.optim.user_optimizer import check_weight_decay
from dlcli.training.planning import make_plan

Write = Callable[[str, str], str]


pytestmark = pytest.mark.usefixtures("trusted")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(code: str, name: str) -> str:
        path = tmp_path / "own.py"
        path.write_text("import torch\n" + code)
        return f"{path}:{name}"

    return write


FUNCTION = """
def adam(params, lr, eps=1e-8, **more):
    return torch.optim.Adam(params, lr=lr, eps=eps, **more)

from torch.optim import Adam
"""


@pytest.mark.parametrize("name", ["adam", "Adam"])
def test_a_function_or_class_gets_groups_rate_and_its_arguments(write: Write, name: str) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    config = OptimConfig(
        optimizer=write(FUNCTION, name), lr=0.5, weight_decay=0.25, backbone_lr=0.1, args={"eps": 1e-3}
    )
    check_optim(config)
    own = make_optimizer(module, config, head="1", never={"0.bias"})
    built_in = make_optimizer(
        module, config.model_copy(update={"optimizer": "adam", "args": {}}), head="1", never={"0.bias"}
    )
    assert own.defaults["eps"] == 1e-3
    assert own.defaults["lr"] == 0.5
    for key in ("params", "weight_decay", "lr_scale"):
        assert [group[key] for group in own.param_groups] == [
            group[key] for group in built_in.param_groups
        ]


def test_arguments_are_shared_out_by_name(write: Write) -> None:
    name = write(FUNCTION, "Adam")
    curve = write(FUNCTION + "def curve(share, power=1.0):\n    return (1 - share) ** power\n", "curve")
    config = OptimConfig(optimizer=name, scheduler=curve, args={"eps": 0.1, "power": 2})
    check_optim(config)
    assert lr_factor(25, 100, 10, config) == pytest.approx(0.75**2)
    assert make_optimizer(nn.Linear(2, 2), config, head="").defaults["eps"] == 0.1
    for bad in ({"powr": 2}, {"lr": 1.0}):
        with pytest.raises(UsageError, match=r"unknown setting 'optim.args"):
            check_optim(config.model_copy(update={"args": bad}))
    with pytest.raises(UsageError, match="means nothing to"):
        check_optim(config.model_copy(update={"momentum": 0.5}))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def own(params, lr): return 3", "gave a int, not a torch.optim.Optimizer"),
        ("def own(params): ...", "has no parameter lr"),
        ("def own(params, lr, rho): ...", "missing a required argument: 'rho'"),
        ("def own(params, lr): return torch.optim.SGD(params[0]['params'], lr)", "groups as they are"),
        ("own = torch.optim.LBFGS", "LBFGS"),
        (
            "def own(params, lr): 1 / 0",
            "ZeroDivisionError: division by zero, in own.py",
        ),
    ],
)
def test_what_is_no_optimizer_is_refused(write: Write, code: str, message: str) -> None:
    config = OptimConfig(optimizer=write(code, "own"))
    with pytest.raises(DlcliError) as caught:
        make_optimizer(nn.Linear(2, 2), config, head="")
    assert message in str(caught.value)


def test_a_weight_decay_that_the_optimizer_lacks_is_refused(write: Write) -> None:
    config = OptimConfig(optimizer=write("own = torch.optim.Rprop", "own"), weight_decay=0.5)
    optimizer = make_optimizer(nn.Linear(2, 2), config, head="")
    with pytest.raises(UsageError, match=r"--weight-decay 0.5: Rprop has no default"):
        check_weight_decay(optimizer, config)


STEP = """
class own(torch.optim.SGD):
    def __init__(self, params, lr):
        super().__init__(params, lr, weight_decay=0.1)
        self.count = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.count += 1
        for group in self.param_groups:
            for p in group["params"]:
                {}
"""
FORGETS = {
    "attribute": ("p.sub_(p.grad * group['lr'] * self.count)", "does not go on as before"),
    "group": (
        "group['n'] = group.get('n', 0) + 1; p.sub_(p.grad * group['n'])", "does not go on as before"
    ),
    "precision": (
        "s = self.state[p]; s['m'] = s.get('m', 0) + p.grad.double() / 3; p.sub_(s['m'])",
        "does not go on as before",
    ),
    "list": ("self.state[p]['all'] = [p.clone()]", "cannot be saved"),
    "global": ("self.state['all'] = 3", "cannot be saved"),
    "error": ("p.sub_(p.grad.no_such_method())", "in own.py line 13: p.sub_(p.grad.no_such_method())"),
}  # fmt: skip


def resolve(**optim: Any) -> None:
    settings: dict[str, Any] = {
        "data": {"data": "digits"},
        "model": {"name": "linear"},
        "optim": optim,
        "fit": {"epochs": 1, "batch_size": 500, "device": "cpu"},
    }
    resolve_auto(make_plan(lambda recipe: validate(TrainConfig, merge(recipe, settings))), ignore)


@pytest.mark.parametrize("kind", FORGETS)
def test_what_a_resumed_run_would_not_have_is_refused(write: Write, kind: str) -> None:
    line, message = FORGETS[kind]
    with pytest.raises(DlcliError) as caught:
        resolve(optimizer=write(STEP.format(line), "own"))
    assert message in str(caught.value)


def test_a_schedule_is_called_with_the_share_of_the_run(write: Write) -> None:
    code = "def own(share):\n    assert 0 <= share <= 1\n    return torch.tensor(1 + share)\n"
    config = OptimConfig(scheduler=write(code, "own"))
    check_optim(config)
    assert [lr_factor(step, 4, 2, config) for step in range(4)] == [1.0, 1.25, 1.5, 1.75]
    warm = config.model_copy(update={"warmup": 0.5})
    assert [lr_factor(step, 4, 2, warm) for step in range(4)] == pytest.approx(
        [1 / 3, 1.25 * 2 / 3, 1.5, 1.75]
    )
    text = "own.py:own, per step: warm-up over 2 of 4 steps, from 100 % to 200 % of the peak"
    assert describe(warm, 4, 2) == text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("share - 0.5", "gave -0.5 at 0 of the run"),
        ("1 if share < 0.5 else float('nan')", "gave nan at 0.5 of the run"),
        ("'fast'", "gave 'fast' at 0 of the run"),
        ("1 / (share - 0.5)", "failed at 0.5 of the run: ZeroDivisionError"),
        ("None", "gave None at 0 of the run"),
    ],
)
def test_what_is_no_factor_is_refused(write: Write, value: str, message: str) -> None:
    if value.startswith("1 / "):
        value = f"abs({value})"
    with pytest.raises(DlcliError) as caught:
        check_optim(OptimConfig(scheduler=write(f"def own(share):\n    return {value}\n", "own")))
    assert message in str(caught.value)
