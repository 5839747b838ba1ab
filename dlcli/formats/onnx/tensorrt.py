"""ONNX Runtime's TensorRT provider: its options for a file, its libraries, the engines it has built.

An engine is built at the first call for each form of a batch, which takes up to minutes, and is kept in
the user's cache. Its precision is that of the file: float32, float16 (`export --half`), or int8 where
the graph has QuantizeLinear and DequantizeLinear, since TensorRT 11 knows no other way to choose one.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.errors import DlcliError
from dlcli.files import user_cache, writing
from dlcli.formats.onnx.versions import all_nodes

if TYPE_CHECKING:
    from onnx import ModelProto

    from dlcli.formats.onnx.file import OnnxFile

TENSORRT = "TensorrtExecutionProvider"
# onnxruntime-gpu of 1.27 and newer links libnvinfer.so.10 and CUDA 13.
INSTALL = 'python -m pip uninstall onnxruntime; python -m pip install onnxruntime-gpu "dlcli[tensorrt]"'


def check_available(device: str, providers: list[str]) -> None:
    """Raises: DlcliError with the pip line where ONNX Runtime was built without the provider."""
    if TENSORRT not in providers:
        raise DlcliError(
            f"--device {device}: this ONNX Runtime has no TensorRT provider; it needs an NVIDIA GPU",
            hint=f"{INSTALL}; or --device cpu",
        )


def tensorrt_options(content: OnnxFile, index: int) -> dict[str, Any]:
    """The options of the provider for a file on GPU ``index``. Raises: CannotWrite for the cache."""
    folder = engine_folder(content)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    half, int8 = precisions(content.model)
    return {
        "device_id": index,
        "trt_fp16_enable": half,
        "trt_int8_enable": int8,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(folder.parent),
    }


def engine_folder(content: OnnxFile) -> Path:
    """The folder of a file's engines.

    The provider names an engine by the nodes of its graph, not by their weights, and does not notice
    that another model has the same nodes; so the folder is named by all bytes of the file, its external
    data too, and by the version of ONNX Runtime.
    """
    import onnxruntime

    digest = hashlib.sha256(content.data)
    for _, path in sorted(content.external_files.items()):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    name = f"{digest.hexdigest()[:32]}-onnxruntime-{onnxruntime.__version__}"
    return user_cache() / "tensorrt" / name


def precisions(model: ModelProto) -> tuple[bool, bool]:
    """Whether a graph has weights in float16, and whether it is quantized to int8."""
    from onnx import TensorProto

    half = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return half, any(node.op_type == "QuantizeLinear" for node in all_nodes(model.graph.node))


def load_libraries() -> None:
    """Load TensorRT's libraries where pip has installed them: they lie on no path of the loader."""
    if importlib.util.find_spec("tensorrt") is not None:
        importlib.import_module("tensorrt")
