"""Triton's model repository: a folder that Triton Inference Server serves, alone or under KServe.

    best.triton/SHA256SUMS                  of the other files, for `sha256sum -c`
    best.triton/MODEL/config.pbtxt          inputs, outputs, batching
    best.triton/MODEL/labels.txt            the names of classes, where the model has them
    best.triton/MODEL/1/model.onnx          version 1: the ONNX export, with the card

MODEL is the name of the run or of the target. The graph is the one of ``--format onnx``, and is run here
by ONNX Runtime, as Triton's backend runs it there. The layout is that of Triton's documentation of model
repositories and model configurations.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.card import Card
from dlcli.formats.base import FORMATS, Artifact, Format, ModelFile, Runtime
from dlcli.formats.onnx import file as onnx_file
from dlcli.formats.onnx import folder
from dlcli.formats.onnx import format as onnx_format
from dlcli.runs.folder import artifact_name

if TYPE_CHECKING:
    from onnx import TypeProto, ValueInfoProto

    from dlcli.config import ExportConfig

NAME = "triton"
_CONFIG, _LABELS = "config.pbtxt", "labels.txt"
_MAX_BATCH = 64  # of its dynamic batcher; a person may raise it


def write_triton(source: Artifact, path: Path, config: ExportConfig) -> None:
    """Write the repository to ``path``. Raises: DlcliError, UsageError as the export to ONNX does."""
    name = _model_name(source.path, path)
    inner = path / name
    model = inner / "1" / "model.onnx"
    model.parent.mkdir(parents=True)
    onnx_format.write_onnx(source, model, config)
    content = onnx_file.read(model)
    task = content.card.task
    if task.class_names:
        lines = (re.sub(r"\s+", " ", label) for label in task.class_names)
        (inner / _LABELS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    graph = content.model.graph
    text = _config(name, list(graph.input), list(graph.output), labels=bool(task.class_names))
    (inner / _CONFIG).write_text(text, encoding="utf-8")
    folder.write_sums(path)


def _model_name(source: Path, target: Path) -> str:
    """The name of the model: that of the target or the run, of letters, digits and "._-"."""
    name = artifact_name(source.parent / target.name)  # the target is still in a temporary folder
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-") or "model"


def _config(
    name: str, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto], *, labels: bool
) -> str:
    """The text of config.pbtxt, a ``ModelConfig`` of Triton's model_config.proto.

    Where the first dimension of all tensors is free, it is the batch, which the server makes of requests
    that wait; else each request is a call of its own.
    """
    batched = all(_dims(value.type)[:1] == [-1] for value in (*inputs, *outputs))
    lines = [f"name: {json.dumps(name)}", 'backend: "onnxruntime"']
    lines += [f"max_batch_size: {_MAX_BATCH if batched else 0}"]
    for field, values in (("input", inputs), ("output", outputs)):
        for value in values:
            dims = _dims(value.type)[batched:]
            shape = ", ".join(str(dim) for dim in dims or [1])
            lines += [f"{field} {{", f"  name: {json.dumps(value.name)}"]
            lines += [f"  data_type: {_data_type(value.type)}", f"  dims: [ {shape} ]"]
            if not dims:  # the server has no tensors without any: (batch,) comes as (batch, 1)
                lines += ["  reshape { shape: [ ] }"]
            if labels and field == "output":
                lines += [f'  label_filename: "{_LABELS}"']
            lines += ["}"]
    return "\n".join([*lines, *(["dynamic_batching { }"] if batched else []), ""])


def _dims(type_proto: TypeProto) -> list[int]:
    """The dimensions of a tensor, -1 where they are free."""
    dims = type_proto.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims]


def _data_type(type_proto: TypeProto) -> str:
    """The name of ``inference.DataType`` for an ONNX element type."""
    import onnx

    name = str(onnx.TensorProto.DataType.Name(type_proto.tensor_type.elem_type))
    return "TYPE_" + {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64"}.get(name, name)


def _model_of(path: Path) -> ModelFile:
    return folder.model_in(path, "*/1/model.onnx")


def read_card(path: Path) -> Card:
    """The card of its ONNX file. Raises: DlcliError."""
    return _model_of(path).card


def verify(path: Path) -> bool:
    """Compare all files with SHA256SUMS. Raises: DlcliError where one is missing, new or changed."""
    folder.check_sums(path)
    return True


def open_triton(file: ModelFile, runtime: Runtime) -> Artifact:
    """Its ONNX file in ONNX Runtime. Raises: DlcliError when a file is missing or damaged."""
    verify(file.path)
    return folder.open_in_folder(file, _model_of(file.path), runtime)


def _sniff(path: Path) -> bool:
    return (path / folder.SUMS).is_file() and any(path.glob(f"*/{_CONFIG}"))


FORMATS.register(NAME)(
    Format(
        name=NAME,
        suffix=".triton",
        sniff=_sniff,
        read_card=read_card,
        open=open_triton,
        write=write_triton,
        verify=verify,
        folder=True,
        options=FORMATS.get("onnx").options,
        fresh=lambda source: FORMATS.get("onnx").fresh(source),
    )
)
