"""Core ML: a package for Apple's systems, an ML program, always of one size.

coremltools converts it on any system, but Core ML, which runs it, is part of macOS and iOS. Elsewhere it
is written and its specification compared with the card, and no prediction is.

    best.mlpackage/Manifest.json
    best.mlpackage/Data/com.apple.CoreML/model.mlmodel           the graph, a protobuf message
    best.mlpackage/Data/com.apple.CoreML/weights/weight.bin      the tensors

The card and a SHA-256 of all files, with zeros in its own place, are in the user-defined metadata.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcli import transforms
from dlcli.card import CARD_KEY, Card
from dlcli.data.base import Inputs
from dlcli.data.prepare import prepare
from dlcli.errors import DlcliError
from dlcli.files import temporary_files
from dlcli.formats.base import FORMATS, Artifact, Format, ModelFile, Outputs, Runtime
from dlcli.formats.examples import phone
from dlcli.formats.exported import ExportedArtifact
from dlcli.formats.onnx.postprocess import output_name
from dlcli.formats.readable_outputs import has_readable_outputs
from dlcli.formats.static_shape import Sizes
from dlcli.formats.torch_export import (
    example_inputs,
    export_error,
    export_program,
    module_to_export,
    silence_torch,
)
from dlcli.wording import first_line

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from dlcli.config import ExportConfig

NAME = "coreml"
_MODEL = "Data/com.apple.CoreML/model.mlmodel"
_DIGEST_KEY = "dlcli.sha256"
_NO_DIGEST = b"0" * 64
# Fields of Core ML's Model.proto: description, metadata, userDefined; key and value of an entry.
_DESCRIPTION, _METADATA, _USER_DEFINED, _KEY, _VALUE = 2, 100, 100, 1, 2
_RECURRENT = ("lstm", "gru", "rnn")
_NO_RECURRENT = "coremltools has no operator for its recurrent layers; --onnx has, and runs on iOS too"


class CoreMlArtifact(ExportedArtifact):
    """A model that Core ML has loaded, on macOS, and the card of its package."""

    def __init__(self, file: ModelFile, model: Any) -> None:
        super().__init__(file, file.card)
        self._model = model
        self._output = output_name(file.card.task, readable=self._readable)

    def _run(self, inputs: Inputs) -> Outputs:
        return np.asarray(self._model.predict(self._feeds(inputs))[self._output], dtype=np.float32)

    def _prepare_call(self, inputs: Inputs) -> Callable[[], object]:
        feeds = self._feeds(inputs)
        return lambda: self._model.predict(feeds)

    def _feeds(self, inputs: Inputs) -> dict[str, Any]:
        """Core ML has no 64-bit integers."""
        arrays = prepare(inputs, self.card.task)
        return {k: x.astype(np.int32) if x.dtype == np.int64 else x for k, x in arrays.items()}


def write_coreml(source: Artifact, path: Path, config: ExportConfig) -> None:
    """Convert the source's module to the package ``path``, and compare its specification with the card.

    Raises: DlcliError when coremltools cannot convert it, UsageError.
    """
    float32 = config.model_copy(update={"half": False})
    module, card, sizes = module_to_export(source, float32, always_static=True)
    program = export_program(module.cpu(), card, sizes)
    _check_operators(program, card)
    if config.half:
        card = card.with_record(transforms.HALF, dtype="float16")
    try:
        with silence_torch(), temporary_files():
            model = _convert(_decomposed(program), card, half=config.half)
            model.save(str(path))
    except Exception as exc:  # its passes raise what they like
        raise export_error("coremltools", card, exc, static=True) from exc
    data = (path / _MODEL).read_bytes()
    digest = _digest(path, _NO_DIGEST.decode())
    at = data.index(_NO_DIGEST, data.index(_DIGEST_KEY.encode()))
    (path / _MODEL).write_bytes(data[:at] + digest.encode() + data[at + len(_NO_DIGEST) :])
    _check_specification(path, card, sizes)


def _check_operators(program: ExportedProgram, card: Card) -> None:
    """Raises: DlcliError for recurrent layers, whose unrolled steps take minutes to convert."""
    import torch

    recurrent = {torch.ops.aten.lstm.input, torch.ops.aten.gru.input}
    if any(node.target in recurrent for node in program.graph.nodes):
        raise DlcliError(
            f"coremltools cannot convert {card.model.name}: it has no operator for recurrent layers as "
            "torch exports them",
            hint="dlcli export --onnx: ONNX Runtime runs on iOS too",
        )


def _decomposed(program: ExportedProgram) -> ExportedProgram:
    """The program in operators that coremltools knows: its ``where`` takes no numbers."""
    import torch

    def where(condition: Any, x: Any, other: Any) -> Any:
        tensor = x if isinstance(x, torch.Tensor) else other
        x, other = (
            one if isinstance(one, torch.Tensor) else torch.full_like(tensor, one) for one in (x, other)
        )
        return torch.where(condition, x, other)

    operators = torch.ops.aten.where
    decomposed: ExportedProgram = program.run_decompositions(
        {operators.ScalarOther: where, operators.ScalarSelf: where}
    )
    return decomposed


def _convert(program: ExportedProgram, card: Card, *, half: bool) -> Any:
    """An MLModel with the names of the card, the card, and a place for the digest."""
    import coremltools

    precision = coremltools.precision.FLOAT16 if half else coremltools.precision.FLOAT32
    output = output_name(card.task, readable=has_readable_outputs(card))
    model = coremltools.convert(
        program,
        convert_to="mlprogram",
        outputs=[coremltools.TensorType(name=output, dtype=np.float32)],
        minimum_deployment_target=coremltools.target.iOS16,
        compute_precision=precision,
        skip_model_load=True,
    )
    spec = model.get_spec()
    for given, tensor in zip(list(spec.description.input), card.task.input.signature, strict=True):
        coremltools.utils.rename_feature(spec, given.name, tensor.name)
    model = coremltools.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)
    model.user_defined_metadata[CARD_KEY] = card.to_json()
    model.user_defined_metadata[_DIGEST_KEY] = _NO_DIGEST.decode()
    return model


def _check_specification(path: Path, card: Card, sizes: Sizes | None) -> None:
    """Raises: DlcliError where the package's inputs and output are not those of the card."""
    import coremltools

    description = coremltools.utils.load_spec(str(path)).description
    actual = [(one.name, tuple(one.type.multiArrayType.shape)) for one in description.input]
    tensors = zip(card.task.input.signature, example_inputs(card, sizes), strict=True)
    expected = [(tensor.name, tuple(example.shape)) for tensor, example in tensors]
    outputs = [one.name for one in description.output]
    output = output_name(card.task, readable=has_readable_outputs(card))
    if actual != expected or outputs != [output]:
        raise DlcliError(
            f"coremltools wrote inputs {actual} and outputs {outputs} where the card has {expected} and "
            f"{[output]}",
            hint="dlcli export --onnx: ONNX Runtime runs on iOS too",
        )


def _digest(path: Path, own: str) -> str:
    """Hex SHA-256 over names and contents of all files, its ``own`` digits as zeros. Raises: OSError."""
    total = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        name, data = file.relative_to(path).as_posix(), file.read_bytes()
        if name == _MODEL:
            data = data.replace(own.encode(), _NO_DIGEST)
        total.update(f"{name}\0{len(data)}\0".encode() + data)
    return total.hexdigest()


def _metadata(path: Path) -> dict[str, str]:
    """The user-defined metadata, read without coremltools. Raises: DlcliError when it is damaged."""
    from google.protobuf.message import DecodeError

    try:
        data = (path / _MODEL).read_bytes()
        return {
            _one(entry, _KEY).decode(): _one(entry, _VALUE).decode()
            for description in _fields(data, _DESCRIPTION)
            for metadata in _fields(description, _METADATA)
            for entry in _fields(metadata, _USER_DEFINED)
        }
    except OSError as exc:
        raise DlcliError(f"cannot read {exc.filename or path}: {exc.strerror}") from exc
    except (DecodeError, UnicodeDecodeError) as exc:
        raise _damaged(path) from exc


def _fields(message: bytes, number: int) -> Iterator[bytes]:
    """The contents of a field of messages or strings."""
    from google.protobuf.empty_pb2 import Empty
    from google.protobuf.unknown_fields import UnknownFieldSet

    parsed = Empty.FromString(message)
    for field in UnknownFieldSet(parsed):
        if field.field_number == number and isinstance(field.data, bytes):
            yield field.data


def _one(message: bytes, number: int) -> bytes:
    return next(_fields(message, number), b"")


def _damaged(path: Path) -> DlcliError:
    return DlcliError(
        f"{path} is damaged: its content does not match the SHA-256 in it",
        hint="copy the whole folder again, or export it again",
    )


def read_card(path: Path) -> Card:
    """The card in the metadata. Raises: DlcliError when there is none."""
    text = _metadata(path).get(CARD_KEY)
    if text is None:
        raise DlcliError(
            f"{path} is a Core ML package without a dlcli card: its classes are unknown",
            hint="export it with dlcli export --format coreml",
        )
    return Card.from_json(text, source=path)


def verify(path: Path) -> bool:
    """Compare all files with their digest. Raises: DlcliError when one has changed."""
    own = _metadata(path).get(_DIGEST_KEY)
    if own is None:
        return False
    try:
        intact = len(own) == len(_NO_DIGEST) and _digest(path, own) == own
    except OSError as exc:
        raise DlcliError(f"cannot read {exc.filename or path}: {exc.strerror}") from exc
    if not intact:
        raise _damaged(path)
    return True


def unfit(card: Card) -> str:
    """Why no package can hold a model, as the end of a sentence; "" where one can."""
    return _NO_RECURRENT if card.model.name in _RECURRENT else ""


def unrunnable() -> str:
    """Why this machine runs no package; "" on macOS."""
    return "" if sys.platform == "darwin" else "Core ML predicts on macOS alone"


def open_coreml(file: ModelFile, runtime: Runtime) -> CoreMlArtifact:
    """The package in Core ML, on the processor. Raises: DlcliError elsewhere than on macOS."""
    path, _ = file.path, file.card  # a file without a card is of no use
    verify(path)
    if why := unrunnable():
        raise DlcliError(
            f"{path} cannot be run here: {why}", hint="open it there, or use the run or its ONNX file"
        )
    if runtime.device not in ("auto", "cpu"):
        raise DlcliError(
            f"--device {runtime.device}: Core ML packages run on cpu here", hint="--device cpu"
        )
    import coremltools

    try:
        model = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit.CPU_ONLY)
    except Exception as exc:  # what Core ML raises has no base class
        raise DlcliError(f"Core ML cannot load {path}: {first_line(exc)}") from exc
    return CoreMlArtifact(file, model)


def _sniff(path: Path) -> bool:
    return (path / "Manifest.json").is_file() and (path / _MODEL).is_file()


FORMATS.register(NAME)(
    Format(
        name=NAME,
        suffix=".mlpackage",
        own_suffix=True,
        folder=True,
        sniff=_sniff,
        read_card=read_card,
        open=open_coreml,
        write=write_coreml,
        unfit=unfit,
        unrunnable=unrunnable,
        checked_unrun="its specification was checked",
        verify=verify,
        options=frozenset({"dynamic", "half", "softmax"}),
        static=True,
        examples={"ios": phone.COREML},
        extra="coreml",
        module="coremltools",
    )
)
