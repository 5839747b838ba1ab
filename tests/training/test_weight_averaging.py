"""Weight averages: their values, a swap that nothing notices, a reload that goes on bit for bit."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from dlcli.training.weight_averaging import WeightAverage, refresh_batch_norms
from dlcli.zoo.layers import StepBatchNorm


class Net(nn.Module):
    """A convolution, a batch norm, dropout, and a last layer whose weight has two names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(3, 3)
        self.again = self.head
        self.register_buffer("unsaved", torch.ones(2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.norm(self.conv(x))).mean((2, 3))
        out: torch.Tensor = self.again(self.head(x))
        return out


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def step(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    optimizer.zero_grad()
    module.train()
    module(torch.randn(4, 2, 6, 6)).square().mean().backward()
    optimizer.step()


def history(module: nn.Module, average: WeightAverage, steps: int) -> list[dict[str, torch.Tensor]]:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5, momentum=0.9)
    seen = []
    for i in range(steps):
        step(module, optimizer, i)
        average.update(module)
        seen.append(copy.deepcopy(module.state_dict()))
    return seen


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_without_decay_it_is_the_mean_of_all_updates() -> None:
    module = net()
    average = WeightAverage(module, decay=None)
    seen = history(module, average, 7)
    assert average.n == 7
    for name, value in average.tensors().items():
        if value.is_floating_point():
            mean = torch.stack([state[name].double() for state in seen]).mean(0)
            torch.testing.assert_close(value.double(), mean, atol=1e-6, rtol=1e-5)
        else:
            assert torch.equal(value, seen[-1][name])


def test_with_decay_it_warms_up() -> None:
    module = net()
    first = {k: v.double() for k, v in copy.deepcopy(module.state_dict()).items()}
    average = WeightAverage(module, decay=0.3)
    seen = history(module, average, 6)
    expected = first["conv.weight"]
    used = []
    for n, state in enumerate(seen):
        used.append(min(0.3, (1 + n) / (10 + n)))
        expected = used[-1] * expected + (1 - used[-1]) * state["conv.weight"].double()
    assert used[0] == 0.1
    assert used[-1] == 0.3
    torch.testing.assert_close(average.tensors()["conv.weight"].double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("decay", [None, 0.99])
def test_a_reloaded_average_goes_on_bit_for_bit(decay: float | None) -> None:
    module = net()
    whole = WeightAverage(module, decay=decay)
    seen = history(module, whole, 8)
    other = net()
    half = WeightAverage(other, decay=decay)
    for state in seen[:3]:
        other.load_state_dict(state)
        half.update(other)
    kept = {k: v.clone() for k, v in half.tensors().items()}
    resumed = WeightAverage(other, decay=decay)
    resumed.load(kept, half.n)
    for state in seen[3:]:
        other.load_state_dict(state)
        resumed.update(other)
    assert resumed.n == whole.n == 8
    assert same(resumed.tensors(), whole.tensors())


def test_an_average_of_another_model_is_refused() -> None:
    average = WeightAverage(net(), decay=None)
    with pytest.raises(ValueError, match=r"conv\.weight"):
        average.load({}, 3)
    wrong = dict(average.tensors())
    wrong["head.bias"] = torch.zeros(1)  # a copy would broadcast it
    with pytest.raises(ValueError, match=r"head\.bias"):
        average.load(wrong, 3)


def test_what_does_not_change_is_its_own_average() -> None:
    module = net()
    module.conv.requires_grad_(False)
    before = module.conv.weight.clone()
    for decay in (None, 0.999):
        average = WeightAverage(module, decay=decay)
        history(module, average, 5)
        assert torch.equal(average.tensors()["conv.weight"], before)


def test_each_tensor_is_averaged_once_and_only_what_is_saved() -> None:
    names = list(WeightAverage(net(), decay=0.9).tensors())
    assert [n for n in names if n.startswith("again")] == []
    assert "unsaved" not in names
    assert {"head.weight", "norm.running_mean", "norm.num_batches_tracked"} <= set(names)


def test_narrow_weights_are_averaged_in_float32() -> None:
    module = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.ones_(module.weight)
    average = WeightAverage(module, decay=0.999)
    average.load({"weight": torch.ones(1, 1)}, 100_000)
    nn.init.constant_(module.weight, 2.0)
    average.update(module)
    assert math.isclose(float(average.tensors()["weight"]), 1.001, rel_tol=1e-6)
    with average.applied(module):
        assert module.weight.dtype == torch.bfloat16
        assert float(module.weight.detach()) == 1.0


@pytest.mark.parametrize("fails", [False, True])
def test_values_are_swapped_in_place_and_come_back_bit_for_bit(fails: bool) -> None:
    module = net()
    average = WeightAverage(module, decay=0.9)
    history(module, average, 4)
    before = copy.deepcopy(module.state_dict())
    averages = {k: v.clone() for k, v in average.tensors().items()}
    tensors = [*module.parameters(), *module.buffers()]
    places = [t.data_ptr() for t in tensors]
    try:
        with average.applied(module):
            inside = module.state_dict()
            assert all(torch.equal(inside[name], value) for name, value in averages.items())
            assert not torch.equal(inside["conv.weight"], before["conv.weight"])
            module.train()(torch.randn(4, 2, 6, 6))  # moves the running statistics
            if fails:
                raise InterruptedError
    except InterruptedError:
        pass
    assert same(module.state_dict(), before)
    assert same(average.tensors(), averages)
    now = [*module.parameters(), *module.buffers()]
    assert all(a is b for a, b in zip(now, tensors, strict=True))
    assert [t.data_ptr() for t in now] == places


def test_training_with_looks_at_the_average_is_training_without() -> None:
    ends = []
    for looks in (False, True):
        module = net()
        average = WeightAverage(module, decay=0.9)
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)
        for i in range(6):
            step(module, optimizer, i)
            average.update(module)
            if looks and i % 2:
                with average.applied(module), torch.no_grad():
                    module.eval()(torch.randn(2, 2, 6, 6))
        ends.append(module.state_dict())
    assert same(*ends)


# Batch statistics


class Norms(nn.Module):
    """A batch norm of maps and one of padded steps, behind dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.first = nn.BatchNorm1d(3, momentum=0.3)
        self.steps = StepBatchNorm(3, momentum=0.2)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.steps(self.first(self.drop(x)), mask)
        return out


def batches(count: int = 5) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rng = torch.Generator().manual_seed(3)
    made = []
    for _ in range(count):
        x = torch.randn(4, 3, 6, generator=rng) * 2 + 1
        made.append((x, torch.rand(4, 1, 6, generator=rng) < 0.7))
    return made


def test_running_statistics_become_the_mean_over_the_batches() -> None:
    module = Norms()
    module(*batches(1)[0])  # something to forget
    module.eval()
    refresh_batch_norms(module, iter(batches()))
    means, variances = [], []
    for x, _ in batches():
        means.append(x.mean((0, 2)))
        variances.append(x.transpose(0, 1).flatten(1).var(1))
    torch.testing.assert_close(module.first.running_mean, torch.stack(means).mean(0))
    torch.testing.assert_close(module.first.running_var, torch.stack(variances).mean(0))
    state = module.state_dict()
    assert int(state["first.num_batches_tracked"]) == int(state["steps.num_batches_tracked"]) == 5
    true = []
    for x, mask in batches():
        normed = nn.functional.batch_norm(x, None, None, training=True)
        true.append(normed.transpose(0, 1)[:, mask.squeeze(1)].mean(1))
    torch.testing.assert_close(module.steps.running_mean, torch.stack(true).mean(0))


def test_it_is_what_torch_does_where_nothing_is_dropped() -> None:
    ours, theirs = net().train(), net().train()
    ours.drop.p = theirs.drop.p = 0.0
    data = [torch.randn(4, 2, 6, 6) for _ in range(3)]
    refresh_batch_norms(ours, [(x,) for x in data])
    update_bn(data, theirs)
    assert same(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("fails", [False, True])
def test_modes_and_momenta_are_put_back(fails: bool) -> None:
    module = Norms()
    module.train()
    module.first.eval()
    if fails:
        with pytest.raises(RuntimeError):
            refresh_batch_norms(module, [(torch.zeros(2, 9, 4), torch.ones(2, 1, 4, dtype=torch.bool))])
    else:
        refresh_batch_norms(module, batches())
    assert (module.training, module.first.training, module.steps.training) == (True, False, True)
    assert module.drop.training
    assert (module.first.momentum, module.steps.momentum) == (0.3, 0.2)


def test_frozen_norms_and_models_without_batches_keep_their_statistics() -> None:
    module = Norms()
    module.first.requires_grad_(False)
    before = copy.deepcopy(module.state_dict())
    refresh_batch_norms(module, [])
    assert same(module.state_dict(), before)
    refresh_batch_norms(module, batches())
    after = module.state_dict()
    assert torch.equal(after["first.running_mean"], before["first.running_mean"])
    assert not torch.equal(after["steps.running_mean"], before["steps.running_mean"])


def test_a_model_without_batch_norms_reads_no_batch() -> None:
    def fail() -> tuple[torch.Tensor, ...]:
        raise AssertionError

    refresh_batch_norms(nn.Linear(2, 2), (fail() for _ in range(1)))
