"""Learning rates against torch's own schedulers, step by step."""

import itertools

import pytest
import torch

from dlcli.config import OptimConfig
from dlcli.engine.schedule import lr_factor


def torch_rates(make: object, total: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)  # type: ignore[operator]
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < total:
            scheduler.step()
    return rates


@pytest.mark.parametrize("total", [3, 7, 50, 1000])  # torch itself divides by zero at 2
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_onecycle_is_torchs(total: int, warmup: float) -> None:
    config = OptimConfig(scheduler="onecycle", warmup=warmup)
    expected = torch_rates(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, 1.0, total_steps=total, pct_start=warmup or 0.3, cycle_momentum=False
        ),
        total,
    )
    got = [lr_factor(s, total, config) for s in range(total)]
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("total", [1, 2, 10, 333])
def test_cosine_is_torchs(total: int) -> None:
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=total), total)
    config = OptimConfig(scheduler="cosine")
    got = [lr_factor(s, total, config) for s in range(total)]
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("scheduler", ["onecycle", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.2])
@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 100])
def test_every_factor_is_a_share_of_the_peak(scheduler: str, warmup: float, total: int) -> None:
    config = OptimConfig(scheduler=scheduler, warmup=warmup)
    factors = [lr_factor(s, total, config) for s in range(total)]
    assert all(0 < f <= 1 + 1e-12 for f in factors)
    if scheduler != "onecycle":
        assert max(factors) == pytest.approx(1.0)


def test_warm_up_rises_in_a_line() -> None:
    config = OptimConfig(scheduler="constant", warmup=0.1)
    factors = [lr_factor(s, 100, config) for s in range(100)]
    steps = [b - a for a, b in itertools.pairwise(factors[:11])]
    assert steps == pytest.approx([steps[0]] * 10)
    assert factors[10:] == [1.0] * 90
