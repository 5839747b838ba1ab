"""ONNX files: same answers at any batch, a card inside, and no trust in what comes from elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from dlcli.card import Card, ModelSpec
from dlcli.config import ExportConfig, ExportSettings, MeasureConfig
from dlcli.config.onnx_versions import DEFAULT_OPSET
from dlcli.deploy import export as exporting
from dlcli.deploy import parity
from dlcli.deploy.parity import Parity
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import (
    FORMATS,
    Artifact,
    Runtime,
    open_artifact,
    read_card,
    recognize,
    sniff_format,
)
from dlcli.formats.checkpoint import save_model
from dlcli.formats.export_options import formats_named
from dlcli.formats.onnx import file as onnx_file
from dlcli.formats.onnx.format import OnnxArtifact, open_onnx, write_onnx
from dlcli.task import ImageInput, TaskSpec
from dlcli.zoo.base import build_model

TASK = TaskSpec(
    input=ImageInput(
        channels=3, height=9, width=9, resize_size=9, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)
    ),
    class_names=("a", "b", "c", "d"),
)
CARD = Card(model=ModelSpec(name="cnn", args={"widths": [4, 8], "hidden": 8}), task=TASK)


def settings(samples: int | None = None, **export: Any) -> ExportSettings:
    """Without latency, which takes seconds."""
    measure = MeasureConfig(samples=samples, latency=False)
    return ExportSettings(export=ExportConfig(**export), measure=measure)


@dataclass
class Files:
    model: Path
    onnx: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A model and its export, made once: the exporter takes seconds."""
    folder = tmp_path_factory.mktemp("onnx")
    torch.manual_seed(0)
    save_model(folder / "best.safetensors", build_model(CARD.model, TASK), CARD)
    result = exporting.export(
        folder / "best.safetensors",
        folder / "best.onnx",
        FORMATS.get("onnx"),
        settings(samples=20),
        verify=True,
    )
    assert result.ok
    assert result.parity is not None
    assert result.parity.data == "random"  # the card names no data
    assert "NOT VERIFIED ON DATA" in result.parity.note
    return Files(folder / "best.safetensors", result.output)


def pixels(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 9, 9, 3), dtype=np.uint8)


def test_the_file_describes_itself(files: Files) -> None:
    assert sniff_format(files.onnx).name == "onnx"
    card = read_card(files.onnx)
    assert card.model_copy(update={"transforms": ()}) == read_card(files.model)
    assert [record.kind for record in card.transforms] == ["exported", "not verified on data"]
    model = onnx.load(files.onnx)
    assert [i.name for i in model.graph.input] == ["input"]
    assert [o.name for o in model.graph.output] == ["logits"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert model.opset_import[0].version == DEFAULT_OPSET
    assert not list(files.onnx.parent.glob("*.data"))


def test_it_cannot_be_trained_or_exported_again(files: Files, tmp_path: Path) -> None:
    with pytest.raises(DlcliError, match="no trainable model"):
        write_onnx(open_artifact(files.onnx, device="cpu"), tmp_path / "x.onnx", ExportConfig())


def foreign(path: Path, **external: str) -> None:
    """A valid ONNX file of somebody else's, its tensor inside or in another file."""
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    if external:
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in external.items():
            tensor.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("Add", ["input", "w"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, 1])],
        [tensor],
    )
    model = helper.make_model(graph)
    if external:
        model.metadata_props.add(key="dlcli.card", value=CARD.to_json())
    path.write_bytes(model.SerializeToString())


def test_a_file_without_a_card_says_so(tmp_path: Path) -> None:
    foreign(tmp_path / "x.onnx")
    with pytest.raises(DlcliError, match="without a dlcli card"):
        read_card(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("location", "message"),
    [("../secret", "outside"), ("/etc/passwd", "outside"), ("gone.data", "not next to it")],
)
def test_tensors_from_other_folders_are_refused(tmp_path: Path, location: str, message: str) -> None:
    foreign(tmp_path / "x.onnx", location=location)
    with pytest.raises(DlcliError, match=message):
        open_onnx(recognize(tmp_path / "x.onnx"), Runtime("cpu"))


def test_a_device_that_is_not_there_is_named(files: Files) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(DlcliError, match="no CUDA provider"):
        open_artifact(files.onnx, device="cuda")


def wrong(answers: Any) -> Any:
    """An `open` whose artifact's logits are changed by ``answers``."""

    class Wrong(OnnxArtifact):
        def predict(self, pixels: Any) -> Any:
            return answers(super().predict(pixels))

    def opened(path: Path, **how: Any) -> Artifact:
        right = open_artifact(path, **how)
        if not isinstance(right, OnnxArtifact):
            return right
        return Wrong(path, right.card, right.session)

    return opened


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (lambda y: y + 0.5, "logits differ by 0.5"),
        (lambda y: y[:, ::-1], "get the same class"),
        (lambda y: y * float("nan"), "logits differ by inf"),
    ],
)
def test_a_wrong_file_is_caught_and_named_failed(
    files: Files, tmp_path: Path, answers: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    target = tmp_path / "best.onnx"
    target.write_bytes(b"an older good one")
    entry = replace(
        FORMATS.get("onnx"),
        write=lambda source, path, config: path.write_bytes(files.onnx.read_bytes()),
    )
    monkeypatch.setattr(exporting, "open_artifact", wrong(answers))
    result = exporting.export(files.model, target, entry, settings(samples=20), verify=True)
    assert not result.ok
    assert result.change is None
    assert isinstance(result.parity, Parity)
    assert message in " ".join(result.parity.missed)
    assert result.output.name == "best.onnx.failed"
    assert target.read_bytes() == b"an older good one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.onnx", "best.onnx.failed"]


def test_formats_that_are_only_read_are_no_export_formats() -> None:
    with pytest.raises(UsageError, match="safetensors is not an export format") as caught:
        formats_named(["safetensors"])
    assert "onnx" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="onx is not an export format"):
        formats_named(["onx"])


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 19, 20, 21, 22, 23])
@pytest.mark.parametrize("name", ["cnn", "mlp", "resnet18"])
def test_every_offered_opset_works(tmp_path: Path, name: str, opset: int) -> None:
    side = 32
    image = TASK.input.model_copy(update={"height": side, "width": side, "resize_size": side})
    task = TASK.model_copy(update={"input": image})
    card = Card(model=ModelSpec(name=name), task=task)
    save_model(tmp_path / "m.safetensors", build_model(card.model, task), card)
    result = exporting.export(
        tmp_path / "m.safetensors",
        tmp_path / "m.onnx",
        FORMATS.get("onnx"),
        settings(samples=8, opset=opset),
        verify=True,
    )
    assert result.ok, result.parity


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3",
     "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "resnet18",
     "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11_bn",
     "vit_b_32"],
)  # fmt: skip
def test_every_family_exports(tmp_path: Path, name: str) -> None:
    from dlcli.zoo.base import find_model

    needs = find_model(name, "image").needs
    side = max(needs.min_size, 64)
    side = -(-side // needs.size_multiple) * needs.size_multiple
    image = TASK.input.model_copy(update={"height": side, "width": side, "resize_size": side})
    task = TASK.model_copy(update={"input": image})
    card = Card(model=ModelSpec(name=name), task=task)
    torch.manual_seed(0)
    save_model(tmp_path / "m.safetensors", build_model(card.model, task).eval(), card)
    result = exporting.export(
        tmp_path / "m.safetensors",
        tmp_path / "m.onnx",
        FORMATS.get("onnx"),
        settings(samples=8),
        verify=True,
    )
    assert result.ok, result.parity


def export_again(files: Files, target: Path) -> exporting.ExportResult:
    return exporting.export(files.model, target, FORMATS.get("onnx"), settings(samples=3), verify=True)


def test_the_file_does_not_name_the_machine_it_was_made_on(files: Files) -> None:
    content = files.onnx.read_bytes()
    for trace in (b"stack_trace", b"site-packages", b".py", str(Path.home()).encode() + b"/"):
        assert trace not in content, trace


@pytest.mark.slow
def test_tensors_too_large_for_the_file_lie_next_to_it_under_its_name(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlcli.formats.onnx.file.PROTOBUF_LIMIT", 0)
    result = export_again(files, tmp_path / "best.onnx")
    assert result.ok
    files_written = sorted(tmp_path.iterdir())
    assert [p.name for p in files_written] == ["best.onnx", "best.onnx.data"]
    assert result.output_bytes == sum(p.stat().st_size for p in files_written)
    x = pixels(3)
    eager = open_artifact(files.model, device="cpu")
    assert np.allclose(eager.predict((x,)), open_artifact(result.output).predict((x,)), atol=1e-5)


def test_nothing_but_an_older_export_is_written_over(files: Files, tmp_path: Path) -> None:
    entry = FORMATS.get("onnx")
    other = tmp_path / "another-run.safetensors"
    other.write_bytes(files.model.read_bytes())
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    for target, message in [
        (files.model, "the model itself"),
        (tmp_path, "is a folder"),
        (other, "exists and is no onnx file"),
        (tmp_path / "photo.jpg", "exists and is no onnx file"),
    ]:
        with pytest.raises(UsageError, match=message):
            exporting.check_target(files.model, target, entry)
    exporting.check_target(files.model, files.onnx, entry)
    exporting.check_target(files.model, tmp_path / "new.onnx", entry)


def test_every_batch_of_the_comparison_has_its_size(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: set[int] = set()
    monkeypatch.setattr(
        OnnxArtifact,
        "predict",
        lambda self, x: sizes.add(len(x[0])) or np.zeros((len(x[0]), 4), np.float32),
    )
    artifact = open_artifact(files.onnx, device="cpu")
    config = ExportConfig()
    parity.check_parity(artifact, artifact, (pixels(3),), None, config, data="val", note="")
    assert {1, 7, 32} <= sizes


@pytest.mark.parametrize(
    ("device", "message"),
    [("banana", "none of auto"), ("cuda:x", "none of auto"), ("mps", "cpu or cuda")],
)
def test_a_device_that_onnx_cannot_use_is_refused(files: Files, device: str, message: str) -> None:
    with pytest.raises(DlcliError, match=f"^--device '?{device}'?: |{message}"):
        open_artifact(files.onnx, device=device)


def test_a_graph_that_its_card_does_not_fit_is_refused(files: Files, tmp_path: Path) -> None:
    model = onnx.load(files.onnx)
    fewer = TASK.model_copy(update={"class_names": ("a", "b")})
    onnx_file.write(model, tmp_path / "x.onnx", CARD.model_copy(update={"task": fewer}))
    with pytest.raises(DlcliError, match="where its card says"):
        open_artifact(tmp_path / "x.onnx", device="cpu")


def test_a_safetensors_header_is_not_taken_for_onnx(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes((0x12_0A08).to_bytes(8, "little") + b'{"a":{"dtype":"F32"')
    assert not FORMATS.get("onnx").sniff(path)


def test_a_flipped_bit_is_noticed_wherever_it_is(files: Files, tmp_path: Path) -> None:
    data, path = files.onnx.read_bytes(), tmp_path / "x.onnx"
    for where in np.linspace(0, len(data) - 83, 25).astype(int):
        changed = bytearray(data)
        changed[where] ^= 0b100
        path.write_bytes(changed)
        with pytest.raises(DlcliError):
            open_artifact(path, device="cpu")


def test_a_file_that_another_program_changed_says_so(files: Files, tmp_path: Path) -> None:
    model = onnx.load(files.onnx)
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(DlcliError, match="another program has changed it"):
        open_artifact(tmp_path / "x.onnx", device="cpu")


def test_files_of_older_versions_have_no_digest_and_open(files: Files, tmp_path: Path) -> None:
    model = onnx.load(files.onnx)
    kept = [entry for entry in model.metadata_props if entry.key != "dlcli.sha256"]
    assert len(kept) == len(model.metadata_props) - 1
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, tmp_path / "x.onnx")
    x = pixels(2)
    same = open_artifact(tmp_path / "x.onnx", device="cpu").predict((x,))
    assert np.array_equal(same, open_artifact(files.onnx, device="cpu").predict((x,)))


def test_tensors_next_to_the_file_are_in_its_digest(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_file, "PROTOBUF_LIMIT", 0)
        onnx_file.write(onnx.load(files.onnx), path, CARD)
    x = pixels(2)
    same = open_artifact(path, device="cpu").predict((x,))
    assert np.allclose(same, open_artifact(files.onnx, device="cpu").predict((x,)), atol=1e-6)
    data = tmp_path / "x.onnx.data"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(DlcliError, match="is damaged"):
        open_artifact(path, device="cpu")
    os.link(data, tmp_path / "other")  # without a digest a hard link could lead to any file
    model = onnx.load(path, load_external_data=False)
    kept = [entry for entry in model.metadata_props if entry.key != "dlcli.sha256"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    (tmp_path / "linked.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(DlcliError, match="is a hard link"):
        open_artifact(tmp_path / "linked.onnx", device="cpu")
    data.unlink()
    with pytest.raises(DlcliError, match="not next to it"):
        open_artifact(path, device="cpu")


def test_metadata_is_what_onnx_reads(files: Files) -> None:
    model = onnx.load(files.onnx)
    model.metadata_props.add(key="a", value="")
    model.metadata_props.add(key="Ü" * 200, value="\u65e5" * 20_000)
    model.ir_version, model.model_version = 10, 2**62
    data = model.SerializeToString()
    files.onnx.with_name("m.onnx").write_bytes(data)
    assert onnx_file.read(files.onnx.with_name("m.onnx")).metadata == {
        entry.key: entry.value for entry in model.metadata_props
    }


def test_a_file_that_ends_early_is_damaged(files: Files, tmp_path: Path) -> None:
    data, path = files.onnx.read_bytes(), tmp_path / "x.onnx"
    for end in [1, 2, *np.linspace(3, len(data) - 1, 20).astype(int)]:
        path.write_bytes(data[:end])
        with pytest.raises(DlcliError, match=r"is damaged|not a model file"):
            read_card(path)


def outside(kind: str) -> onnx.ModelProto:
    """A model whose tensor of another folder is hidden in an attribute, a subgraph or a function."""
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    node = helper.make_node("Constant", [], ["w"], value=tensor)
    answer = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, 1])
    if kind == "subgraph":
        inner = helper.make_graph([node], "inner", [], [helper.make_empty_tensor_value_info("w")])
        node = helper.make_node("If", ["flag"], ["w"], then_branch=inner, else_branch=inner)
    nodes = [node, helper.make_node("Add", ["input", "w"], ["logits"])]
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, 1])
    model = helper.make_model(helper.make_graph(nodes, "g", [given], [answer]))
    if kind == "function":
        opset = [helper.make_opsetid("", 20)]
        model.functions.append(helper.make_function("own", "F", [], ["w"], [node], opset))
        del model.graph.node[0]
    model.metadata_props.add(key="dlcli.card", value=CARD.to_json())
    return model


@pytest.mark.parametrize("kind", ["attribute", "subgraph", "function"])
def test_hidden_tensors_from_other_folders_are_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x.onnx").write_bytes(outside(kind).SerializeToString())
    with pytest.raises(DlcliError, match="outside its own folder"):
        open_onnx(recognize(tmp_path / "x.onnx"), Runtime("cpu"))


def test_an_operator_that_onnx_runtime_lacks_is_named(tmp_path: Path) -> None:
    task = TASK.model_copy(update={"class_names": ("a", "b", "c")})
    graph = helper.make_graph(
        [helper.make_node("Teleport", ["input"], ["logits"], domain="own")],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, 3, 9, 9])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, 3])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    card = CARD.model_copy(update={"task": task})
    model.metadata_props.add(key="dlcli.card", value=card.to_json())
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(DlcliError, match=r"cannot load.*Teleport"):
        open_artifact(tmp_path / "x.onnx", device="cpu")
