"""Which parameters train when, and that freezing changes nothing else."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from dlcli.config import OptimConfig
from dlcli.errors import UsageError
from dlcli.training.optim.freezing import parse_freezing
from dlcli.training.optim.make import make_optimizer


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Linear(4, 5),
            bn1=nn.LayerNorm(5),
            layer1=nn.Sequential(nn.Linear(5, 5), nn.LayerNorm(5)),
            layer2=nn.Linear(5, 5),
            fc=nn.Linear(5, 3),
        )
    )


def training(module: nn.Module) -> set[str]:
    """The children of which something trains."""
    return {name.split(".")[0] for name, p in module.named_parameters() if p.requires_grad}


def frozen(freeze: str, unfreeze: str | None = None, share: float = 0.0) -> set[str]:
    """The children that train after a share of the run."""
    module = net()
    parse_freezing(module, freeze, unfreeze, head="fc").apply(module, share)
    return training(module)


ALL = {"conv1", "bn1", "layer1", "layer2", "fc"}


@pytest.mark.parametrize(
    ("freeze", "left"),
    [
        ("none", ALL),
        ("backbone", {"fc"}),
        ("layer1", ALL - {"layer1"}),
        ("conv*, bn?", {"layer1", "layer2", "fc"}),
        ("layer*", {"conv1", "bn1", "fc"}),
        ("*.weight,*.bias,layer1.1", ALL - ALL | set()),
    ],
)
def test_patterns_name_layers(freeze: str, left: set[str]) -> None:
    if left:
        assert frozen(freeze) == left
    else:
        with pytest.raises(UsageError, match="no trainable parameters at the start"):
            frozen(freeze)


def test_norms_are_the_layers_with_running_statistics() -> None:
    layers = OrderedDict(a=nn.Linear(2, 2), b=nn.BatchNorm1d(2), c=nn.LayerNorm(2), fc=nn.Linear(2, 2))
    module = nn.Sequential(layers)
    parse_freezing(module, "norms", None, head="fc").apply(module, 0.0)
    assert training(module) == {"a", "c", "fc"}
    assert frozen("norms") == ALL  # none there: no mistake, since it is no name


def test_a_name_is_no_beginning_of_another() -> None:
    module = nn.Sequential(OrderedDict(layer1=nn.Linear(2, 2), layer10=nn.Linear(2, 2)))
    parse_freezing(module, "layer1", None, head="layer10").apply(module, 0.0)
    assert training(module) == {"layer10"}


def test_a_path_names_what_is_inside() -> None:
    module = net()
    parse_freezing(module, "layer1.0", None, head="fc").apply(module, 0.0)
    assert {n for n, p in module.named_parameters() if not p.requires_grad} == {
        "layer1.0.weight",
        "layer1.0.bias",
    }


@pytest.mark.parametrize("unfreeze", ["layer2@50%,layer1@75%", "layer1 @ 0.75, layer2@0.5"])
def test_layers_unfreeze_one_after_the_other(unfreeze: str) -> None:
    assert frozen("backbone", unfreeze, 0.0) == {"fc"}
    assert frozen("backbone", unfreeze, 0.499) == {"fc"}
    assert frozen("backbone", unfreeze, 0.5) == {"fc", "layer2"}
    assert frozen("backbone", unfreeze, 0.75) == {"fc", "layer2", "layer1"}
    assert frozen("backbone", unfreeze, 1.0) == {"fc", "layer2", "layer1"}


def test_what_is_to_unfreeze_is_frozen_without_asking() -> None:
    assert frozen("none", "layer2@50%") == ALL - {"layer2"}
    assert frozen("none", "layer2@50%", 0.5) == ALL
    assert frozen("conv1", "layer2@50%") == ALL - {"layer2", "conv1"}


def test_the_earliest_share_counts() -> None:
    for order in ("backbone@80%,layer2@20%", "layer2@20%,backbone@80%"):
        assert frozen("none", order, 0.2) == {"fc", "layer2"}
        assert frozen("none", order, 0.8) == ALL


def test_a_share_of_nothing_makes_an_exception() -> None:
    assert frozen("backbone", "layer2@0%") == {"fc", "layer2"}


def test_it_says_when_something_changes() -> None:
    module = net()
    freezing = parse_freezing(module, "backbone", "layer2@50%,layer1@25%,bn1@50%", head="fc")
    assert freezing.changes() == [0.25, 0.5]
    assert freezing.apply(module, 0.0)
    assert not freezing.apply(module, 0.1)
    assert freezing.apply(module, 0.25)
    assert not freezing.apply(module, 0.49)
    assert freezing.apply(module, 0.5)
    assert not freezing.apply(module, 1.0)
    assert parse_freezing(net(), "backbone", None, head="fc").changes() == []


def test_never_are_those_that_no_step_trains() -> None:
    module = net()
    module.get_parameter("layer2.bias").requires_grad = False  # the model's own wish
    freezing = parse_freezing(module, "backbone", "layer2@50%,layer1@0%", head="fc")
    assert freezing.never == {"conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias", "layer2.bias"}
    freezing.apply(module, 1.0)
    assert not module.get_parameter("layer2.bias").requires_grad
    assert module.get_parameter("layer2.weight").requires_grad


def test_sentences_say_what_is_frozen_and_until_when() -> None:
    freezing = parse_freezing(net(), "backbone", "layer2@75%,layer1@12.5%", head="fc")
    assert freezing.sentences == (
        "frozen: conv1, bn1, layer1, layer2 (105 of 123 parameters)",
        "layer1 trains from 12.5 % of the run on",
        "layer2 trains from 75 % of the run on",
    )
    assert parse_freezing(net(), "none", None, head="fc").sentences == ()
    assert parse_freezing(net(), "layer1.0,bn1.bias", None, head="fc").sentences == (
        "frozen: bn1.bias, layer1.0 (35 of 123 parameters)",
    )
    many = nn.Sequential(*(nn.Linear(100, 100) for _ in range(9)))
    assert parse_freezing(many, "backbone", None, head="8").sentences == (
        "frozen: 0, 1, 2, 3, 4, 5 and 2 more (80.8 K of 90.9 K parameters)",
    )


@pytest.mark.parametrize(
    ("freeze", "unfreeze", "message", "hint"),
    [
        ("layer9", None, "model.freeze: 'layer9' matches no trainable layer", "'layer2' or 'layer1'"),
        ("layer1.9", None, "'layer1.9' matches no trainable layer", "'layer1.1'"),
        ("zz*", None, "'zz\\*' matches no trainable layer", "conv1"),
        ("none", "lyer2@50%", "model.unfreeze: 'lyer2' matches no trainable layer", "'layer2'"),
        ("layer1,", None, "model.freeze = 'layer1,' has an empty name", "commas"),
        ("none", "layer1", "'layer1' is not NAME@SHARE", "layer4@50%"),
        ("none", "layer1@100%", "0 % <= SHARE < 100 %", "layer4@50%"),
        ("none", "layer1@3", "0 % <= SHARE < 100 %", "layer4@50%"),
        ("none", "layer1@-5%", "0 % <= SHARE < 100 %", "layer4@50%"),
        ("none", "layer1@nan", "0 % <= SHARE < 100 %", "layer4@50%"),
        ("none", "@50%", "is not NAME@SHARE", "layer4@50%"),
        ("backbone", "fc@50%", "no trainable parameters at the start", "@0%"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    freeze: str, unfreeze: str | None, message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_freezing(net(), freeze, unfreeze, head="fc")
    assert caught.value.hint is not None
    assert hint in caught.value.hint


def step(module: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(8, 4, generator=generator)
    optimizer.zero_grad(set_to_none=True)
    module(x).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["adamw", "adagrad", "nadam", "lion", "muon", "nesterov"])
def test_frozen_weights_keep_every_bit_and_unfreeze_afresh(name: str) -> None:
    module = net()
    freezing = parse_freezing(module, "conv1,bn1,layer1", "conv1@50%", head="fc")
    freezing.apply(module, 0.0)
    optimizer = make_optimizer(module, OptimConfig(optimizer=name), head="fc")  # type: ignore[arg-type]
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    for i in range(3):
        step(module, optimizer, i)
    assert {n for n, p in module.named_parameters() if not p.equal(before[n])} == {
        "layer2.weight", "layer2.bias", "fc.weight", "fc.bias",
    }  # fmt: skip
    freezing.apply(module, 0.5)
    for i in range(3):
        step(module, optimizer, i)
    changed = {n for n, p in module.named_parameters() if not p.equal(before[n])}
    assert changed == {
        "conv1.weight", "conv1.bias", "layer2.weight", "layer2.bias", "fc.weight", "fc.bias",
    }  # fmt: skip


def test_the_others_train_as_if_the_frozen_ones_were_not_in_the_optimizer() -> None:
    states = []
    for never in (False, True):
        module = net()
        freezing = parse_freezing(module, "conv1,bn1,layer1", None, head="fc")
        freezing.apply(module, 0.0)
        optimizer = make_optimizer(
            module, OptimConfig(), head="fc", never=freezing.never if never else ()
        )
        for i in range(4):
            step(module, optimizer, i)
        names = {id(p): n for n, p in module.named_parameters()}
        states.append({names[id(p)]: entry for p, entry in optimizer.state.items() if entry})
    with_frozen, without = states
    assert (
        with_frozen.keys() == without.keys() == {"layer2.weight", "layer2.bias", "fc.weight", "fc.bias"}
    )
    for name, entry in with_frozen.items():
        assert all(torch.equal(value, without[name][key]) for key, value in entry.items())


def test_unfreezing_leaves_the_state_of_the_others_alone() -> None:
    module = net()
    freezing = parse_freezing(module, "none", "conv1@50%", head="fc")
    freezing.apply(module, 0.0)
    optimizer = make_optimizer(module, OptimConfig(), head="fc")
    for i in range(3):
        step(module, optimizer, i)
    fc = module.get_parameter("fc.weight")
    before = {key: value.clone() for key, value in optimizer.state[fc].items()}
    conv = module.get_parameter("conv1.weight")
    assert not optimizer.state.get(conv)
    freezing.apply(module, 0.5)
    assert all(torch.equal(value, before[key]) for key, value in optimizer.state[fc].items())
    step(module, optimizer, 3)
    assert float(optimizer.state[conv]["step"]) == 1
    assert float(optimizer.state[fc]["step"]) == 4


def test_a_parameter_that_freezes_loses_its_gradient() -> None:
    module = net()
    module(torch.randn(8, 4)).sum().backward()
    parse_freezing(module, "layer1", None, head="fc").apply(module, 0.0)
    assert all((p.grad is None) == n.startswith("layer1") for n, p in module.named_parameters())
