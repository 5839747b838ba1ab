"""The parts that models share: names, masks, padding that never counts, and first weights."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from torch import nn

from dlcli.card import ModelSpec
from dlcli.errors import UsageError
from dlcli.task import UNKNOWN, ImageInput, TaskSpec
from dlcli.zoo.base import build_model, find_model
from dlcli.zoo.layers import (
    ACTIVATIONS,
    NORMS,
    ActivationName,
    NormName,
    PoolName,
    StepBatchNorm,
    StepConv,
    StepPoolName,
    activation,
    flip_steps,
    init_body,
    init_head,
    mask_of,
    norm1d,
    norm2d,
    norm_steps,
    normalise,
    pool2d,
    pool_steps,
)
from dlcli.zoo.token_embedding import TokenEmbedding

LENGTHS = torch.tensor([5, 1, 3])


def steps(extra: int = 0) -> torch.Tensor:
    """(3, 5 + extra, 4) with rubbish behind each sample's end."""
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, torch.full((3, extra, 4), 1e3)], dim=1)
    return torch.where(mask_of(LENGTHS, 5 + extra).unsqueeze(2), x, 1e3)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_goes_up_and_has_a_gradient(name: ActivationName) -> None:
    x = torch.tensor([-2.0, 1.0, 3.0], requires_grad=True)
    y = activation(name)(x)
    y.sum().backward()
    assert y[1] < y[2]
    assert x.grad is not None
    assert x.grad[1] > 0


def test_swish_is_another_name_of_silu() -> None:
    x = torch.randn(8)
    assert torch.equal(activation("swish")(x), activation("silu")(x))


def test_parameters_of_activations_and_norms_are_torchs() -> None:
    x = torch.randn(6, 12)
    assert torch.equal(activation("leaky_relu:0.2")(x), nn.functional.leaky_relu(x, 0.2))
    assert torch.equal(norm2d("group:3", 12)(x), nn.GroupNorm(3, 12)(x))
    swish = activation("learnable_swish")
    assert torch.equal(swish(x), x * torch.sigmoid(x))
    with torch.no_grad():
        next(swish.parameters()).fill_(2.0)
    assert torch.equal(swish(x), x * torch.sigmoid(2 * x))
    with pytest.raises(UsageError, match="12 channels cannot be divided into 5 groups"):
        norm1d("group:5", 12)


@pytest.mark.parametrize(
    "args",
    [{"activation": "leaky_relu:x"}, {"norm": "group:0"}, {"norm": "instance"}, {"kernel_size": 4}],
)
def test_unknown_parameters_say_what_there_is(args: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"one of .*leaky_relu:0\.2|one of .*group:4|odd size"):
        find_model("cnn", "image").arguments(args)


@pytest.mark.parametrize("name", ["cnn", "cnn-vgg"])
@pytest.mark.parametrize("side", [8, 28, 33])
def test_convolutions_take_the_arguments_of_torchs(name: str, side: int) -> None:
    args = {"kernel_size": 5, "stride": 2, "dilation": 2, "groups": 4, "dropout2d": 0.2}
    image = ImageInput(channels=1, height=side, width=side, resize_size=side, mean=(0.5,), std=(0.5,))
    task = TaskSpec(input=image, class_names=("a", "b"))
    module = build_model(ModelSpec(name=name, args=args), task)
    convs = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
    assert [conv.groups for conv in convs] == [1, *[4] * (len(convs) - 1)]
    assert {(c.kernel_size, c.stride, c.dilation) for c in convs} == {((5, 5), (2, 2), (2, 2))}
    assert sum(isinstance(part, nn.Dropout2d) for part in module.modules()) == len(convs)
    assert module.eval()(torch.randn(2, 1, side, side)).shape == (2, 2)


@pytest.mark.parametrize("name", NORMS)
def test_norms_keep_the_shape_and_give_unit_size(name: NormName) -> None:
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0)) * 5
    image = x.view(4, 16, 4, 4)
    for y in (norm1d(name, 16)(x), norm2d(name, 16)(image), norm_steps(name, 16)(x.view(4, 16, 16))):
        assert y.numel() == x.numel()
        assert float(y.detach().std()) == pytest.approx(5.0 if name == "none" else 1.0, rel=0.1)


def test_the_layer_norm_of_features_is_torchs() -> None:
    x = torch.randn(6, 10)
    assert torch.allclose(norm1d("layer", 10)(x), nn.LayerNorm(10)(x), atol=1e-6)


def test_the_group_norm_of_features_is_torchs() -> None:
    x = torch.randn(6, 12)
    assert torch.allclose(norm1d("group", 12)(x), nn.GroupNorm(4, 12)(x), atol=1e-6)


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_of_steps_does_not_look_at_the_padding(name: NormName) -> None:
    torch.manual_seed(0)
    norm = norm_steps(name, 4)
    mask = mask_of(LENGTHS, 5).unsqueeze(1)
    x = steps().transpose(1, 2)
    other = torch.where(mask, x, -77.0)
    a, b = normalise(norm, x, mask), normalise(norm, other, mask)
    assert torch.allclose(torch.where(mask, a, 0.0), torch.where(mask, b, 0.0))


def test_batch_norm_of_steps_is_batch_norm_of_the_true_ones() -> None:
    ours, theirs = StepBatchNorm(4), nn.BatchNorm1d(4)
    mask = mask_of(LENGTHS, 5)
    x = steps()
    got = ours(x.transpose(1, 2), mask.unsqueeze(1)).transpose(1, 2)[mask]
    assert torch.allclose(got, theirs(x[mask]), atol=1e-5)
    for key, value in theirs.state_dict().items():
        assert torch.allclose(ours.state_dict()[key], value, atol=1e-6), key


@pytest.mark.parametrize("name", get_args(PoolName))
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (2, 3)])
def test_a_pooling_halves(name: PoolName, size: tuple[int, int]) -> None:
    out = pool2d(name, size)(torch.zeros(1, 2, *size))
    up = name == "adaptive"
    assert out.shape[2:] == ((size[0] + up) // 2, (size[1] + up) // 2)


def test_max_pooling_takes_the_largest_and_avg_the_mean() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    assert float(pool2d("max", (2, 2))(x)) == 6
    assert float(pool2d("avg", (2, 2))(x)) == 3
    assert float(pool2d("adaptive", (2, 2))(x)) == 3


@pytest.mark.parametrize("how", get_args(StepPoolName))
def test_pooling_over_steps_sees_the_true_ones_alone(how: StepPoolName) -> None:
    x = steps()
    rows = [row[:n] for row, n in zip(x, LENGTHS.tolist(), strict=True)]
    expected = {
        "last": torch.stack([row[-1] for row in rows]),
        "mean": torch.stack([row.mean(0) for row in rows]),
        "max": torch.stack([row.amax(0) for row in rows]),
    }[how]
    assert torch.allclose(pool_steps(x, LENGTHS, how), expected)
    assert torch.allclose(pool_steps(steps(4), LENGTHS, how), expected)
    whole = torch.full((3,), 5)
    assert torch.allclose(pool_steps(x, None, how), pool_steps(x, whole, how))


def test_the_gradient_of_the_maximum_stays_out_of_the_padding() -> None:
    x = -torch.ones(3, 5, 4)  # zeros of a padding would win
    x.requires_grad_()
    (grad,) = torch.autograd.grad(pool_steps(x, LENGTHS, "max").sum(), x)
    assert not grad[~mask_of(LENGTHS, 5)].any()
    assert float(grad.sum()) == pytest.approx(12)


def test_flipping_turns_each_sample_around_within_its_length() -> None:
    x = steps(2)
    flipped = flip_steps(x, LENGTHS)
    for row, turned, n in zip(x, flipped, LENGTHS.tolist(), strict=True):
        assert torch.equal(turned[:n], row[:n].flip(0))
        assert torch.equal(turned[n:], row[n:])
    assert torch.equal(flip_steps(flipped, LENGTHS), x)
    assert torch.equal(flip_steps(x, None), flip_steps(x, torch.full((3,), 7)))


@pytest.mark.parametrize("wide", [False, True])
def test_a_convolution_over_steps_ignores_how_far_it_was_padded(wide: bool) -> None:
    torch.manual_seed(0)
    conv = StepConv(4, 6, 3, activation_name="relu", norm="batch", dropout=0.0, wide=wide).eval()
    clean = torch.where(mask_of(LENGTHS, 5).unsqueeze(2), steps(), 0.0).transpose(1, 2)
    longer = torch.cat([clean, torch.zeros(3, 4, 4)], dim=2)
    reach = LENGTHS + (2 if wide else 0)
    a = conv(clean, mask_of(reach, 7 if wide else 5).unsqueeze(1))
    b = conv(longer, mask_of(reach, 11 if wide else 9).unsqueeze(1))
    assert torch.allclose(a, b[:, :, : a.shape[2]], atol=1e-6)
    assert not b[:, :, a.shape[2] :].any()


def test_tokens_are_lost_in_training_only_and_at_the_rate_requested() -> None:
    torch.manual_seed(0)
    embedding = TokenEmbedding(9, 16, dropout=0.0, token_dropout=0.25)
    tokens = torch.full((40, 50), 5)
    unknown = embedding.table.weight[UNKNOWN]
    lost = (embedding(tokens) == unknown).all(-1).float().mean()
    assert float(lost) == pytest.approx(0.25, abs=0.04)
    assert torch.equal(embedding.eval()(tokens), embedding.table(tokens))


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid"])
def test_first_weights_keep_the_size_of_a_signal(name: ActivationName) -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Linear(256, 256), activation(name)]
    net = nn.Sequential(*layers)
    init_body(net, name)
    size = net(torch.randn(64, 256)).square().mean().sqrt()
    assert 0.2 < float(size.detach()) < 3


@pytest.mark.parametrize("width", [8, 128, 100_000])
def test_a_head_starts_with_outputs_of_a_tenth(width: int) -> None:
    torch.manual_seed(0)
    head = nn.Linear(width, 50)
    init_head(head)
    logits = head(torch.randn(20, width)).detach()
    assert float(logits.square().mean().sqrt()) == pytest.approx(0.1, rel=0.25)
    loss = nn.functional.cross_entropy(logits, torch.arange(20))
    assert float(loss) == pytest.approx(math.log(50), abs=0.1)
