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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli import __version__
from dlcli.card import CARD_KEY, Card
from dlcli.errors import DlcliError
from dlcli.files import sha256_file
from dlcli.wording import first_line

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

DIGEST_KEY = "dlcli.sha256"
# A protobuf message may not be larger; the tensors of larger models go into a file next to it.
PROTOBUF_LIMIT = 2**31 - 2**20
_DIGEST_CHARS = 64
_VERSION_KEY = "dlcli.version"
_OWN_KEYS = (CARD_KEY, _VERSION_KEY, DIGEST_KEY)


def load(path: Path, *, check: bool = True) -> tuple[ModelProto, bytes]:
    """The model of a file, without external data, and the file's bytes.

    Raises: DlcliError when it is damaged, no ONNX, refers to files outside its folder or, with
    ``check``, does not match its digest.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        data = path.read_bytes()
        model = onnx.load_model_from_string(data)
    except DecodeError as exc:
        raise DlcliError(
            f"{path} is damaged or no ONNX file: {exc}", hint="copy it again, or export it again"
        ) from exc
    except OSError as exc:
        raise DlcliError(f"cannot read {path}: {exc.strerror}") from exc
    if not model.graph.node:
        raise DlcliError(f"{path} is damaged or no ONNX file: it has no graph")
    if check:
        files = external_files(model, path)
        intended = has_digest(model) or re.fullmatch(rb"[0-9a-f]{64}", data[-_DIGEST_CHARS:])
        if intended and not _matches_digest(data, files):
            raise DlcliError(
                f"{path} is damaged, or another program has changed it: its content does not match "
                "the SHA-256 in its metadata",
                hint="copy it again, or export it again",
            )
        if not intended:
            _refuse_other_names(path, files)
    return model, data


def has_digest(model: ModelProto) -> bool:
    """Whether a file carries its digest; those of other programs carry none."""
    return _value(model, DIGEST_KEY) is not None


def _refuse_other_names(path: Path, files: Mapping[str, Path]) -> None:
    """Raises: DlcliError for external data that is a second name of any file of this file system."""
    for location, file in files.items():
        if file.stat().st_nlink > 1:
            raise DlcliError(
                f"{path} keeps its tensors in {location}, which is a hard link, and carries no digest: "
                "it could name any file",
                hint=f"copy {location} and replace it by its copy",
            )


def card_of(model: ModelProto, path: Path) -> Card:
    """The card in metadata_props. Raises: DlcliError when there is none."""
    text = _value(model, CARD_KEY)
    if text is None:
        raise DlcliError(
            f"{path} is an ONNX file without a dlcli card: its classes and preprocessing are unknown",
            hint="dlcli reads the ONNX files that dlcli export wrote",
        )
    return Card.from_json(text, source=path)


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


def tensors_of(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a file: initializers and attributes, in subgraphs and functions too."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _of_attributes(node.attribute)
        yield from _of_attributes(function.attribute_proto)


def has_external_data(model: ModelProto) -> bool:
    """Whether some tensor is stored in another file."""
    from onnx.external_data_helper import uses_external_data

    return any(uses_external_data(tensor) for tensor in tensors_of(model))


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


def external_files(model: ModelProto, path: Path) -> dict[str, Path]:
    """The files with external data, by location; all must be in the model's folder or below it."""
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
        files[location] = file
    return files


def _value(model: ModelProto, key: str) -> str | None:
    return next((entry.value for entry in model.metadata_props if entry.key == key), None)


def _tail(digest: str) -> bytes:
    """The digest as the last field of a file."""
    from onnx import ModelProto

    entry = ModelProto()
    entry.metadata_props.add(key=DIGEST_KEY, value=digest)
    return bytes(entry.SerializeToString())


def _matches_digest(data: bytes, files: Mapping[str, Path]) -> bool:
    size = len(_tail("0" * _DIGEST_CHARS))
    return data[-size:] == _tail(_digest(memoryview(data)[:-size], files))


def _digest(body: bytes | memoryview, files: Mapping[str, Path]) -> str:
    total = hashlib.sha256(body)
    for name in sorted(files):
        total.update(f"{name}\0{sha256_file(files[name])}".encode())
    return total.hexdigest()
