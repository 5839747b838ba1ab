"""Quantized variants of one model: any method, with some layers left in float.

All variants share the float graph, the calibration data and the ranges computed on it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli import transforms
from dlcli.card import TransformRecord
from dlcli.compress.layer_names import match_layers
from dlcli.compress.quantize.base import Backend, QuantizeMethod, method_of
from dlcli.compress.quantize.onnx_graph import FloatGraph, read_graph
from dlcli.compress.quantize.static import FEWEST_SAMPLES, Feed, Target
from dlcli.config import ExportConfig, QuantizeSettings, parse_names
from dlcli.config.onnx_versions import target_opset
from dlcli.data.prepare import prepare
from dlcli.deploy.export_worker import write_in_process
from dlcli.deploy.quantize.calibration import CalibrationData, static_calibration
from dlcli.deploy.quantize.methods import cpu_target, int8_saturates, is_graph
from dlcli.errors import DlcliError, UsageError
from dlcli.events import Emit, EvalProgress, Noted
from dlcli.formats.base import FORMATS, Artifact, read_card
from dlcli.formats.checkpoint import save_model
from dlcli.formats.onnx import file as onnx_file
from dlcli.formats.onnx.versions import MIN_TRACED_OPSET, with_versions
from dlcli.formats.static_shape import batches_of_its_size
from dlcli.keyword_settings import keywords
from dlcli.provenance import provenance_record

if TYPE_CHECKING:
    from onnx import ModelProto

_BATCH_SIZE = 8  # of calibration: every activation of a batch is in memory at once


class VariantBuilder:
    """Writes variants below ``folder``, each in a folder of its own."""

    def __init__(
        self,
        source: Artifact,
        settings: QuantizeSettings,
        folder: Path,
        *,
        annotations: Sequence[TransformRecord] = (),
        trust: bool,
        emit: Emit,
    ) -> None:
        """``annotations`` are added to every card, after the record of the quantization."""
        self.source, self.settings = source, settings
        self._annotations = (*annotations, provenance_record(source.path))
        self.target: Target = settings.quantize.target or cpu_target()
        reduced = settings.quantize.reduce_range
        if reduced is None:
            reduced = self.target == "x86" and int8_saturates()
        self.config = settings.quantize.model_copy(
            update={"target": self.target, "reduce_range": reduced}
        )
        self._folder, self._trust, self._emit = folder, trust, emit
        self._count = 0
        self._ranges_by_method: dict[str, Any] = {}

    @cached_property
    def float_file(self) -> Path:
        """The same model as float32 ONNX, the baseline of all ratios: the source itself if it is one."""
        if is_graph(self.source):
            return self.source.file.content
        self._emit(Noted("writing the model as float32 ONNX, to quantize it and to compare with it"))
        entry, path = FORMATS.get("onnx"), self._new_folder() / "float.onnx"
        assert entry.write is not None
        # Lowered after the quantization; but some operators of an opset have no form in a lower one.
        config = ExportConfig(opset=max(target_opset(self.config), MIN_TRACED_OPSET))
        if entry.fresh(self.source):
            write_in_process(self.source, path, entry, config, trust=self._trust)
        else:
            entry.write(self.source, path, config)
        return path

    @cached_property
    def graph(self) -> FloatGraph:
        """The graph of the float file, with its layers named."""
        modules = {} if is_graph(self.source) else self._state()
        state = {name: tensor.numpy() for name, tensor in modules.items()}
        return read_graph(self.float_file, state)

    def layers(self, method: str, backend: Backend) -> list[str]:
        """Return the layers that a method quantizes, without those of ``--skip``.

        Raises: DlcliError where the method does not suit the model, UsageError for a pattern that
        matches no layer, or all of them.
        """
        suited = self.suited_layers(method, backend)
        nodes = () if backend == "torch" else (node.name for node in self.graph.model.graph.node)
        skipped = match_layers([*suited, *nodes], parse_names(self.config.skip))
        layers = [name for name in suited if name not in skipped]
        if not layers:
            raise UsageError(f"--skip {self.config.skip} leaves no layer for {method}")
        return layers

    def suited_layers(self, method: str, backend: Backend) -> list[str]:
        """Return the layers that a method makes smaller or faster. Raises: DlcliError for none."""
        if backend == "torch":
            return self.all_layers(backend)
        layers = method_of(method, backend).layers
        if layers is None:
            return self.all_layers(backend)
        return [layer.name for layer in layers(self.graph, **keywords(layers, self.config))]

    def all_layers(self, backend: Backend) -> list[str]:
        """Return all layers with weights."""
        if backend == "onnxruntime":
            return [layer.name for layer in self.graph.layers]
        weights = (name for name, t in self._state().items() if t.is_floating_point() and t.ndim > 1)
        return list(dict.fromkeys(name.rpartition(".")[0] or name for name in weights))

    def coverage(self, method: str) -> float:
        """Return the share of the weights that a method of ONNX Runtime quantizes."""
        names = set(self.suited_layers(method, "onnxruntime"))
        weights = {layer.name: layer.weights for layer in self.graph.layers}
        return sum(weights[name] for name in names) / sum(weights.values())

    def build(self, method: str, backend: Backend, layers: Collection[str], name: str) -> Path:
        """Write a file called ``name`` with ``layers`` quantized. Raises: DlcliError."""
        path = self._new_folder() / name
        entry = method_of(method, backend)
        record = self._record(entry, layers)
        card = self.source.card
        records = (*card.transforms, record, *self._annotations)
        # The metrics of the source are those of the float model.
        card = card.model_copy(update={"transforms": records, "metrics": {}})
        if backend == "torch":
            save_model(path, self.source.module(), card)
        else:
            model, card = with_versions(self._quantized(entry, layers), card, self.config)
            onnx_file.write(model, path, card)
        return path

    def write_metrics(self, path: Path, metrics: dict[str, dict[str, float]]) -> None:
        """Write measured metrics, by split, into the card of a file of `build`."""
        card = read_card(path).model_copy(update={"metrics": metrics})
        if path.suffix == ".safetensors":
            save_model(path, self.source.module(), card)
            return
        content = onnx_file.read(path)
        content.check()
        if not content.external_files:  # beyond 2 GB
            onnx_file.write(content.model, path, card)

    def _quantized(self, method: QuantizeMethod, layers: Collection[str]) -> ModelProto:
        ranges = () if method.calibrate is None else (self._ranges(method),)
        settings = keywords(method.function, self.config)
        model: ModelProto = method.function(self.graph, layers, *ranges, **settings)
        return model

    def _record(self, method: QuantizeMethod, layers: Collection[str]) -> TransformRecord:
        in_float = [layer for layer in self.all_layers(method.backend) if layer not in layers]
        settings = keywords(method.function, self.config)
        if method.backend == "torch":
            skip = [name for name in self._state() if name.rpartition(".")[0] in in_float]
            record: TransformRecord = method.function(skip, **settings)
            return record
        args = {"method": method.name, "backend": method.backend, "float": in_float, **settings}
        if method.calibrate is not None:
            args |= keywords(method.calibrate, self.config)
            args["calibration_samples"] = len(self._calibration)
        return TransformRecord(kind=transforms.QUANTIZE, args=args)

    @cached_property
    def _calibration(self) -> CalibrationData:
        return static_calibration(self.source, self.settings)

    def _ranges(self, method: QuantizeMethod) -> Any:
        """Return the ranges of activations, computed once for all variants of a method."""
        if method.name not in self._ranges_by_method:
            assert method.calibrate is not None
            settings = keywords(method.calibrate, self.config)
            ranges = method.calibrate(self.graph, self._feeds(), **settings)
            self._ranges_by_method[method.name] = ranges
        return self._ranges_by_method[method.name]

    def _feeds(self) -> Iterator[Feed]:
        """Yield the calibration data as the graph takes it, in small batches."""
        total, samples = len(self._calibration), 0
        for number, inputs in enumerate(self._calibration.batches(_BATCH_SIZE), 1):
            if len(inputs[0]):
                samples += len(inputs[0])
                for batch in batches_of_its_size(inputs, self.source.card):
                    yield prepare(batch, self.source.card.task)
            done = min(number * _BATCH_SIZE, total)
            self._emit(EvalProgress(split="calibration", done=done, total=total))
        if samples < FEWEST_SAMPLES:
            raise DlcliError(
                f"only {samples} of the {total} training samples to calibrate on can be read",
                hint="dlcli data PATH names the unreadable ones",
            )

    def _state(self) -> dict[str, Any]:
        state = self.source.module().state_dict()
        return {name: tensor.detach().cpu() for name, tensor in state.items()}

    def _new_folder(self) -> Path:
        self._count += 1
        folder = self._folder / f"{self._count:03d}"
        folder.mkdir()
        return folder
