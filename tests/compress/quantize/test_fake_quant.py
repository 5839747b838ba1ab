"""Simulated int8: on its grid, replayed bit for bit, and what ONNX Runtime computes from the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from int8_models import MODELS, batch, int8_saturates, make
from torch import nn

from dlcli.card import Card, ModelSpec, TransformRecord
from dlcli.compress.quantize.fake_quant_sites import (
    calibrate,
    insert_fake_quantizers,
    quantizable_layers,
)
from dlcli.compress.quantize.fold_batchnorm import fold_batch_norms
from dlcli.config import ExportConfig
from dlcli.data.prepare import random_inputs
from dlcli.errors import DlcliError
from dlcli.formats.base import Runtime, recognize
from dlcli.formats.checkpoint import open_checkpoint, save_model
from dlcli.formats.onnx.format import open_onnx, write_onnx
from dlcli.task import TaskSpec
from dlcli.zoo.base import build_model
from dlcli.zoo.structures.fake_quant import FakeQuantizer, rounded_weight, weight_scale


def prepared(name: str) -> tuple[TaskSpec, ModelSpec, nn.Module, list[TransformRecord]]:
    """A small model that simulates int8, in eval mode, and the records of that."""
    task, spec, module = make(name)
    folded = fold_batch_norms(module, batch(task, 2))
    rounded = insert_fake_quantizers(module, batch(task, 2), quantizable_layers(module))
    calibrate(module, [batch(task, 16, seed=1)])
    return task, spec, module, [record for record in (folded, rounded) if record is not None]


def test_a_weight_lies_on_127_steps_a_channel_and_keeps_its_gradient() -> None:
    weight = torch.randn(3, 40, requires_grad=True)
    with torch.no_grad():
        weight[1] *= 100
        weight[2] = 0.0
    rounded = rounded_weight(weight)
    steps = rounded.detach() / weight_scale(weight)[:, None]
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    torch.testing.assert_close(steps[:2].abs().amax(1), torch.full((2,), 127.0))
    assert torch.equal(rounded[2], torch.zeros(40))
    worst = (rounded - weight).detach().abs().amax(1) / weight_scale(weight)
    assert worst.max() <= 0.5 + 1e-3
    rounded.sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_a_range_holds_zero_exactly_and_cuts_what_is_beyond() -> None:
    quantizer = FakeQuantizer().eval()
    quantizer.observing = True
    quantizer(torch.tensor([0.3, 1.7]))
    quantizer(torch.tensor([-0.4]))
    quantizer.observing = False
    assert quantizer.low.item() == pytest.approx(-0.4)
    assert quantizer.high.item() == pytest.approx(1.7)
    x = torch.tensor([0.0, -9.0, 9.0, 0.5], requires_grad=True)
    y = quantizer(x)
    scale, _ = quantizer.quantization()
    assert y[0] == 0
    torch.testing.assert_close(y[1:], torch.tensor([-0.4, 1.7, 0.5]), atol=scale.item(), rtol=0)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1, 0, 0, 1]


def test_a_range_follows_training_and_nothing_else() -> None:
    quantizer = FakeQuantizer()
    for _ in range(1000):
        quantizer(torch.tensor([-1.0, 3.0]))
    assert quantizer.high.item() == pytest.approx(3.0, rel=1e-3)
    quantizer.eval()
    quantizer(torch.tensor([100.0]))
    assert quantizer.high.item() == pytest.approx(3.0, rel=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_a_file_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    task, spec, module, records = prepared(name)
    inputs = random_inputs(task, 5, seed=2)
    path = tmp_path / "m.safetensors"
    save_model(path, module, Card(model=spec, task=task, transforms=tuple(records)))
    opened, again = (open_checkpoint(recognize(path), Runtime("cpu")) for _ in range(2))
    assert not opened.module().training
    for key, value in module.state_dict().items():
        assert torch.equal(opened.module().state_dict()[key], value), key
    answers = opened.predict(inputs)
    assert np.array_equal(answers, again.predict(inputs))
    built = build_model(spec, task, records).eval()
    built.load_state_dict(module.state_dict())
    with torch.no_grad():
        assert torch.equal(built(*batch(task, 5, seed=2)), module(*batch(task, 5, seed=2)))
        float_answers = make(name)[2](*batch(task, 5, seed=2)).numpy()
    assert not np.array_equal(answers, float_answers)  # rounding is there
    assert np.abs(answers - float_answers).max() < 0.2 * np.abs(float_answers).max()


@pytest.mark.parametrize(
    ("name", "activations"), [("cnn", "u8"), ("text cnn", "s8"), ("text transformer", "u8")]
)
def test_onnx_computes_what_was_simulated(name: str, activations: str, tmp_path: Path) -> None:
    if activations == "u8" and int8_saturates():
        pytest.skip("the sums of u8 x s8 products saturate on this CPU")
    task, spec, module, records = prepared(name)
    records[-1] = records[-1].model_copy(
        update={"args": {**records[-1].args, "activations": activations}}
    )
    path, file = tmp_path / "m.safetensors", tmp_path / "m.onnx"
    save_model(path, module, Card(model=spec, task=task, transforms=tuple(records)))
    source = open_checkpoint(recognize(path), Runtime("cpu"))
    inputs = random_inputs(task, 7, seed=2)
    before = source.predict(inputs)
    write_onnx(source, file, ExportConfig())
    assert np.array_equal(source.predict(inputs), before)  # the source is not changed
    after = open_onnx(recognize(file), Runtime("cpu")).predict(inputs)
    with torch.no_grad():
        plain = make(name)[2](*batch(task, 7, seed=2)).numpy()
    rounding, apart = np.abs(before - plain).max(), np.abs(after - before).max()
    assert apart < 0.6 * rounding  # a last bit may fall the other way, and that one goes through the net
    kinds = {t.data_type for t in onnx.load(str(file)).graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    assert (onnx.TensorProto.UINT8 in kinds) == (activations == "u8")


def test_torch_export_takes_a_simulation_down() -> None:
    task, _, module, _ = prepared("cnn")
    inputs = batch(task, 4, seed=2)
    program = torch.export.export(module, inputs)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(*inputs), module(*inputs), rtol=1e-4, atol=1e-4)


def test_a_residual_block_is_rounded_where_its_tensors_are_made() -> None:
    *_, records = prepared("resnet18")
    args = records[-1].args
    assert len(args["layers"]) == 21
    sites = {tuple(site[1:]): site[0] for site in args["sites"]}
    # Behind the ReLU that follows the first convolution, and the one that follows the sum; before the
    # sum, and behind the pooling on the same grid as before it.
    assert sites["layer1.0.relu", "out", 0, 2] == "layer1.0.conv1.quant_out"
    assert sites["layer1.0.relu", "out", 1, 2] == "layer1.1.conv1.quant_in"
    assert sites["layer1.0.conv2", "out", 0, 1] == "layer1.0.conv2.quant_out"
    assert sites["relu", "out", 0, 1] == sites["maxpool", "out", 0, 1] == "conv1.quant_out"
    taken = dict(args["layers"])
    assert taken["layer1.1.conv1"] == "layer1.1.conv1.quant_in"
    assert taken["layer1.0.conv1"] == "conv1.quant_out"


def test_names_and_decay_of_parameters_stay() -> None:
    task, _, module = make("cnn")
    fold_batch_norms(module, batch(task, 2))
    names = [name for name, _ in module.named_parameters()]
    insert_fake_quantizers(module, batch(task, 2), quantizable_layers(module))
    assert [name for name, _ in module.named_parameters()] == names
    module.train()
    module(*batch(task, 4)).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_a_pass_that_failed_midway_shifts_no_call() -> None:
    task, _, module, _ = prepared("resnet18")
    inputs = batch(task, 2)
    with torch.no_grad():
        before = module(*inputs)
        relu = module.get_submodule("layer2.0.relu")
        hook = relu.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            module(*inputs)
        hook.remove()
        assert torch.equal(module(*inputs), before)


def test_a_convolution_that_int8_makes_slower_stays_in_float() -> None:
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 64, 3), nn.Conv2d(64, 64, 3, groups=64))
    assert quantizable_layers(net) == ["1", "2"]


def test_recurrent_and_empty_models_are_refused() -> None:
    with pytest.raises(DlcliError, match="not support LSTM") as caught:
        quantizable_layers(nn.Sequential(nn.LSTM(3, 3), nn.Linear(3, 3)))
    assert caught.value.hint is not None
    assert "--method dynamic" in caught.value.hint
    with pytest.raises(DlcliError, match="no convolution and no linear layer"):
        quantizable_layers(nn.Sequential(nn.Embedding(3, 3)))


def test_a_record_of_another_model_is_refused() -> None:
    task, _, _, records = prepared("cnn")
    with pytest.raises(ValueError, match="no layer"):
        build_model(ModelSpec(name="mlp"), task, records[-1:])
