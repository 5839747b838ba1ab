"""Graphs are rewritten for speed, and answer as before: attention, pooling, masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from dlcli.card import Card, ModelSpec
from dlcli.config import ExportConfig
from dlcli.data.prepare import prepare, random_inputs
from dlcli.formats.base import FORMATS, ModelFile
from dlcli.formats.checkpoint import Checkpoint
from dlcli.formats.onnx.export import write_onnx
from dlcli.formats.onnx.optimize_int8 import optimize_int8
from dlcli.task import PairsInput, TaskSpec, TextInput
from dlcli.zoo.base import build_model
from dlcli.zoo.precision import Precision

TEXT = TextInput(vocabulary=("<pad>", "<unk>", "<s>", "</s>", *"abcdefgh"), max_length=20)
SMALL = {"layers": 2, "dim": 16, "heads": 2, "ff": 16}


def run(model: Any, feeds: dict[str, Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)[0]


def exported(task: TaskSpec, spec: ModelSpec, path: Path) -> Any:
    torch.manual_seed(0)
    module = build_model(spec, task).eval()
    card = Card(model=spec, task=task)
    file = ModelFile(path, FORMATS.get("safetensors"))
    write_onnx(
        Checkpoint(file, card, module, Precision("none", torch.device("cpu"))), path, ExportConfig()
    )
    return onnx.load(str(path))


def ops(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


def classes(names: int) -> tuple[str, ...]:
    return tuple(f"c{i}" for i in range(names))


@pytest.mark.parametrize("positions", ["sinusoidal", pytest.param("rotary", marks=pytest.mark.slow)])
def test_a_text_is_classified_as_before(tmp_path: Path, positions: str) -> None:
    task = TaskSpec(kind="classification", input=TEXT, class_names=classes(3))
    spec = ModelSpec(name="transformer", args={**SMALL, "positions": positions})
    before = exported(task, spec, tmp_path / "t.onnx")
    after = onnx.load(str(tmp_path / "t.onnx"))
    optimize_int8(after)
    onnx.checker.check_model(after)
    # Positions that turn queries and keys leave no place for the operator.
    assert ops(after).count("MultiHeadAttention") == (2 if positions == "sinusoidal" else 0)
    assert ops(after).count("Softmax") == (0 if positions == "sinusoidal" else 2)
    for count, length in ((1, 1), (5, 9), (3, 20)):
        feeds = prepare(random_inputs(task, count, length=length, seed=length), task)
        np.testing.assert_allclose(run(after, feeds), run(before, feeds), rtol=1e-4, atol=1e-5)


def test_a_translation_looks_no_further_ahead(tmp_path: Path) -> None:
    task = TaskSpec(kind="seq2seq", input=PairsInput(source=TEXT, target=TEXT))
    before = exported(task, ModelSpec(name="seq2seq", args=SMALL), tmp_path / "s.onnx")
    after = onnx.load(str(tmp_path / "s.onnx"))
    optimize_int8(after)
    onnx.checker.check_model(after)
    assert "Softmax" not in ops(after)
    for count, length in ((1, 1), (4, 11)):
        feeds = prepare(random_inputs(task, count, length=length, seed=length), task)
        np.testing.assert_allclose(run(after, feeds), run(before, feeds), rtol=1e-4, atol=1e-5)


def image_net(tail: Callable[[], list[Any]]) -> Any:
    """x -> Conv -> Relu -> MaxPool -> what ``tail`` adds, from p to y."""
    weight = np.random.default_rng(0).normal(size=(4, 1, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        *tail(),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 10, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_pooling_goes_before_relu_and_pools_of_one_go() -> None:
    def tail() -> list[Any]:
        return [
            helper.make_node("AveragePool", ["p"], ["a"], kernel_shape=[1, 1]),
            helper.make_node("Neg", ["a"], ["y"]),
        ]

    before, after = image_net(tail), image_net(tail)
    optimize_int8(after)
    assert ops(after) == ["Conv", "MaxPool", "Relu", "Neg"]
    feeds = {"x": np.random.default_rng(1).normal(size=(2, 1, 10, 10)).astype(np.float32)}
    np.testing.assert_array_equal(run(after, feeds), run(before, feeds))


def test_what_others_read_stays_in_its_place() -> None:
    def tail() -> list[Any]:
        # The Relu is read twice, and the average is one of four.
        return [
            helper.make_node("AveragePool", ["p"], ["a"], kernel_shape=[2, 2]),
            helper.make_node("ReduceMax", ["r"], ["m"], keepdims=1),
            helper.make_node("Add", ["a", "m"], ["y"]),
        ]

    before, after = image_net(tail), image_net(tail)
    optimize_int8(after)
    assert ops(after) == ops(before)
    feeds = {"x": np.random.default_rng(1).normal(size=(2, 1, 10, 10)).astype(np.float32)}
    np.testing.assert_array_equal(run(after, feeds), run(before, feeds))
