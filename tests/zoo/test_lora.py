"""Low-rank factors of layers: no change at first, and merged they compute what they did apart."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from dlcli import transforms
from dlcli.card import Card, ModelSpec, TransformRecord
from dlcli.data.prepare import prepare, random_inputs
from dlcli.zoo.base import build_model
from dlcli.zoo.replay import replay
from dlcli.zoo.structures.lora import can_adapt, is_factor, matrix_size, merged

SPEC, TASK = tiny.MODELS["cnn"]

# A layer, and the shape of its input.
LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 5), (3, 6)),
    "linear of steps, without bias": (nn.Linear(6, 5, bias=False), (3, 4, 6)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, dilation=2, padding=1), (3, 4, 20)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, padding=1), (3, 4, 7, 8)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4, stride=2, padding=1), (3, 4, 7, 8)),
    "same": (nn.Conv2d(4, 6, (3, 5), dilation=(2, 1), padding="same", bias=False), (3, 4, 7, 8)),
    "circular": (nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="circular"), (3, 4, 7, 8)),
    "conv3d": (nn.Conv3d(2, 4, 2, stride=(1, 2, 1)), (2, 2, 3, 5, 4)),
}


def record(layers: list[str], rank: int = 2, alpha: float = 3.0) -> TransformRecord:
    args = {"rank": rank, "alpha": alpha, "layers": layers, "weights": None}
    return TransformRecord(kind=transforms.LORA, args=args)


def give_values(module: nn.Module) -> None:
    """Random second factors, which are 0 at first."""
    for name, parameter in module.named_parameters():
        if name.endswith("lora_B"):
            nn.init.normal_(parameter)


def merged_state(module: nn.Module, change: TransformRecord) -> tuple[Card, dict[str, torch.Tensor]]:
    card = Card(model=SPEC, task=TASK, transforms=(change,), params=10_000)
    return merged(card, module.state_dict())


@pytest.mark.parametrize("name", LAYERS)
def test_factors_are_nothing_at_first_and_then_their_sum_with_the_weight(name: str) -> None:
    torch.manual_seed(0)
    layer, shape = LAYERS[name]
    plain = nn.Sequential(copy.deepcopy(layer))
    adapted, x = copy.deepcopy(plain), torch.randn(shape)
    replay(adapted, [record(["0"])])
    assert torch.equal(adapted(x), plain(x))  # every bit
    give_values(adapted)
    outputs = adapted(x)
    assert float((outputs - plain(x)).detach().abs().max()) > 0.1
    card, state = merged_state(adapted, record(["0"]))
    assert state.keys() == plain.state_dict().keys()
    plain.load_state_dict(state)
    torch.testing.assert_close(plain(x), outputs, atol=1e-5, rtol=1e-5)
    k, f = matrix_size(layer)
    assert card.params == 10_000 - 2 * (k + f)
    assert [each.kind for each in card.transforms] == [transforms.MERGED_LORA]


def test_a_fused_path_of_torch_does_not_pass_over_them() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    plain = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    adapted, x = copy.deepcopy(plain), torch.randn(3, 5, 8)
    change = record(["layers.0.linear1", "layers.1.linear2"])
    replay(adapted, [change])
    give_values(adapted)
    padding = torch.arange(5) >= torch.tensor([[5], [3], [2]])
    _, state = merged_state(adapted, change)
    outputs = []
    with torch.inference_mode():
        for module in (plain, adapted):
            outputs.append(module(x, src_key_padding_mask=padding))
        plain.load_state_dict(state)
        expected = plain(x, src_key_padding_mask=padding)
    valid = ~padding
    torch.testing.assert_close(outputs[1][valid], expected[valid], atol=1e-5, rtol=1e-5)
    assert float((outputs[0] - expected)[valid].abs().max()) > 0.1


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        *((spec, task) for spec, task in tiny.MODELS.values()),
        (ModelSpec(name="mobilenet_v3_small"), tiny.make_task(tiny.image(32))),
    ],
    ids=lambda each: each.name if isinstance(each, ModelSpec) else "",
)
def test_models_compute_the_same_merged(spec: ModelSpec, kind: Any) -> None:
    torch.manual_seed(0)
    plain = build_model(spec, kind).eval()
    layers = [path for path, layer in plain.named_modules() if can_adapt(layer)]
    change = record(layers, rank=1, alpha=0.5)
    adapted = build_model(spec, kind, [change]).eval()
    own = {name: tensor for name, tensor in adapted.state_dict().items() if not is_factor(name)}
    assert own.keys() == plain.state_dict().keys()
    plain.load_state_dict(own)
    arrays = prepare(random_inputs(kind, 2), kind).values()
    inputs = [torch.from_numpy(array) for array in arrays]
    with torch.no_grad():
        first = adapted(*inputs)
        assert torch.equal(first, plain(*inputs))
        give_values(adapted)
        plain.load_state_dict(merged_state(adapted, change)[1])
        outputs = adapted(*inputs)
        change_of_outputs = float((outputs - first).abs().max())
        error = float((plain(*inputs) - outputs).abs().max())
    assert error <= 1e-4 * change_of_outputs  # of untrained deep models all outputs are small
    assert bool(layers) == (change_of_outputs > 0)


@pytest.mark.parametrize(
    ("layers", "rank", "message"),
    [
        (["nowhere"], 1, "no layer nowhere"),
        (["body"], 1, "no linear layer or convolution with a side of 1 or more"),
        (["body.0"], 5, "with a side of 5 or more"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(layers: list[str], rank: int, message: str) -> None:
    module = nn.Sequential()
    module.add_module("body", nn.Sequential(nn.Linear(4, 6)))
    with pytest.raises(ValueError, match=message):
        replay(module, [record(layers, rank)])


def test_missing_factors_are_refused() -> None:
    with pytest.raises(ValueError, match="lora_A"):
        merged_state(nn.Sequential(nn.Linear(4, 6)), record(["0"]))
