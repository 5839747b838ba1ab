"""ONNX files of other programs: the form of their inputs and outputs, and running them as they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dlcli.deploy.adopt.form import Form
from dlcli.errors import DlcliError
from dlcli.formats.onnx import file as onnx_file
from dlcli.formats.onnx.raw import declared_inputs, run_model, shape_of, type_name

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, ValueInfoProto

_CHANNELS = (1, 3)
_QUANTIZED = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "MatMulInteger", "ConvInteger")
_SHAPE_ONLY = (
    *("Squeeze", "Unsqueeze", "Reshape", "Flatten", "Identity", "Cast", "Slice", "Gather", "Split"),
)
_AS_IT_IS = "dlcli benchmark times it as it is"
_TEXT_NAMES = ("input_ids", "attention_mask", "token_type_ids", "tokens")


class ForeignGraph:
    """An ONNX file without a card, read whole with its external data.

    Its ZipMap, which makes a dictionary of each row's probabilities, is taken off.
    """

    def __init__(self, path: Path) -> None:
        """Read the file. Raises: DlcliError for a damaged one, and inputs or outputs without a card."""
        import onnx

        content = onnx_file.read(path)
        content.check()
        self.path = path
        self.model: ModelProto = onnx.load(str(path)) if content.external_files else content.model
        self._labels = _take_off_zipmap(self.model.graph)
        self.inputs = declared_inputs(self.model.graph, path)
        self.output = ""  # the name of the one that is adopted, once it is chosen
        self.form = self._form()

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The chosen output (n, outputs) for dlcli's input. Raises: DlcliError where it cannot run."""
        outputs = np.asarray(self._run(batch, [self.output])[0], np.float32)
        return outputs.reshape(len(outputs), -1) if outputs.ndim < 2 else outputs

    def outputs(self, batch: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
        """All float outputs by name, as they are. Raises: DlcliError where it cannot run."""
        from onnx import TensorProto

        floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
        names = [value.name for value in self.model.graph.output if type_of(value) in floats]
        if not names:
            shown = ", ".join(f"{v.name} {shape_of(v)}" for v in self.model.graph.output)
            raise DlcliError(
                f"{self.path} gives no float tensor, and a card describes one: {shown}",
                hint="export a model whose forward gives one tensor, (batch, outputs)",
            )
        return dict(zip(names, self._run(batch, names), strict=True))

    def ends_in_sigmoid(self) -> bool:
        """Whether the chosen output is a probability: a Sigmoid's or Softmax's, but for its shape."""
        nodes = {name: node for node in self.model.graph.node for name in node.output}
        node = nodes.get(self.output)
        while node is not None and node.op_type in _SHAPE_ONLY:
            node = nodes.get(node.input[0])
        return node is not None and node.op_type in ("Sigmoid", "HardSigmoid", "Softmax")

    def _run(self, batch: npt.NDArray[np.float32], names: list[str]) -> list[npt.NDArray[Any]]:
        from onnx import TensorProto

        if self.form.layout == "NHWC":
            batch = batch.transpose(0, 2, 3, 1)
        types: dict[int, Any] = {
            TensorProto.FLOAT16: np.float16,
            TensorProto.DOUBLE: np.float64,
            TensorProto.UINT8: np.uint8,
            TensorProto.INT64: np.int64,
            TensorProto.INT32: np.int32,
        }
        kinds = [types.get(type_of(value), np.float32) for value in self.inputs]
        if np.issubdtype(kinds[0], np.integer):
            batch = batch.round()
        parts = np.split(batch, len(kinds), axis=1) if self.form.column_names else [batch]
        feeds = {
            value.name: np.ascontiguousarray(part, dtype=kind)
            for value, part, kind in zip(self.inputs, parts, kinds, strict=True)
        }
        return run_model(self.model, feeds, names, self.path)

    def _form(self) -> Form:
        from onnx import TensorProto

        inputs, path = self.inputs, self.path
        shown = ", ".join(f"{v.name} {shape_of(v)}" for v in inputs)
        if any(v.name in _TEXT_NAMES for v in inputs):
            raise DlcliError(
                f"{path} takes token ids ({shown}), and no ONNX file holds the tokenizer they come from",
                hint=f"{_AS_IT_IS}; encoders with their tokenizer: dlcli train --model hf:FOLDER",
            )
        rank, kind = len(shape_of(inputs[0])), type_of(inputs[0])
        common: dict[str, Any] = {
            "class_names": self._labels,
            "precision": _precision(self.model.graph),
            "producer": f"{self.model.producer_name} {self.model.producer_version}".strip(),
            "params": sum(int(np.prod(t.dims)) for t in self.model.graph.initializer),
        }
        if len(inputs) > 1 and all(shape_of(v)[1:] == (1,) and _is_numeric(v) for v in inputs):
            names = tuple(v.name for v in inputs)
            batch = _fixed(shape_of(inputs[0])[0])
            return Form("tabular", batch, columns=len(names), column_names=names, **common)
        if len(inputs) != 1 or not _is_numeric(inputs[0]) or rank not in (2, 4):
            others = {v.name: type_name(v) for v in inputs if not _is_numeric(v)}
            words = [name for name, kind in others.items() if kind == "string"]
            odd = next((f"{name} is of the type {kind}" for name, kind in others.items()), "")
            why = f"{words[0]} takes words" if words else odd or f"it takes {shown}"
            raise DlcliError(
                f"{path} is for neither images (batch, channels, height, width) nor rows of numbers "
                f"(batch, columns): {why}",
                hint=f"{_AS_IT_IS}; encode words before the graph, and export it again"
                if words
                else "export it with one float32 input of that form",
            )
        shape = shape_of(inputs[0])
        if rank == 2:
            of_sklearn = any(node.domain == "ai.onnx.ml" for node in self.model.graph.node)
            if kind == TensorProto.INT64 and not of_sklearn:
                raise DlcliError(
                    f"{path} takes whole numbers, {shown}: token ids, whose tokenizer it does not hold",
                    hint=_AS_IT_IS,
                )
            return Form("tabular", _fixed(shape[0]), columns=_fixed(shape[1]), **common)
        last = shape[1] not in _CHANNELS and shape[3] in _CHANNELS
        channels, height, width = (shape[3], *shape[1:3]) if last else shape[1:]
        if isinstance(channels, int) and channels not in _CHANNELS:
            raise DlcliError(
                f"{path} takes {shown}: {channels} channels, and images have 1 or 3",
                hint=_AS_IT_IS,
            )
        common |= {"channels": _fixed(channels), "height": _fixed(height), "width": _fixed(width)}
        common["raw_pixels"] = kind == TensorProto.UINT8
        return Form("image", _fixed(shape[0]), "NHWC" if last else "NCHW", **common)


def type_of(value: ValueInfoProto) -> int:
    """The element type of a tensor; 0 of what is no tensor."""
    return value.type.tensor_type.elem_type


def _is_numeric(value: ValueInfoProto) -> bool:
    from onnx import TensorProto

    numbers = ("FLOAT", "FLOAT16", "DOUBLE", "INT64", "INT32", "UINT8")
    return type_of(value) in {getattr(TensorProto, name) for name in numbers}


def _fixed(size: int | str | None) -> int | None:
    return size if isinstance(size, int) else None


def _precision(graph: GraphProto) -> Any:
    from onnx import TensorProto

    if any(node.op_type in _QUANTIZED for node in graph.node):
        return "int8"
    weights = [tensor for tensor in graph.initializer if len(tensor.dims) > 1]
    half = [tensor for tensor in weights if tensor.data_type == TensorProto.FLOAT16]
    return "float16" if 2 * len(half) > len(weights) else "float32"


def _take_off_zipmap(graph: GraphProto) -> tuple[str, ...]:
    """Replace the output of a ZipMap by its input; returns the labels that the graph names.

    Raises: DlcliError where they are of two kinds.
    """
    from onnx import TensorProto, helper

    labels: tuple[str, ...] = ()
    for node in list(graph.node):
        for attribute in node.attribute:
            if attribute.name in ("classlabels_strings", "classlabels_ints", "classlabels_int64s"):
                names = [str(text, "utf-8", "backslashreplace") for text in attribute.strings]
                labels = tuple(names or map(str, attribute.ints)) or labels
        if node.op_type == "ZipMap":
            graph.node.remove(node)
            for value in [v for v in graph.output if v.name == node.output[0]]:
                graph.output.remove(value)
            row = helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, [None, len(labels)])
            graph.output.append(row)
    return labels
