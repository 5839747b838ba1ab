"""Channel removal: what is left answers as the whole model does whose removed channels are zero."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dlcli.card import Card, ModelSpec, TransformRecord
from dlcli.compress.channels.prune import PrunedChannels, merge_records, prune_channels
from dlcli.config import ExportConfig
from dlcli.data.prepare import prepare, random_inputs
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import Runtime, recognize
from dlcli.formats.checkpoint import open_checkpoint, save_model
from dlcli.formats.onnx.format import open_onnx, write_onnx
from dlcli.task import SPECIAL_TOKENS, ImageInput, PairsInput, SeriesInput, TaskSpec, TextInput
from dlcli.zoo.attention import Attention
from dlcli.zoo.base import build_model, find_model
from dlcli.zoo.macs import count_macs

CLASSES = tuple("abcde")


def image_task(side: int = 32, channels: int = 3) -> TaskSpec:
    spec = ImageInput(
        channels=1 if channels == 1 else 3, height=side, width=side, resize_size=side,
        mean=(0.5,) * channels, std=(0.25,) * channels,
    )  # fmt: skip
    return TaskSpec(input=spec, class_names=CLASSES)


def text_input() -> TextInput:
    return TextInput(vocabulary=(*SPECIAL_TOKENS, *map(str, range(40))), max_length=16)


def text_task() -> TaskSpec:
    return TaskSpec(input=text_input(), class_names=CLASSES)


def series_task(*, varies: bool = True) -> TaskSpec:
    spec = SeriesInput(channels=("u", "v"), mean=(0.0, 0.0), std=(1.0, 1.0), length=16, varies=varies)
    return TaskSpec(input=spec, class_names=CLASSES)


def inputs_of(task: TaskSpec, count: int, length: int = 16) -> tuple[torch.Tensor, ...]:
    arrays = prepare(random_inputs(task, count, length=length, seed=count), task)
    return tuple(torch.from_numpy(array) for array in arrays.values())


def spec_of(name: str, task: TaskSpec, **args: Any) -> ModelSpec:
    values = find_model(name, task.input.kind).arguments(args)
    return ModelSpec(name=name, args=values.model_dump(mode="json"))


def lively(module: nn.Module, task: TaskSpec) -> nn.Module:
    """In eval mode, with biases, norms and statistics that are not those of the start."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            # No two are the same: by its bias a channel is known again.
            noise = (
                torch.randperm(tensor.numel(), generator=generator).view(tensor.shape) / tensor.numel()
            )
            if tensor.ndim == 1:
                tensor.copy_(0.6 + noise if name.endswith("weight") else 0.4 * (noise - 0.4))
            elif not tensor.any():
                tensor.copy_(noise - 0.5)
        module.train()
        for seed in range(20):
            module(*inputs_of(task, 4 + seed % 2))
    return module.eval()


def make(name: str, task: TaskSpec, **args: Any) -> tuple[ModelSpec, nn.Module]:
    torch.manual_seed(0)
    spec = spec_of(name, task, **args)
    return spec, lively(build_model(spec, task), task)


def zeroed(module: nn.Module, pruned: nn.Module) -> nn.Module:
    """The module with 0 for all that produces a removed channel, found by biases that are unique."""
    whole = copy.deepcopy(module)
    parts = dict(pruned.named_modules())
    with torch.no_grad():
        for path, part in whole.named_modules():
            for name, bias in list(part.named_parameters(recurse=False)):
                if not name.startswith("bias") or bias.ndim != 1:
                    continue
                kept = torch.isin(bias, getattr(parts[path], name))
                end = name.removeprefix("bias")  # of a recurrent net: _ih_l0
                for other in ("weight", "bias"):
                    rows = getattr(part, other + end, None)
                    if rows is not None:
                        rows[~kept] = 0.0
    return whole


def check_equal(task: TaskSpec, module: nn.Module, pruned: nn.Module) -> None:
    """In double precision, since little is left of what samples differ by at the end of deep nets."""
    whole, small = zeroed(module, pruned).double(), copy.deepcopy(pruned).double()
    for count in (7, 1):
        inputs = [x.double() if x.is_floating_point() else x for x in inputs_of(task, count)]
        with torch.no_grad():
            answer, expected = small(*inputs), whole(*inputs)
        if count > 1:
            std = float(expected.std(0).max())
            assert std > 1e-9 * float(expected.abs().max())
        assert float((answer - expected).abs().max()) < 1e-6 * std


def check(task: TaskSpec, spec: ModelSpec, module: nn.Module, result: PrunedChannels) -> None:
    """Equal to the zeroed model and to what the card rebuilds, at several sizes; smaller; counted."""
    card = Card(model=spec, task=task, transforms=(result.record,))
    read = Card.from_json(card.to_json(), source="it")
    rebuilt = build_model(read.model, read.task, read.transforms)
    rebuilt.load_state_dict(result.module.state_dict())
    rebuilt.eval()
    for count, length in ((1, 1), (7, 16), (3, 9)):
        inputs = inputs_of(task, count, length)
        with torch.no_grad():
            assert torch.equal(rebuilt(*inputs), result.module(*inputs))
    check_equal(task, module, result.module)
    assert sum(p.numel() for p in rebuilt.parameters()) == result.params_after < result.params_before
    macs = count_macs(rebuilt, inputs_of(task, 1))
    assert sum(macs.values()) == result.macs_after < result.macs_before


CASES: list[tuple[str, TaskSpec, dict[str, Any]]] = [
    ("mlp", image_task(8), {"widths": (32, 24)}),
    ("mlp", series_task(), {"widths": (32,), "norm": "none"}),
    ("cnn", image_task(16), {}),
    ("cnn-vgg", image_task(16), {"widths": (16, 16)}),
    ("cnn", series_task(), {"widths": (16, 24)}),
    ("cnn", text_task(), {"filters": 16, "dim": 8}),
    ("lstm", series_task(), {"hidden": 16, "layers": 2}),
    ("lstm", text_task(), {"hidden": 16, "bidirectional": False, "pooling": "last"}),
    ("gru", text_task(), {"hidden": 16, "layers": 2, "norm": "batch"}),
    ("rnn", series_task(), {"hidden": 16}),
    ("bert", text_task(), {"vocab": 64, "layers": 1, "dim": 16, "heads": 4, "ff": 16, "positions": 16,
                           "head": "mlp", "hidden": (24, 16)}),
    ("transformer", text_task(), {"dim": 16, "heads": 4, "ff": 16}),
    ("transformer", text_task(), {"dim": 16, "heads": 2, "ff": 16, "positions": "rotary"}),
    ("transformer", series_task(), {"dim": 16, "heads": 4, "ff": 16, "norm_first": False}),
    ("vit-tiny", image_task(16), {"dim": 16, "heads": 2, "ff": 32, "layers": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "task", "args"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_removing_is_zeroing(name: str, task: TaskSpec, args: dict[str, Any]) -> None:
    spec, module = make(name, task, **args)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    result = prune_channels(module, task, amount=0.5)
    check(task, spec, module, result)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.slow
def test_resnet18_at_half_its_channels_has_a_quarter_of_its_parameters() -> None:
    task = image_task()
    spec, module = make("resnet18", task)
    result = prune_channels(module, task, amount=0.5)
    check(task, spec, module, result)
    assert result.params_after <= 0.26 * result.params_before
    assert result.macs_after <= 0.28 * result.macs_before
    rows = {row.name: row for row in result.layers}
    assert (rows["layer1.0.conv2"].kept, rows["layer1.0.conv2"].of) == (32, 64)
    assert rows["fc"].kept == rows["fc"].of == 5
    assert sum(row.macs_after for row in result.layers) == result.macs_after


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "vgg11_bn", "densenet121"])
def test_removing_is_zeroing_in_torchvision(name: str) -> None:
    task = image_task()
    spec, module = make(name, task)
    check(task, spec, module, prune_channels(module, task, amount=0.5))


FAMILIES = [
    "alexnet", "convnext_tiny", "efficientnet_b0", "googlenet", "inception_v3", "mnasnet0_5",
    "regnet_y_400mf", "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t",
    "vit_b_32",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_can_be_pruned_and_opened_again(name: str, tmp_path: Path) -> None:
    needs = find_model(name, "image").needs
    side = -(-max(64, needs.min_size) // needs.size_multiple) * needs.size_multiple
    task = image_task(side)
    spec, module = make(name, task)
    result = prune_channels(module, task, amount=0.5)
    save_model(
        tmp_path / "m.safetensors",
        result.module,
        Card(model=spec, task=task, transforms=(result.record,)),
    )
    opened = open_checkpoint(recognize(tmp_path / "m.safetensors"), Runtime("cpu")).module()
    for count in (1, 3):
        inputs = inputs_of(task, count)
        with torch.no_grad():
            assert torch.equal(
                opened(*inputs), result.module.to(memory_format=torch.channels_last)(*inputs)
            )
    # Of these, shufflenet mixes halves of its channels, and foreign attention keeps its heads.
    few = {"shufflenet_v2_x0_5": 0.75, "swin_t": 0.75, "vit_b_32": 0.7}
    assert result.params_after <= few.get(name, 0.32) * result.params_before


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("cnn", image_task(16)),
        ("gru", text_task()),
        pytest.param("rnn", series_task(), marks=pytest.mark.slow),
        pytest.param("transformer", text_task(), marks=pytest.mark.slow),
        pytest.param("mobilenet_v3_small", image_task(), marks=pytest.mark.slow),
    ],
)
def test_pruned_models_export(name: str, task: TaskSpec, tmp_path: Path) -> None:
    spec, module = make(name, task)
    result = prune_channels(module, task, amount=0.5)
    save_model(
        tmp_path / "m.safetensors",
        result.module,
        Card(model=spec, task=task, transforms=(result.record,)),
    )
    source = open_checkpoint(recognize(tmp_path / "m.safetensors"), Runtime("cpu"))
    write_onnx(source, tmp_path / "m.onnx", ExportConfig())
    exported = open_onnx(recognize(tmp_path / "m.onnx"), Runtime("cpu"))
    for count, length in ((1, 1), (7, 16)):
        inputs = random_inputs(task, count, length=length)
        assert np.allclose(exported.predict(inputs), source.predict(inputs), atol=1e-5)


# The user's own modules


class Net(nn.Module):
    """What a user may write: given parts, run by ``run(net, x)``."""

    def __init__(self, run: Any, **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.run(self, *inputs)
        return answer


def kept_of(result: PrunedChannels) -> dict[str, tuple[int, int]]:
    return {row.name: (row.kept, row.of) for row in result.layers}


def pruned_net(task: TaskSpec, run: Any, **parts: nn.Module) -> tuple[nn.Module, PrunedChannels]:
    torch.manual_seed(0)
    module = lively(Net(run, **parts), task)
    return module, prune_channels(module, task, amount=0.5, round_to=1)


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (1, True), (2, False), (2, True)])
def test_torchs_own_recurrent_networks_lose_units_of_every_layer(
    cell: type[nn.LSTM], layers: int, bidirectional: bool
) -> None:
    def run(net: Any, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        steps, last = net.cell(packed)
        padded, _ = pad_packed_sequence(steps, batch_first=True)
        state = last[0] if isinstance(last, tuple) else last
        return net.head(torch.cat([padded.mean(1), state[-1]], dim=1))

    width = 6 * (1 + bidirectional)
    module, result = pruned_net(
        series_task(), run,
        cell=cell(2, 6, layers, batch_first=True, bidirectional=bidirectional),
        head=nn.Linear(width + 6, 5),
    )  # fmt: skip
    assert kept_of(result)["cell"] == (3, 6)
    assert result.module.cell.weight_ih_l0.shape[0] == 3 * {"LSTM": 4, "GRU": 3, "RNN": 1}[cell.__name__]  # type: ignore[union-attr,index,operator]
    check_equal(series_task(), module, result.module)


def test_flattened_concatenated_and_grouped_channels_are_followed() -> None:
    def run(net: Any, x: torch.Tensor) -> torch.Tensor:
        a = functional.relu(net.a(x))
        b = functional.relu(net.grouped(a))
        y = torch.cat([b, functional.relu(net.skip(x)), a], dim=1)
        return net.head(y.permute(0, 2, 3, 1).flatten(1))  # channels last, as no library has it

    module, result = pruned_net(
        image_task(8), run,
        a=nn.Conv2d(3, 8, 3, padding=1), grouped=nn.Conv2d(8, 16, 3, padding=1, groups=4),
        skip=nn.Conv2d(3, 6, 1), head=nn.Linear(30 * 64, 5),
    )  # fmt: skip
    assert kept_of(result) == {"a": (4, 8), "grouped": (8, 16), "skip": (3, 6), "head": (5, 5)}
    assert result.module.grouped.groups == 2  # type: ignore[union-attr]
    check_equal(image_task(8), module, result.module)


def test_what_cannot_be_followed_stays() -> None:
    def run(net: Any, x: torch.Tensor) -> torch.Tensor:
        x = x + net.back(functional.relu(net.inside(x)))  # the input's channels stay
        y = functional.relu(net.mixed(x)).softmax(1)  # every channel depends on every other
        y = functional.relu(net.counted(functional.relu(net.last(y))))
        y = torch.cat([2 * y[:, :3], y[:, 3:]], dim=1)  # the boundary would be another channel's
        return net.head(y.mean((2, 3)))

    module, result = pruned_net(
        image_task(8), run, inside=nn.Conv2d(3, 8, 1), back=nn.Conv2d(8, 3, 1), mixed=nn.Conv2d(3, 8, 1),
        last=nn.Conv2d(8, 8, 1), counted=nn.Conv2d(8, 8, 1), head=nn.Linear(8, 5),
    )  # fmt: skip
    assert kept_of(result) == {
        "inside": (4, 8), "back": (3, 3), "mixed": (8, 8), "last": (4, 8), "counted": (8, 8),
        "head": (5, 5),
    }  # fmt: skip
    check_equal(image_task(8), module, result.module)


def test_shared_weights_stay() -> None:
    twice = nn.Linear(8, 8)
    other = nn.Linear(8, 8)
    other.weight = twice.weight
    module = Net(
        lambda net, x: net.head(net.second(functional.relu(net.first(net.inner(x.flatten(1)))))),
        inner=nn.Linear(192, 8), first=twice, second=other, head=nn.Linear(8, 5),
    )  # fmt: skip
    with pytest.raises(DlcliError, match="no channels"):
        prune_channels(lively(module, image_task(8)), image_task(8), amount=0.5, round_to=1)


def test_torchs_own_encoder_loses_feed_forward_units_and_keeps_its_heads() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    module, result = pruned_net(
        series_task(varies=False),
        lambda net, x: net.head(net.encoder(net.embed(x)).mean(1)),
        embed=nn.Linear(2, 16), encoder=encoder, head=nn.Linear(16, 5),
    )  # fmt: skip
    kept = kept_of(result)
    assert kept["encoder.layers.0.linear1"] == kept["encoder.layers.1.linear1"] == (16, 32)
    assert kept["embed"] == (16, 16)
    check_equal(series_task(varies=False), module, result.module)


# Amounts, targets, rankings


def test_heads_go_whole_and_the_width_stays() -> None:
    task = text_task()
    _, module = make("transformer", task, dim=24, heads=3, ff=20)
    result = prune_channels(module, task, amount=0.5)
    kept = kept_of(result)
    assert kept["body.encoder.blocks.0.attention"] == (2, 3)
    assert kept["body.encoder.blocks.0.feed.0"] == (8, 20)  # a multiple of 8
    attention = result.module.get_submodule("body.encoder.blocks.0.attention")
    assert isinstance(attention, Attention)
    assert (attention.heads, attention.query.out_features, attention.out.out_features) == (2, 16, 24)


def test_seq2seq_loses_heads_and_units_on_both_sides() -> None:
    task = TaskSpec(kind="seq2seq", input=PairsInput(source=text_input(), target=text_input()))
    spec, module = make("seq2seq", task, dim=16, heads=2, ff=16)
    result = prune_channels(module, task, amount=0.5)
    assert kept_of(result)["decoder.1.reading"] == (1, 2)
    check(task, spec, module, result)


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_norms_over_channels_are_cut_with_them(norm: str) -> None:
    task = image_task(16)
    spec, module = make("cnn", task, norm=norm)
    result = prune_channels(module, task, amount=0.5)
    rebuilt = build_model(spec, task, (result.record,))
    rebuilt.load_state_dict(result.module.state_dict())
    assert kept_of(result)["features.8"] == (32, 64)
    x = inputs_of(task, 3)
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(*x), result.module(*x))


@pytest.mark.parametrize("target", [0.7, 0.4, 0.15])
def test_targets_are_reached_and_hardly_more(target: float) -> None:
    task = image_task(16)
    _, module = make("cnn", task)
    for name in ("params", "macs"):
        result = prune_channels(module, task, round_to=1, **{f"target_{name}": target})
        before, after = getattr(result, f"{name}_before"), getattr(result, f"{name}_after")
        assert after <= target * before
        less = prune_channels(module, task, amount=result.amount - 0.02, round_to=1)
        assert getattr(less, f"{name}_after") > target * before


def test_rounding_keeps_multiples_and_at_least_one() -> None:
    task = image_task(16)
    _, module = make("cnn", task, widths=(12, 40, 6), hidden=30)
    kept = kept_of(prune_channels(module, task, amount=0.95))
    assert kept["features.0"] == (8, 12)
    assert kept["features.4"] == (8, 40)
    assert kept["features.8"] == (6, 6)  # fewer than one group
    assert kept["head.1"] == (8, 30)
    kept = kept_of(prune_channels(module, task, amount=0.95, round_to=1))
    assert kept["features.8"] == (1, 6)


def test_a_number_is_of_each_layers_channels() -> None:
    task = image_task(16)
    _, module = make("cnn", task, widths=(12, 40, 6), hidden=30)
    result = prune_channels(module, task, amount=5)
    assert {of - kept for kept, of in kept_of(result).values()} == {5, 0}  # 0: the classes
    assert (result.amount, result.record.args["amount"], result.notes) == (5, 5, ())
    again = prune_channels(module, task, amount=5, removed=dict.fromkeys(kept_of(result), 2))
    assert {of - kept for kept, of in kept_of(again).values()} == {3, 0}
    with pytest.raises(UsageError, match=r"--amount 6: at most 5 of 'features\.8' can go") as caught:
        prune_channels(module, task, amount=6)
    assert "--skip features.8" in str(caught.value.hint)


def test_a_number_is_rounded_where_channels_only_go_together() -> None:
    task = image_task(16)
    _, module = make("cnn", task, norm="group", widths=(16, 32))
    result = prune_channels(module, task, amount=5)
    assert {of - kept for kept, of in kept_of(result).values()} == {
        8,
        5,
        0,
    }  # a norm's groups stay equal
    assert "channels that only go together, so --amount is rounded: features.0 (8)" in result.notes[0]
    task = series_task()
    _, module = make("lstm", task, hidden=16, layers=2)
    kept = kept_of(prune_channels(module, task, amount=5))
    assert (11, 16) in kept.values()


def test_magnitude_and_batch_norms_find_the_dead_channels() -> None:
    task = image_task(16)
    _, module = make("cnn", task, norm="batch")
    dead = torch.randperm(64, generator=torch.Generator().manual_seed(5))[:32]
    norm = module.get_submodule("features.9")
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.weight[dead] *= 1e-3
    alive = norm.weight[[i for i in range(64) if i not in set(dead.tolist())]]
    for importance in ("magnitude", "bn-scale"):
        result = prune_channels(module, task, amount=0.5, importance=importance)
        left = result.module.get_submodule("features.9")
        assert torch.equal(left.weight, alive)  # type: ignore[arg-type]
    assert "head.1" in result.notes[0]  # the hidden layer of the head has no batch norm


def test_taylor_keeps_what_the_loss_depends_on() -> None:
    task = image_task(8)
    _, module = make("mlp", task, widths=(16,), norm="none")
    head, body = module.get_submodule("head"), module.get_submodule("body.0")
    assert isinstance(head, nn.Linear)
    assert isinstance(body, nn.Linear)
    with torch.no_grad():
        body.weight[8:] *= 100  # large, but the head does not look
        head.weight[:, 8:] = 0
        head.weight[:, :8] *= 1e-2
    x, y = inputs_of(task, 12)[0], torch.arange(12) % 5

    def batches() -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
        yield (x[:6],), y[:6]
        yield (x[6:],), y[6:]

    result = prune_channels(
        module, task, amount=0.5, importance="taylor", batches=batches, loss=functional.cross_entropy
    )
    assert torch.equal(result.module.get_submodule("body.0").bias, body.bias[:8])  # type: ignore[arg-type]
    assert body.weight.grad is None
    by_size = prune_channels(module, task, amount=0.5)
    assert not torch.equal(by_size.module.get_submodule("body.0").bias, body.bias[:8])  # type: ignore[arg-type]


def test_the_same_arguments_give_the_same_model_in_any_mode() -> None:
    task = image_task(16)
    _, module = make("cnn", task)
    first = prune_channels(module, task, amount=0.5)
    module.train()
    second = prune_channels(module, task, amount=0.5)
    assert module.training
    assert first.record == second.record
    for a, b in zip(
        first.module.state_dict().values(), second.module.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)


def test_two_removals_are_one_record() -> None:
    task = text_task()
    spec, module = make("gru", task, hidden=32)
    first = prune_channels(module, task, amount=0.25)
    second = prune_channels(first.module, task, amount=0.5)
    rebuilt = build_model(spec, task, (merge_records(first.record, second.record),))
    rebuilt.load_state_dict(second.module.state_dict())
    twice = build_model(spec, task, (first.record, second.record))
    twice.load_state_dict(second.module.state_dict())


def test_a_pruned_model_trains() -> None:
    task = text_task()
    _, module = make("lstm", task, hidden=16)
    net = prune_channels(module, task, amount=0.5).module.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    inputs, goal = inputs_of(task, 8), torch.arange(8) % 5
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(*inputs), goal)
        loss.backward()
        assert all(p.grad is not None for p in net.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_frozen_weights_stay_frozen() -> None:
    task = image_task(16)
    _, module = make("cnn", task)
    for p in module.get_submodule("features").parameters():
        p.requires_grad_(False)
    result = prune_channels(module, task, amount=0.5)
    grads = {name: p.requires_grad for name, p in result.module.named_parameters()}
    assert grads == {name: p.requires_grad for name, p in module.named_parameters()}


def test_skipped_layers_keep_their_outputs() -> None:
    task = image_task(16)
    _, module = make("cnn", task)
    kept = kept_of(prune_channels(module, task, amount=0.5, skip=["features.4", "head"]))
    assert kept["features.0"] == (8, 16)
    assert kept["features.4"] == (32, 32)
    assert kept["head.1"] == (128, 128)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"amount": 0.0}, "--amount 0"),
        ({"amount": 1.0}, "--amount 1"),
        ({"target_params": 1.5}, "--target-params 1.5"),
        ({}, "exactly one"),
        ({"amount": 0.5, "target_macs": 0.5}, "exactly one"),
        ({"amount": 0.01}, "removes nothing"),
        ({"target_params": 0.001}, "cannot be reached"),
        ({"amount": 0.5, "skip": ["featurs.0"]}, "featurs.0"),
        ({"amount": 0.5, "importance": "taylor"}, "needs data"),
        ({"amount": 0.5, "round_to": 0}, "--round-to 0"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments: dict[str, Any], message: str) -> None:
    task = image_task(16)
    _, module = make("cnn", task)
    with pytest.raises(UsageError, match=message) as caught:
        prune_channels(module, task, **arguments)
    if "skip" in arguments:
        assert "features.0" in str(caught.value.hint)


def test_batch_norm_scales_need_batch_norms() -> None:
    task = image_task(16)
    _, module = make("cnn", task, norm="none")
    with pytest.raises(UsageError, match="has none"):
        prune_channels(module, task, amount=0.5, importance="bn-scale")


@pytest.mark.parametrize(
    ("name", "args", "skip"), [("linear", {}, ()), ("mlp", {"depth": 0}, ()), ("cnn", {}, ("*",))]
)
def test_a_model_with_nothing_to_prune_is_refused(
    name: str, args: dict[str, Any], skip: tuple[str, ...]
) -> None:
    task = image_task(16)
    _, module = make(name, task, **args)
    with pytest.raises(DlcliError, match="no channels"):
        prune_channels(module, task, amount=0.5, skip=skip)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"shapes": {"features.99.weight": [1]}}, "no tensor"),
        ({"shapes": {"features.0.weight": [8, 3, 3]}}, "cannot become"),
        ({"shapes": {"features.0.weight": [99, 3, 3, 3]}}, "cannot become"),
        ({"shapes": {"features.0.weight": [0, 3, 3, 3]}}, "cannot become"),
        ({"shapes": {"features.0.weight": [8, 3, 2, 3]}}, "kernel"),
        ({"shapes": {"features.0.weight": [8, 3, 3, 3]}}, "biases"),
        ({"shapes": {"features.1.weight": [8]}}, "different lengths"),
        ({"groups": {"head.1": 2}}, "groups"),
        ({"groups": {"features.0": 5}}, "groups"),
        ({"heads": {"features.0": 2}}, "attention"),
        ({"shapes": [1]}, "mapping"),
    ],
)
def test_records_that_do_not_fit_are_refused(args: dict[str, Any], message: str) -> None:
    task = image_task(16)
    with pytest.raises(ValueError, match=message):
        build_model(spec_of("cnn", task), task, (TransformRecord(kind="channels", args=args),))


def test_a_record_of_a_recurrent_net_fits_all_its_tensors() -> None:
    task = series_task()
    shapes = {"states.onward.0.weight_hh_l0": [32, 8]}
    with pytest.raises(ValueError, match="has the shape"):
        build_model(
            spec_of("lstm", task, hidden=16),
            task,
            (TransformRecord(kind="channels", args={"shapes": shapes}),),
        )
