"""ONNX: written by torch's dynamo exporter, read by ONNX Runtime. Reading imports no torch.

The graph's inputs are the tensors of ``task.input.signature`` by name (an image is normalised float32
``input``), its output is ``task.output``; the batch, and the length of texts and series, are free.
The card is in metadata_props, so the file describes itself.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcli import __version__
from dlcli.card import CARD_KEY, Card
from dlcli.config import ExportConfig
from dlcli.data.base import Inputs
from dlcli.data.prepare import prepare, random_inputs
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import FORMATS, Artifact, Format, Outputs

if TYPE_CHECKING:
    from onnx import ModelProto

# A protobuf message may not be larger; the tensors of larger models go into a file beside it.
_PROTOBUF_LIMIT = 2**31 - 2**20
_EXAMPLE_LENGTH = 12  # of the sequences that a graph is traced with; any other must do as well


class OnnxArtifact(Artifact):
    """A session of ONNX Runtime and the card of its file."""

    def __init__(self, path: Path, card: Card, session: Any) -> None:
        super().__init__(path, card)
        self.session = session

    def predict(self, inputs: Inputs) -> Outputs:
        """The answers for a batch."""
        out = self.session.run(None, prepare(inputs, self.card.task))[0]
        return np.asarray(out, dtype=np.float32)


def write_onnx(source: Artifact, path: Path, config: ExportConfig) -> None:
    """Export the source's module to ``path`` and check the file's structure.

    Raises: DlcliError when the source has no module or torch cannot export it.
    """
    import onnx
    import torch

    task = source.card.task
    module = source.module().cpu().eval()
    # Two samples: with one, the exporter may take the batch for a constant.
    arrays = prepare(random_inputs(task, 2, length=_EXAMPLE_LENGTH), task)
    example = tuple(torch.from_numpy(array) for array in arrays.values())
    free = tuple(
        {axis: name for axis, name in enumerate(tensor.dims) if isinstance(name, str)}
        for tensor in task.input.signature
    )
    large = sum(p.numel() * p.element_size() for p in module.parameters()) > _PROTOBUF_LIMIT
    try:
        with _quietly():
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                opset_version=config.opset,
                input_names=list(arrays),
                output_names=[task.output.name],
                dynamic_shapes=free,
                verbose=False,
            )
            assert program is not None  # None only without the dynamo exporter
            _forget_origins(program.model)
            program.model.metadata_props[CARD_KEY] = source.card.to_json()
            program.model.metadata_props["dlcli.version"] = __version__
            program.save(str(path), external_data=large)
            onnx.checker.check_model(str(path), full_check=True)
    except (
        torch.onnx.errors.OnnxExporterError,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        RuntimeError,
    ) as exc:
        first = str(exc).strip().partition("\n")[0]
        raise DlcliError(
            f"torch cannot export {source.card.model.name} to ONNX opset {config.opset}: {first}",
            hint="try another --opset; --debug shows the exporter's whole report",
        ) from exc


def _forget_origins(model: Any) -> None:
    """Drop the exporter's notes on each node: stack traces with the paths of this machine."""
    for graph in (model.graph, *model.functions.values()):
        graph.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()


def read_card(path: Path) -> Card:
    """The card in metadata_props. Raises: DlcliError when the file is damaged or has none."""
    return _card_of(_load(path), path)


def open_onnx(path: Path, device: str) -> OnnxArtifact:
    """A session on the device. Raises: DlcliError when the file or the device cannot be used."""
    import onnxruntime

    model = _load(path)
    card = _card_of(model, path)
    _refuse_foreign_tensors(model, path)
    _check_shapes(model, card, path)
    providers = _providers(device)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; warnings about unused initializers help nobody
    try:
        session = onnxruntime.InferenceSession(str(path), sess_options=options, providers=providers)
    except Exception as exc:  # its errors share no base class but this
        first = str(exc).strip().partition("\n")[0]
        raise DlcliError(f"ONNX Runtime cannot load {path}: {first}") from exc
    return OnnxArtifact(path, card, session)


def _load(path: Path) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as exc:
        raise DlcliError(
            f"{path} is damaged or no ONNX file: {exc}", hint="copy it again, or export it again"
        ) from exc
    except OSError as exc:
        raise DlcliError(f"cannot read {path}: {exc.strerror}") from exc
    if not model.graph.node:
        raise DlcliError(f"{path} is damaged or no ONNX file: it has no graph")
    return model


def _card_of(model: ModelProto, path: Path) -> Card:
    for entry in model.metadata_props:
        if entry.key == CARD_KEY:
            return Card.from_json(entry.value, source=path)
    raise DlcliError(
        f"{path} is an ONNX file without a dlcli card: its classes and preprocessing are unknown",
        hint="export it with dlcli export --onnx",
    )


def _check_shapes(model: ModelProto, card: Card, path: Path) -> None:
    """The graph must take and give what the card says, whatever the batch and the lengths."""
    task = card.task
    wanted = [*task.input.signature, task.output]
    found = {value.name: _dims(value) for value in (*model.graph.input, *model.graph.output)}
    for tensor in wanted:
        dims = found.get(tensor.name)
        fits = (
            dims is not None
            and len(dims) == len(tensor.dims)
            and all(
                have is None if isinstance(said, str) else have in (None, said)
                for have, said in zip(dims, tensor.dims, strict=True)
            )
        )
        if not fits or len(found) != len(wanted):
            shapes = ", ".join(f"{name} {dims}" for name, dims in found.items())
            raise DlcliError(
                f"{path}: its graph has {shapes} where its card says {tensor.name} {tensor.dims}",
                hint="another program may have changed it; export it again",
            )


def _dims(value: Any) -> tuple[int | None, ...]:
    """A graph input's or output's dimensions, None for those that vary."""
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)


def _refuse_foreign_tensors(model: ModelProto, path: Path) -> None:
    """Tensors kept outside the file must lie in its own folder."""
    from onnx.external_data_helper import uses_external_data

    folder = path.resolve().parent
    for tensor in model.graph.initializer:
        if not uses_external_data(tensor):
            continue
        location = next((e.value for e in tensor.external_data if e.key == "location"), "")
        if not (folder / location).resolve().is_relative_to(folder):
            raise DlcliError(f"{path} wants tensors from {location!r}, outside its own folder")
        if not (folder / location).is_file():
            raise DlcliError(f"{path} keeps its tensors in {location}, which is not beside it")


def _providers(device: str) -> list[Any]:
    import onnxruntime

    match = re.fullmatch(r"(auto|cpu|cuda|xpu|mps)(?::(\d+))?", device)
    if match is None:
        raise UsageError(f"--device {device!r} is none of auto, cpu, cuda, cuda:N, xpu, xpu:N, mps")
    kind, index = match[1], match[2]
    cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if kind == "cuda" and not cuda:
        raise DlcliError(
            f"--device {device}: this ONNX Runtime has no CUDA provider",
            hint="python -m pip install onnxruntime-gpu, or --device cpu",
        )
    if kind in ("xpu", "mps"):
        raise DlcliError(f"--device {device}: ONNX files run on cpu or cuda", hint="--device cpu")
    if cuda and kind in ("auto", "cuda"):
        # TF32, its default, would move logits by 1e-3 from the model's.
        settings = {"device_id": int(index or 0), "use_tf32": 0}
        return [("CUDAExecutionProvider", settings), "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]


@contextlib.contextmanager
def _quietly() -> Any:
    """Keep the exporter's progress lines, notes on its own internals and loggers off the screen."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _sniff(head: bytes) -> bool:
    """A ModelProto starts with ir_version (field 1, a small number) and then another of its fields."""
    if len(head) < 3 or head[0] != 0x08 or not 3 <= head[1] <= 32:
        return False
    if head[5:9] == b"\0\0\0{":  # a safetensors header of 0x12..08 bytes looks alike up to here
        return False
    field, wire = head[2] >> 3, head[2] & 7
    return (field, wire) in {(2, 2), (3, 2), (4, 2), (5, 0), (6, 2), (7, 2), (8, 2), (14, 2)}


FORMATS.register("onnx")(
    Format(
        name="onnx",
        suffix=".onnx",
        sniff=_sniff,
        read_card=read_card,
        open=open_onnx,
        write=write_onnx,
    )
)
