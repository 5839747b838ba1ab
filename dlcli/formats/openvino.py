"""OpenVINO IR: NAME.xml, the graph with the card in it, and NAME.bin, its tensors.

It is converted from ONNX: inputs and outputs have the names and shapes of the ONNX file. A SHA-256 of
both is in a comment at the end of the graph.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcli import transforms
from dlcli.card import Card
from dlcli.data.base import Inputs
from dlcli.data.prepare import prepare
from dlcli.errors import DlcliError
from dlcli.files import library_writes, sha256_file, temporary_folder
from dlcli.formats import tail_digest
from dlcli.formats.base import FORMATS, Artifact, Format, ModelFile, Outputs, Runtime, head_of
from dlcli.formats.exported import ExportedArtifact
from dlcli.wording import first_line

if TYPE_CHECKING:
    from dlcli.config import ExportConfig

NAME = "openvino"
_CARD_PATH = ["dlcli", "card"]  # in the graph's rt_info
_DIGEST_OF_BIN = "sha256_of_bin"  # in the rt_info of earlier files, which have no digest of the graph
_END = b"-->\n"


class OpenVinoArtifact(ExportedArtifact):
    """A compiled model of OpenVINO and the card of its file."""

    def __init__(self, file: ModelFile, compiled: Any) -> None:
        super().__init__(file, file.card)
        self.compiled = compiled
        self._request = compiled.create_infer_request()

    def _run(self, inputs: Inputs) -> Outputs:
        results = self._request.infer(prepare(inputs, self.card.task), share_inputs=True)
        return np.array(results[self.compiled.output(0)], dtype=np.float32)

    def _prepare_call(self, inputs: Inputs) -> Callable[[], object]:
        feeds = prepare(inputs, self.card.task)
        return lambda: self._request.infer(feeds, share_inputs=True, share_outputs=True)


def write_openvino(source: Artifact, path: Path, config: ExportConfig) -> None:
    """Convert the source's ONNX export to ``path`` and the .bin next to it.

    With --half the tensors are stored in 16 bits; OpenVINO chooses the arithmetic by the processor.
    Raises: DlcliError when the model cannot be exported or converted, UsageError as ONNX does.
    """
    import openvino

    from dlcli.formats.onnx.format import read_card as read_onnx_card
    from dlcli.formats.onnx.format import write_onnx

    with temporary_folder() as folder:
        onnx = folder / "model.onnx"
        write_onnx(source, onnx, config.model_copy(update={"half": False}))
        card = read_onnx_card(onnx)
        try:
            model = openvino.convert_model(str(onnx))
        except Exception as exc:  # its frontends raise what they like
            first = first_line(exc)
            raise DlcliError(f"OpenVINO cannot convert {card.model.name}: {first}") from exc
    if config.half:
        card = card.with_record(transforms.HALF, dtype="float16")
    model.set_rt_info("", ["conversion_parameters"])  # it names a folder of this machine
    model.set_rt_info(card.to_json(), _CARD_PATH)
    save(model, path, half=config.half)
    with path.open("ab") as file:
        file.write(b"\n<!--")
    tail_digest.append(path, _END, others=sha256_file(path.with_suffix(".bin")))


def save(model: Any, path: Path, *, half: bool) -> None:
    """Write a graph to ``path`` and its tensors to the .bin next to it. Raises: CannotWrite."""
    import openvino

    with library_writes("OpenVINO", path, RuntimeError):
        openvino.save_model(model, str(path), compress_to_fp16=half)


def _read_info(path: Path, name: str) -> str | None:
    """What the graph's rt_info has under dlcli/``name``. Raises: DlcliError for a damaged file."""
    try:
        element = ET.parse(path).getroot().find(f"rt_info/dlcli/{name}")
    except ET.ParseError as exc:
        raise DlcliError(
            f"{path} is damaged or no OpenVINO file: {exc}", hint="copy it again, or export it again"
        ) from exc
    except OSError as exc:
        raise DlcliError(f"cannot read {path}: {exc.strerror}") from exc
    return None if element is None else element.get("value")


def read_card(path: Path) -> Card:
    """The card in the graph's rt_info, read as XML. Raises: DlcliError when there is none."""
    text = _read_info(path, _CARD_PATH[1])
    if text is None:
        raise DlcliError(
            f"{path} is an OpenVINO file without a dlcli card: its classes are unknown",
            hint="export it with dlcli export --format openvino",
        )
    return Card.from_json(text, source=path)


def verify(path: Path) -> bool:
    """Compare graph and tensors with their digest. Raises: DlcliError when one is missing or damaged."""
    tensors = path.with_suffix(".bin")
    if not tensors.is_file():
        raise DlcliError(
            f"{path} keeps its tensors in {tensors.name}, which is not next to it",
            hint=f"copy both files, {path.name} and {tensors.name}",
        )
    earlier = _read_info(path, _DIGEST_OF_BIN)
    try:
        own = sha256_file(tensors)
        intact = own == earlier if earlier else tail_digest.matches(path, _END, others=own)
    except OSError as exc:
        raise DlcliError(f"cannot read {exc.filename or path}: {exc.strerror}") from exc
    if not intact:
        raise DlcliError(
            f"{path} or {tensors} is damaged, or belongs to another model",
            hint="copy both files again, or export them again",
        )
    return True


def open_openvino(file: ModelFile, runtime: Runtime) -> OpenVinoArtifact:
    """The model compiled for this processor. Raises: DlcliError when a part is missing or damaged."""
    import openvino

    path, _ = file.path, file.card  # a file without a card is of no use
    verify(path)
    if runtime.device not in ("auto", "cpu"):
        raise DlcliError(
            f"--device {runtime.device}: OpenVINO files run on cpu here", hint="--device cpu"
        )
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}  # not bf16 where the processor has it
    if runtime.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = runtime.threads
    try:
        core = openvino.Core()
        core.set_property({"ENABLE_MMAP": False})  # a mapped file that is changed kills the process
        compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
    except RuntimeError as exc:
        first = first_line(exc)
        raise DlcliError(f"OpenVINO {openvino.__version__} cannot load {path}: {first}") from exc
    return OpenVinoArtifact(file, compiled)


def _sniff(path: Path) -> bool:
    head = head_of(path, 256).lstrip()
    return head.startswith((b"<?xml", b"<net")) and b"<net " in head


FORMATS.register(NAME)(
    Format(
        name=NAME,
        suffix=".xml",
        own_suffix=True,
        sniff=_sniff,
        read_card=read_card,
        open=open_openvino,
        companions=lambda path: [path.with_suffix(".bin")],
        write=write_openvino,
        verify=verify,
        options=frozenset({"dynamic", "opset", "half", "softmax", "simplify"}),
        extra="openvino",
        module="openvino",
        fresh=lambda source: FORMATS.get("onnx").fresh(source),
    )
)
