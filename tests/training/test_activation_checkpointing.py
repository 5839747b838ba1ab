"""Gradient checkpointing: a run with it is the run without it, bit for bit, and keeps less."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import tensors
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from dlcli.data.prepare import prepare, random_inputs
from dlcli.errors import UsageError
from dlcli.task import (
    SPECIAL_TOKENS,
    CategoryColumn,
    ImageInput,
    InputSpec,
    NumberColumn,
    PairsInput,
    SeriesInput,
    TabularInput,
    TargetNumber,
    TaskSpec,
    TextInput,
)
from dlcli.training.activation_checkpointing import (
    checkpoint_segments,
    memory_saving_sentence,
    saved_bytes,
    step_bytes,
)
from dlcli.training.checkpoint_blocks import find_chains
from dlcli.training.sync_batchnorm import synchronise_batch_norms
from dlcli.zoo.base import MODELS, find_model

ENCODER = {"layers": 4, "heads": 2, "dim": 16, "ff": 32, "dropout": 0.1}
CONV = {"widths": (4, 6, 6), "dropout": 0.2}
# Arguments of small but deep nets, and the blocks that each has.
DEEP: dict[str, tuple[dict[str, Any], int]] = {
    "image/cnn": (CONV, 3),
    "image/cnn-vgg": (CONV, 6),
    "image/mlp": ({"widths": (16, 8), "depth": 5, "dropout": 0.2}, 5),
    "image/vit-tiny": (ENCODER, 4),
    "tabular/tabm": ({"widths": (16, 16, 16, 16), "k": 3, "number_embedding": 4, "dropout": 0.2}, 4),
    "tabular/mlp": ({"widths": (16,), "depth": 4, "dropout": 0.2}, 4),
    "tabular/transformer": (ENCODER, 4),
    "series/cnn": ({"widths": (8, 8, 8, 8), "dropout": 0.2}, 4),
    "series/mlp": ({"widths": (16,), "depth": 4, "dropout": 0.2}, 4),
    "series/transformer": (ENCODER, 4),
    "tensor/mlp": ({"widths": (16,), "depth": 4, "dropout": 0.2}, 4),
    "text/bert": ({**ENCODER, "vocab": 24, "positions": 10}, 4),
    "text/cnn": ({"dim": 8, "filters": 6, "norm": "batch"}, 3),
    "text/transformer": ({**ENCODER, "norm": "batch"}, 4),
    "pairs/seq2seq": ({**ENCODER, "decoder_layers": 3}, 7),
}
SHALLOW = [key for key in (f"{e.kind}/{e.name}" for _, e in MODELS.entries()) if key not in DEEP]


def input_of(kind: str) -> InputSpec:
    words = TextInput(vocabulary=(*SPECIAL_TOKENS, *map(str, range(20))), max_length=10)
    specs: dict[str, InputSpec] = {
        "image": ImageInput(
            channels=3, height=16, width=16, resize_size=16, mean=(0.5,) * 3, std=(0.5,) * 3
        ),
        "tabular": TabularInput(
            numbers=(NumberColumn(name="a"),), categories=(CategoryColumn(name="c", values=("x", "y")),)
        ),
        "series": SeriesInput(
            channels=("u", "v"), mean=(0.0,) * 2, std=(1.0,) * 2, length=12, varies=True
        ),
        "text": words,
        "tensor": tensors(),
        "pairs": PairsInput(source=words, target=words),
    }
    return specs[kind]


def build(key: str, args: dict[str, Any], *, forecast: bool = False) -> tuple[nn.Module, TaskSpec]:
    kind, name = key.split("/")
    entry = find_model(name, kind)  # type: ignore[arg-type]
    spec = input_of(kind)  # type: ignore[arg-type]
    if forecast:
        assert isinstance(spec, SeriesInput)
        target = TargetNumber(name="u", mean=0.0, std=1.0)
        fixed = spec.model_copy(update={"varies": False})
        task = TaskSpec(kind="forecast", input=fixed, targets=(target,), horizon=3)
    elif kind == "pairs":
        task = TaskSpec(kind="seq2seq", input=spec)
    else:
        task = TaskSpec(input=spec, class_names=("a", "b", "c"))
    torch.manual_seed(0)
    return entry.build(task, entry.arguments(args)).train(), task


def batch_of(task: TaskSpec, seed: int = 0) -> tuple[torch.Tensor, ...]:
    arrays = prepare(random_inputs(task, 6, length=9, seed=seed), task)
    return tuple(torch.from_numpy(array) for array in arrays.values())


def square(out: torch.Tensor) -> torch.Tensor:
    return out.float().square().mean()


def run(module: nn.Module, batches: list[tuple[torch.Tensor, ...]]) -> dict[str, torch.Tensor]:
    """Three steps of training: gradients of the last one, and all tensors."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.01)
    for inputs in batches:
        optimizer.zero_grad()
        square(module(*inputs)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    state = {k: v.clone() for k, v in module.state_dict().items()}
    return state | {f"grad of {k}": p.grad for k, p in module.named_parameters() if p.grad is not None}


def check_same(make: Callable[[], nn.Module], batches: list[Any], asked: str) -> str:
    """On and off are the same run; on keeps less. Gives the sentence."""
    plain, module = make().train(), make().train()
    said = checkpoint_segments(module, asked)
    assert said is not None
    assert list(module.state_dict()) == list(plain.state_dict())
    without, with_ = (
        saved_bytes(lambda part=part: square(part(*batches[0])))  # type: ignore[misc]
        for part in (make().train(), module)
    )
    assert with_ < without
    module.load_state_dict(plain.state_dict())  # what counting did to the statistics
    expected, got = run(plain, batches), run(module, batches)
    assert expected.keys() == got.keys()
    for key, value in expected.items():
        assert torch.equal(value, got[key]), key
    plain.eval()
    module.eval()
    answers = [part(*batches[0]) for part in (plain, module)]
    torch.testing.assert_close(*answers, rtol=0, atol=0, equal_nan=True)
    return said


@pytest.mark.parametrize("key", list(DEEP))
@pytest.mark.parametrize("asked", ["auto", "2"])
def test_every_deep_model_trains_as_without(key: str, asked: str) -> None:
    args, blocks = DEEP[key]
    _, task = build(key, args)
    batches = [batch_of(task, seed) for seed in range(3)]
    said = check_same(lambda: build(key, args)[0], batches, asked)
    segments = blocks if asked == "auto" or key in ("text/cnn", "tabular/tabm") else 2
    assert said.startswith(f"gradient checkpointing: {segments} segments of {blocks} blocks in ")


@pytest.mark.parametrize("key", ["series/cnn", "series/mlp", "series/transformer"])
def test_every_deep_forecaster_trains_as_without(key: str) -> None:
    args, blocks = DEEP[key]
    _, task = build(key, args, forecast=True)
    batches = [batch_of(task, seed) for seed in range(3)]
    said = check_same(lambda: build(key, args, forecast=True)[0], batches, "auto")
    assert f" {blocks} blocks" in said


@pytest.mark.parametrize("key", SHALLOW)
def test_models_without_blocks_are_refused_with_the_reason(key: str) -> None:
    module, _ = build(key, {})
    why = "recurrent model" if key.endswith(("rnn", "gru", "lstm")) else "no consecutive blocks"
    with pytest.raises(UsageError, match=why) as caught:
        checkpoint_segments(module, "auto")
    assert "--batch-size" in (caught.value.hint or "")


def test_norms_over_padded_steps_count_a_batch_once() -> None:
    args = {**DEEP["series/cnn"][0], "norm": "batch"}
    module, task = build("series/cnn", args)
    checkpoint_segments(module, "1")
    inputs = batch_of(task)
    square(module(*inputs)).backward()  # type: ignore[no-untyped-call]
    counts = [int(b) for name, b in module.named_buffers() if name.endswith("num_batches_tracked")]
    assert counts == [1] * 4


# Nets of other libraries

IMAGES: list[tuple[torch.Tensor, ...]] = [
    (torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(i)),) for i in range(2)
]


def torchvision_net(name: str) -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    extra: dict[str, Any] = {}
    if name == "googlenet":
        extra = {"aux_logits": False, "init_weights": False}
    if name == "vit":
        net: nn.Module = models.VisionTransformer(32, 8, 3, 2, 16, 32, dropout=0.1, num_classes=4)
        nn.init.normal_(net.heads[0].weight)  # type: ignore[index, union-attr]
    else:
        net = models.get_model(name, weights=None, num_classes=4, **extra)
    return net


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("resnet18", 8),
        ("vit", 3),
        ("mobilenet_v3_small", 13),
        pytest.param("densenet121", 62, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", 18, marks=pytest.mark.slow),
        pytest.param("googlenet", 12, marks=pytest.mark.slow),
        pytest.param("swin_t", 16, marks=pytest.mark.slow),
        pytest.param("convnext_tiny", 22, marks=pytest.mark.slow),
        pytest.param("squeezenet1_1", 9, marks=pytest.mark.slow),
        pytest.param("shufflenet_v2_x0_5", 16, marks=pytest.mark.slow),
    ],
)
def test_models_of_torchvision_train_as_without(name: str, blocks: int) -> None:
    said = check_same(lambda: torchvision_net(name), IMAGES, "auto")
    assert f" {blocks} segments of {blocks} blocks" in said


def test_a_residual_net_may_be_cut_at_its_stages() -> None:
    said = check_same(lambda: torchvision_net("resnet18"), IMAGES[:1], "4")
    assert said.startswith("gradient checkpointing: 4 segments of 8 blocks in layer1, layer2, layer3")


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("vit_tiny_patch16_224", 12),
        pytest.param("efficientnet_b0", 16, marks=pytest.mark.slow),
        pytest.param("convnext_atto", 12, marks=pytest.mark.slow),
        pytest.param("resnetv2_50", 16, marks=pytest.mark.slow),
    ],
)
def test_the_blocks_of_timm_are_found(name: str, blocks: int) -> None:
    timm = pytest.importorskip("timm")
    net = timm.create_model(name, pretrained=False, num_classes=4)
    assert sum(len(chain.blocks) for chain in find_chains(net)) == blocks


# What it is combined with


def blocks_net(norm: type[nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [
        nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), norm(3), nn.ReLU(inplace=True), nn.Dropout(0.3))
        for _ in range(4)
    ]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("asked", ["auto", "3"])
def test_mixed_precision_changes_nothing(asked: str) -> None:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = blocks_net()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                out: torch.Tensor = self.net(x)
            return out

    check_same(Cast, IMAGES, asked)


def test_frozen_parts_and_frozen_statistics_stay_as_they_are() -> None:
    def make() -> nn.Module:
        net = blocks_net()
        net[0].requires_grad_(False)
        net[2].requires_grad_(False)
        return net

    plain, module = make(), make()
    checkpoint_segments(module, "2")
    for part in (plain, module):
        part.train()
        for frozen in (part[0][1], part[2][1]):  # type: ignore[index]
            frozen.eval()
    before = [b.clone() for b in module[2][1].buffers()]  # type: ignore[index]
    expected, got = run(plain, IMAGES), run(module, IMAGES)
    assert all(torch.equal(value, got[key]) for key, value in expected.items())
    assert "grad of 1.0.weight" in got
    assert "grad of 2.0.weight" not in got
    assert all(torch.equal(a, b) for a, b in zip(before, module[2][1].buffers(), strict=True))  # type: ignore[index]


def test_it_works_with_synchronised_norms() -> None:
    def make() -> nn.Module:
        return synchronise_batch_norms(blocks_net(), torch.device("cpu"))

    check_same(make, IMAGES, "auto")


def test_instance_norms_update_their_statistics_once() -> None:
    class Tracked(nn.InstanceNorm2d):
        def __init__(self, channels: int) -> None:
            super().__init__(channels, track_running_stats=True)

    check_same(lambda: blocks_net(Tracked), IMAGES, "auto")


def test_a_layer_that_is_used_twice_is_run_twice() -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        act, same = nn.Tanh(), nn.Linear(8, 8)
        layers = [nn.Linear(3, 8), act, same, act, nn.Dropout(0.2), same, act, nn.Linear(8, 8), act]
        return nn.Sequential(*layers, nn.Linear(8, 2))

    said = check_same(make, [(torch.randn(5, 3),)], "2")
    assert said == "gradient checkpointing: 2 segments of 4 blocks in the model"


def test_arguments_by_name_and_in_lists_reach_a_block() -> None:
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, parts: list[torch.Tensor], *, scale: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(torch.stack(parts).sum(0)).tanh() * scale)  # type: ignore[no-any-return]

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(Part() for _ in range(3))
            self.scale = nn.Parameter(torch.full((4,), 0.7))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen = [x]
            for part in self.parts:
                seen.append(part(seen, scale=self.scale.exp()))
            return seen[-1]

    def make() -> nn.Module:
        torch.manual_seed(0)
        return Dense()

    assert " 3 segments" in check_same(make, [(torch.randn(5, 4),)], "1")


def test_a_slice_of_a_rewired_list_still_runs() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh())
    checkpoint_segments(net, "1")
    x = torch.randn(2, 3)
    assert torch.equal(net[2:](net[:2](x)), net(x))


# Words


@pytest.mark.parametrize("asked", ["0", "-1", "on", "2.5", ""])
def test_other_texts_are_refused(asked: str) -> None:
    with pytest.raises(UsageError, match="none, auto or a positive number"):
        checkpoint_segments(blocks_net(), asked)


def test_none_changes_nothing() -> None:
    net = blocks_net()
    assert checkpoint_segments(net, "none") is None
    assert all("forward" not in part.__dict__ for part in net.modules())


def test_more_segments_than_blocks_become_fewer_with_a_note() -> None:
    said = checkpoint_segments(blocks_net(), "9")
    assert said == "gradient checkpointing: 4 segments of 4 blocks in the model; 9 were requested"


def test_bytes_are_those_that_a_backward_pass_needs() -> None:
    x = torch.randn(10, 4, requires_grad=True)
    layer = nn.Linear(4, 6)
    assert saved_bytes(lambda: layer(x).sum()) == 10 * 4 * 4  # the input, not the weight
    assert saved_bytes(lambda: (x.exp() * x).sum()) == 2 * 10 * 4 * 4  # exp's result counts once


def test_the_saving_is_stated_and_leaves_no_trace() -> None:
    net = blocks_net().train()
    checkpoint_segments(net, "auto")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    x = torch.randn(64, 3, 32, 32)
    torch.set_rng_state(state)
    said = memory_saving_sentence(net, (x,), square)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    size = x.nbytes / 2**20
    # The inputs of four blocks, what the last one saves but its input (of its convolution, its norm and
    # its activation), and the gradients before and after a layer.
    assert said.startswith(f"activations that a backward pass needs: {(4 + 3 + 2) * size:.1f} MiB")
    assert said.endswith(" %)")
    assert "(-" in said
    net.load_state_dict(before)
    module = blocks_net().train()
    module.load_state_dict(before)
    checkpoint_segments(module, "auto")
    expected, got = run(module, IMAGES), run(net, IMAGES)
    assert all(torch.equal(value, got[key]) for key, value in expected.items())


class LiveBytes(TorchDispatchMode):
    """The bytes of all storages that operations have made and that are alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak, self.seen = 0, 0, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, torch.Tensor):
                self.add(tensor.untyped_storage())
        return result

    def add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen:
            return
        self.seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.drop, key, size)

    def drop(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.live -= size


SEGMENTS = ["none", "1", "3", "auto"]


@pytest.mark.parametrize("requested", SEGMENTS)
def test_what_is_needed_counts_the_segment_that_is_recomputed(requested: str) -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for width, last in ((16, 3), (16, 16), (16, 16), (32, 16), (32, 32), (32, 32)):
        layers += [nn.Conv2d(last, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    module = nn.Sequential(*layers)
    checkpoint_segments(module, requested)
    x = torch.randn(16, 3, 24, 24)
    needed = step_bytes(module, lambda: module(x).sum())
    with LiveBytes() as live:
        module(x).sum().backward()
    gradients = sum(p.numel() for p in module.parameters()) * 4
    # Below, memory would run out; above, as the first gradient of a sum takes no memory.
    assert 0.98 <= needed / (live.peak - gradients) <= 1.2


def needed_and_peak(make: Callable[[], nn.Module], batch: int, requested: str) -> tuple[int, int]:
    """The estimated bytes of a step on grey images of 28x28, and the peak of its live bytes."""
    torch.manual_seed(0)
    module = make().train()
    checkpoint_segments(module, requested)
    x = torch.randn(batch, 1, 28, 28)
    needed = step_bytes(module, lambda: module(x).sum())
    with LiveBytes() as live:
        module(x).sum().backward()
    return needed, live.peak - sum(p.numel() for p in module.parameters()) * 4


def test_the_segments_of_a_vgg_are_estimated_at_their_peak() -> None:
    """Widths grow as sizes shrink, so that the first segment is the largest and is recomputed last."""
    pairs = {requested: needed_and_peak(vgg, 16, requested) for requested in SEGMENTS}
    needed = {requested: pair[0] for requested, pair in pairs.items()}
    assert needed == pytest.approx({requested: pair[1] for requested, pair in pairs.items()}, rel=0.12)
    assert sorted(needed, key=needed.__getitem__)[:2] == ["auto", "3"]


@pytest.mark.slow
@pytest.mark.parametrize("requested", SEGMENTS)
def test_the_memory_of_cnn_vgg_is_estimated_at_its_peak(requested: str) -> None:
    spec = ImageInput(channels=1, height=28, width=28, resize_size=28, mean=(0.3,), std=(0.3,))
    task = TaskSpec(input=spec, class_names=tuple(map(str, range(10))))
    entry = find_model("cnn-vgg", "image")
    needed, peak = needed_and_peak(lambda: entry.build(task, entry.arguments({})), 256, requested)
    assert 0.95 <= needed / peak <= 1.1


def vgg() -> nn.Sequential:
    layers: list[nn.Module] = []
    last = 1
    for width in (32, 64, 128):
        for _ in range(2):
            layers += [
                nn.Conv2d(last, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            last = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)
