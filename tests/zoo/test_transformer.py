"""The encoders of texts, series, tables and images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_checks import (
    check_learns,
    check_onnx,
    classes,
    forecast,
    image,
    make,
    series,
    table,
    tensors,
    text,
)
from torch import nn
from torch.nn import functional

from dlcli.data.prepare import random_inputs
from dlcli.errors import UsageError
from dlcli.task import TargetNumber, TaskSpec
from dlcli.zoo.base import find_model
from dlcli.zoo.vit import default_patch

SMALL = {"dim": 16, "heads": 2, "ff": 24}
KINDS = {
    "text": classes(text()),
    "series": classes(series()),
    "varying": classes(series(varies=True)),
    "table": classes(table()),
    "numbers": classes(table(categories=0)),
    "categories": classes(table(numbers=0)),
    "forecast": forecast(),
}
PADDED = {"text": KINDS["text"], "varying": KINDS["varying"]}


def longer(inputs: tuple[torch.Tensor, ...], more: int) -> tuple[torch.Tensor, ...]:
    """The same samples with ``more`` steps of padding."""
    values, lengths = inputs
    pad = torch.zeros(values.shape[0], more, *values.shape[2:], dtype=values.dtype)
    return torch.cat([values, pad], dim=1), lengths


@pytest.mark.parametrize("task", KINDS.values(), ids=KINDS.keys())
def test_it_learns_a_batch_with_every_parameter(task: TaskSpec) -> None:
    module = make("transformer", task, **SMALL, dropout=0.0)
    assert module(*tensors(task, random_inputs(task, 4))).shape[1:] == task.output_shape
    check_learns(module, task)


@pytest.mark.parametrize(
    "args",
    [
        {"pooling": "cls", "positions": "learned", "norm_first": False},
        {"pooling": "max", "positions": "rotary", "activation": "silu"},
        {"positions": "none", "norm": "none", "layers": 1},
        {"norm": "batch", "activation": "prelu"},
    ],
    ids=lambda args: "-".join(map(str, args.values())),
)
@pytest.mark.parametrize("task", PADDED.values(), ids=PADDED.keys())
def test_arguments_change_neither_learning_nor_padding(task: TaskSpec, args: dict[str, Any]) -> None:
    module = make("transformer", task, **SMALL, dropout=0.0, **args)
    check_learns(module, task)
    inputs = tensors(task, random_inputs(task, 4, length=9))
    with torch.no_grad():
        torch.testing.assert_close(module(*longer(inputs, 8)), module(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", PADDED.values(), ids=PADDED.keys())
def test_a_sample_predicts_the_same_alone_as_in_a_batch(task: TaskSpec) -> None:
    module = make("transformer", task, **SMALL)
    inputs = tensors(task, random_inputs(task, 5, length=14))
    with torch.no_grad():
        together = module(*inputs)
        for i, length in enumerate(inputs[1].tolist()):
            alone = module(inputs[0][i : i + 1, :length], inputs[1][i : i + 1])
            torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)


def test_what_follows_a_series_is_not_read() -> None:
    task = PADDED["varying"]
    module = make("transformer", task, **SMALL)
    values, lengths = tensors(task, random_inputs(task, 5, length=14))
    dirty = values.clone()
    dirty[torch.arange(values.shape[1]) >= lengths[:, None]] = 50.0
    with torch.no_grad():
        torch.testing.assert_close(module(dirty, lengths), module(values, lengths))


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
def test_the_order_of_words_matters(positions: str) -> None:
    task = KINDS["text"]
    tokens, lengths = torch.tensor([[5, 6, 7, 8], [8, 7, 6, 5]]), torch.tensor([4, 4])
    out = make("transformer", task, **SMALL, positions=positions)(tokens, lengths)
    bag = make("transformer", task, **SMALL, positions="none")(tokens, lengths)
    torch.testing.assert_close(bag[0], bag[1], rtol=1e-4, atol=1e-5)
    assert (out[0] - out[1]).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["text", "series", "table"])
def test_the_first_loss_is_near_that_of_guessing(kind: str) -> None:
    task = KINDS[kind]
    module = make("transformer", task)
    inputs = tensors(task, random_inputs(task, 64))
    loss = functional.cross_entropy(module(*inputs), torch.arange(64) % 5)
    assert float(loss.detach()) == pytest.approx(math.log(5), abs=0.05)


def test_a_table_s_columns_have_vectors_of_their_own() -> None:
    task = KINDS["categories"]
    module = make("transformer", task, **SMALL)
    with torch.no_grad():
        same = module(torch.tensor([[1.0, 2.0], [2.0, 1.0], [0.0, 0.0]]))
    assert (same[0] - same[1]).abs().max() > 1e-4  # code 1 of a column is not code 1 of another
    assert torch.isfinite(same).all()  # 0 is a code too: missing or never seen


def test_an_independent_forecast_reads_its_own_channel_alone() -> None:
    task = forecast()
    x = torch.randn(2, 20, 3)
    touched = x.clone()
    touched[:, :, 0] += torch.randn(20)
    for channels, changed in (("independent", False), ("mixed", True)):
        module = make("transformer", task, **SMALL, channels=channels)
        before, after = module(x), module(touched)
        assert (before[..., 0] - after[..., 0]).abs().max() > 1e-3
        assert bool((before[..., 1] - after[..., 1]).abs().max() > 1e-4) is changed


def test_a_target_that_is_no_channel_needs_mixed_channels() -> None:
    task = forecast(targets=("c0", "price"))
    with pytest.raises(UsageError, match="'price' is no channel") as caught:
        make("transformer", task, **SMALL)
    assert caught.value.hint is not None
    assert "model.args.channels=mixed" in caught.value.hint
    check_learns(make("transformer", task, **SMALL, channels="mixed", dropout=0.0), task)


@pytest.mark.parametrize("length", [1, 2, 5, 11, 40])
def test_any_length_makes_patches(length: int) -> None:
    fixed, ahead = classes(series(length=length)), forecast(length=length)
    for task in (fixed, ahead):
        assert make("transformer", task, **SMALL)(torch.randn(2, length, 3)).isfinite().all()
    odd = make("transformer", fixed, **SMALL, patch=7, stride=3)
    assert odd(torch.randn(2, length, 3)).shape == (2, 5)


def test_the_last_step_of_a_series_is_read() -> None:
    for stride in (1, 2, 3, 4):
        module = make("transformer", classes(series(length=11)), **SMALL, patch=4, stride=stride)
        x = torch.randn(1, 11, 3)
        y = x.clone()
        y[:, -1] += 1
        assert (module(x) - module(y)).abs().max() > 1e-6


def test_regression_and_labels_have_their_heads() -> None:
    numbers = TaskSpec(kind="regression", input=text(), targets=(TargetNumber(name="y"),))
    labels = TaskSpec(kind="multilabel", input=text(), class_names=("a", "b"))
    for task in (numbers, labels):
        out = make("transformer", task, **SMALL)(*tensors(task, random_inputs(task, 3)))
        assert out.shape[1:] == task.output_shape


def test_token_dropout_acts_in_training_alone() -> None:
    task = KINDS["text"]
    module = make("transformer", task, **SMALL, dropout=0.0, token_dropout=0.9)
    inputs = tensors(task, random_inputs(task, 4))
    assert torch.equal(module(*inputs), module(*inputs))
    module.train()
    assert not torch.equal(module(*inputs), module(*inputs))


@pytest.mark.parametrize(
    ("side", "patch"), [(8, 4), (28, 4), (32, 4), (44, 4), (64, 8), (96, 16), (224, 16)]
)
def test_the_default_patch_keeps_the_tokens_few(side: int, patch: int) -> None:
    assert default_patch(side, side) == patch


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (16, 3), (32, 1)])
def test_a_vit_takes_images_of_any_size_and_channels(side: int, channels: int) -> None:
    task = classes(image(side, channels))
    module = make("vit-tiny", task, **SMALL, layers=2)
    assert module(torch.randn(2, channels, side, side)).shape == (2, 5)


def test_a_vit_learns_and_starts_at_guessing() -> None:
    task = classes(image(16, 1))
    module = make("vit-tiny", task, **SMALL, layers=2)
    loss = functional.cross_entropy(module(torch.randn(20, 1, 16, 16)), torch.arange(20) % 5)
    assert float(loss.detach()) == pytest.approx(math.log(5), abs=0.1)
    check_learns(module, task)


def test_a_patch_that_does_not_divide_the_image_is_refused() -> None:
    with pytest.raises(UsageError, match="patch = 5 does not divide images of 16x16") as caught:
        make("vit-tiny", classes(image(16)), patch=5)
    assert caught.value.hint == "--img-size 15, or another patch"


@pytest.mark.parametrize(("name", "kind"), [("transformer", k) for k in KINDS] + [("vit-tiny", "image")])
def test_the_head_is_sized_by_the_data(name: str, kind: str) -> None:
    task = KINDS.get(kind, classes(image()))
    module = make(name, task, **SMALL)
    found = module.get_submodule(find_model(name, task.input.kind).head(module))
    assert isinstance(found, nn.Linear)
    assert task.num_outputs % found.out_features == 0


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        ("text", {}),
        pytest.param("text", {"positions": "rotary", "pooling": "cls"}, marks=pytest.mark.slow),
        pytest.param("text", {"positions": "learned", "pooling": "max"}, marks=pytest.mark.slow),
        pytest.param("text", {"norm": "batch", "norm_first": False}, marks=pytest.mark.slow),
        pytest.param("text", {"norm": "group"}, marks=pytest.mark.slow),
        pytest.param("text", {"vector_dim": 5}, marks=pytest.mark.slow),
        pytest.param("varying", {"patch": 4, "stride": 2}, marks=pytest.mark.slow),
        pytest.param("series", {}, marks=pytest.mark.slow),
        pytest.param("table", {}, marks=pytest.mark.slow),
        pytest.param("forecast", {"window_norm": "standard"}, marks=pytest.mark.slow),
        pytest.param("forecast", {"channels": "mixed"}, marks=pytest.mark.slow),
    ],
)
def test_onnx_agrees_at_other_shapes(kind: str, args: dict[str, Any], tmp_path: Path) -> None:
    check_onnx("transformer", KINDS[kind], tmp_path, **SMALL, **args)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 21, 22, 23])
def test_onnx_agrees_at_other_opsets(opset: int, tmp_path: Path) -> None:
    check_onnx("transformer", KINDS["text"], tmp_path, opset=opset, **SMALL)


@pytest.mark.slow
def test_a_vit_exports(tmp_path: Path) -> None:
    check_onnx("vit-tiny", classes(image()), tmp_path, **SMALL, layers=2)
