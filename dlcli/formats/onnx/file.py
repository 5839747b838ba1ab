"""An ONNX file as bytes: its card, its digest, its external data. No torch here.

The digest is the last 82 bytes of the file: a metadata entry of its own, which protobuf reads as if it
had been written with the others. It is the SHA-256 of everything before it and of the files with
external data, so checking it needs no parsing. A file that another program wrote has none.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli import __version__
from dlcli.card import CARD_KEY, Card
from dlcli.errors import DlcliError
from dlcli.files import sha256_file
from dlcli.formats.base import adopting
from dlcli.wording import first_line

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

DIGEST_KEY = "dlcli.sha256"
# A protobuf message may not be larger; the tensors of larger models go into a file next to it.
PROTOBUF_LIMIT = 2**31 - 2**20
_DIGEST_CHARS = 64
# Fields of a ModelProto (onnx.proto3).
_GRAPH, _METADATA = 7, 14
_VERSION_KEY = "dlcli.version"
_OWN_KEYS = (CARD_KEY, _VERSION_KEY, DIGEST_KEY)


@dataclass(frozen=True)
class OnnxFile:
    """A file that was read whole.

    Its metadata is found without ``onnx``, whose import and parser take longer than a prediction.
    """

    path: Path
    data: bytes
    metadata: Mapping[str, str]  # metadata_props

    @cached_property
    def model(self) -> ModelProto:
        """The parsed file, without external data. Raises: DlcliError when it is damaged or no ONNX."""
        import onnx
        from google.protobuf.message import DecodeError

        try:
            return onnx.load_model_from_string(self.data)
        except DecodeError as exc:
            raise _damaged(self.path, exc) from exc

    @property
    def has_digest(self) -> bool:
        """Whether it carries its digest; files of other programs carry none."""
        return DIGEST_KEY in self.metadata

    @property
    def card(self) -> Card:
        """The card in metadata_props. Raises: DlcliError when there is none."""
        if CARD_KEY not in self.metadata:
            raise DlcliError(
                f"{self.path} is an ONNX file without a dlcli card: its classes and preprocessing are "
                "unknown",
                hint=adopting(self.path),
            )
        return Card.from_json(self.metadata[CARD_KEY], source=self.path)

    @cached_property
    def external_files(self) -> dict[str, Path]:
        """The files with external data, by location; all must be in the model's folder or below it."""
        # A tensor names its file under this key, and a string is in one piece: no key, no file.
        return _external_files(self.model, self.path) if b"location" in self.data else {}

    def check(self) -> None:
        """Compare it, and its external data, with its digest. Raises: DlcliError."""
        files = self.external_files
        intended = self.has_digest or re.fullmatch(rb"[0-9a-f]{64}", self.data[-_DIGEST_CHARS:])
        if intended and not _matches_digest(self.data, files):
            raise DlcliError(
                f"{self.path} is damaged, or another program has changed it: its content does not match "
                "the SHA-256 in its metadata",
                hint="copy it again, or export it again",
            )
        if not intended:
            _refuse_other_names(self.path, files)


def read(path: Path) -> OnnxFile:
    """Read a file. Raises: DlcliError when it is damaged or no ONNX."""
    try:
        data = path.read_bytes()
        fields = list(_fields(memoryview(data)))
        entries = [dict(_fields(field)) for number, field in fields if number == _METADATA]
        metadata = {str(e.get(1, b""), "utf-8"): str(e.get(2, b""), "utf-8") for e in reversed(entries)}
    except OSError as exc:
        raise DlcliError(f"cannot read {path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise _damaged(path, exc) from exc
    if not any(number == _GRAPH and field for number, field in fields):
        raise _damaged(path, "it has no graph")
    return OnnxFile(path, data, metadata)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of the fields of a protobuf message that are strings, bytes or messages.

    Raises: ValueError where it is no message. https://protobuf.dev/programming-guides/encoding
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            size, start = 0, _varint(message, at)[1]
        elif wire == 2:
            size, start = _varint(message, at)
        elif wire in (1, 5):
            size, start = 8 if wire == 1 else 4, at
        else:
            raise ValueError(f"a field has the wire type {wire}")
        at = start + size
        if at > len(message):
            raise ValueError("it ends within a field")
        if wire == 2:
            yield number, message[start:at]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and where it ends. Raises: ValueError."""
    value = 0
    for shift, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, at + shift + 1
    raise ValueError("it ends within a number")


def _damaged(path: Path, reason: object) -> DlcliError:
    return DlcliError(
        f"{path} is damaged or no ONNX file: {reason}", hint="copy it again, or export it again"
    )


def _refuse_other_names(path: Path, files: Mapping[str, Path]) -> None:
    """Raises: DlcliError for external data that is a second name of any file of this file system."""
    for location, file in files.items():
        if file.stat().st_nlink > 1:
            raise DlcliError(
                f"{path} keeps its tensors in {location}, which is a hard link, and carries no digest: "
                "it could name any file",
                hint=f"copy {location} and replace it by its copy",
            )


def write(model: ModelProto, path: Path, card: Card, notes: Mapping[str, Any] | None = None) -> None:
    """Write a graph with its card and digest; tensors beyond 2 GB go into ``path`` + ".data".

    ``notes`` are further metadata, as JSON, for programs that read no cards. ``model`` is changed.
    Raises: DlcliError when its structure is invalid.
    """
    import onnx

    others = [entry for entry in model.metadata_props if entry.key not in _OWN_KEYS]
    own = {CARD_KEY: card.to_json(), _VERSION_KEY: __version__}
    own |= {key: json.dumps(value, ensure_ascii=False) for key, value in (notes or {}).items()}
    entries = [(e.key, e.value) for e in others if e.key not in own] + list(own.items())
    del model.metadata_props[:]
    for key, value in entries:
        model.metadata_props.add(key=key, value=value)
    files = {}
    if sum(len(tensor.raw_data) for tensor in tensors_of(model)) > PROTOBUF_LIMIT:
        location = path.name + ".data"
        onnx.save_model(
            model, str(path), save_as_external_data=True, location=location, size_threshold=1024
        )
        files = {location: path.with_name(location)}
        body = path.read_bytes()
    else:
        body = model.SerializeToString(deterministic=True)
    path.write_bytes(body + _tail(_digest(body, files)))
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise DlcliError(f"the graph of {card.model.name} is no valid ONNX: {first_line(exc)}") from exc


def check_valid(path: Path) -> None:
    """Say why a program refuses a file. Raises: DlcliError where onnx's checker finds it invalid."""
    import onnx

    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as exc:
        raise DlcliError(f"{path} is no valid ONNX: {first_line(exc)}", hint="export it again") from exc


def tensors_of(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a file: initializers and attributes, in subgraphs and functions too."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _of_attributes(node.attribute)
        yield from _of_attributes(function.attribute_proto)


def _of_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _of_attributes(node.attribute)


def _of_attributes(attributes: Any) -> Iterator[TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
        for tensor in (*sparse, *attribute.sparse_tensors):
            yield from (tensor.values, tensor.indices)
        if attribute.HasField("g"):
            yield from _of_graph(attribute.g)
        for graph in attribute.graphs:
            yield from _of_graph(graph)


def _external_files(model: ModelProto, path: Path) -> dict[str, Path]:
    from onnx.external_data_helper import uses_external_data

    folder = path.resolve().parent
    files: dict[str, Path] = {}
    for tensor in tensors_of(model):
        if not uses_external_data(tensor):
            continue
        location = next((e.value for e in tensor.external_data if e.key == "location"), "")
        if "\0" in location:
            raise DlcliError(f"{path} is damaged: it keeps its tensors in {location!r}")
        file = (folder / location).resolve()
        if not file.is_relative_to(folder):
            raise DlcliError(f"{path} refers to tensors in {location!r}, outside its own folder")
        if not file.is_file():
            raise DlcliError(
                f"{path} keeps its tensors in {location}, which is not next to it",
                hint="copy that file too; the two belong together",
            )
        _check_range(tensor, file, path)
        files[location] = file
    return files


def _check_range(tensor: TensorProto, file: Path, path: Path) -> None:
    """Raises: DlcliError where a tensor's part of a file is none of it."""
    given = {e.key: e.value for e in tensor.external_data if e.key in ("offset", "length") and e.value}
    size = file.stat().st_size
    whole = all(value.isascii() and value.isdigit() for value in given.values())
    if not whole or sum(int(value) for value in given.values()) > size:
        part = ", ".join(f"{key} {value!r}" for key, value in given.items())
        raise _damaged(path, f"{tensor.name} is at {part} of {file.name}, which has {size:,} bytes")


def _tail(digest: str) -> bytes:
    """The digest as the last field of a file: an entry of metadata_props."""
    parts = [DIGEST_KEY.encode(), digest.encode()]
    entry = b"".join(_field(number, part) for number, part in enumerate(parts, 1))
    return _field(_METADATA, entry)


def _field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message of less than 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


def _matches_digest(data: bytes, files: Mapping[str, Path]) -> bool:
    size = len(_tail("0" * _DIGEST_CHARS))
    return data[-size:] == _tail(_digest(memoryview(data)[:-size], files))


def _digest(body: bytes | memoryview, files: Mapping[str, Path]) -> str:
    total = hashlib.sha256(body)
    for name in sorted(files):
        total.update(f"{name}\0{sha256_file(files[name])}".encode())
    return total.hexdigest()
