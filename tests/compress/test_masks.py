"""Which weights masks take out, how many, and that a model is a plain model afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from dlcli.compress.layer_names import match_layers
from dlcli.compress.masks.apply import MaskedModel, count_zeros, mask_weights, weights_of
from dlcli.compress.masks.base import MASK_METHODS
from dlcli.errors import DlcliError, UsageError


class Small(nn.Module):
    """One layer of each sort."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(40, 12)
        self.conv = nn.Conv1d(12, 16, 3, padding=1)
        self.norm = nn.BatchNorm1d(16)
        self.lstm = nn.LSTM(16, 8, batch_first=True)
        self.odd = nn.Linear(8, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(self.table(tokens).transpose(1, 2))).transpose(1, 2)
        out: torch.Tensor = self.head(self.odd(self.lstm(x)[0].mean(1)))
        return out


TOKENS = torch.arange(24).view(4, 6)
METHODS = MASK_METHODS.names()
UNSTRUCTURED = ("l1", "random", "global-l1", "global-random")


def zeros(result: MaskedModel) -> dict[str, torch.Tensor]:
    return {weight.name: weight.tensor == 0 for weight in weights_of(result.module)}


def equal(a: nn.Module, b: nn.Module) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine)


@pytest.mark.parametrize("method", METHODS)
def test_a_copy_is_pruned_and_stays_a_plain_module(method: str) -> None:
    model = Small()
    before = copy.deepcopy(model)
    result = mask_weights(model, method, 0.5, head="head")
    assert equal(model, before)
    assert result.module.state_dict().keys() == model.state_dict().keys()
    assert not any(part._forward_pre_hooks for part in result.module.modules())
    again = Small()
    again.load_state_dict(result.module.state_dict())
    assert torch.equal(again.eval()(TOKENS), copy.deepcopy(result.module)(TOKENS))
    args = result.record.args
    assert result.record.kind == "mask"
    assert args["zeros"] == sum(row.of - row.kept for row in count_zeros(result.module, args["weights"]))
    assert args["of"] == sum(row.of for row in result.layers)


@pytest.mark.parametrize("method", METHODS)
def test_biases_norms_and_signs_of_zero(method: str) -> None:
    model = Small()
    result = mask_weights(model, method, 0.5, head="head")
    pruned = dict(result.module.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            assert torch.equal(pruned[name], parameter)
    # A file holds the bits of a zero, and -0.0 has one that is set.
    for weight in weights_of(result.module):
        words = weight.tensor.view(torch.int32)
        assert not (words == -(2**31)).any(), weight.name
        kept = weight.tensor != 0
        assert torch.equal(weight.tensor[kept], dict(model.named_parameters())[weight.name][kept])


@pytest.mark.parametrize("method", UNSTRUCTURED)
@pytest.mark.parametrize("amount", [0.1, 0.5, 0.9])
def test_the_amount_is_exact(method: str, amount: float) -> None:
    result = mask_weights(Small(), method, amount)
    if method.startswith("global"):
        assert result.record.args["zeros"] == round(amount * result.record.args["of"])
    else:
        assert all(row.of - row.kept == round(amount * row.of) for row in result.layers)


@pytest.mark.parametrize("method", METHODS)
def test_pruned_again_the_old_zeros_stay_and_count(method: str) -> None:
    first = mask_weights(Small(), method, 0.4, seed=1)
    second = mask_weights(first.module, method, 0.7, seed=2, earlier=first.record.args["weights"])
    for name, gone in zeros(first).items():
        assert bool((zeros(second)[name] | ~gone).all())
    if method in UNSTRUCTURED:
        assert second.record.args["zeros"] == mask_weights(Small(), method, 0.7).record.args["zeros"]


def test_a_mask_names_what_was_pruned_before() -> None:
    first = mask_weights(Small(), "l1", 0.5, skip=["lstm"])
    second = mask_weights(
        first.module, "l1", 0.9, skip=["conv", "table"], earlier=first.record.args["weights"]
    )
    rows = {row.name: row for row in second.layers}
    assert rows["conv.weight"].of - rows["conv.weight"].kept == round(0.5 * rows["conv.weight"].of)
    assert set(rows) == {weight.name for weight in weights_of(second.module)}


@pytest.mark.parametrize("amount", [0.3, 0.75, 3, 31])
def test_l1_is_that_of_torch(amount: float) -> None:
    model, own = Small(), mask_weights(Small(), "l1", amount).module
    for weight in list(weights_of(model)):
        prune.l1_unstructured(weight.owner, weight.attribute, amount)
        prune.remove(weight.owner, weight.attribute)
    assert equal(model.eval(), own)
    whole, own = Small(), mask_weights(Small(), "global-l1", amount).module
    parameters = [(weight.owner, weight.attribute) for weight in weights_of(whole)]
    prune.global_unstructured(parameters, pruning_method=prune.L1Unstructured, amount=amount)
    for owner, attribute in parameters:
        prune.remove(owner, attribute)
    assert equal(whole.eval(), own)


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
@pytest.mark.parametrize("dim", [0, 1])
def test_ln_is_that_of_torch(norm: str, dim: int) -> None:
    model, own = Small(), mask_weights(Small(), "ln", 0.5, norm=norm, dim=dim).module
    for weight in list(weights_of(model)):
        if not isinstance(weight.owner, nn.Embedding):
            prune.ln_structured(weight.owner, weight.attribute, 0.5, n=float(norm), dim=dim)
            prune.remove(weight.owner, weight.attribute)
    assert equal(model.eval(), own)


def test_a_number_is_of_weights_or_slices_and_never_all() -> None:
    rows = mask_weights(Small(), "ln", 3, head="head").layers
    slices = (16, 32, 32, 10)
    assert all(r.of - r.kept == 3 * r.of // n for r, n in zip(rows, slices, strict=True))
    for method, amount, reason in (
        ("l1", 40, "at most 39 of 'head' can go"),
        ("ln", 10, "at most 9 of 'odd' can go"),
        ("global-l1", 10**6, "of 'the model'"),
    ):
        with pytest.raises(UsageError, match=reason):
            mask_weights(Small(), method, amount, head="head")


def test_ln_leaves_classes_and_words_alone() -> None:
    result = mask_weights(Small(), "ln", 0.5, head="head")
    assert {"head.weight", "table.weight"}.isdisjoint(result.record.args["weights"])
    assert bool((result.module.conv.weight == 0).flatten(1).all(1).sum() == 8)  # type: ignore[union-attr,operator]
    with pytest.raises(UsageError, match="--dim 3: the weights have 3 dimensions, 0 to 2"):
        mask_weights(Small(), "ln", 0.5, dim=3)


def test_two_of_four_neighbours_along_the_input_are_kept() -> None:
    result = mask_weights(Small(), "semi-structured", 0.5)
    assert result.left_out == ("head.weight",)  # 10 inputs
    pruned = dict(result.module.named_parameters())
    for name in result.record.args["weights"]:
        weight = pruned[name].detach().movedim(1, -1)
        assert bool((weight.reshape(-1, 4).count_nonzero(dim=1) == 2).all()), name
    original = dict(Small().named_parameters())["conv.weight"].movedim(1, -1).reshape(-1, 4).abs()
    kept = pruned["conv.weight"].movedim(1, -1).reshape(-1, 4).abs()
    assert torch.equal(kept.sum(1), original.topk(2).values.sum(1))


def test_chance_is_the_seed_s() -> None:
    first, second = (zeros(mask_weights(Small(), "random", 0.5, seed=3)) for _ in range(2))
    other = zeros(mask_weights(Small(), "random", 0.5, seed=4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_something_is_always_left_of_a_weight() -> None:
    for method in ("l1", "random", "ln"):
        result = mask_weights(Small(), method, 0.9999)
        assert all(row.kept for row in result.layers)


def test_shared_weights_are_counted_once_and_stay_shared() -> None:
    model = Small()
    model.odd = nn.Linear(8, 8)
    model.head = nn.Linear(8, 8)
    model.head.weight = model.odd.weight
    result = mask_weights(model, "l1", 0.5)
    assert result.module.head.weight is result.module.odd.weight  # type: ignore[union-attr]
    assert [row.name for row in result.layers].count("odd.weight") == 1
    assert "head.weight" not in result.record.args["weights"]


def test_patterns_name_layers_and_what_lies_below() -> None:
    names = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer10.conv1", "fc"]
    assert match_layers(names, ["layer1"]) == {"layer1.0.conv1", "layer1.0.conv2"}
    assert match_layers(names, ["layer1*", "fc"]) == set(names) - {"conv1"}
    assert match_layers(names, ["*.conv1"]) == {"layer1.0.conv1", "layer10.conv1"}
    with pytest.raises(UsageError, match="--skip fcc: no layer") as caught:
        match_layers(names, ["fcc"])
    assert "'fc'" in str(caught.value.hint)


def test_nothing_to_prune_is_an_error() -> None:
    with pytest.raises(DlcliError, match="no weights to prune"):
        mask_weights(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3)), "l1", 0.5)
    with pytest.raises(DlcliError, match=r"inputs of 0\.weight do not divide by 4"):
        mask_weights(nn.Sequential(nn.Linear(3, 8)), "semi-structured", 0.5)
