"""Which layer a parameter belongs to, for the models that people fine-tune."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from torch import nn

from dlcli.config import OptimConfig
from dlcli.errors import UsageError
from dlcli.task import (
    SPECIAL_TOKENS,
    CategoryColumn,
    ImageInput,
    NumberColumn,
    TabularInput,
    TaskSpec,
    TextInput,
)
from dlcli.training.optim.depth import parameter_depths
from dlcli.training.optim.make import lr_scales
from dlcli.zoo.base import find_model


def built(name: str, kind: str = "image", **args: object) -> tuple[nn.Module, str]:
    inputs = {
        "image": ImageInput(
            channels=3, height=32, width=32, resize_size=32, mean=(0.5,) * 3, std=(0.5,) * 3
        ),
        "text": TextInput(vocabulary=(*SPECIAL_TOKENS, "a", "b"), max_length=9),
        "tabular": TabularInput(
            numbers=(NumberColumn(name="a"),),
            categories=(
                CategoryColumn(name="b", values=("x", "y")),
                CategoryColumn(name="c", values=("u", "v")),
            ),
        ),
    }
    entry = find_model(name, kind)  # type: ignore[arg-type]
    task = TaskSpec(input=inputs[kind], class_names=("a", "b", "c"))
    with torch.device("meta"):
        module = entry.build(task, entry.arguments(dict(args)))
    return module, entry.head(module)


def layers(module: nn.Module, head: str) -> list[set[str]]:
    """Names of the submodules that own the parameters of each layer, the head last."""
    depths = parameter_depths(module, head=head)
    assert set(depths.of) == {name for name, _ in module.named_parameters()}
    found = defaultdict(set)
    for name, layer in depths.of.items():
        found[layer].add(name.rpartition(".")[0])
    assert sorted(found) == list(range(depths.layers + 1))  # none is empty
    assert all(path == head or path.startswith(f"{head}.") for path in found[depths.layers])
    return [found[i] for i in range(depths.layers + 1)]


def common(paths: set[str]) -> str:
    """The path that all of them begin with."""
    parts = [path.split(".") for path in paths]
    same = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        same.append(column[0])
    return ".".join(same)


def test_resnet_has_a_stem_and_a_layer_for_each_block() -> None:
    found = layers(*built("resnet18"))
    assert found[0] == {"conv1", "bn1"}
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert [common(paths) for paths in found[1:]] == [*blocks, "fc"]


def test_a_vision_transformer_has_its_tokens_in_the_first_layer_and_its_norm_in_the_last() -> None:
    found = layers(*built("vit_b_16"))
    assert found[0] == {"", "conv_proj", "encoder"}  # class token, patches, positions
    blocks = [f"encoder.layers.encoder_layer_{i}" for i in range(11)]
    assert [common(paths) for paths in found[1:12]] == blocks
    assert common(found[12] - {"encoder.ln"}) == "encoder.layers.encoder_layer_11"
    assert "encoder.ln" in found[12]
    assert found[13] == {"heads.head"}


def test_a_norm_belongs_to_the_convolution_before_it() -> None:
    module, head = built("cnn", widths=(8, 8), norm="batch")
    found = layers(module, head)
    assert found[:2] == [{"features.0", "features.1"}, {"features.4", "features.5"}]
    assert len(found) == 3


def test_each_linear_layer_of_an_mlp_is_one() -> None:
    found = layers(*built("mlp", widths=(8, 8, 8), norm="none"))
    assert found == [{"body.0"}, {"body.3"}, {"body.6"}, {"head"}]


def test_the_embeddings_of_columns_are_one_layer() -> None:
    found = layers(*built("mlp", "tabular", widths=(8,)))
    # They are defined behind the body, which belongs above them; they share the nearest layer.
    assert {"embeddings.0", "embeddings.1"} <= found[0]
    assert len(found) == 2


def test_positions_belong_to_the_embedding_of_a_transformer() -> None:
    found = layers(*built("transformer", "text", layers=2, dim=8, heads=2, ff=8, positions="learned"))
    assert {path.split(".")[0] for path in found[0]} == {"embedding", "body"}
    assert "body.positions.table" in found[0]
    assert common(found[1]) == "body.encoder.blocks.0"
    assert "body.encoder.norm.norm" in found[2]
    assert found[3] == {"head"}
    assert len(found) == 4


@pytest.mark.parametrize(
    ("name", "count"),
    [("convnext_tiny", 22), ("efficientnet_b0", 18), ("densenet121", 62), ("swin_t", 16), ("vgg11", 10),
     ("shufflenet_v2_x0_5", 18),],
)  # fmt: skip
def test_other_families_have_a_layer_for_each_block(name: str, count: int) -> None:
    assert len(layers(*built(name))) == count + 1


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


class Wrapped(nn.Module):
    """Nested twice, blocks as siblings, the head defined first and inside."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.ModuleDict({"out": nn.Linear(4, 2)})
        self.first = Block()
        self.second = Block()
        self.scale = nn.Parameter(torch.ones(4))
        self.inner = nn.ModuleDict({"stem": nn.Linear(4, 4), "rest": nn.Sequential(Block(), Block())})


def test_blocks_of_any_module_are_found() -> None:
    found = layers(Wrapped(), "top.out")
    assert [common(paths) for paths in found] == [
        "", "second.net", "inner.stem", "inner.rest.0.net", "inner.rest.1.net", "top.out",
    ]  # fmt: skip
    assert "" in found[0]  # the bare scale comes before its siblings


def test_a_model_that_is_all_head_has_no_layers() -> None:
    module = nn.Sequential(nn.Linear(3, 3))
    assert parameter_depths(module, head="").of == {"0.weight": 0, "0.bias": 0}
    assert parameter_depths(module, head="0").layers == 0


def test_rates_fall_by_one_factor_a_layer_below_the_head() -> None:
    module, head = built("resnet18")
    scales = lr_scales(module, OptimConfig(layer_decay=0.5, backbone_lr=0.1), head=head)
    assert scales["fc.weight"] == scales["fc.bias"] == 1.0
    assert scales["layer4.1.conv2.weight"] == pytest.approx(0.1 * 0.5)
    assert scales["layer4.0.downsample.1.bias"] == pytest.approx(0.1 * 0.25)
    assert scales["conv1.weight"] == scales["bn1.weight"] == pytest.approx(0.1 * 0.5**9)


def test_without_discriminative_rates_all_learn_alike() -> None:
    module, head = built("vit_b_16")
    assert set(lr_scales(module, OptimConfig(), head=head).values()) == {1.0}
    backbone = lr_scales(module, OptimConfig(backbone_lr=0.3), head=head)
    assert {name for name, scale in backbone.items() if scale == 1.0} == {
        "heads.head.weight",
        "heads.head.bias",
    }
    assert set(backbone.values()) == {1.0, 0.3}


def test_layers_get_the_rates_that_are_named() -> None:
    module, head = built("cnn")
    config = OptimConfig(lr=1e-2, layer_decay=0.5, lr_of="head=1e-3, features.*=2e-2")
    scales = lr_scales(module, config, head=head)
    assert {scales[name] for name in scales if name.startswith("head.")} == {1e-3 / 1e-2}
    assert {scales[name] for name in scales if name.startswith("features.")} == {2.0}
    with pytest.raises(UsageError, match=r"optim\.lr_of: 'fc' matches no"):
        lr_scales(module, OptimConfig(lr_of="fc=1"), head=head)
    for text in ("fc", "fc=0", "=1", "fc=x"):
        with pytest.raises(UsageError, match="NAME=LR"):
            OptimConfig(lr_of=text)
