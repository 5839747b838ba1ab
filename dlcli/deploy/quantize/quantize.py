"""Quantize a model: try what suits it, keep the first candidate within the bound, and measure it.

Every candidate is compared with the float model on the same samples. When one drops more than
``--max-drop`` allows, the most sensitive layers stay in float; then the next method is tried, and
quantization-aware training near the end. The best candidate is always kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dlcli import transforms
from dlcli.card import TransformRecord
from dlcli.compress.quantize.base import (
    Backend,
    QuantizeMethod,
    backends_of,
    in_auto_order,
    method_of,
)
from dlcli.compress.quantize.onnx_graph import PRODUCTS
from dlcli.config import Bound, QuantizeSettings, parse_bound
from dlcli.deploy.compare import Comparison, compare_files
from dlcli.deploy.export import staging_folder
from dlcli.deploy.quantize.calibration import CalibrationUnavailable
from dlcli.deploy.quantize.methods import (
    check_method,
    check_options,
    check_source,
    cpu_target,
    is_graph,
    may_calibrate,
)
from dlcli.deploy.quantize.output import check_output, file_name, format_of, publish_quantized
from dlcli.deploy.quantize.result import QuantizeCandidate, QuantizeResult
from dlcli.deploy.quantize.sensitivity import SAMPLES, LayerSensitivity, layer_sensitivity
from dlcli.deploy.quantize.variants import VariantBuilder
from dlcli.deploy.reference import ReferenceEvaluator
from dlcli.deploy.search import BoundSearch
from dlcli.errors import DlcliError, UsageError
from dlcli.events import Emit, Noted, ignore
from dlcli.formats.base import Artifact, ModelFile, open_artifact, read_card, recognize
from dlcli.runs.folder import RunFolder, as_typed, run_of
from dlcli.training.finetune import Finetuner
from dlcli.wording import plural

# The bound of --method auto when none is given: it decides what is tried next, nothing else.
_AUTO_BOUND = Bound(0.01, relative=True)
# --method auto passes over a method that covers less of the weights, as all do for GRU models.
_MIN_COVERAGE = 0.5


def quantize(
    model: Path | ModelFile,
    settings: QuantizeSettings,
    *,
    output: Path | None = None,
    finetuner: Finetuner,
    trust: bool = False,
    emit: Emit = ignore,
) -> QuantizeResult:
    """Write a quantized copy of a model next to it, or at ``output``, and measure it.

    The source stays as it is, and a failure leaves no file. A run of quantization-aware training, such
    as one that was killed and resumed, is written as it is and compared with its original.

    Raises: DlcliError where the model or the data do not suit, UsageError for options that do not apply.
    """
    config = settings.quantize
    bound = parse_bound(config.max_drop)
    check_options(config)
    source, trained = open_artifact(model, device="cpu", trust=trust), None
    path = source.path
    if transforms.simulates_int8(source.card):
        from dlcli.deploy.quantize.qat import original_of

        trained, settings = source, _for_training(settings)
        source = open_artifact(original_of(trained), device="cpu", trust=trust)
    check_source(source)
    check_method(source, settings)
    reference = ReferenceEvaluator(source, settings.measure, emit, divide=may_calibrate(config.method))
    annotations = []
    if reference.split == "random":
        if bound is not None:
            raise DlcliError(
                f"--max-drop {config.max_drop} cannot be measured without data: {reference.note}",
                hint="give --data, or leave --max-drop out",
            )
        reason = {"reason": reference.note}
        annotations.append(TransformRecord(kind=transforms.UNVERIFIED, args=reason))
    # The name of the file is that of the method which is chosen, so far only its folder is known.
    with staging_folder(output or path, destination=output or path.parent) as folder:
        builder = VariantBuilder(
            source, settings, folder, annotations=annotations, trust=trust, emit=emit
        )
        job = _QuantizeJob(source, settings, builder, reference, finetuner, bound, output, emit, trained)
        return job.run(folder, trust=trust)


def _for_training(settings: QuantizeSettings) -> QuantizeSettings:
    """The settings for a model that was trained for int8. Raises: UsageError for another method."""
    name = next(method.name for method in in_auto_order() if method.trains)
    if settings.quantize.method not in ("auto", name):
        raise UsageError(
            f"--method {settings.quantize.method}: this model was trained for int8 already",
            hint="leave --method out, or quantize its original",
        )
    config = settings.quantize.model_copy(update={"method": name})
    return settings.model_copy(update={"quantize": config})


class _QuantizeJob:
    """The search for one quantized file. ``trained`` is a model that simulates int8 already."""

    def __init__(
        self,
        source: Artifact,
        settings: QuantizeSettings,
        builder: VariantBuilder,
        reference: ReferenceEvaluator,
        finetuner: Finetuner,
        bound: Bound | None,
        output: Path | None,
        emit: Emit,
        trained: Artifact | None,
    ) -> None:
        self.trained = trained
        self.source, self.settings, self.builder = source, settings, builder
        self.reference, self.finetuner, self.bound = reference, finetuner, bound
        self.output, self.emit = output, emit
        self.auto = settings.quantize.method == "auto"
        use_default = self.auto and reference.split != "random"
        self.search_bound = bound or (_AUTO_BOUND if use_default else None)
        # Of two files the worse is removed at once, since models may be large.
        self.search = BoundSearch[QuantizeCandidate](
            rank=_rank, discard=lambda worse: shutil.rmtree(worse.file.parent)
        )
        self.refused: dict[str, str] = {}
        self.sensitivity: list[LayerSensitivity] = []

    def run(self, folder: Path, *, trust: bool) -> QuantizeResult:
        """Try methods until one is within the bound, publish the best file and measure it."""
        methods = self._methods()
        for method, backend in methods:
            self._target(method, backend, None)  # a name that is taken is refused before any work
        self._try(methods, folder)
        chosen = self.search.best
        if chosen is None:
            reasons = "; ".join(f"{method}: {reason}" for method, reason in self.refused.items())
            raise DlcliError(f"no method suits {self.source.path}: {reasons}")
        if self.settings.quantize.report == "sensitivity" and not self.sensitivity:
            self._measure_sensitivity(*methods[0])
        whole_split = self.reference.split != "random" and self.settings.measure.samples is None
        if whole_split and chosen.run is None:
            self.builder.write_metrics(chosen.file, {self.reference.split: chosen.delta.metrics})
        target = self._target(chosen.method, chosen.backend, chosen.run)
        publish_quantized(chosen.file, target)
        return QuantizeResult(
            source=self.source.path,
            output=target,
            chosen=chosen,
            comparison=self._compare(chosen, target, trust=trust),
            candidates=tuple(self.search.candidates),
            refused=self.refused,
            sensitivity=tuple(self.sensitivity),
            notes=tuple(self._notes(chosen)),
            missed=self._missed(chosen),
        )

    def _compare(self, chosen: QuantizeCandidate, target: Path, *, trust: bool) -> Comparison:
        torch_file = chosen.backend == "torch"
        comparison = compare_files(
            self.source.file if torch_file else recognize(self.builder.float_file),
            ModelFile(target, format_of(chosen.backend)),
            self.reference,
            self.settings.measure,
            delta=chosen.delta,
            untimed=self._untimed(target),
            trust=trust,
            emit=self.emit,
        )
        # The float ONNX file is temporary; the comparison names the source that it was written from.
        before = replace(comparison.before, artifact=str(self.source.path))
        return replace(comparison, before=before)

    def _untimed(self, target: Path) -> str:
        """Why the file is not timed on this processor; "" where it is."""
        if self.builder.target != "tensorrt":
            return ""
        return f"dlcli benchmark {as_typed(target)} --device tensorrt times it on a GPU"

    def _methods(self) -> list[tuple[str, Backend]]:
        """Return the methods to try, the cheapest first, each with its backend."""
        config = self.settings.quantize
        if not self.auto:
            if is_graph(self.source):
                return [(config.method, "onnxruntime")]
            backends = backends_of(config.method, config.backend)
            only_matmul = method_of(config.method, backends[0]).matmul_only
            if only_matmul and len(backends) > 1 and not self._is_mostly_matmul():
                return [(config.method, backends[1])]
            return [(config.method, backends[0])]
        if config.backend == "torch":
            return [(m.name, m.backend) for m in in_auto_order() if m.backend == "torch"]
        # What needs no training first; QAT only under a bound, since it is a run of its own; and last
        # fp16, which is no faster but loses nothing.
        family = self.builder.graph.family
        trains = self.bound is not None and not is_graph(self.source)
        if self.bound is not None and not trains:
            self.emit(Noted("no quantization-aware training: an ONNX file holds no trainable weights"))
        return [
            (m.name, m.backend)
            for m in in_auto_order()
            if m.backend == "onnxruntime" and family not in m.auto_except and (trains or not m.trains)
        ]

    def _is_mostly_matmul(self) -> bool:
        """Whether ONNX Runtime can quantize most weights in groups; if not, torch's file is smaller."""
        try:
            graph = self.builder.graph
        except DlcliError:  # it cannot be exported: torch stores any model
            return False
        total = sum(layer.weights for layer in graph.layers)
        return sum(layer.weights for layer in graph.of(*PRODUCTS, "Gather")) >= _MIN_COVERAGE * total

    def _try(self, methods: Sequence[tuple[str, Backend]], folder: Path) -> None:
        for method, backend in methods:
            try:
                if self.search.try_in_order(self._candidates(method, backend, folder)):
                    return
            except UsageError:
                raise
            except DlcliError as exc:
                # Without data, fp16 would be called the method that suits a convolutional network.
                no_data = isinstance(exc, CalibrationUnavailable) and self.search.best is None
                if not self.auto or no_data:
                    raise
                self.refused[method] = exc.message
                self.emit(Noted(f"{method} is skipped: {exc.message}"))

    def _candidates(self, method: str, backend: Backend, folder: Path) -> Iterator[QuantizeCandidate]:
        """Yield candidates of a method, with more and more of the sensitive layers in float."""
        entry = method_of(method, backend)
        if entry.trains:
            yield self._train(entry, folder)
            return
        layers = self.builder.layers(method, backend)
        if self.auto and backend == "onnxruntime":
            coverage = self.builder.coverage(method)
            if coverage < _MIN_COVERAGE:
                raise DlcliError(f"ONNX Runtime has int8 kernels for only {coverage:.0%} of the weights")
        self.emit(Noted(f"trying {method}: {plural(len(layers), 'layer')}"))
        yield self._candidate(method, backend, layers)
        if not entry.sensitive_in_float or len(layers) < 2:
            return
        sensitivity = self._measure_sensitivity(method, backend)
        count = 1
        while count <= len(sensitivity) // 2:
            in_float = {name for entry in sensitivity[:count] for name in entry.layers}
            quantized = [name for name in layers if name not in in_float]
            self.emit(Noted(f"trying {method} with {len(in_float)} of {len(layers)} layers in float"))
            yield self._candidate(method, backend, quantized)
            count *= 2

    def _candidate(self, method: str, backend: Backend, layers: Sequence[str]) -> QuantizeCandidate:
        file = self.builder.build(method, backend, layers, self._file_name(method, backend))
        return self._evaluated(method, backend, file, layers)

    def _train(self, method: QuantizeMethod, folder: Path) -> QuantizeCandidate:
        from dlcli.deploy.quantize.qat import qat, write_int8

        own_folder = folder / method.name
        own_folder.mkdir()
        path = own_folder / self._file_name(method.name, method.backend)
        run: RunFolder | None
        if self.trained is None:
            run = qat(self.source, method, self.settings, self.finetuner, path, self.emit).run
        else:
            write_int8(self.trained, method, path, self.settings)
            run = run_of(self.trained.path)
        record = transforms.find_record(read_card(path).transforms, transforms.FAKE_QUANT)
        layers = [] if record is None else [name for name, _ in record.args["layers"]]
        return self._evaluated(method.name, method.backend, path, layers, run)

    def _evaluated(
        self,
        method: str,
        backend: Backend,
        file: Path,
        layers: Sequence[str],
        run: RunFolder | None = None,
    ) -> QuantizeCandidate:
        artifact = open_artifact(file, device="cpu", trust=True)
        delta = self.reference.evaluate(artifact)
        suited = set(self.builder.suited_layers(method, backend))
        all_layers = self.builder.all_layers(backend)
        return QuantizeCandidate(
            delta=delta,
            size_bytes=artifact.size,
            within_bound=delta.within(self.search_bound),
            method=method,
            backend=backend,
            file=file,
            layers_in_float=tuple(name for name in all_layers if name not in layers),
            unsuited=tuple(name for name in all_layers if name not in suited),
            run=run,
        )

    def _measure_sensitivity(self, method: str, backend: Backend) -> list[LayerSensitivity]:
        """Measure the layers of a method; those of one that trains by the method it trains for."""
        scheme = method_of(method, backend).trains_for or method
        file_name = self._file_name(scheme, backend)
        self.sensitivity = layer_sensitivity(
            self.source,
            lambda layers: self.builder.build(scheme, backend, layers, file_name),
            self.builder.layers(scheme, backend),
            self.reference.inputs(SAMPLES),
            self.emit,
        )
        return self.sensitivity

    def _file_name(self, method: str, backend: Backend) -> str:
        return file_name(self.source.path, method, backend, self.settings.quantize.bits)

    def _target(self, method: str, backend: Backend, run: RunFolder | None) -> Path:
        """Return the path of a result: next to its source, or in the run that trained it."""
        folder = self.source.path.parent if run is None else run.path
        target = self.output or folder / self._file_name(method, backend)
        check_output(self.source.path, target, backend)
        return target

    def _notes(self, chosen: QuantizeCandidate) -> Iterator[str]:
        target, here = self.builder.target, cpu_target()
        if method_of(chosen.method, chosen.backend).calibrates and target != here:
            yield f"quantized for {target} but measured on {here}, where its speed differs"
        if chosen.method == "static" and self.builder.config.reduce_range:
            yield "weights in 7 bits: int8 products saturate on x86 processors without VNNI"

    def _missed(self, chosen: QuantizeCandidate) -> str | None:
        if chosen.delta.within(self.bound):
            return None
        assert self.bound is not None  # without one, nothing misses it
        delta, max_drop = chosen.delta, self.settings.quantize.max_drop
        return (
            f"{delta.metric} got worse by {delta.drop:.4f}, where --max-drop {max_drop} allows "
            f"{self.bound.allowed(delta.before):.4f} "
            f"(the best of {len(self.search.candidates)} candidates)"
        )


def _rank(candidate: QuantizeCandidate) -> tuple[float, ...]:
    """Within the bound comes first, then the smallest drop, then the smallest file."""
    return (not candidate.within_bound, candidate.loss, candidate.size_bytes)
