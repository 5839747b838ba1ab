"""One number for two classes, and several outputs: answers are those of the file's own runtime."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from foreign import WEIGHT, save, value
from onnx import TensorProto, helper

from dlcli.config import AdoptConfig
from dlcli.deploy.adopt.adopt import Adopted, adopt
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import open_artifact, recognize
from dlcli.formats.readable_outputs import to_probabilities
from dlcli.task import ImageInput

PIXELS = np.random.default_rng(2).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)


def adopted(path: Path, classes: str = "no yes", **settings: Any) -> Adopted:
    names = path.with_name("names.txt")
    names.write_text("\n".join(classes.split()))
    trust = path.suffix == ".pt"
    if trust:
        settings |= {"kind": "image", "img_size": 8}
    return adopt(recognize(path), AdoptConfig(classes=str(names), **settings), trust=trust)


def probabilities(result: Adopted) -> np.ndarray:
    artifact = open_artifact(result.file, device="cpu")
    return to_probabilities(artifact.predict((PIXELS,)), artifact.card.task)


def tensors(result: Adopted) -> np.ndarray:
    """The pixels as the file itself takes them."""
    spec = result.file.card.task.input
    assert isinstance(spec, ImageInput)
    scaled = (PIXELS / 255 - np.array(spec.mean)) / np.array(spec.std)
    return scaled.transpose(0, 3, 1, 2).astype(np.float32)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logits)))


def onnx_file(path: Path, last: list[Any], outputs: list[Any], columns: int = 1) -> Path:
    """The channels' means "rows" times a weight, "scores" (N, columns), and ``last`` nodes."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["rows"], keepdims=0),
        helper.make_node("MatMul", ["rows", "weight"], ["scores"]),
        *last,
    ]
    weights = {
        **{"axes": np.array([2, 3]), "weight": WEIGHT[:, :columns], "one": np.array([1])},
        "large": np.zeros((3, 512), np.float32),
    }
    return save(path, nodes, [value("x", "N", 3, 8, 8)], outputs, weights)


SQUEEZE = helper.make_node("Squeeze", ["scores", "one"], ["flat"])
FORMS = {
    "(N, 1)": ([], value("scores", "N", 1), "logit"),
    "(N,)": ([SQUEEZE], value("flat", "N"), "logit"),
    "float16": (
        [helper.make_node("Cast", ["scores"], ["half"], to=TensorProto.FLOAT16)],
        value("half", "N", 1, kind=TensorProto.FLOAT16),
        "logit",
    ),
    "sigmoid": (
        [SQUEEZE, helper.make_node("Sigmoid", ["flat"], ["p"])],
        value("p", "N"),
        "probability",
    ),
    "sigmoid, squeezed": (
        [
            helper.make_node("Sigmoid", ["scores"], ["q"]),
            helper.make_node("Squeeze", ["q", "one"], ["p"]),
        ],
        value("p", "N"),
        "probability",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_one_number_for_two_classes(form: str, tmp_path: Path) -> None:
    nodes, output, kind = FORMS[form]
    path = onnx_file(tmp_path / "m.onnx", nodes, [output])
    result = adopted(path)
    assert any(f"the {kind} of yes, the second class" in note for note in result.notes)
    (own,) = onnxruntime.InferenceSession(str(path)).run(None, {"x": tensors(result)})
    second = own.reshape(-1).astype(np.float32)
    second = sigmoid(second) if kind == "logit" else second
    tolerance = 1e-3 if form == "float16" else 1e-6
    expected = np.stack([1 - second, second], axis=1)
    np.testing.assert_allclose(probabilities(result), expected, atol=tolerance)


def test_one_number_that_looks_like_a_probability_is_questioned(tmp_path: Path) -> None:
    clip = helper.make_node("Clip", ["scores", "zero", "top"], ["p"])
    bounds = [
        helper.make_node("Constant", [], [name], value_float=number)
        for name, number in (("zero", 0.0), ("top", 1.0))
    ]
    path = onnx_file(tmp_path / "m.onnx", [*bounds, clip], [value("p", "N", 1)])
    assert any("is it a probability?" in note for note in adopted(path).notes)


FEATURES = helper.make_node("MatMul", ["rows", "large"], ["features"])
SEVERAL = [value("features", "N", 512), value("scores", "N", 4), value("rows", "N", 3)]


def test_of_several_outputs_it_is_that_with_a_number_for_each_class(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "m.onnx", [FEATURES], SEVERAL, columns=4)
    result = adopted(path, "a b c d")
    assert any("it is scores, the only one with a number for each of 4" in n for n in result.notes)
    own = onnxruntime.InferenceSession(str(path)).run(["scores"], {"x": tensors(result)})[0]
    artifact = open_artifact(result.file, device="cpu")
    np.testing.assert_allclose(artifact.predict((PIXELS,)), own, atol=1e-5)
    assert path.stat().st_size - result.file.size > 512 * 3  # the weights of features are left out


def test_several_outputs_that_could_be_it_need_a_name(tmp_path: Path) -> None:
    last = [FEATURES, helper.make_node("Neg", ["scores"], ["other"])]
    path = onnx_file(tmp_path / "m.onnx", last, [*SEVERAL, value("other", "N", 4)], columns=4)
    with pytest.raises(DlcliError, match=r"do not tell which it is: .*scores .*other") as caught:
        adopted(path, "a b c d")
    assert "--output-name NAME" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="--output-name othr"):
        adopted(path, "a b c d", output_name="othr")
    result = adopted(path, "a b c d", output_name="other")
    own = onnxruntime.InferenceSession(str(path)).run(["other"], {"x": tensors(result)})[0]
    artifact = open_artifact(result.file, device="cpu")
    np.testing.assert_allclose(artifact.predict((PIXELS,)), own, atol=1e-5)


class Head(torch.nn.Module):
    """Outputs of a network that was written for training."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.linear = torch.nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> Any:
        rows = x.mean((2, 3))
        score = self.linear(rows).squeeze(1)
        outputs = {
            "flat": score,
            "tuple": (rows, torch.sigmoid(score)),
            "dict": {"rows": rows, "score": score[:, None]},
        }
        return outputs[self.form]


@pytest.mark.parametrize("form", ["flat", "tuple", "dict"])
def test_torchscript_of_one_number(form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    head = Head(form)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        traced = torch.jit.trace(head, torch.zeros(2, 3, 8, 8), strict=False)
        traced.save(str(tmp_path / "m.pt"))
    result = adopted(tmp_path / "m.pt")
    assert result.file.verify()
    with torch.inference_mode():
        logits = Head.forward(head, torch.from_numpy(tensors(result)))
    second = {"flat": lambda: torch.sigmoid(logits), "tuple": lambda: logits[1]}
    second["dict"] = lambda: torch.sigmoid(logits["score"][:, 0])
    expected = second[form]().numpy()
    np.testing.assert_allclose(probabilities(result)[:, 1], expected, atol=1e-6)
