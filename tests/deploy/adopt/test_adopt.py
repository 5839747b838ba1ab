"""Files of other programs get a card: their outputs stay, whatever their names, layout and types."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch
from foreign import CLASSES, WEIGHT, classifier_file, image_file, save, value
from onnx import NodeProto, TensorProto, helper
from PIL import Image

from dlcli import transforms
from dlcli.config import AdoptConfig
from dlcli.deploy.adopt.adopt import Adopted, adopt
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import open_artifact, recognize
from dlcli.formats.static_shape import sizes_of
from dlcli.task import ImageInput

PIXELS = np.random.default_rng(2).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def names(tmp_path: Path) -> str:
    """A file of class names."""
    path = tmp_path / "names.txt"
    path.write_text("\n".join(CLASSES) + "\n")
    return str(path)


def adopted(path: Path, trust: bool = False, **settings: Any) -> Adopted:
    return adopt(recognize(path), AdoptConfig(**settings), trust=trust)


def expected(pixels: np.ndarray, spec: ImageInput) -> np.ndarray:
    """What the file gives for pixels that are normalised as the card says."""
    scaled = (pixels / 255 - np.array(spec.mean)) / np.array(spec.std)
    return np.asarray(scaled.mean(axis=(1, 2)) @ WEIGHT)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"layout": "NHWC"},
        {"name": "input.1"},
        {"name": "input"},
        {"batch": 1},
        {"batch": 4, "layout": "NHWC"},
        {"side": "side"},
        {"kind": TensorProto.DOUBLE},
    ],
)
def test_logits_are_those_of_the_file(form: dict[str, Any], tmp_path: Path, names: str) -> None:
    path = image_file(tmp_path / "m.onnx", **form)
    before = path.read_bytes()
    size = {"img_size": 8} if "side" in form else {}
    file = adopted(path, classes=names, **size).file
    artifact = open_artifact(file, device="cpu")
    assert artifact.card.task.class_names == CLASSES
    assert isinstance(artifact.card.task.input, ImageInput)
    assert artifact.card.task.input.shape == (3, 8, 8)
    assert sizes_of(artifact.card) is None  # one that took a batch of one size takes any now
    outputs = artifact.predict((PIXELS,))
    np.testing.assert_allclose(outputs, expected(PIXELS, artifact.card.task.input), atol=1e-5)
    assert path.read_bytes() == before


def test_a_graph_that_needs_its_batch_is_called_so_often(tmp_path: Path, names: str) -> None:
    path = image_file(tmp_path / "m.onnx", batch=2)
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["rows"], keepdims=0),
        helper.make_node("MatMul", ["rows", "weight"], ["scores"]),
        helper.make_node("Add", ["scores", "zeros"], ["out"]),  # of this batch alone
    ]
    weights = {"axes": np.array([2, 3]), "weight": WEIGHT, "zeros": np.zeros((2, 4), np.float32)}
    save(path, nodes, [value("x", 2, 3, 8, 8)], [value("out", 2, 4)], weights)
    result = adopted(path, classes=names)
    assert any("batches of 2 only" in note for note in result.notes)
    artifact = open_artifact(result.file, device="cpu")
    assert sizes_of(artifact.card) == {"batch": 2}
    assert isinstance(artifact.card.task.input, ImageInput)
    outputs = artifact.predict((PIXELS,))
    np.testing.assert_allclose(outputs, expected(PIXELS, artifact.card.task.input), atol=1e-5)


def test_probabilities_are_recognised(tmp_path: Path, names: str) -> None:
    result = adopted(image_file(tmp_path / "m.onnx", softmax=True), classes=names)
    artifact = open_artifact(result.file, device="cpu")
    assert isinstance(artifact.card.task.input, ImageInput)
    logits = expected(PIXELS, artifact.card.task.input)
    log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(artifact.predict((PIXELS,)), log_softmax, atol=1e-4)


def test_mean_and_std_are_those_that_are_given(tmp_path: Path, names: str) -> None:
    path = image_file(tmp_path / "m.onnx", kind=TensorProto.UINT8)
    scale = 1 / 255
    file = adopted(path, classes=names, mean="0", std=str(scale), resize="squash").file
    artifact = open_artifact(file, device="cpu")
    np.testing.assert_allclose(
        artifact.predict((PIXELS,)), PIXELS.mean(axis=(1, 2)) @ WEIGHT, rtol=1e-4, atol=1e-2
    )


def test_a_file_that_takes_bytes_gets_pixels_from_0_to_255(tmp_path: Path, names: str) -> None:
    result = adopted(image_file(tmp_path / "m.onnx", kind=TensorProto.UINT8), classes=names)
    assert any("from 0 to 255" in words for words in result.assumed)
    outputs = open_artifact(result.file, device="cpu").predict((PIXELS,))
    np.testing.assert_allclose(outputs, PIXELS.mean(axis=(1, 2)) @ WEIGHT, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    "settings",
    [{"mean": "123.7,116.3,103.5"}, {"std": "58.4"}, {"std": "1e-30"}, {"std": "0"}, {"mean": "nan"}],
)
def test_a_mean_or_std_of_no_pixels_is_refused(
    settings: dict[str, str], tmp_path: Path, names: str
) -> None:
    path = image_file(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="of pixels from 0 to 1") as caught:
        adopted(path, classes=names, **settings)
    assert "by 255" in (caught.value.hint or "")


def pooled_file(path: Path, last: list[NodeProto], side: int = 8) -> Path:
    """Scores of the channels' means, and ``last`` nodes from "scores" to "out"."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["rows"], keepdims=0),
        helper.make_node("MatMul", ["rows", "weight"], ["scores"]),
        *last,
    ]
    weights = {"axes": np.array([2, 3]), "weight": WEIGHT, "first": np.array([0])}
    return save(path, nodes, [value("x", "N", 3, side, side)], [value("out", "N", 4)], weights)


def test_outputs_that_are_no_softmax_are_said(tmp_path: Path, names: str) -> None:
    path = pooled_file(tmp_path / "m.onnx", [helper.make_node("Sigmoid", ["scores"], ["out"])])
    assert any("as those of sigmoids" in note for note in adopted(path, classes=names).notes)


def test_outputs_that_depend_on_the_batch_are_said(tmp_path: Path, names: str) -> None:
    last = [
        helper.make_node("ReduceMean", ["scores", "first"], ["mean"]),
        helper.make_node("Sub", ["scores", "mean"], ["out"]),
    ]
    path = pooled_file(tmp_path / "m.onnx", last)
    assert any("the others of its batch" in note for note in adopted(path, classes=names).notes)


def test_images_larger_than_memory_are_refused_before_any_is_made(tmp_path: Path, names: str) -> None:
    path = pooled_file(tmp_path / "m.onnx", [helper.make_node("Identity", ["scores"], ["out"])], 5_000)
    with pytest.raises(DlcliError, match="5,000 x 5,000 pixels"):
        adopted(path, classes=names)


@pytest.mark.parametrize("columns", [(), ("width", "height")])
def test_a_classifier_of_scikit_learn(columns: tuple[str, ...], tmp_path: Path) -> None:
    path = classifier_file(tmp_path / "m.onnx", columns=columns)
    rows = np.random.default_rng(3).normal(size=(6, 2)).astype(np.float32)
    feeds = {"X": rows} if not columns else {c: rows[:, [i]] for i, c in enumerate(columns)}
    labels, maps = onnxruntime.InferenceSession(str(path)).run(None, feeds)
    pl.DataFrame({"width": rows[:, 0], "height": rows[:, 1], "size": labels}).write_csv(
        tmp_path / "t.csv"
    )
    result = adopted(path, data=str(tmp_path / "t.csv"), target="size")
    artifact = open_artifact(result.file, device="cpu")
    assert artifact.card.task.class_names == ("low", "mid", "high")
    probabilities = np.exp(artifact.predict((rows,)))
    expected_rows = [[row[name] for name in artifact.card.task.class_names] for row in maps]
    np.testing.assert_allclose(probabilities, expected_rows, atol=1e-5)


def test_torchscript_is_adopted_once_it_is_trusted(tmp_path: Path, names: str) -> None:
    head = torch.nn.Linear(3, 4, bias=False)
    head.weight.data = torch.from_numpy(WEIGHT.T.copy())
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), head)
    path = tmp_path / "m.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.trace(model, torch.zeros(1, 3, 8, 8)).save(str(path))
    settings = {"classes": names, "img_size": 8}
    with pytest.raises(DlcliError, match="can run code") as caught:
        adopted(path, **settings)
    assert "dlcli adopt" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="does not say what it takes"):
        adopted(path, trust=True, **settings)
    file = adopted(path, trust=True, kind="image", **settings).file
    assert file.verify()
    artifact = open_artifact(file, device="cpu")
    assert isinstance(artifact.card.task.input, ImageInput)
    outputs = artifact.predict((PIXELS,))
    np.testing.assert_allclose(outputs, expected(PIXELS, artifact.card.task.input), atol=1e-5)


def test_a_quantized_file_is_not_quantized_again(tmp_path: Path, names: str) -> None:
    path = image_file(tmp_path / "m.onnx")
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["rows"], keepdims=0),
        helper.make_node("QuantizeLinear", ["rows", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["back"]),
        helper.make_node("MatMul", ["back", "weight"], ["out"]),
    ]
    weights = {
        **{"axes": np.array([2, 3]), "weight": WEIGHT},
        **{"scale": np.float32(0.01), "zero": np.uint8(128)},
    }
    save(path, nodes, [value("x", "N", 3, 8, 8)], [value("out", "N", 4)], weights)
    card = adopted(path, classes=names).file.card
    assert not transforms.is_float(card)


def photos(folder: Path, classes: tuple[str, ...]) -> str:
    for name in classes:
        (folder / name).mkdir(parents=True)
        Image.fromarray(PIXELS[0]).save(folder / name / "1.png")
    return str(folder)


def test_classes_are_those_of_the_folders_in_sorted_order(tmp_path: Path) -> None:
    data = photos(tmp_path / "data", ("c10", "c9", "Zed", "b"))
    result = adopted(image_file(tmp_path / "m.onnx"), data=data)
    assert result.file.card.task.class_names == ("Zed", "b", "c10", "c9")  # as torchvision sorts them


@pytest.mark.parametrize(
    ("dims", "kinds", "match"),
    [
        ([(("N", 8, 5),)], [TensorProto.FLOAT], "neither images .* nor rows"),
        ([(("N", 5, 8, 8),)], [TensorProto.FLOAT], "5 channels"),
        ([(("N", 7),)], [TensorProto.INT64], "token ids"),
        ([(("N", 7),)], [TensorProto.STRING], "takes words"),
        ([(("N", 3, 8, 8),), (("N", 2),)], [TensorProto.FLOAT] * 2, "neither images .* nor rows"),
    ],
)
def test_what_a_card_cannot_describe_is_said(
    dims: list[Any], kinds: list[int], match: str, tmp_path: Path, names: str
) -> None:
    inputs = [value(f"x{i}", *d[0], kind=k) for i, (d, k) in enumerate(zip(dims, kinds, strict=True))]
    nodes = [
        helper.make_node("Constant", [], ["out"], value=helper.make_tensor("c", 1, [1, 4], [0.0] * 4))
    ]
    path = save(tmp_path / "m.onnx", nodes, inputs, [value("out", 1, 4)])
    with pytest.raises(DlcliError, match=match):
        adopted(path, classes=names)


def test_what_is_missing_is_named(tmp_path: Path, names: str) -> None:
    path = image_file(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="does not name its classes") as caught:
        adopted(path)
    assert "--classes FILE" in (caught.value.hint or "")
    with pytest.raises(DlcliError, match="gives 4 numbers a sample, and these are 2 classes"):
        adopted(path, data=photos(tmp_path / "two", ("a", "b")))
    with pytest.raises(UsageError, match="8 x 8"):
        adopted(path, classes=names, img_size=16)
    with pytest.raises(UsageError, match="have no names") as caught:
        adopted(classifier_file(tmp_path / "t.onnx"))
    assert "--data TABLE --target" in (caught.value.hint or "")
    assert not list(tmp_path.glob("*-adopted*"))
    file = adopted(path, classes=names).file
    with pytest.raises(UsageError, match="exists"):
        adopted(path, classes=names)
    with pytest.raises(DlcliError, match="has a card already"):
        adopt(file, AdoptConfig(classes=names))
