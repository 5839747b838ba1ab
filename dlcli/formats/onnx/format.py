"""ONNX: written by torch's dynamo exporter, read by ONNX Runtime. Reading imports no torch.

The graph's inputs are the tensors of ``task.input.signature`` by name (an image is normalised float32
``input``), its output is ``task.output``; the batch, and the length of texts and series, are free. The
card is in metadata_props, so the file describes itself; its annotations say where a file differs:
of one size (`dlcli.formats.static_shape`), with raw inputs (`embed`) or readable outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dlcli.card import Card
from dlcli.config.onnx_versions import OnnxVersions
from dlcli.data.base import Inputs
from dlcli.data.prepare import prepare
from dlcli.errors import DlcliError
from dlcli.formats.base import FORMATS, Artifact, Format, ModelFile, Outputs, Runtime, head_of
from dlcli.formats.examples import cpp, phone, python
from dlcli.formats.exported import ExportedArtifact
from dlcli.formats.onnx import embed as onnx_embed
from dlcli.formats.onnx import file as onnx_file
from dlcli.formats.onnx.postprocess import output_name
from dlcli.formats.onnx.providers import check_providers, open_session, providers_for
from dlcli.formats.onnx.versions import facts
from dlcli.formats.readable_outputs import has_readable_outputs, to_model_outputs
from dlcli.formats.static_shape import sizes_of
from dlcli.wording import first_line

if TYPE_CHECKING:
    from dlcli.config import ExportConfig

_OPTIONS = frozenset(
    {
        "device",
        "half",
        "embed_preprocessing",
        "softmax",
        "simplify",
        "dynamic",
        *OnnxVersions.model_fields,
    }
)


class OnnxArtifact(ExportedArtifact):
    """A session of ONNX Runtime and the card of its file."""

    def __init__(self, file: ModelFile, card: Card, session: Any, notes: tuple[str, ...] = ()) -> None:
        super().__init__(file, card)
        self.session = session
        self._notes = notes
        self._raw = onnx_embed.takes_raw_inputs(card)

    @property
    def provider(self) -> str:
        """The execution provider that comes first: it has the nodes that it can run."""
        return str(self.session.get_providers()[0])

    @property
    def notes(self) -> tuple[str, ...]:
        """Where it runs instead of where it could."""
        return self._notes

    def run_feeds(self, feeds: dict[str, npt.NDArray[Any]]) -> Outputs:
        """The model's outputs for the graph's own inputs by name."""
        outputs = self._run_session(feeds)
        return to_model_outputs(outputs, self.card.task) if self._readable else outputs

    def _run(self, inputs: Inputs) -> Outputs:
        return self._run_session(self._feeds(inputs))

    def _prepare_call(self, inputs: Inputs) -> Callable[[], object]:
        """On a GPU the call includes the copies to it and back."""
        feeds = self._feeds(inputs)
        return lambda: self.session.run(None, feeds)

    def _run_session(self, feeds: dict[str, npt.NDArray[Any]]) -> Outputs:
        return np.asarray(self.session.run(None, feeds)[0], dtype=np.float32)

    def _feeds(self, inputs: Inputs) -> dict[str, npt.NDArray[Any]]:
        to_feeds = onnx_embed.to_raw_inputs if self._raw else prepare
        return to_feeds(inputs, self.card.task)


def write_onnx(source: Artifact, path: Path, config: ExportConfig) -> None:
    """Export the source's module to ``path``. Raises: DlcliError, UsageError as the exporter does."""
    from dlcli.formats.onnx import export as onnx_write

    onnx_write.write_onnx(source, path, config)


def _companions(path: Path) -> list[Path]:
    """The files with external data."""
    return list(onnx_file.read(path).external_files.values())


def _depends_on_order(source: Artifact) -> bool:
    """Whether recurrent layers without an ONNX operator need a fresh process for the export."""
    from dlcli.formats.onnx.recurrent import has_torch_only_rnn

    return has_torch_only_rnn(source.module())


def read_card(path: Path) -> Card:
    """The card in metadata_props. Raises: DlcliError when the file is damaged or has none."""
    return onnx_file.read(path).card


def verify(path: Path) -> bool:
    """Compare the file, and its external data, with its digest. Raises: DlcliError."""
    file = onnx_file.read(path)
    file.check()
    return file.has_digest


def _facts(path: Path) -> dict[str, str]:
    return facts(onnx_file.read(path).model)


def open_onnx(file: ModelFile, runtime: Runtime) -> OnnxArtifact:
    """A session on the device. Raises: DlcliError when the file or the device cannot be used."""
    content = onnx_file.read(file.content)
    content.check()
    card = content.card
    session, notes = open_graph(content, runtime)
    _check_shapes(session, card, file.path)
    return OnnxArtifact(file, card, session, notes)


def open_graph(content: onnx_file.OnnxFile, runtime: Runtime) -> tuple[Any, tuple[str, ...]]:
    """A session of a file that was checked, with notes on its device. Raises: DlcliError."""
    import onnxruntime

    path = content.path
    providers = providers_for(runtime.device, content)
    options = onnxruntime.SessionOptions()
    if runtime.threads is not None:
        options.intra_op_num_threads = runtime.threads
    options.log_severity_level = 3  # errors; warnings about unused initializers help nobody
    # The bytes that were checked; external data needs the path.
    source: bytes | str = str(path) if content.external_files else content.data
    try:
        session = open_session(source, options, providers)
    except Exception as exc:  # its errors share no base class but this
        onnx_file.check_valid(path)
        raise DlcliError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {first_line(exc)}",
            hint="it may be older than the file: export it again, --for onnxruntime==VERSION",
        ) from exc
    return session, check_providers(session.get_providers(), providers, runtime.device, path)


def _check_shapes(session: Any, card: Card, path: Path) -> None:
    """Raises: DlcliError where the graph's inputs and outputs are not those of the card."""
    expected = _signature(card)
    # A dynamic size is a name, or None. Inputs with a default are not among them.
    actual = {
        value.name: tuple(size if isinstance(size, int) else None for size in value.shape)
        for value in (*session.get_inputs(), *session.get_outputs())
    }
    for name, dims in expected.items():
        sizes = actual.get(name)
        fits = (
            sizes is not None
            and len(sizes) == len(dims)
            and all(
                size is None if isinstance(dim, str) else size in (None, dim)
                for size, dim in zip(sizes, dims, strict=True)
            )
        )
        if not fits or len(actual) != len(expected):
            shapes = ", ".join(f"{name} {dims}" for name, dims in actual.items())
            raise DlcliError(
                f"{path}: its graph has {shapes} where its card says {name} {dims}",
                hint="another program may have changed it; export it again",
            )


def _signature(card: Card) -> dict[str, tuple[int | str, ...]]:
    """Dimensions of the graph's inputs and output by name; a dynamic one is a string."""
    task, sizes = card.task, sizes_of(card) or {}
    if onnx_embed.takes_raw_inputs(card):
        signature = {name: dims for name, _, dims in onnx_embed.raw_inputs(task)}
    else:
        signature = {tensor.name: tensor.dims for tensor in task.input.signature}
    signature[output_name(task, readable=has_readable_outputs(card))] = task.output.dims
    return {
        name: tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in dims)
        for name, dims in signature.items()
    }


def _sniff(path: Path) -> bool:
    """A ModelProto starts with ir_version (field 1, a small number) and then another of its fields."""
    head = head_of(path)
    if len(head) < 3 or head[0] != 0x08 or not 3 <= head[1] < 128:
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
        verify=verify,
        options=_OPTIONS,
        fresh=_depends_on_order,
        examples={"python": python.PYTHON, "cpp": cpp.ONNX, "android": phone.ANDROID, "ios": phone.IOS},
        companions=_companions,
        adoptable=True,
        facts=_facts,
    )
)
