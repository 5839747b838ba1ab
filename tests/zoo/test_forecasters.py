"""Window norms and linear forecasters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_checks import check_learns, check_onnx, classes, forecast, make, series, tensors
from torch import nn
from torch.nn import functional

from dlcli.data.prepare import random_inputs
from dlcli.errors import UsageError
from dlcli.task import SeriesInput, TargetNumber, TaskSpec
from dlcli.zoo.forecasters import Trend
from dlcli.zoo.windows import WindowNorm

TASK = forecast()
VARIANTS: list[dict[str, Any]] = [
    {"variant": variant, "channels": channels}
    for variant in ("nlinear", "dlinear")
    for channels in ("shared", "own", "mixed")
]


def units(scaled: torch.Tensor, means: list[float], stds: list[float]) -> torch.Tensor:
    return scaled * torch.tensor(stds) + torch.tensor(means)


@pytest.mark.parametrize("how", ["last", "standard"])
def test_a_window_norm_puts_the_level_back_in_the_targets_own_scale(how: str) -> None:
    norm = WindowNorm(TASK, how)  # type: ignore[arg-type]
    x = torch.randn(4, 20, 3) * 3 + 5
    normed, window = norm(x)
    # Answering with the normalised history itself must give the history in the data's units.
    back = norm.back(normed[:, :, [0, 2]], window)
    spec = TASK.input
    assert isinstance(spec, SeriesInput)
    raw = units(x, list(spec.mean), list(spec.std))[:, :, [0, 2]]
    expected = units(back, [t.mean for t in TASK.targets], [t.std for t in TASK.targets])
    torch.testing.assert_close(expected, raw, rtol=1e-4, atol=1e-4)


def test_window_norms_do_what_they_are_called() -> None:
    x = torch.randn(4, 20, 3) * 3 + 5
    last, _ = WindowNorm(TASK, "last")(x)
    torch.testing.assert_close(last, x - x[:, -1:])
    standard, _ = WindowNorm(TASK, "standard")(x)
    torch.testing.assert_close(standard.mean(1), torch.zeros(4, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard.std(1, correction=0), torch.ones(4, 3), atol=1e-3, rtol=0)
    none = WindowNorm(TASK, "none")
    same, window = none(x)
    assert torch.equal(same, x)
    assert torch.equal(none.back(x[:, :6, :2], window), x[:, :6, :2])


@pytest.mark.parametrize("how", ["last", "standard"])
def test_a_constant_window_stays_finite(how: str) -> None:
    norm = WindowNorm(TASK, how)  # type: ignore[arg-type]
    x = torch.full((2, 20, 3), 7.0, requires_grad=True)
    normed, window = norm(x)
    out = norm.back(normed[:, :6, :2], window)
    assert out.isfinite().all()
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("how", ["last", "standard"])
def test_a_target_that_is_no_channel_is_left_as_the_model_says(how: str) -> None:
    norm = WindowNorm(forecast(targets=("price", "c1")), how)  # type: ignore[arg-type]
    _, window = norm(torch.randn(2, 20, 3) + 9)
    y = torch.randn(2, 6, 2)
    back = norm.back(y, window)
    torch.testing.assert_close(back[..., 0], y[..., 0])
    assert (back[..., 1] - y[..., 1]).abs().min() > 0.1


@pytest.mark.parametrize("name", ["linear", "transformer"])
def test_a_forecast_moves_with_the_level_of_its_window(name: str) -> None:
    """Steps of 1 in the data's units move the answer by 1 in the data's units."""
    module = make(name, TASK, **({"dim": 16} if name == "transformer" else {}))
    x, spec = torch.randn(3, 20, 3), TASK.input
    assert isinstance(spec, SeriesInput)
    moved = module(x + 1 / torch.tensor(spec.std))
    step = torch.tensor([1 / target.std for target in TASK.targets])
    torch.testing.assert_close(moved, module(x) + step, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("args", VARIANTS, ids=lambda args: "-".join(args.values()))
def test_a_forecaster_learns(args: dict[str, Any]) -> None:
    module = make("linear", TASK, **args)
    assert module(torch.randn(5, 20, 3)).shape == (5, 6, 2)
    check_learns(module, TASK, lr=3e-2)


@pytest.mark.parametrize("args", VARIANTS, ids=lambda args: "-".join(args.values()))
def test_a_forecaster_is_linear_in_its_window(args: dict[str, Any]) -> None:
    module = make("linear", TASK, **args)
    a, b, zero = torch.randn(2, 20, 3), torch.randn(2, 20, 3), torch.zeros(2, 20, 3)
    expected = module(a) + 2 * module(b) - 2 * module(zero)
    torch.testing.assert_close(module(a + 2 * b), expected, rtol=1e-4, atol=1e-4)


def test_an_untrained_nlinear_repeats_the_last_value() -> None:
    module = make("linear", forecast(targets=("c1",)))
    for layer in module.get_submodule("head").modules():
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.weight)
    x = torch.randn(3, 20, 3)
    raw = x[:, -1, 1] * 2 + 1  # c1 has mean 1 and deviation 2, its target .5 and 2
    torch.testing.assert_close(module(x)[..., 0], ((raw - 0.5) / 2)[:, None].expand(3, 6))


@pytest.mark.parametrize("kernel", [1, 4, 5, 20])
def test_a_trend_is_the_mean_around_each_step(kernel: int) -> None:
    x = torch.randn(2, 3, 20)
    before = (kernel - 1) // 2
    expected = torch.stack(
        [
            torch.stack(
                [x[..., min(max(s, 0), 19)] for s in range(t - before, t - before + kernel)]
            ).mean(0)
            for t in range(20)
        ],
        dim=2,
    )
    torch.testing.assert_close(Trend(kernel)(x), expected)


def test_shared_weights_treat_channels_alike_and_own_weights_do_not() -> None:
    spec = SeriesInput(channels=("a", "b"), mean=(0.0, 0.0), std=(1.0, 1.0), length=20)
    names = (TargetNumber(name="a"), TargetNumber(name="b"))
    task = TaskSpec(kind="forecast", input=spec, targets=names, horizon=4)
    x = torch.randn(2, 20, 1).expand(2, 20, 2)
    shared, own = (make("linear", task, channels=how)(x) for how in ("shared", "own"))
    torch.testing.assert_close(shared[..., 0], shared[..., 1])
    assert (own[..., 0] - own[..., 1]).abs().max() > 1e-3


def test_a_target_without_a_past_is_refused() -> None:
    with pytest.raises(UsageError, match="'price' is no channel of the input"):
        make("linear", forecast(targets=("price",)))
    check_learns(make("linear", forecast(targets=("price",)), channels="mixed"), forecast(("price",)))


@pytest.mark.parametrize("varies", [False, True])
def test_linear_classifies_series(varies: bool) -> None:
    task = classes(series(varies=varies))
    module = make("linear", task)
    inputs = tensors(task, random_inputs(task, 40))
    loss = functional.cross_entropy(module(*inputs), torch.arange(40) % 5)
    assert float(loss.detach()) == pytest.approx(math.log(5), abs=0.05)
    check_learns(module, task, lr=3e-2, steps=60)


def test_padding_changes_no_output() -> None:
    task = classes(series(varies=True))
    values, lengths = tensors(task, random_inputs(task, 5, length=9))
    module = make("linear", task)
    more = torch.cat([values, torch.full((5, 4, 3), 30.0)], dim=1)
    torch.testing.assert_close(module(more, lengths), module(values, lengths))


@pytest.mark.parametrize(
    "args",
    [
        {"variant": "dlinear", "window_norm": "last"},
        *(pytest.param(args, marks=pytest.mark.slow) for args in VARIANTS),
    ],
)
def test_onnx_agrees_at_other_batch_sizes(args: dict[str, Any], tmp_path: Path) -> None:
    check_onnx("linear", TASK, tmp_path, **args)


@pytest.mark.slow
@pytest.mark.parametrize("varies", [False, True])
def test_onnx_of_a_classifier_agrees(varies: bool, tmp_path: Path) -> None:
    check_onnx("linear", classes(series(varies=varies)), tmp_path)
