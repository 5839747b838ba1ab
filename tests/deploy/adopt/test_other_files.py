"""Files of older exporters are adopted; what is wrong with a file is said of the file."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from foreign import value
from onnx import TensorProto, helper, numpy_helper

from dlcli.config import AdoptConfig
from dlcli.deploy.adopt.adopt import Adopted, adopt
from dlcli.deploy.adopt.examine import examine
from dlcli.errors import DlcliError
from dlcli.formats.base import open_artifact, recognize
from dlcli.formats.onnx.raw import read_raw

WEIGHT = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
PRODUCT = helper.make_node("MatMul", ["x", "W"], ["y"])
ROWS, OUT = value("x", "N", 4), value("y", "N", 2)


def write(
    path: Path,
    inputs: list[Any],
    nodes: list[Any] | None = None,
    outputs: list[Any] | None = None,
    weight: Any = WEIGHT,
    opset: int = 17,
    ir: int = 8,
) -> Path:
    """A graph of rows of four columns with a weight W."""
    tensors = [numpy_helper.from_array(np.asarray(weight), "W")]
    graph = helper.make_graph(nodes or [PRODUCT], "g", inputs, outputs or [OUT], tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir)
    path.write_bytes(model.SerializeToString())
    return path


def table(path: Path, header: str = "a,b,c,d,label") -> Path:
    rows = np.random.default_rng(1).normal(size=(20, 4)).round(3)
    lines = [f"{','.join(map(str, row))},{'lo' if i % 2 else 'hi'}" for i, row in enumerate(rows)]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def adopted(path: Path, **settings: Any) -> Adopted:
    data = str(table(path.with_name("rows.csv")))
    return adopt(recognize(path), AdoptConfig(data=data, target="label", **settings))


def classifier(path: Path, labels: list[bytes]) -> Path:
    node = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "y"],
        domain="ai.onnx.ml",
        coefficients=[1.0] * 8,
        intercepts=[0.0, 0.5],
        classlabels_strings=labels,
        post_transform="SOFTMAX",
    )
    return write(path, [ROWS], [node])


@pytest.mark.parametrize(
    ("opset", "columns", "kind", "listed"),
    [(7, 2, 1, True), (7, 2, 1, False), (7, 1, 11, True), (1, 1, 1, True), (9, 2, 7, True)],
)
def test_files_of_older_exporters(
    opset: int, columns: int, kind: int, listed: bool, tmp_path: Path
) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    floats = kind != TensorProto.INT64
    first = [] if floats else [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT)]
    nodes = [*first, helper.make_node("MatMul", ["x" if floats else "f", "W"], ["y"])]
    weight = WEIGHT[:, :columns].astype(dtype if floats else np.float32)
    inputs = [value("x", "N", 4, kind=kind)]
    out = value("y", "N", columns, kind=kind if floats else TensorProto.FLOAT)
    weights = [value("W", 4, columns, kind=out.type.tensor_type.elem_type)] * listed
    if not floats:
        nodes.append(
            helper.make_node("Scaler", ["f"], ["s"], domain="ai.onnx.ml", scale=[1.0], offset=[0.0])
        )
    path = write(tmp_path / "m.onnx", inputs + weights, nodes, [out], weight, opset, ir=3)
    file = adopted(path).file
    rows = np.round(np.random.default_rng(2).normal(size=(3, 4)) * 3).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (own,) = session.run(None, {"x": rows.astype(dtype)})
    opened: Any = open_artifact(file, device="cpu")
    (name,) = (tensor.name for tensor in file.card.task.input.signature)
    (copied,) = opened.session.run(None, {name: rows})
    np.testing.assert_allclose(copied[:, -columns:], own, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("dims", "match"),
    [
        ((2**33, 4), "34,359,738,368 numbers at once"),
        (("N", 3, 100_000, 100_000), "30,000,000,000 numbers at once"),
        (("N", 2**40), "numbers at once"),
        ((0, 4), r"\(0, 4\): a dimension of 0"),
        (("N", 0), r"\(N, 0\): a dimension of 0"),
    ],
)
def test_sizes_that_no_memory_holds_are_refused(dims: Any, match: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", [value("x", *dims)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DlcliError, match=match):
        adopted(path)
    with pytest.raises(DlcliError, match=match):  # as benchmark reads it
        read_raw(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ([b"a", b"b"], "names its classes 'a', 'b', and those of .* are 'hi', 'lo'"),
        ([b"a", b"a"], "each needs a name of its own"),
        ([b"", b" "], "each needs a name of its own"),
        ([b"a", b"b\xff"], "xff', and those of"),
    ],
)
def test_labels_that_are_not_those_of_the_table(labels: list[bytes], match: str, tmp_path: Path) -> None:
    path = classifier(tmp_path / "m.onnx", labels)
    with pytest.raises(DlcliError, match=match) as caught:
        adopted(path)
    assert "--classes FILE" in (caught.value.hint or "")
    names = tmp_path / "names.txt"
    names.write_text("lo\nhi\n")
    assert adopted(path, classes=str(names)).file.card.task.class_names == ("lo", "hi")
    other = classifier(tmp_path / "same.onnx", [b"lo", b"hi"])
    assert adopted(other).file.card.task.class_names == ("lo", "hi")


def sequence(name: str, make: Any) -> Any:
    return helper.make_value_info(name, make(helper.make_tensor_type_proto(TensorProto.FLOAT, None)))


CONSTANT = helper.make_node(
    "Constant", [], ["y"], value=numpy_helper.from_array(np.ones((5, 2), np.float32), "v")
)


@pytest.mark.parametrize(
    ("inputs", "options", "match"),
    [
        ([], {"nodes": [CONSTANT]}, "takes no input"),
        ([value("x", "N", 4, kind=TensorProto.BOOL)], {}, "x is of the type bool"),
        ([value("x", "N", 4, kind=TensorProto.BFLOAT16)], {}, "x is of the type bfloat16"),
        ([value("x", "N", 4, kind=TensorProto.INT8)], {}, "x is of the type int8"),
        ([sequence("x", helper.make_sequence_type_proto)], {}, "x is of the type sequence"),
        ([sequence("x", helper.make_optional_type_proto)], {}, "x is of the type optional"),
        ([ROWS], {"weight": np.full((4, 2), np.nan, np.float32)}, "gives NaN"),
        ([ROWS], {"ir": 99}, "no valid ONNX: .*99"),
        ([ROWS], {"opset": -3}, "no valid ONNX: No Op registered"),
        ([ROWS], {"nodes": [CONSTANT], "outputs": [value("y", 5, 2)]}, "does not depend on the batch"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(
    inputs: list[Any], options: dict[str, Any], match: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "m.onnx", inputs, **options)
    with pytest.raises(DlcliError, match=match):
        adopted(path)


def test_tensors_that_are_no_part_of_their_file(tmp_path: Path) -> None:
    import onnx

    path = write(tmp_path / "m.onnx", [ROWS])
    model = onnx.load(str(path))
    onnx.save(model, str(path), save_as_external_data=True, location="m.data", size_threshold=0)
    model = onnx.load(str(path), load_external_data=False)
    for key, wrong in (("offset", "abc"), ("length", "99999999")):
        changed = type(model)()
        changed.CopyFrom(model)
        tensor = changed.graph.initializer[0]
        for entry in tensor.external_data:
            entry.value = wrong if entry.key == key else entry.value
        if key not in {entry.key for entry in tensor.external_data}:
            tensor.external_data.add(key=key, value=wrong)
        path.write_bytes(changed.SerializeToString())
        with pytest.raises(DlcliError, match=f"is damaged .*{key} '{wrong}'"):
            examine(recognize(path))
