"""Learning rates against torch's own schedulers, step by step, and what holds for every schedule."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as torchs

from dlcli.config import OptimConfig
from dlcli.training.optim.schedule import Plateau, describe, lr_factor
from dlcli.training.optim.schedules.base import SCHEDULES

EXACT = 1e-9
SCHEDULERS = SCHEDULES.names()
CURVES = ("cosine", "cosine-restarts", "linear", "polynomial")


def torch_rates(make: Callable[[torch.optim.Optimizer], Any], total: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < total:
            scheduler.step()
    return rates


def factors(total: int, steps_per_epoch: int = 10, plateau: float = 1.0, **settings: Any) -> list[float]:
    config = OptimConfig(**settings)
    return [lr_factor(s, total, steps_per_epoch, config, plateau) for s in range(total)]


@pytest.mark.parametrize("total", [3, 7, 50, 1000])  # torch itself divides by zero at 2
@pytest.mark.parametrize("warmup", [None, 0.0, 0.1, 0.5])
def test_onecycle_is_torchs(total: int, warmup: float | None) -> None:
    expected = torch_rates(
        lambda o: torchs.OneCycleLR(
            o,
            1.0,
            total_steps=total,
            pct_start=0.3 if warmup is None else warmup,
            cycle_momentum=False,
        ),
        total,
    )
    got = factors(total, scheduler="onecycle", warmup=warmup)
    assert got == pytest.approx(expected, rel=EXACT, abs=EXACT)


@pytest.mark.parametrize("total", [1, 2, 10, 333])
@pytest.mark.parametrize("lr_min", [0.0, 0.2])
def test_cosine_is_torchs(total: int, lr_min: float) -> None:
    expected = torch_rates(lambda o: torchs.CosineAnnealingLR(o, T_max=total, eta_min=lr_min), total)
    assert factors(total, scheduler="cosine", lr_min=lr_min) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize(("cycles", "growth", "first"), [(3, 1, 20), (4, 2, 4), (1, 1, 30), (3, 3, 5)])
@pytest.mark.parametrize("lr_min", [0.0, 0.1])
def test_restarts_are_torchs(cycles: int, growth: int, first: int, lr_min: float) -> None:
    total = sum(first * growth**i for i in range(cycles))
    expected = torch_rates(
        lambda o: torchs.CosineAnnealingWarmRestarts(o, T_0=first, T_mult=growth, eta_min=lr_min), total
    )
    got = factors(total, scheduler="cosine-restarts", cycles=cycles, cycle_growth=growth, lr_min=lr_min)
    assert got == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("total", [1, 7, 100])
@pytest.mark.parametrize("lr_min", [0.0, 0.05])
def test_linear_is_torchs(total: int, lr_min: float) -> None:
    expected = torch_rates(
        lambda o: torchs.LinearLR(o, start_factor=1.0, end_factor=lr_min, total_iters=total), total
    )
    assert factors(total, scheduler="linear", lr_min=lr_min) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.7])
def test_polynomial_is_torchs(power: float) -> None:
    expected = torch_rates(lambda o: torchs.PolynomialLR(o, total_iters=100, power=power), 100)
    assert factors(100, scheduler="polynomial", power=power) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("gamma", [None, 0.5, 0.001])
def test_exponential_is_torchs_over_the_whole_run(gamma: float | None) -> None:
    each = (gamma or 0.01) ** (1 / 80)
    expected = torch_rates(lambda o: torchs.ExponentialLR(o, gamma=each), 80)
    assert factors(80, scheduler="exponential", gamma=gamma) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize(("every", "steps"), [(0.3, 30), (0.25, 25), (0.7, 70), (2, 20), (1, 10)])
@pytest.mark.parametrize("gamma", [None, 0.5])
def test_step_is_torchs_for_shares_and_epochs(every: float, steps: int, gamma: float | None) -> None:
    expected = torch_rates(lambda o: torchs.StepLR(o, step_size=steps, gamma=gamma or 0.1), 100)
    got = factors(100, scheduler="step", decay_every=every, gamma=gamma)
    assert got == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize(
    ("milestones", "steps"),
    [((0.5, 0.75), [50, 75]), ((3, 6), [30, 60]), ((0.5, 8), [50, 80]), ((0.5, 0.5), [50, 50])],
)
def test_multistep_is_torchs_for_shares_and_epochs(
    milestones: tuple[float, ...], steps: list[int]
) -> None:
    expected = torch_rates(lambda o: torchs.MultiStepLR(o, milestones=steps, gamma=0.1), 100)
    got = factors(100, scheduler="multistep", milestones=milestones)
    assert got == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("patience", [0, 2])
@pytest.mark.parametrize("min_delta", [0.0, 0.05])
@pytest.mark.parametrize("lr_min", [0.0, 0.02])
def test_plateau_is_torchs(direction: int, patience: int, min_delta: float, lr_min: float) -> None:
    generator = torch.Generator().manual_seed(patience)
    values = [float(v) for v in torch.rand(40, generator=generator)]
    values[5], values[11] = math.nan, direction * -math.inf
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torchs.ReduceLROnPlateau(
        optimizer,
        mode="max" if direction > 0 else "min",
        patience=patience,
        threshold=min_delta,
        threshold_mode="abs",
        factor=0.3,
        min_lr=lr_min,
        eps=0.0,
    )
    config = OptimConfig(scheduler="plateau", gamma=0.3, plateau_patience=patience, lr_min=lr_min)
    memory = Plateau()
    for value in values:
        reference.step(value)
        memory = memory.after(value, direction=direction, config=config, min_delta=min_delta)
        got = lr_factor(7, 100, 10, config, memory.factor)
        assert got == pytest.approx(optimizer.param_groups[0]["lr"], rel=EXACT)
    assert memory.factor < 0.3


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize(("cooldown", "threshold"), [(3, 0.0), (0, 0.2), (2, 0.1)])
def test_cooldown_and_relative_threshold_are_torchs(
    direction: int, cooldown: int, threshold: float
) -> None:
    generator = torch.Generator().manual_seed(cooldown)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torchs.ReduceLROnPlateau(
        optimizer, mode="max" if direction > 0 else "min", patience=1, threshold=threshold,
        factor=0.5, cooldown=cooldown, eps=0.0,
    )  # fmt: skip
    config = OptimConfig(
        scheduler="plateau", gamma=0.5, plateau_patience=1,
        plateau_cooldown=cooldown, plateau_threshold=threshold,
    )  # fmt: skip
    memory = Plateau()
    for value in (1 + torch.rand(40, generator=generator)).tolist():
        reference.step(value)
        memory = memory.after(value, direction=direction, config=config, min_delta=0.0)
        assert memory.factor == pytest.approx(optimizer.param_groups[0]["lr"], rel=EXACT)
    assert memory.factor < 0.3


def test_plateau_begins_without_a_value_that_is_none() -> None:
    config = OptimConfig(scheduler="plateau", plateau_patience=0)
    after = Plateau().after(math.nan, direction=1, config=config, min_delta=0.0)
    assert after == Plateau(factor=pytest.approx(0.1), best=None, stale=0)


@pytest.mark.parametrize("scheduler", [s for s in SCHEDULERS if s != "plateau"])
def test_only_plateau_heeds_the_drops(scheduler: str) -> None:
    assert factors(50, plateau=0.1, scheduler=scheduler) == factors(50, scheduler=scheduler)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("warmup", [None, 0.0, 0.2, 0.99])
@pytest.mark.parametrize("lr_min", [0.0, 0.3, 1.0])
def test_every_factor_is_a_share_of_the_peak(
    scheduler: str, warmup: float | None, lr_min: float
) -> None:
    for total in (1, 2, 3, 4, 5, 37, 100):
        got = factors(total, 3, scheduler=scheduler, warmup=warmup, lr_min=lr_min)
        assert got[0] > 0
        assert all(0 <= f <= 1 + 1e-12 for f in got)
        rise = round((warmup or 0.0) * total)
        if scheduler != "onecycle":
            assert got[:rise] == sorted(got[:rise])
            assert all(f >= lr_min for f in got[rise:])
        if rise < total and scheduler != "onecycle":
            assert got[rise] == max(got[rise:])
            assert scheduler in ("step", "multistep") or got[rise] == 1.0


@pytest.mark.parametrize("scheduler", [s for s in SCHEDULERS if s not in ("onecycle", "constant")])
def test_after_the_rise_no_rate_goes_up(scheduler: str) -> None:
    got = factors(97, 7, scheduler=scheduler, warmup=0.2, cycles=1)[round(0.2 * 97) :]
    assert all(later <= earlier for earlier, later in itertools.pairwise(got))


@pytest.mark.parametrize("scheduler", CURVES)
@pytest.mark.parametrize("warmup", [0.0, 0.3])
@pytest.mark.parametrize("lr_min", [0.0, 0.25])
def test_a_curve_ends_at_the_lowest_rate(scheduler: str, warmup: float, lr_min: float) -> None:
    config = OptimConfig(scheduler=scheduler, warmup=warmup, lr_min=lr_min)  # type: ignore[arg-type]
    for total in (1, 2, 50, 999):
        assert lr_factor(total, total, 10, config) == pytest.approx(lr_min, abs=EXACT)
        assert lr_factor(total + 5, total, 10, config) == pytest.approx(lr_min, abs=EXACT)


@pytest.mark.parametrize("lr_min", [1e-7, 0.1, 0.5])
def test_onecycle_ends_at_the_lowest_rate(lr_min: float) -> None:
    got = factors(100, scheduler="onecycle", lr_min=lr_min)
    assert got[-1] == pytest.approx(lr_min)
    assert min(got[30:]) == got[-1]


@pytest.mark.parametrize("growth", [1.0, 1.5, 1e9])
@pytest.mark.parametrize("cycles", [1, 7, 60])
def test_restarts_fill_the_run_in_whole_steps(growth: float, cycles: int) -> None:
    got = factors(40, scheduler="cosine-restarts", cycles=cycles, cycle_growth=growth)
    assert got[0] == 1.0
    assert sum(f == 1.0 for f in got) <= cycles
    if growth == 1.0:
        assert sum(f == 1.0 for f in got) == min(cycles, 40)


@pytest.mark.parametrize("scheduler", [s for s in SCHEDULERS if s != "onecycle"])
def test_warm_up_rises_in_a_line(scheduler: str) -> None:
    got = factors(100, scheduler=scheduler, warmup=0.1)
    steps = [b - a for a, b in itertools.pairwise(got[:11])]
    assert steps == pytest.approx([steps[0]] * 10)
    assert got[0] == pytest.approx(1 / 11)
    assert got[10] == 1.0


@pytest.mark.parametrize("settings", [{"scheduler": "step", "decay_every": 2},
                                      {"scheduler": "multistep", "milestones": (1, 3)}])  # fmt: skip
def test_whole_epochs_change_the_rate_between_epochs_only(settings: dict[str, Any]) -> None:
    got = factors(35, 7, **settings)
    assert all(len(set(got[e * 7 : e * 7 + 7])) == 1 for e in range(5))
    assert len(set(got)) == 3


SPOKEN = [
    ({}, "onecycle, per step: warm-up over 300 of 1,000 steps, down to 0.0004 % of the peak"),
    ({"scheduler": "constant"}, "constant, per step: the peak rate"),
    ({"scheduler": "cosine", "warmup": 0.1, "lr_min": 0.05},
     "cosine, per step: warm-up over 100 of 1,000 steps, down to 5 % of the peak"),
    ({"scheduler": "cosine-restarts", "cycles": 2, "cycle_growth": 3},
     "cosine-restarts, per step: 2 times from the peak down to 0 % of it, in 250, 750 steps"),
    ({"scheduler": "exponential"}, "exponential, per step: down to 1 % of the peak"),
    ({"scheduler": "step"}, "step, per step: times 0.1 every 300 steps"),
    ({"scheduler": "step", "decay_every": 30, "gamma": 0.5},
     "step, per epoch: times 0.5 every 30 epochs, which is never in this run"),
    ({"scheduler": "step", "decay_every": 1, "lr_min": 0.01},
     "step, per epoch: times 0.1 every epoch, not below 1 % of the peak"),
    ({"scheduler": "multistep"}, "multistep, per step: times 0.1 after step 500 and step 750"),
    ({"scheduler": "multistep", "milestones": (3, 4)},
     "multistep, per epoch: times 0.1 after epoch 3 and epoch 4"),
    ({"scheduler": "plateau"},
     "plateau, per epoch: times 0.1 after 3 epochs in a row without a better metric"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "said"), SPOKEN)
def test_the_schedule_is_stated_in_a_line(settings: dict[str, Any], said: str) -> None:
    assert describe(OptimConfig(**settings), 1000, 100) == said


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_schedule_says_what_it_moves_by(scheduler: str) -> None:
    for total in (1, 2, 100):
        said = describe(OptimConfig(scheduler=scheduler), total, 10)  # type: ignore[arg-type]
        assert said.startswith((f"{scheduler}, per step: ", f"{scheduler}, per epoch: "))
