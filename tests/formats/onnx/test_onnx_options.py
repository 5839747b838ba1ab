"""What --static, --half, --softmax, --simplify and --embed-preprocessing make of a graph."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from torch import nn

from dlcli.card import Card, ModelSpec, TransformRecord
from dlcli.config import ExportConfig
from dlcli.data.prepare import random_inputs
from dlcli.data.tables.columns import encode_columns
from dlcli.errors import UsageError
from dlcli.formats.base import open_artifact
from dlcli.formats.checkpoint import save_model
from dlcli.formats.onnx import embed as onnx_embed
from dlcli.formats.onnx import file as onnx_file
from dlcli.formats.onnx import postprocess as onnx_steps
from dlcli.formats.onnx.export import export_graph
from dlcli.formats.onnx.format import OnnxArtifact, write_onnx
from dlcli.formats.readable_outputs import to_probabilities, with_readable_outputs
from dlcli.pixels.decode import normalize, resize
from dlcli.pixels.deep_values import scale
from dlcli.task import (
    CategoryColumn,
    ImageInput,
    NumberColumn,
    TabularInput,
    TargetNumber,
    TaskSpec,
    TextInput,
)
from dlcli.zoo.base import build_model

RNG = np.random.default_rng(0)
SIDE = 8


def image_task(interpolation: str, resize: str, resize_size: int) -> TaskSpec:
    spec = ImageInput(
        channels=3, height=SIDE, width=SIDE, resize=resize, resize_size=resize_size,  # type: ignore[arg-type]
        interpolation=interpolation, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4),  # type: ignore[arg-type]
    )  # fmt: skip
    return TaskSpec(input=spec, class_names=tuple(map(str, range(3 * SIDE * SIDE))))


def as_it_is(task: TaskSpec) -> onnx.ModelProto:
    """A graph that answers with its own input, so that what is in front of it can be seen."""
    (tensor,) = task.input.signature
    given = helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, list(tensor.dims))
    answer = helper.make_tensor_value_info(task.output.name, TensorProto.FLOAT, list(task.output.dims))
    nodes = [helper.make_node("Flatten", [tensor.name], [task.output.name])]
    graph = helper.make_graph(nodes, "g", [given], [answer])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def embedded(task: TaskSpec, folder: Path) -> OnnxArtifact:
    model = as_it_is(task)
    onnx_embed.embed_preprocessing(model, task)
    card = onnx_embed.with_raw_inputs(Card(model=ModelSpec(name="x"), task=task))
    onnx_file.write(model, folder / "x.onnx", card)
    opened = open_artifact(folder / "x.onnx", device="cpu")
    assert isinstance(opened, OnnxArtifact)
    return opened


@pytest.mark.parametrize("how", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("kind", "size"), [("crop", 8), ("crop", 11), ("squash", 8)])
def test_pixels_are_resampled_as_pillow_does(tmp_path: Path, how: str, kind: str, size: int) -> None:
    task = image_task(how, kind, size)
    spec = task.input
    assert isinstance(spec, ImageInput)
    file = embedded(task, tmp_path)
    off = 0
    for shape in [(8, 8), (11, 11), (5, 7), (40, 31), (100, 80), (1, 3), (9, 120)]:
        image = np.clip(RNG.normal(128, 90, (*shape, 3)), 0, 255).astype(np.uint8)
        wanted = resize(Image.fromarray(image), spec)
        found = file.run_feeds({onnx_embed.IMAGE: image[None]}).reshape(3, SIDE, SIDE)
        mean, std = (np.reshape(v, (3, 1, 1)) for v in (spec.mean, spec.std))
        pixels = np.rint((found * std + mean) * 255).transpose(1, 2, 0)
        away = np.abs(pixels - wanted)
        assert away.max() <= 1, shape  # Pillow counts in fixed point
        off += int((away > 0).sum())
    assert off <= 20


@pytest.mark.parametrize(("kind", "size"), [("crop", 8), ("crop", 11), ("squash", 8)])
def test_what_a_reader_gives_passes_unchanged(tmp_path: Path, kind: str, size: int) -> None:
    task = image_task("bilinear", kind, size)
    assert isinstance(task.input, ImageInput)
    (pixels,) = random_inputs(task, 5)
    answers = embedded(task, tmp_path).predict((pixels,))
    assert np.allclose(answers, normalize(pixels, task.input).reshape(5, -1), atol=1e-6)


def test_values_of_more_than_8_bits_are_scaled_in_the_graph(tmp_path: Path) -> None:
    task = image_task("bilinear", "squash", 8)
    assert isinstance(task.input, ImageInput)
    spec = task.input.model_copy(update={"value_range": (-100.0, 4095.0)})
    task = task.model_copy(update={"input": spec})
    file = embedded(task, tmp_path)
    (pixels,) = random_inputs(task, 5)
    assert np.allclose(file.predict((pixels,)), normalize(pixels, spec).reshape(5, -1), atol=1e-6)
    values = RNG.integers(-200, 5000, (SIDE, SIDE, 3)).astype(np.float32)
    found = file.run_feeds({onnx_embed.IMAGE: values[None]})
    wanted = normalize(scale(values, (-100, 4095))[None], spec)
    assert np.allclose(found.reshape(3, SIDE, SIDE), wanted[0], atol=1e-6)


TABLE = TabularInput(
    numbers=(
        NumberColumn(name="a", mean=2.0, std=3.0, fill=5.0, log=True, indicator=True),
        NumberColumn(name="b", mean=1.6e9, std=1e5, fill=1.6e9),
        NumberColumn(name="c", indicator=True),
    ),
    categories=(
        CategoryColumn(name="place", values=("sea", "hill")),
        CategoryColumn(name="one", values=("1",)),
    ),
)
TABLE_TASK = TaskSpec(input=TABLE, class_names=tuple("abcdefg"))


def test_cells_are_encoded_as_the_reader_does(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "a": [0.0, 1e4, None, -3.5],
            "b": [1.6e9, 1.6e9 + 1, None, 1e40],
            "c": [None, 1.0, 2.0, float("inf")],
            "place": ["sea", "moon", None, "hill"],
            "one": ["1", "1", "2", None],
        }
    )
    wanted, _ = encode_columns(frame, TABLE)
    numbers = frame.select("a", "b", "c").fill_null(float("nan")).to_numpy()
    words = frame.select("place", "one").fill_null("").to_numpy().astype(object)
    file = embedded(TABLE_TASK, tmp_path)
    assert np.allclose(file.run_feeds({"numeric": numbers, "words": words}), wanted, atol=1e-6)
    # And from what the reader encoded back to cells.
    assert np.allclose(file.predict((wanted,)), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("which", ["numbers", "categories"])
def test_tables_of_numbers_alone_and_of_words_alone_have_one_input(tmp_path: Path, which: str) -> None:
    spec = TabularInput(**{which: getattr(TABLE, which)})
    task = TaskSpec(input=spec, class_names=tuple("abcdefg"[: spec.shape[0]]))
    inputs = random_inputs(task, 4)
    assert np.allclose(embedded(task, tmp_path).predict(inputs), inputs[0], rtol=1e-4, atol=1e-4)


def test_what_no_graph_can_do_is_refused_with_the_reason() -> None:
    text = TextInput(vocabulary=("<pad>", "<unk>", "<s>", "</s>", "a"), max_length=5)
    task = TaskSpec(input=text, class_names=("a", "b"))
    with pytest.raises(UsageError, match="splits texts") as caught:
        onnx_embed.check(task)
    assert "--sidecar" in (caught.value.hint or "")


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_readable_outputs_are_still_the_models_to_dlcli(tmp_path: Path, kind: str) -> None:
    names = tuple("abcdefg")
    targets = tuple(TargetNumber(name=name, mean=3.0, std=20.0) for name in names)
    said: dict[str, Any] = {"targets": targets} if kind == "regression" else {"class_names": names}
    task = TaskSpec(kind=kind, input=TABLE, **said)  # type: ignore[arg-type]
    model = as_it_is(task)
    onnx_steps.add_readable_outputs(model, task)
    card = with_readable_outputs(Card(model=ModelSpec(name="x"), task=task))
    onnx_file.write(model, tmp_path / "x.onnx", card)
    file = open_artifact(tmp_path / "x.onnx", device="cpu")
    assert isinstance(file, OnnxArtifact)
    inputs = random_inputs(task, 6)
    raw = file.session.run(None, {"columns": inputs[0]})[0]
    answers = file.predict(inputs)
    if kind == "regression":
        assert np.allclose(raw, inputs[0] * 20 + 3, atol=1e-4)
        assert np.allclose(answers, inputs[0], atol=1e-5)
        return
    assert raw.min() >= 0
    assert raw.max() <= 1
    assert np.allclose(raw, to_probabilities(inputs[0], task), atol=1e-6)
    assert np.allclose(to_probabilities(answers, task), raw, atol=1e-6)
    assert np.array_equal(answers.argmax(-1), inputs[0].argmax(-1))


def test_how_the_source_stored_its_tensors_is_no_fact_about_the_graph(tmp_path: Path) -> None:
    task = TaskSpec(
        kind="regression",
        input=TabularInput(numbers=(NumberColumn(name="a"), NumberColumn(name="b"))),
        targets=(TargetNumber(name="y"),),
    )
    stored = TransformRecord(kind="half", args={"dtype": "float16"})
    card = Card(model=ModelSpec(name="linear"), task=task, transforms=(stored,))
    save_model(tmp_path / "x.safetensors", build_model(card.model, task), card)
    write_onnx(
        open_artifact(tmp_path / "x.safetensors", device="cpu"), tmp_path / "x.onnx", ExportConfig()
    )
    assert open_artifact(tmp_path / "x.onnx", device="cpu").card.transforms == ()


def test_probabilities_of_numbers_are_refused(tmp_path: Path) -> None:
    task = TaskSpec(kind="regression", input=TABLE, targets=(TargetNumber(name="y"),))
    card = Card(model=ModelSpec(name="mlp"), task=task)
    save_model(tmp_path / "m.safetensors", build_model(card.model, task), card)
    source = open_artifact(tmp_path / "m.safetensors", device="cpu")
    with pytest.raises(UsageError, match="--softmax: a model for regression"):
        write_onnx(source, tmp_path / "x.onnx", ExportConfig(softmax=True))


@pytest.fixture(scope="module")
def small() -> tuple[Card, nn.Module]:
    task = image_task("bilinear", "squash", SIDE)
    task = task.model_copy(update={"class_names": ("a", "b", "c")})
    card = Card(model=ModelSpec(name="cnn", args={"widths": [8], "hidden": 64}), task=task)
    torch.manual_seed(0)
    return card, build_model(card.model, task).eval()


def opened(model: onnx.ModelProto, card: Card, folder: Path) -> OnnxArtifact:
    onnx_file.write(model, folder / "y.onnx", card)
    found = open_artifact(folder / "y.onnx", device="cpu")
    assert isinstance(found, OnnxArtifact)
    return found


def test_half_is_half_as_large_and_takes_float32(small: tuple[Card, nn.Module], tmp_path: Path) -> None:
    card, module = small
    whole = export_graph(module, card, 20, None)
    inputs = random_inputs(card.task, 9)
    reference = opened(whole, card, tmp_path).predict(inputs)
    bytes_before = sum(len(t.raw_data) for t in onnx_file.tensors_of(whole))
    half = onnx_steps.to_float16(whole)
    assert sum(len(t.raw_data) for t in onnx_file.tensors_of(half)) < 0.55 * bytes_before
    file = opened(half, card, tmp_path)
    assert {v.type for v in (*file.session.get_inputs(), *file.session.get_outputs())} == {
        "tensor(float)"
    }
    assert 0 < np.abs(file.predict(inputs) - reference).max() < 5e-3


def test_simplifying_leaves_fewer_nodes_and_the_outputs() -> None:
    task = image_task("bilinear", "squash", SIDE)
    model = as_it_is(task)
    one = onnx_steps.constant("one", np.ones(1, np.float32))
    model.graph.initializer.append(one)
    model.graph.node.insert(0, helper.make_node("Add", ["one", "one"], ["two"]))
    model.graph.node.insert(1, helper.make_node("Mul", ["input", "two"], ["twice"]))
    model.graph.node[2].input[0] = "twice"
    found = onnx_steps.simplify(model)
    assert (onnx_steps.count_nodes(model), onnx_steps.count_nodes(found)) == (3, 2)
    assert {node.domain for node in found.graph.node} == {""}


@pytest.mark.parametrize("batch", [1, 4])
def test_a_static_file_accepts_any_batch(
    small: tuple[Card, nn.Module], tmp_path: Path, batch: int
) -> None:
    card, module = small
    save_model(tmp_path / "m.safetensors", module, card)
    source = open_artifact(tmp_path / "m.safetensors", device="cpu")
    config = ExportConfig(dynamic=False, batch_size=batch)
    write_onnx(source, tmp_path / "x.onnx", config)
    file = open_artifact(tmp_path / "x.onnx", device="cpu")
    assert isinstance(file, OnnxArtifact)
    assert file.session.get_inputs()[0].shape[0] == batch
    for n in (1, 3, 9):
        inputs = random_inputs(card.task, n)
        assert np.allclose(file.predict(inputs), source.predict(inputs), atol=1e-5)


def test_a_static_text_file_accepts_any_length(tmp_path: Path) -> None:
    text = TextInput(vocabulary=("<pad>", "<unk>", "<s>", "</s>", *"abcdef"), max_length=11)
    task = TaskSpec(input=text, class_names=("a", "b"))
    card = Card(model=ModelSpec(name="cnn", args={"dim": 4}), task=task)
    save_model(tmp_path / "m.safetensors", build_model(card.model, task), card)
    source = open_artifact(tmp_path / "m.safetensors", device="cpu")
    write_onnx(source, tmp_path / "x.onnx", ExportConfig(dynamic=False, batch_size=2, length=7))
    file = open_artifact(tmp_path / "x.onnx", device="cpu")
    for n, length in [(1, 1), (5, 4), (3, 7)]:
        inputs = random_inputs(task, n, length=length)
        assert np.allclose(file.predict(inputs), source.predict(inputs), atol=1e-5)
    tokens, lengths = random_inputs(task, 3, length=11)  # longer texts lose their end
    cut = source.predict((tokens[:, :7], np.minimum(lengths, 7)))
    assert np.allclose(file.predict((tokens, lengths)), cut, atol=1e-5)


class Recurrent(nn.Module):
    """Every sort of recurrent layer that ONNX has an operator for, in sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(8, 5, batch_first=True)
        self.rnn = nn.RNN(5, 6, nonlinearity="relu", bidirectional=True, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, (h, c) = self.lstm(x)
        y, last = self.gru(y)
        z, _ = self.rnn(y.transpose(0, 1))
        return z.sum(0) + last[0].sum(1, keepdim=True) + (h.sum((0, 2)) + c.sum((0, 2)))[:, None]


def test_recurrent_networks_become_operators_in_any_order_and_at_any_size(tmp_path: Path) -> None:
    import onnxruntime

    from dlcli.formats.onnx.recurrent import has_torch_only_rnn, with_onnx_rnns

    torch.manual_seed(0)
    module = Recurrent().eval()
    x = torch.randn(2, 6, 3)
    # A plain export of such a net breaks torch's own way to ONNX in the same process.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own way through recurrent nets
        torch.export.export(module.lstm, (x,))
    shapes = ({0: "batch", 1: "length"},)
    swapped = with_onnx_rnns(module)
    assert isinstance(module.lstm, nn.LSTM)
    assert not has_torch_only_rnn(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch 2.11's exporter, about itself
        program = torch.onnx.export(swapped, (x,), dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    program.save(str(tmp_path / "r.onnx"))
    kinds = [node.op_type for node in onnx.load(tmp_path / "r.onnx").graph.node]
    assert (kinds.count("LSTM"), kinds.count("GRU"), kinds.count("RNN")) == (2, 1, 1)
    session = onnxruntime.InferenceSession(str(tmp_path / "r.onnx"))
    for n, steps in [(1, 1), (5, 9)]:
        x = torch.randn(n, steps, 3)
        with torch.no_grad():
            wanted = module(x).numpy()
        assert np.allclose(session.run(None, {"x": x.numpy()})[0], wanted, atol=1e-5)
