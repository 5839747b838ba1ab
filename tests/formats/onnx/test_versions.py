"""ONNX files for older runtimes: a lower operator set and IR version, with the same outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import int8_models
import numpy as np
import onnx
import onnxruntime
import pytest

from dlcli import transforms
from dlcli.card import Card
from dlcli.config import ExportConfig
from dlcli.config.onnx_versions import parse_runtime, target_opset
from dlcli.data.prepare import prepare, random_inputs
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.onnx import file as onnx_file
from dlcli.formats.onnx.export import export_graph
from dlcli.formats.onnx.versions import facts, opset_of, with_versions


def graph_of(name: str) -> tuple[Any, Card]:
    task, spec, module = int8_models.make(name)
    card = Card(model=spec, task=task)
    return export_graph(module, card, 18, None), card


def outputs(model: Any, card: Card) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    result = session.run(None, prepare(random_inputs(card.task, 3, length=9), card.task))
    return np.asarray(result[0])


@pytest.mark.parametrize("name", ["cnn", "text cnn"])
def test_a_lower_opset_is_valid_and_gives_the_same_outputs(name: str, tmp_path: Path) -> None:
    model, card = graph_of(name)
    expected = outputs(model, card)
    for opset, least_ir in ((17, 8), (15, 8), (14, 7), (13, 7)):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        lowered, written = with_versions(copy, card, ExportConfig(opset=opset))
        assert (opset_of(lowered), lowered.ir_version) == (opset, least_ir)
        np.testing.assert_allclose(outputs(lowered, card), expected, atol=1e-5)
        onnx_file.write(lowered, tmp_path / "m.onnx", written)  # checks every node by its schema
        record = transforms.find_record(written.transforms, transforms.ONNX_VERSIONS)
        assert record is not None
        assert record.args == {"opset": opset, "ir_version": least_ir}


def test_an_operator_that_the_opset_lacks_is_named_with_the_runtime_that_has_it() -> None:
    model, card = graph_of("text transformer")
    with pytest.raises(DlcliError, match="opset 14 has no LayerNormalization") as caught:
        with_versions(model, card, ExportConfig(opset=14))
    assert caught.value.hint == "--opset 17, which ONNX Runtime 1.12 and newer read"


def test_a_runtime_decides_both_versions() -> None:
    model, card = graph_of("cnn")
    lowered, written = with_versions(model, card, ExportConfig(runtime="onnxruntime==1.15.1"))
    assert (opset_of(lowered), lowered.ir_version) == (18, 8)
    record = transforms.find_record(written.transforms, transforms.ONNX_VERSIONS)
    assert record is not None
    assert record.args["runtime"] == "onnxruntime==1.15.1"
    assert facts(lowered) == {"opset": "18 (ONNX Runtime 1.14 or newer)", "IR version": "8"}


def test_without_a_request_the_ir_version_is_the_lowest_of_the_opset() -> None:
    model, card = graph_of("cnn")
    assert model.ir_version == 10  # torch's
    written, same = with_versions(model, card, ExportConfig())
    assert (opset_of(written), written.ir_version, same) == (18, 8, card)


def test_operator_sets_without_a_node_are_dropped() -> None:
    model, card = graph_of("cnn")
    model.opset_import.add(domain="ai.onnx.ml", version=5)  # ONNX Runtime 1.15 reads 3
    model, _ = with_versions(model, card, ExportConfig())
    assert [entry.domain for entry in model.opset_import] == [""]


@pytest.mark.parametrize(
    ("text", "versions"),
    [
        ("onnxruntime==1.6", (13, 7)),
        ("onnxruntime==1.15.1", (19, 8)),
        ("onnxruntime==1.18", (21, 10)),
        ("onnxruntime==1.99", (21, 10)),  # a newer one reads what an older one does
    ],
)
def test_runtimes(text: str, versions: tuple[int, int]) -> None:
    runtime = parse_runtime(text)
    assert (runtime.opset, runtime.ir_version) == versions


@pytest.mark.parametrize("text", ["onnxruntime", "onnxruntime>=1.2", "tensorrt==8", "onnxruntime==1.5"])
def test_what_is_no_runtime_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--for"):
        parse_runtime(text)


@pytest.mark.parametrize("asked", [{"opset": 20}, {"ir_version": 9}])
def test_versions_that_the_runtime_does_not_read_are_refused(asked: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at most"):
        target_opset(ExportConfig(runtime="onnxruntime==1.15", **asked))


def test_an_operator_of_the_runtimes_own_needs_a_version_that_has_it() -> None:
    model, card = graph_of("cnn")
    model.graph.node.add(op_type="MatMulNBits", domain="com.microsoft", output=["unused"])
    with pytest.raises(DlcliError, match="has no MatMulNBits"):
        with_versions(model, card, ExportConfig(runtime="onnxruntime==1.16"))
