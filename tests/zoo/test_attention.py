"""Attention equals torch's own, and masks, positions and blocks do what they say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dlcli.errors import UsageError
from dlcli.zoo.attention import Attention, Encoder, EncoderArgs, Positions, Rotary, pad_mask
from dlcli.zoo.base import find_model
from dlcli.zoo.layers import mask_of

DIM, HEADS, STEPS = 16, 4, 7


def pair() -> tuple[Attention, nn.MultiheadAttention]:
    """Ours and torch's with the same weights."""
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True).eval()
    ours = Attention(DIM, HEADS).eval()
    nn.init.normal_(theirs.in_proj_bias)
    nn.init.normal_(theirs.out_proj.bias)
    parts = zip(
        (ours.query, ours.key, ours.value),
        theirs.in_proj_weight.chunk(3),
        theirs.in_proj_bias.chunk(3),
        strict=True,
    )
    with torch.no_grad():
        for layer, weight, bias in parts:
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        ours.out.load_state_dict(theirs.out_proj.state_dict())
    return ours, theirs


def test_self_attention_with_padding_equals_torch() -> None:
    ours, theirs = pair()
    x, valid = torch.randn(3, STEPS, DIM), mask_of(torch.tensor([7, 3, 1]), STEPS)
    expected, _ = theirs(x, x, x, key_padding_mask=~valid)
    torch.testing.assert_close(ours(x, mask=pad_mask(valid, x)), expected)
    # Without the mask it is something else, so the mask did arrive.
    assert not torch.allclose(ours(x), expected, atol=1e-3)


@pytest.mark.parametrize("padded", [False, True])
def test_causal_attention_equals_torch(padded: bool) -> None:
    ours, theirs = pair()
    x, later = torch.randn(2, STEPS, DIM), torch.ones(STEPS, STEPS, dtype=torch.bool).triu(1)
    valid = mask_of(torch.tensor([7, 4]), STEPS)
    expected, _ = theirs(x, x, x, attn_mask=later, key_padding_mask=~valid if padded else None)
    mask = pad_mask(valid, x) if padded else None
    torch.testing.assert_close(ours(x, mask=mask, causal=True), expected)


def test_cross_attention_equals_torch() -> None:
    ours, theirs = pair()
    x, memory = torch.randn(2, 3, DIM), torch.randn(2, STEPS, DIM)
    valid = mask_of(torch.tensor([7, 4]), STEPS)
    expected, _ = theirs(x, memory, memory, key_padding_mask=~valid)
    torch.testing.assert_close(ours(x, memory, mask=pad_mask(valid, x)), expected)


def test_gradients_equal_torch() -> None:
    ours, theirs = pair()
    x = torch.randn(2, STEPS, DIM)
    ours(x).square().sum().backward()
    theirs(x, x, x)[0].square().sum().backward()
    assert theirs.in_proj_weight.grad is not None
    found = torch.cat([p.weight.grad for p in (ours.query, ours.key, ours.value)])  # type: ignore[misc]
    torch.testing.assert_close(found, theirs.in_proj_weight.grad, rtol=1e-4, atol=1e-4)


def test_initial_weights_have_the_std_of_torch_s() -> None:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(256, 4).in_proj_weight.detach().std()
    assert float(Attention(256, 4).query.weight.detach().std()) == pytest.approx(float(theirs), rel=0.02)


def test_a_mask_may_differ_between_heads() -> None:
    ours, _ = pair()
    x = torch.randn(2, STEPS, DIM)
    mask = torch.ones(2, HEADS, STEPS, STEPS, dtype=torch.bool)
    torch.testing.assert_close(ours(x, mask=mask), ours(x))
    mask[:, 0, :, 1:] = False
    assert not torch.allclose(ours(x, mask=mask), ours(x), atol=1e-3)


def test_rotary_products_depend_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(8), torch.randn(8)
    rotary = Rotary(8)
    q, k = (rotary(v.expand(1, 1, 20, -1))[0, 0] for v in (query, key))
    products = q @ k.T
    for distance in (-5, 0, 3):
        line = products.diagonal(distance)
        torch.testing.assert_close(line, line[:1].expand_as(line), rtol=1e-4, atol=1e-4)
    assert products.diagonal(3)[0] != pytest.approx(float(products.diagonal(0)[0]), rel=1e-3)
    torch.testing.assert_close(q.norm(dim=1), query.norm().expand(20))  # turned, not stretched


@pytest.mark.parametrize("how", ["sinusoidal", "learned"])
def test_positions_are_distinguished_and_do_not_depend_on_the_length(how: str) -> None:
    positions = Positions(how, DIM, 50)  # type: ignore[arg-type]
    added = positions(torch.zeros(1, 50, DIM))[0]
    distances = torch.cdist(added, added) + torch.eye(50)
    assert distances.min() > 1e-3
    torch.testing.assert_close(positions(torch.zeros(1, 9, DIM))[0], added[:9])


@pytest.mark.parametrize("how", ["rotary", "none"])
def test_other_positions_add_nothing(how: str) -> None:
    x = torch.randn(2, 5, DIM)
    assert torch.equal(Positions(how, DIM, 50)(x), x)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("norm", ["layer", "batch", "group", "none"])
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_padding_reaches_no_real_step(norm_first: bool, norm: str, mode: bool) -> None:
    torch.manual_seed(0)
    args = EncoderArgs.model_validate(
        {"dim": DIM, "norm_first": norm_first, "norm": norm, "dropout": 0.0, "ff": 20}
    )
    encoder = Encoder(args, rotary=True).train(mode)
    x, lengths = torch.randn(3, STEPS, DIM), torch.tensor([7, 4, 1])
    more = torch.cat([x, torch.zeros(3, 5, DIM)], dim=1)
    more[~mask_of(lengths, STEPS + 5)] = 100.0
    with torch.no_grad():
        short, long = encoder(x, mask_of(lengths, STEPS)), encoder(more, mask_of(lengths, STEPS + 5))
    real = mask_of(lengths, STEPS)
    torch.testing.assert_close(long[:, :STEPS][real], short[real], rtol=1e-4, atol=1e-4)


def test_a_post_norm_stack_ends_in_a_norm_and_so_does_a_pre_norm_one() -> None:
    for norm_first in (True, False):
        y = Encoder(EncoderArgs(dim=DIM, norm_first=norm_first))(torch.randn(2, STEPS, DIM))
        torch.testing.assert_close(y.mean(2), torch.zeros(2, STEPS), rtol=0, atol=1e-4)


def test_a_width_that_the_heads_do_not_share_is_refused() -> None:
    with pytest.raises(UsageError, match=r"model\.args\.dim = 100.*multiple of twice the heads, 16"):
        find_model("transformer", "text").arguments({"dim": 100, "heads": 8})
