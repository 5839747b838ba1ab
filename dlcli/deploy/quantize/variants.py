"""The files that `quantize` makes of one model: every method, with some layers left in float.

What they share is made once: the float graph, the samples that calibrate, the ranges found on them.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dlcli import transforms
from dlcli.card import TransformRecord
from dlcli.compress.layer_names import named_layers
from dlcli.compress.quantize.dynamic import dynamic_layers, quantize_dynamic
from dlcli.compress.quantize.onnx_graph import FloatGraph, read_graph
from dlcli.compress.quantize.static import (
    FEWEST_SAMPLES,
    Feed,
    calibrate,
    quantize_static,
    static_layers,
)
from dlcli.compress.quantize.weight_only import quantize_weights, weight_only_layers
from dlcli.config import EvalConfig, ExportConfig, QuantizeConfig, QuantizeSettings
from dlcli.config.ship import parse_names
from dlcli.data.prepare import prepare, trim
from dlcli.deploy.export_worker import write_in_process
from dlcli.errors import DlcliError, UsageError
from dlcli.evaluation.eval_data import eval_data
from dlcli.events import Emit, EvalProgress, Noted
from dlcli.formats.base import FORMATS, Artifact, read_card
from dlcli.formats.checkpoint import save_model
from dlcli.formats.onnx import file as onnx_file
from dlcli.formats.onnx.optimize_int8 import hasten
from dlcli.formats.onnx.postprocess import halved
from dlcli.provenance import provenance_record

if TYPE_CHECKING:
    from onnx import ModelProto

Method = Literal["dynamic", "static", "qat", "weight-only", "fp16", "bf16"]
Backend = Literal["onnxruntime", "torch"]

# Which runs what, the default first; and why the others are not there.
BACKENDS: dict[str, tuple[Backend, ...]] = {
    "dynamic": ("onnxruntime",),
    "static": ("onnxruntime",),
    "qat": ("onnxruntime",),
    "weight-only": ("onnxruntime", "torch"),
    "fp16": ("onnxruntime", "torch"),
    "bf16": ("torch",),
}
_WHY_NOT = {
    "torch": "torch's int8 modules are deprecated and no faster than float on a CPU",
    "onnxruntime": "ONNX Runtime's CPU provider refuses bfloat16",
}
_FEW = f"the ranges of {FEWEST_SAMPLES - 1} samples and fewer are those of these samples alone"
_BATCH = 8  # samples of a calibration batch: every activation of it is in memory at once


class NoCalibration(DlcliError):
    """The training samples cannot be reached: no fault of the model's, and of no method's."""


def check_source(source: Artifact) -> None:
    """Refuse what cannot be quantized: no trainable model, or quantized already. Raises: DlcliError."""
    path = source.path
    record = transforms.not_float(source.card)
    if record is not None:
        how = record.args.get("method") or record.args.get("dtype") or record.kind
        state = "in 16 bits" if record.kind == transforms.HALF else "quantized"
        raise DlcliError(
            f"{path} is {state} already ({how})",
            hint="quantize the float model that it was made from"
            + (f": {source.card.parent}" if source.card.parent else ""),
        )
    if path.suffix == ".failed":
        raise DlcliError(f"{path} is a file that failed its comparison", hint="quantize its source")
    source.module()


class Candidates:
    """Makes files below ``folder``, each in a folder of its own."""

    def __init__(
        self,
        source: Artifact,
        settings: QuantizeSettings,
        folder: Path,
        *,
        remarks: Sequence[TransformRecord] = (),
        trust: bool,
        emit: Emit,
    ) -> None:
        """``remarks`` go into every card, behind the record of what was done."""
        self.source, self.settings = source, settings
        self._remarks = (*remarks, provenance_record(source.path))
        self.config = settings.quantize
        self.target: Literal["x86", "arm"] = self.config.target or this_machine()
        self._folder, self._trust, self._emit = folder, trust, emit
        self._made = 0

    @cached_property
    def float_file(self) -> Path:
        """The same model as float32 ONNX, which ratios are measured against."""
        self._emit(Noted("writing the model as float32 ONNX, to quantize it and to compare with it"))
        entry, path = FORMATS.get("onnx"), self._place() / "float.onnx"
        assert entry.write is not None
        if entry.fresh(self.source):
            write_in_process(self.source, path, entry, ExportConfig(), trust=self._trust)
        else:
            entry.write(self.source, path, ExportConfig())
        return path

    @cached_property
    def graph(self) -> FloatGraph:
        """The graph of the float file, with its layers named."""
        state = {name: tensor.numpy() for name, tensor in self._state().items()}
        return read_graph(self.float_file, state)

    def layers(self, method: str, backend: Backend) -> list[str]:
        """The layers that a method puts into fewer bits, without those of ``--skip``.

        Raises: DlcliError where the method is not for the model, UsageError for a pattern that means no
        layer, or all.
        """
        found = self.suited(method, backend)
        known = [*found, *(n.name for n in self.graph.model.graph.node)] if backend != "torch" else found
        skipped = named_layers(known, parse_names(self.config.skip))
        kept = [name for name in found if name not in skipped]
        if not kept:
            raise UsageError(f"--skip {self.config.skip} leaves no layer for {method}")
        return kept

    def every_layer(self, backend: Backend) -> list[str]:
        """All layers with weights, for saying which stay in float."""
        if backend == "torch":
            return self.suited("weight-only", backend)
        return [layer.name for layer in self.graph.layers]

    def reach(self, method: str) -> float:
        """The share of the weights that a method of ONNX Runtime puts into fewer bits."""
        names = set(self.suited(method, "onnxruntime"))
        weights = {layer.name: layer.weights for layer in self.graph.layers}
        return sum(weights[name] for name in names) / sum(weights.values())

    def make(self, method: str, backend: Backend, layers: Collection[str], name: str) -> Path:
        """A file called ``name`` with ``layers`` in fewer bits. Raises: DlcliError."""
        path = self._place() / name
        record = self._record(method, backend, layers)
        card = self.source.card
        done = (*card.transforms, record, *self._remarks)
        card = card.model_copy(
            update={"transforms": done, "metrics": {}}
        )  # those were the float model's
        if backend == "torch":
            save_model(path, self.source.module(), card)
        else:
            onnx_file.write(self._quantized(method, layers), path, card)
        return path

    def note_metrics(self, path: Path, metrics: dict[str, dict[str, float]]) -> None:
        """Write into the card of a file of `make` what it was measured to reach, by split."""
        card = read_card(path).model_copy(update={"metrics": metrics})
        if path.suffix == ".safetensors":
            save_model(path, self.source.module(), card)
            return
        model, _ = onnx_file.load(path)
        if not onnx_file.has_files_beside(model):  # beyond 2 GB
            onnx_file.write(model, path, card)

    def _quantized(self, method: str, layers: Collection[str]) -> ModelProto:
        if method == "fp16":
            kept = {layer.name for layer in self.graph.layers} - set(layers)
            return halved(self.graph.copy(), kept)
        if method == "dynamic":
            model = quantize_dynamic(self.graph, layers)
        elif method == "static":
            model = quantize_static(self.graph, self._ranges, layers, self.target)
        else:
            model = quantize_weights(self.graph, layers, self.config.bits, self.config.group_size)
        hasten(model)
        return model

    def _record(self, method: str, backend: Backend, layers: Collection[str]) -> TransformRecord:
        config = self.config
        if backend == "torch":
            kept = set(self.every_layer(backend)) - set(layers)
            skip = [name for name in self._state() if name.rpartition(".")[0] in kept]
            if method == "weight-only":
                args = {"bits": config.bits, "group_size": config.group_size, "skip": skip}
                return TransformRecord(kind=transforms.GROUPS, args=args)
            dtype = "float16" if method == "fp16" else "bfloat16"
            return TransformRecord(kind=transforms.HALF, args={"dtype": dtype, "skip": skip})
        args = {"method": method, "backend": backend}
        args["float"] = [layer for layer in self.every_layer(backend) if layer not in layers]
        if method == "static":
            args |= {"target": self.target, "calibration": config.calibration}
            args["calibration_samples"] = self._calibrated_on
        if method == "weight-only":
            args |= {"bits": config.bits, "group_size": config.group_size}
        return TransformRecord(kind=transforms.QUANTIZE, args=args)

    def suited(self, method: str, backend: Backend) -> list[str]:
        """The layers that a method is for, and that it makes smaller or faster."""
        if backend == "torch":
            weights = (name for name, t in self._state().items() if t.is_floating_point() and t.ndim > 1)
            return list(dict.fromkeys(name.rpartition(".")[0] or name for name in weights))
        if method == "dynamic":
            found = dynamic_layers(self.graph)
        elif method in ("static", "qat"):
            found = static_layers(self.graph)
        elif method == "weight-only":
            found = weight_only_layers(self.graph, self.config.group_size)
        else:
            found = list(self.graph.layers)
        return [layer.name for layer in found]

    @cached_property
    def _ranges(self) -> Any:
        return calibrate(self.graph, self._feeds(), self.config.calibration, self.target)

    @cached_property
    def _calibration(self) -> tuple[Any, Any]:
        """The reader of the training split and the samples of it that calibrate."""
        measure, asked = self.settings.measure, self.config.calibration_samples
        wanted = EvalConfig(
            data=measure.data,
            data_dir=measure.data_dir,
            split="train",
            workers=measure.workers,
            offline=measure.offline,
        )
        try:
            reader = eval_data(self.source.card, self.source.path, wanted).reader
        except DlcliError as exc:
            raise NoCalibration(
                f"static int8 is calibrated on training samples, which cannot be reached: {exc.message}",
                hint="give --data FOLDER with a train split, or a --method without: dynamic, fp16",
            ) from exc
        if len(reader) < FEWEST_SAMPLES:
            raise DlcliError(
                f"there are {len(reader)} training samples to calibrate on: {_FEW}",
                hint="give --data FOLDER with more, or --method dynamic",
            )
        picked = np.linspace(0, len(reader) - 1, min(asked, len(reader))).round().astype(np.int64)
        return reader, np.unique(picked)

    @property
    def _calibrated_on(self) -> int:
        return len(self._calibration[1])

    def _feeds(self) -> Iterator[Feed]:
        """Training samples as the graph takes them, in small batches."""
        reader, picked = self._calibration
        task, seen = self.source.card.task, 0
        for start in range(0, len(picked), _BATCH):
            inputs, kept = reader.read(picked[start : start + _BATCH])
            if len(kept):
                seen += len(kept)
                yield prepare(trim(inputs, task), task)
            done = min(start + _BATCH, len(picked))
            self._emit(EvalProgress(split="calibration", done=done, total=len(picked)))
        if seen < FEWEST_SAMPLES:
            raise DlcliError(
                f"only {seen} of the {len(picked)} training samples to calibrate on can be read",
                hint="dlcli data PATH names the unreadable ones",
            )

    def _state(self) -> dict[str, Any]:
        state = self.source.module().state_dict()
        return {name: tensor.detach().cpu() for name, tensor in state.items()}

    def _place(self) -> Path:
        self._made += 1
        place = self._folder / f"{self._made:03d}"
        place.mkdir()
        return place


def check_options(config: QuantizeConfig) -> None:
    """Refuse what means nothing for any model, before any work. Raises: UsageError."""
    if config.method != "auto":
        backends_of(config.method, config.backend)
    if config.method in ("auto", "static", "qat") and config.calibration_samples < FEWEST_SAMPLES:
        raise UsageError(
            f"--calibration-samples {config.calibration_samples}: {_FEW}",
            hint="--calibration-samples 256, or --method dynamic",
        )


def backends_of(method: str, wanted: Backend | None) -> tuple[Backend, ...]:
    """Which backends run a method, of those wanted. Raises: UsageError for a pair that is not."""
    found = BACKENDS[method]
    if wanted is None or wanted in found:
        return found if wanted is None else (wanted,)
    able = ", ".join(name for name, backends in BACKENDS.items() if wanted in backends)
    raise UsageError(
        f"--method {method} --backend {wanted} does not exist: {_WHY_NOT[wanted]}",
        hint=f"--backend {found[0]}; for {wanted} there is {able}",
    )


def this_machine() -> Literal["x86", "arm"]:
    """The kind of processor here, as ``--target`` names it."""
    return "arm" if platform.machine().lower() in ("arm64", "aarch64") else "x86"
