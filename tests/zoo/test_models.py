"""The contract of every model: shapes, a head sized by the data, learning, saving, weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dlcli.card import Card, ModelSpec
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import Runtime, recognize
from dlcli.formats.checkpoint import open_checkpoint, save_model
from dlcli.task import ImageInput, TaskSpec
from dlcli.zoo.base import build_model, find_model
from dlcli.zoo.matching import load_matching
from dlcli.zoo.transfer import head_name, names
from dlcli.zoo.weights import pretrained_or_reason, read_state_dict

# One backbone a family by default, the small ones; every other torchvision name under `slow`.
FAMILIES = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3",
    "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "resnet18",
    "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "vgg11_bn", "vit_b_32",
]  # fmt: skip
HEAVY = ["maxvit_t", "swin_t", "swin_v2_t"]
CLASSES = 7


def task(model: str, channels: int | None = None, size: int | None = None) -> TaskSpec:
    entry = find_model(model, "image").needs
    c = channels or max(entry.channels)
    step = entry.size_multiple
    side = size or math.ceil(max(entry.min_size, 8) / step) * step
    image = ImageInput(
        channels=c, height=side, width=side, resize_size=side, mean=(0.5,) * c, std=(0.5,) * c
    )  # type: ignore[arg-type]
    return TaskSpec(input=image, class_names=tuple(f"c{i}" for i in range(CLASSES)))


def batch(spec: TaskSpec, n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, *spec.input.shape, generator=generator)
    return x, torch.arange(n) % CLASSES


def loss_of(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(module(x), y)


def check_contract(name: str, tmp_path: Path) -> None:
    spec = task(name)
    torch.manual_seed(0)
    model = ModelSpec(name=name, args=find_model(name, "image").arguments({}).model_dump(mode="json"))
    module = build_model(model, spec)
    x, y = batch(spec)
    assert module.eval()(x).shape == (4, CLASSES)

    head = find_model(name, "image").head(module)
    assert any(k.startswith(f"{head}.") for k in module.state_dict())

    path = tmp_path / "m.safetensors"
    save_model(path, module, Card(model=model, task=spec))
    loaded = open_checkpoint(recognize(path), Runtime("cpu")).module()
    for key, value in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)

    # Small steps in eval mode: no dropout, no batch statistics, so the loss must fall.
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    before = loss_of(module, x, y)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(module, x, y).backward()
        assert all(p.grad is not None for p in module.parameters())
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    assert loss_of(module, x, y) < before


@pytest.mark.parametrize("name", ["cnn", "mlp", "resnet18", "mobilenet_v3_small", "squeezenet1_1"])
def test_contract(name: str, tmp_path: Path) -> None:
    check_contract(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*FAMILIES, *HEAVY} - {"resnet18", "squeezenet1_1"}))
def test_contract_of_every_family(name: str, tmp_path: Path) -> None:
    check_contract(name, tmp_path)


def without_memory(name: str) -> nn.Module:
    """The module on the meta device; RegNet computes its widths with tensors and needs a real one."""
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        return build_model(ModelSpec(name=name), task(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_builds_with_a_head_for_the_data(name: str) -> None:
    module = without_memory(name)
    last = module.get_submodule(head_name(module))
    size = last.out_features if isinstance(last, nn.Linear) else last.out_channels
    assert size == CLASSES


@pytest.mark.slow
def test_every_torchvision_name_builds() -> None:
    for name in names():
        module = without_memory(name)
        last = module.get_submodule(head_name(module))
        assert CLASSES in (getattr(last, "out_features", 0), getattr(last, "out_channels", 0)), name


def test_cnn_has_the_parameters_it_is_known_for() -> None:
    spec = task("cnn", channels=1, size=28)
    ten = spec.model_copy(update={"class_names": tuple("0123456789")})
    module = build_model(ModelSpec(name="cnn"), ten)
    assert sum(p.numel() for p in module.parameters()) == 98_666


@pytest.mark.parametrize("name", ["cnn", "mlp"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 8, 29, 64])
def test_small_models_take_any_size(name: str, channels: int, size: int) -> None:
    spec = task(name, channels, size)
    module = build_model(ModelSpec(name=name), spec).eval()
    assert module(batch(spec)[0]).shape == (4, CLASSES)


@pytest.mark.parametrize("name", ["cnn", "mlp", "resnet18"])
def test_the_loss_starts_near_the_log_of_the_classes(name: str) -> None:
    torch.manual_seed(0)
    spec = task(name, size=32)
    module = build_model(ModelSpec(name=name), spec)
    x, y = batch(spec, 64)
    assert float(loss_of(module, x, y).detach()) == pytest.approx(math.log(CLASSES), abs=0.6)


def test_an_mlp_head_replaces_the_last_layer() -> None:
    spec = task("resnet18")
    module = build_model(ModelSpec(name="resnet18", args={"head": "mlp", "hidden": 11}), spec)
    assert head_name(module) == "fc"
    assert module.fc[0].out_features == 11
    assert module(batch(spec)[0]).shape == (4, CLASSES)
    with pytest.raises(UsageError, match="no linear layer"):
        build_model(ModelSpec(name="squeezenet1_1", args={"head": "mlp"}), task("squeezenet1_1"))


def test_a_head_may_have_several_hidden_layers_and_dropout_before_it() -> None:
    spec = task("resnet18")
    args = {"head": "mlp", "hidden": [13, 11], "dropout": 0.3, "head_dropout": 0.4}
    wide = find_model("resnet18", "image").arguments(args).model_dump(mode="json")
    module = build_model(ModelSpec(name="resnet18", args=wide), spec)
    parts = [type(part).__name__ for part in module.fc]
    assert parts == ["Dropout", *["Linear", "ReLU", "Dropout"] * 2, "Linear"]
    assert [part.p for part in module.fc if isinstance(part, nn.Dropout)] == [0.4, 0.3, 0.3]
    assert [p.out_features for p in module.fc if isinstance(p, nn.Linear)] == [13, 11, CLASSES]
    assert head_name(module) == "fc"
    module = build_model(ModelSpec(name="resnet18", args={"head_dropout": 0.4}), spec)
    assert [type(part).__name__ for part in module.fc] == ["Dropout", "Linear"]
    plain = build_model(ModelSpec(name="resnet18", args={"dropout": 0.4}), spec)  # of an old card
    assert isinstance(plain.fc, nn.Linear)
    for wrong in ({"hidden": 0}, {"hidden": []}, {"hidden": [3, 0]}, {"head_dropout": 1}):
        with pytest.raises(UsageError, match=r"model\.args\."):
            find_model("resnet18", "image").arguments({"head": "mlp", **wrong})


def test_timm_and_bert_take_an_mlp_head_too() -> None:
    pytest.importorskip("timm")
    spec = task("timm:resnet10t")
    args = {"head": "mlp", "hidden": 11, "dropout": 0.3}
    module = build_model(ModelSpec(name="timm:resnet10t", args=args), spec)
    path = find_model("timm:resnet10t", "image").head(module)
    head = module.get_submodule(path)
    assert [type(part).__name__ for part in head] == ["Linear", "ReLU", "Dropout", "Linear"]
    assert module(batch(spec)[0]).shape == (4, CLASSES)


@pytest.mark.parametrize(
    ("name", "hint"), [("resnt18", "resnet18"), ("efficientnet-b0", "efficientnet_b0")]
)
def test_an_unknown_name_gets_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_model(name, "image")
    assert hint in (caught.value.hint or "")


def test_a_patch_transformer_asks_for_a_size_it_can_cut() -> None:
    spec = task("vit_b_16", size=32)
    image = spec.input.model_copy(update={"height": 40, "width": 40})
    with pytest.raises(UsageError, match="multiple of 16") as caught:
        build_model(ModelSpec(name="vit_b_16"), spec.model_copy(update={"input": image}))
    assert caught.value.hint in ("--img-size 32", "--img-size 48")


# Weights


def imagenet_like(name: str = "resnet18") -> dict[str, torch.Tensor]:
    """A state dict as torchvision publishes it: 1,000 classes."""
    from torchvision import models

    torch.manual_seed(1)
    state: dict[str, torch.Tensor] = models.get_model(name, weights=None).state_dict()
    return state


@pytest.mark.parametrize("container", ["pth", "safetensors", "wrapped", "data-parallel"])
def test_backbone_weights_load_from_files_of_all_kinds(tmp_path: Path, container: str) -> None:
    state = imagenet_like()
    path = tmp_path / "w.pth"
    if container == "safetensors":
        path = tmp_path / "w.safetensors"
        save_file(state, path)
    elif container == "wrapped":
        torch.save({"state_dict": state, "epoch": 3}, path)
    elif container == "data-parallel":
        torch.save({f"module.{k}": v for k, v in state.items()}, path)
    else:
        torch.save(state, path)
    module = build_model(ModelSpec(name="resnet18"), task("resnet18"))
    loaded = load_matching(module, read_state_dict(path), source=path)
    assert set(loaded.fresh) == {"fc.weight", "fc.bias"}
    assert {name.removeprefix("module.") for name in loaded.unused} == {"fc.weight", "fc.bias"}
    assert torch.equal(module.state_dict()["conv1.weight"], state["conv1.weight"])


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    module = build_model(ModelSpec(name="mobilenet_v2"), task("mobilenet_v2"))
    with pytest.raises(DlcliError, match="does not fit"):
        load_matching(module, imagenet_like(), source="w.pth")


class Bomb:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": Bomb(tmp_path / "owned")}, path)
    with pytest.raises(DlcliError, match="more than tensors"):
        read_state_dict(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"junk", b"\x80\x02."])
def test_damaged_weight_files_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(DlcliError, match=r"w\.pth"):
        read_state_dict(path)


def test_published_weights_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = find_model("resnet18", "image")
    assert entry.weights is not None
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    reason = pretrained_or_reason(entry, offline=True)
    assert isinstance(reason, str)
    assert "--offline" in reason
    cached = tmp_path / "hub" / "checkpoints" / entry.weights.url.rsplit("/", 1)[1]
    cached.parent.mkdir(parents=True)
    state = imagenet_like()
    torch.save(state, cached)
    got = pretrained_or_reason(entry, offline=True)
    assert isinstance(got, dict)
    assert got.keys() == state.keys()


def test_vit_positions_are_resampled_to_another_size() -> None:
    small, large = task("vit_b_32", size=64), task("vit_b_32", size=128)
    source = build_model(ModelSpec(name="vit_b_32"), small).state_dict()
    module = build_model(ModelSpec(name="vit_b_32"), large)
    loaded = load_matching(module, source, source="w")
    assert not loaded.fresh
    position = module.state_dict()["encoder.pos_embedding"]
    assert position.shape == (1, 17, 768)
    old = source["encoder.pos_embedding"]
    assert torch.equal(position[:, 0], old[:, 0])
    assert torch.allclose(position[:, 1], old[:, 1], atol=1e-6)  # corners stay where they are
    assert torch.allclose(position[:, 16], old[:, 4], atol=1e-6)
