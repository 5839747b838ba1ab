"""What a file of another program says of itself, without running it, and what `adopt` needs to know."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from dlcli.deploy.adopt.form import Form
from dlcli.deploy.adopt.graph import ForeignGraph
from dlcli.errors import DlcliError
from dlcli.formats.base import ModelFile
from dlcli.formats.onnx import file as onnx_file
from dlcli.formats.onnx.raw import graph_inputs, shape_of, type_name
from dlcli.formats.onnx.versions import all_nodes, facts
from dlcli.runs.folder import as_typed
from dlcli.wording import listed, plural

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

_FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True)
class Tensor:
    """An input or output; a size that varies is a name, or "?"."""

    name: str
    dtype: str
    dims: tuple[int | str, ...]

    def __str__(self) -> str:
        """``x float32 (batch, 3, 224, 224)``."""
        dims = f" ({', '.join(map(str, self.dims))})" if self.dims else ""
        return f"{self.name} {self.dtype}{dims}"


@dataclass(frozen=True)
class Examined:
    """What is in a file; ``needs`` are the options of `adopt` that it leaves open, in words.

    ``refused`` is why no card can describe it, "" where one can; ``next_command`` is what to type then.
    """

    next_command: str
    needs: tuple[str, ...]
    refused: str = ""
    producer: str = ""
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    params: int | None = None
    operators: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def examine(file: ModelFile) -> Examined:
    """Read a file without a card; nothing of it is run. Raises: DlcliError where it is damaged."""
    if file.format.name != "onnx":
        options = (
            "--trust: it can run code when it is loaded, so its shapes are not read here",
            "--kind image or tabular, and --img-size unless 224: it does not say them",
            "the classes: --data DIR of class folders, or --classes FILE",
        )
        return Examined(f"dlcli adopt {as_typed(file.path)} --trust --data DATA", options)
    content = onnx_file.read(file.path)
    content.check()
    model = content.model
    refused, data = "", ""
    needs: tuple[str, ...] = ()
    try:
        form = ForeignGraph(file.path).form
    except DlcliError as exc:
        refused = exc.message.removeprefix(f"{file.path} ")
    else:
        data = "DIR" if form.kind == "image" else "TABLE --target COLUMN"
        needs = (*_needs(form), *_output_needs(model))
    name = as_typed(file.path)
    return Examined(
        next_command=f"dlcli benchmark {name}" if refused else f"dlcli adopt {name} --data {data}",
        needs=needs,
        refused=refused,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        inputs=tuple(map(_tensor, graph_inputs(model.graph))),
        outputs=tuple(map(_tensor, model.graph.output)),
        facts=facts(model),
        params=sum(_product(tensor.dims) for tensor in model.graph.initializer),
        operators=_operators(model),
    )


def _needs(form: Form) -> tuple[str, ...]:
    """The options that say what the file's input and labels do not."""
    if form.kind == "tabular":
        rows = f"{form.columns or 'its'} columns"
        columns = "the table" if form.column_names else f"the names of {rows}, in the order of training"
        labels = "" if form.class_names else " and of the classes"
        return (f"{columns}{labels}: --data TABLE --target COLUMN",)
    needs = []
    if not form.class_names:
        needs.append("the classes: --data DIR of class folders, or --classes FILE")
    if form.height is None:
        needs.append("--img-size, unless images are 224 x 224")
    assumed = "pixels are from 0 to 255" if form.raw_pixels else "pixels are normalised as ImageNet's"
    needs.append(f"--mean and --std, unless {assumed}; --resize, unless it is the central crop")
    return tuple(needs)


def _output_needs(model: ModelProto) -> tuple[str, ...]:
    floats = [tensor for tensor in map(_tensor, model.graph.output) if tensor.dtype in _FLOATS]
    if len(floats) < 2 or any(tensor.name in ("logits", "probabilities") for tensor in floats):
        return ()
    return ("--output-name, where more than one output has a number for each class",)


def _operators(model: ModelProto) -> dict[str, int]:
    """The number of nodes by operator, the most frequent first; those of other sets with its domain."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    known = ("", "ai.onnx")
    names = (
        node.op_type if node.domain in known else f"{node.domain}.{node.op_type}"
        for node in all_nodes(nodes)
    )
    return dict(Counter(names).most_common())


def operators_in_words(operators: dict[str, int]) -> str:
    """``57 nodes of 9 operators: Conv 20, Relu 17, ...``."""
    shown = [f"{name} {count}" for name, count in operators.items()]
    nodes = plural(sum(operators.values()), "node")
    return f"{nodes} of {plural(len(operators), 'operator')}: {listed(shown, 8)}"


def _tensor(value: ValueInfoProto) -> Tensor:
    return Tensor(value.name, type_name(value), tuple(size or "?" for size in shape_of(value)))


def _product(dims: Any) -> int:
    total = 1
    for size in dims:
        total *= size
    return total
