"""TensorRT by ONNX Runtime's provider: its options, its engines' folder, what is said without it.

Running it needs an NVIDIA GPU: that test is marked, and nobody has run it yet.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from foreign import CLASSES, image_file, save, value
from onnx import helper, numpy_helper
from PIL import Image

from dlcli.cli import main
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import open_artifact
from dlcli.formats.onnx import file as onnx_file
from dlcli.formats.onnx import providers as module
from dlcli.formats.onnx.providers import check_providers, providers_for
from dlcli.formats.onnx.tensorrt import TENSORRT, engine_folder, precisions
from dlcli.zoo.device import resolve_device

CUDA = "CUDAExecutionProvider"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DLCLI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def available(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [TENSORRT, CUDA, "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)


def linear(path: Path, *, weight: float = 1.0, kind: type = np.float32, int8: bool = False) -> Path:
    """x (N, 2) times a weight, with quantized activations where it is ``int8``."""
    weights: dict[str, Any] = {"w": np.full((2, 2), weight, kind)}
    nodes = []
    if int8:
        weights |= {"scale": np.float32(0.1), "zero": np.int8(0)}
        nodes += [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ]
    nodes.append(helper.make_node("MatMul", ["y" if int8 else "x", "w"], ["out"]))
    tensor = numpy_helper.from_array(weights["w"]).data_type
    return save(
        path, nodes, [value("x", "N", 2, kind=tensor)], [value("out", "N", 2, kind=tensor)], weights
    )


@pytest.mark.usefixtures("available")
def test_precision_is_that_of_the_file(tmp_path: Path) -> None:
    for number, (form, half, int8) in enumerate(
        [({}, False, False), ({"kind": np.float16}, True, False), ({"int8": True}, False, True)]
    ):
        content = onnx_file.read(linear(tmp_path / f"{number}.onnx", **form))
        assert precisions(content.model) == (half, int8)
        (first, options), second, last = providers_for("tensorrt:1", content)
        assert (first, second[0], last) == (TENSORRT, CUDA, "CPUExecutionProvider")
        assert second[1] == {"device_id": 1, "use_tf32": 0}
        assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == (half, int8)
        assert options["device_id"] == 1
        assert options["trt_engine_cache_path"] == str(engine_folder(content))
        assert engine_folder(content).is_dir()


def test_engines_are_known_by_the_weights_too(tmp_path: Path, cache: Path) -> None:
    one, same, other = (
        engine_folder(onnx_file.read(linear(tmp_path / f"{name}.onnx", weight=weight)))
        for name, weight in (("one", 1.0), ("same", 1.0), ("other", 2.0))
    )
    assert one == same != other
    assert one.parent == cache / "tensorrt"
    assert onnxruntime.__version__ in one.name


def test_external_weights_count_too(tmp_path: Path) -> None:
    import onnx

    folders = []
    for weight in (1.0, 2.0):
        model = onnx.load(linear(tmp_path / "m.onnx", weight=weight))
        onnx.save_model(
            model,
            str(tmp_path / "m.onnx"),
            save_as_external_data=True,
            location="m.data",
            size_threshold=0,
        )
        folders.append(engine_folder(onnx_file.read(tmp_path / "m.onnx")))
    assert folders[0] != folders[1]


def test_an_onnxruntime_without_it_names_the_pip_line(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    content = onnx_file.read(linear(tmp_path / "m.onnx"))
    with pytest.raises(DlcliError, match="no TensorRT provider") as caught:
        providers_for("tensorrt", content)
    assert 'onnxruntime-gpu "dlcli[tensorrt]"' in (caught.value.hint or "")
    assert not cache.exists()


@pytest.mark.filterwarnings("ignore:Specified provider 'TensorrtExecutionProvider'")
@pytest.mark.usefixtures("available")
def test_a_session_without_it_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(module, "load_libraries", lambda: loaded.append("tensorrt"))
    path = linear(tmp_path / "m.onnx")
    requested = providers_for("tensorrt", onnx_file.read(path))
    session = module.open_session(path.read_bytes(), None, [(TENSORRT, {}), "CPUExecutionProvider"])
    assert loaded == ["tensorrt"]
    with pytest.raises(DlcliError, match="libnvinfer") as caught:
        check_providers(session.get_providers(), requested, "tensorrt", path)
    assert "dlcli[tensorrt]" in (caught.value.hint or "")
    assert check_providers([TENSORRT, CUDA, "CPUExecutionProvider"], requested, "tensorrt", path) == ()


def test_torch_refuses_it() -> None:
    with pytest.raises(UsageError, match="is for ONNX files") as caught:
        resolve_device("tensorrt")
    assert "dlcli export --onnx" in (caught.value.hint or "")


def test_int8_is_symmetric_and_leaves_biases_in_float(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for number in range(24):
        file = tmp_path / "photos" / CLASSES[number % 4] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(file)
    nodes = [
        helper.make_node("Flatten", ["x"], ["rows"]),
        helper.make_node("Gemm", ["rows", "kernel", "bias"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "last", "bias"], ["out"]),
    ]
    weights = {
        "kernel": rng.normal(size=(192, 4)).astype(np.float32),
        "last": rng.normal(size=(4, 4)).astype(np.float32),
        "bias": rng.normal(size=4).astype(np.float32),
    }
    path = save(tmp_path / "m.onnx", nodes, [value("x", "N", 3, 8, 8)], [value("out", "N", 4)], weights)
    options = ["--method", "static", "--target", "tensorrt", "--json"]
    assert main(["quantize", str(path), "--data", str(tmp_path / "photos"), *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert "--device tensorrt times it on a GPU" in result["untimed"]
    graph = onnx_file.read(Path(result["output"])).model.graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    dequantized = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    zeros = [tensors[node.input[2]] for node in dequantized]
    assert len(dequantized) >= 4  # of the inputs and the kernels
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
    for gemm in (node for node in graph.node if node.op_type == "Gemm"):
        np.testing.assert_array_equal(tensors[gemm.input[2]], weights["bias"])
    assert precisions(onnx_file.read(Path(result["output"])).model) == (False, True)


@pytest.mark.gpu
def test_outputs_on_tensorrt_are_those_of_the_cpu(tmp_path: Path) -> None:
    """Needs an NVIDIA GPU, onnxruntime-gpu and "dlcli[tensorrt]"."""
    if TENSORRT not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no TensorRT provider")
    from dlcli.config import AdoptConfig
    from dlcli.deploy.adopt.adopt import adopt
    from dlcli.formats.base import recognize

    (tmp_path / "names.txt").write_text("a\nb\nc\nd")
    settings = AdoptConfig(classes=str(tmp_path / "names.txt"))
    file = adopt(recognize(image_file(tmp_path / "m.onnx")), settings).file
    pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    on_gpu, on_cpu = (open_artifact(file, device=name) for name in ("tensorrt", "cpu"))
    assert on_gpu.provider == TENSORRT
    np.testing.assert_allclose(on_gpu.predict((pixels,)), on_cpu.predict((pixels,)), atol=1e-2)
    assert any((tmp_path / "cache").rglob("*.engine"))
