"""ONNX: written by torch's dynamo exporter, read by ONNX Runtime. Reading imports no torch.

The graph maps ``input``, float32 (batch, C, H, W), normalised, to ``logits``, (batch, classes), for any
batch. The card is in metadata_props, so the file describes itself.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcli import __version__
from dlcli.card import CARD_KEY, Card
from dlcli.config import ExportConfig
from dlcli.data.base import Pixels
from dlcli.data.decode import normalize
from dlcli.errors import DlcliError
from dlcli.formats.base import FORMATS, Artifact, Format, Logits

if TYPE_CHECKING:
    from onnx import ModelProto

INPUT, OUTPUT = "input", "logits"
# A protobuf message may not be larger; the tensors of larger models go into a file beside it.
_PROTOBUF_LIMIT = 2**31 - 2**20


class OnnxArtifact(Artifact):
    """A session of ONNX Runtime and the card of its file."""

    def __init__(self, path: Path, card: Card, session: Any) -> None:
        super().__init__(path, card)
        self.session = session
        self._input = session.get_inputs()[0].name

    def predict(self, pixels: Pixels) -> Logits:
        """Logits for uint8 pixels (N, H, W, C)."""
        out = self.session.run(None, {self._input: normalize(pixels, self.card.task.input)})[0]
        return np.asarray(out, dtype=np.float32)


def write_onnx(source: Artifact, path: Path, config: ExportConfig) -> None:
    """Export the source's module to ``path`` and check the file's structure.

    Raises: DlcliError when the source has no module or torch cannot export it.
    """
    import onnx
    import torch

    module = source.module().cpu().eval()
    # Two samples: with one, the exporter may take the batch for a constant.
    example = torch.zeros(2, *source.card.task.input.shape)
    large = sum(p.numel() * p.element_size() for p in module.parameters()) > _PROTOBUF_LIMIT
    try:
        with _quietly():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=config.opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: "batch"},),
                verbose=False,
            )
            assert program is not None  # None only without the dynamo exporter
            program.model.metadata_props[CARD_KEY] = source.card.to_json()
            program.model.metadata_props["dlcli.version"] = __version__
            program.save(str(path), external_data=large)
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as exc:
        first = str(exc).strip().partition("\n")[0]
        raise DlcliError(
            f"torch cannot export {source.card.model.name} to ONNX opset {config.opset}: {first}",
            hint="try another --opset; --debug shows the exporter's whole report",
        ) from exc
    onnx.checker.check_model(str(path), full_check=True)


def read_card(path: Path) -> Card:
    """The card in metadata_props. Raises: DlcliError when the file is damaged or has none."""
    return _card_of(_load(path), path)


def open_onnx(path: Path, device: str) -> OnnxArtifact:
    """A session on the device. Raises: DlcliError when the file or the device cannot be used."""
    import onnxruntime

    model = _load(path)
    card = _card_of(model, path)
    _refuse_foreign_tensors(model, path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; warnings about unused initializers help nobody
    try:
        session = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=_providers(device)
        )
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

    kind, _, index = device.partition(":")
    cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if kind == "cuda" and not cuda:
        raise DlcliError(
            f"--device {device}: this ONNX Runtime has no CUDA provider",
            hint="python -m pip install onnxruntime-gpu, or --device cpu",
        )
    if cuda and kind in ("auto", "cuda"):
        return [("CUDAExecutionProvider", {"device_id": int(index or 0)}), "CPUExecutionProvider"]
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
