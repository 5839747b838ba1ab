"""Quantize a model: try what suits it, keep the first that keeps the bound, and measure what it costs.

A candidate is held against the float model on the same samples. Where it loses more than ``--max-drop``
allows, layers are ranked by what each alone changes, and the worst stay in float; then the next method
is tried, and at last quantization-aware training. The best candidate is always written.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dlcli import transforms
from dlcli.card import TransformRecord
from dlcli.compress.quantize.onnx_graph import PRODUCTS
from dlcli.config import Bound, QuantizeSettings, parse_bound
from dlcli.deploy.compare import compare_files
from dlcli.deploy.export import check_target, folder_beside
from dlcli.deploy.quantize.result import Attempt, QuantizeResult, order, place
from dlcli.deploy.quantize.sensitivity import SAMPLES, Sensitivity, rank
from dlcli.deploy.quantize.variants import (
    BACKENDS,
    Backend,
    Candidates,
    NoCalibration,
    backends_of,
    check_options,
    check_source,
    this_machine,
)
from dlcli.deploy.reference import ReferenceEvaluator
from dlcli.errors import DlcliError, UsageError
from dlcli.events import Emit, Noted, ignore
from dlcli.formats.base import FORMATS, Artifact, ModelFile, open_artifact, read_card, recognize
from dlcli.runs.folder import RunFolder, run_of
from dlcli.training.finetune import Tuner

# What auto takes for a bound where none was said: it decides what is tried next, nothing else.
_GOAL = Bound(0.01, relative=True)
# Auto passes over a method that leaves more than half of the weights in float, as all do with GRU nets.
_LEAST_REACH = 0.5
_SUFFIX = {"onnxruntime": ".onnx", "torch": ".safetensors"}
_FORMAT = {"onnxruntime": "onnx", "torch": "safetensors"}
# Methods whose worst layers may stay in float. QAT has learned to live with its own.
_MIXED = ("dynamic", "static", "weight-only")


def quantize(
    path: Path,
    settings: QuantizeSettings,
    *,
    output: Path | None = None,
    tuner: Tuner,
    trust: bool = False,
    emit: Emit = ignore,
) -> QuantizeResult:
    """Write a quantized copy of a model beside it, or at ``output``, and measure it.

    The source is not touched, and nothing is left where it fails. Raises: DlcliError where the model or
    the data are not for it, UsageError for options that mean nothing here.
    """
    config = settings.quantize
    bound = parse_bound(config.max_drop)
    check_options(config)
    source = open_artifact(path, device="cpu", trust=trust)
    check_source(source)
    reference = ReferenceEvaluator(source, settings.measure, emit)
    unknown = reference.split == "random"
    if bound is not None and unknown:
        raise DlcliError(
            f"--max-drop {config.max_drop} cannot be held without data: {reference.note}",
            hint="give --data, or leave --max-drop out",
        )
    remarks = (
        [TransformRecord(kind=transforms.UNVERIFIED, args={"reason": reference.note})] if unknown else []
    )
    with folder_beside(output or path) as folder:
        made = Candidates(source, settings, folder, remarks=remarks, trust=trust, emit=emit)
        job = _Job(source, settings, made, reference, tuner, bound, output, emit)
        return job.run(folder, trust=trust)


class _Job:
    """One quantization: the attempts so far, and what is the same for all of them."""

    def __init__(
        self,
        source: Artifact,
        settings: QuantizeSettings,
        made: Candidates,
        reference: ReferenceEvaluator,
        tuner: Tuner,
        bound: Bound | None,
        output: Path | None,
        emit: Emit,
    ) -> None:
        self.source, self.settings, self.made = source, settings, made
        self.reference, self.tuner, self.bound = reference, tuner, bound
        self.output, self.emit = output, emit
        self.auto = settings.quantize.method == "auto"
        self.attempts: list[Attempt] = []
        self.refused: dict[str, str] = {}
        self.ranking: list[Sensitivity] = []

    def run(self, folder: Path, *, trust: bool) -> QuantizeResult:
        """Try, choose, place and measure."""
        plan = self._plan()
        for method, backend in plan:
            self._target(method, backend, None)  # a name that is taken is refused before any work
        self._try(plan, folder)
        if not self.attempts:
            said = "; ".join(f"{method}: {why}" for method, why in self.refused.items())
            raise DlcliError(f"no method is for {self.source.path}: {said}")
        chosen = min(self.attempts, key=order)
        if self.settings.quantize.report == "sensitivity" and not self.ranking:
            self._rank(*plan[0])
        measured = self.reference.split != "random" and self.settings.measure.samples is None
        if measured and chosen.run is None:
            self.made.note_metrics(chosen.file, {self.reference.split: chosen.delta.metrics})
        target = self._target(chosen.method, chosen.backend, chosen.run)
        place(chosen.file, target)
        torch_file = chosen.backend == "torch"
        comparison = compare_files(
            self.source.file if torch_file else recognize(self.made.float_file),
            ModelFile(target, FORMATS.get(_FORMAT[chosen.backend])),
            self.reference,
            self.settings.measure,
            delta=chosen.delta,
            trust=trust,
            emit=self.emit,
        )
        # The float file is gone in a moment; it is the source in another form.
        named = replace(comparison.before, artifact=str(self.source.path))
        return QuantizeResult(
            source=self.source.path,
            output=target,
            chosen=chosen,
            comparison=replace(comparison, before=named),
            attempts=tuple(self.attempts),
            refused=self.refused,
            sensitivity=tuple(self.ranking),
            notes=tuple(self._notes(chosen)),
            missed=self._missed(chosen),
        )

    def _plan(self) -> list[tuple[str, Backend]]:
        """The methods to try in order of cost, each with its backend."""
        config = self.settings.quantize
        if not self.auto:
            able = backends_of(config.method, config.backend)
            if config.method == "weight-only" and len(able) > 1 and not self._is_made_of_products():
                return [("weight-only", "torch")]
            return [(config.method, able[0])]
        if config.backend == "torch":
            return [(name, "torch") for name in BACKENDS if "torch" in BACKENDS[name]]
        # The cheapest that can be fast, what needs calibration, what trains (only under a bound: it is a
        # run of its own), and last what is no faster but loses nothing.
        first = ["static"] if self.made.graph.family == "conv" else ["dynamic", "static", "weight-only"]
        trained = ["qat"] if self.bound is not None else []
        return [(name, "onnxruntime") for name in [*first, *trained, "fp16"]]

    def _is_made_of_products(self) -> bool:
        """Whether ONNX Runtime takes most weights in groups; else torch's file is far smaller."""
        try:
            graph = self.made.graph
        except DlcliError:  # it cannot be exported: torch stores any model
            return False
        total = sum(layer.weights for layer in graph.layers)
        return sum(layer.weights for layer in graph.of(*PRODUCTS, "Gather")) >= _LEAST_REACH * total

    def _try(self, plan: Sequence[tuple[str, Backend]], folder: Path) -> None:
        goal = self.bound or (_GOAL if self.auto and self.reference.split != "random" else None)
        for method, backend in plan:
            try:
                for attempt in self._attempts(method, backend, goal, folder):
                    self._add(attempt)
                    if goal is None or attempt.kept_bound:
                        return
            except UsageError:
                raise
            except DlcliError as exc:
                # Passed over for want of data, float16 would be called what suits a conv net.
                if not self.auto or (isinstance(exc, NoCalibration) and not self.attempts):
                    raise
                self.refused[method] = exc.message
                self.emit(Noted(f"{method} is passed over: {exc.message}"))

    def _attempts(
        self, method: str, backend: Backend, goal: Bound | None, folder: Path
    ) -> Iterator[Attempt]:
        if method == "qat":
            yield self._train(goal, folder)
            return
        layers = self.made.layers(method, backend)
        if self.auto and backend == "onnxruntime" and self.made.reach(method) < _LEAST_REACH:
            share = f"{self.made.reach(method):.0%} of the weights"
            raise DlcliError(f"ONNX Runtime has int8 kernels for {share} alone")
        self.emit(Noted(f"trying {method}: {_layers(len(layers))}"))
        yield self._attempt(method, backend, layers, goal)
        if method not in _MIXED or len(layers) < 2:
            return
        ranking = self._rank(method, backend)
        count = 1
        while count <= len(ranking) // 2:
            left = {name for one in ranking[:count] for name in one.layers}
            kept = [name for name in layers if name not in left]
            self.emit(Noted(f"trying {method} with {len(left)} of {len(layers)} layers in float"))
            yield self._attempt(method, backend, kept, goal)
            count *= 2

    def _attempt(
        self, method: str, backend: Backend, layers: Sequence[str], goal: Bound | None
    ) -> Attempt:
        file = self.made.make(method, backend, layers, self._name(method, backend))
        opened = open_artifact(file, device="cpu", trust=True)
        delta = self.reference.evaluate(opened)
        left = tuple(name for name in self.made.every_layer(backend) if name not in layers)
        return Attempt(
            method=method,
            backend=backend,
            file=file,
            size_bytes=opened.size,
            delta=delta,
            kept_bound=delta.within(goal),
            layers_in_float=left,
            unsuited=self._unsuited(method, backend),
        )

    def _train(self, goal: Bound | None, folder: Path) -> Attempt:
        from dlcli.deploy.quantize.qat import qat

        place = folder / "qat"
        place.mkdir()
        found = qat(self.source, self.settings, self.tuner, place, self.emit)
        opened = open_artifact(found.path, device="cpu", trust=True)
        delta = self.reference.evaluate(opened)
        learned = {
            name
            for record in opened.card.transforms
            if record.kind == transforms.FAKE_QUANT
            for name, _ in record.args["layers"]
        }
        every = self.made.every_layer("onnxruntime")
        return Attempt(
            method="qat",
            backend="onnxruntime",
            file=found.path,
            size_bytes=opened.size,
            delta=delta,
            kept_bound=delta.within(goal),
            layers_in_float=tuple(name for name in every if name not in learned),
            unsuited=self._unsuited("qat", "onnxruntime"),
            run=found.run,
        )

    def _unsuited(self, method: str, backend: Backend) -> tuple[str, ...]:
        suited = set(self.made.suited(method, backend))
        return tuple(name for name in self.made.every_layer(backend) if name not in suited)

    def _rank(self, method: str, backend: Backend) -> list[Sensitivity]:
        """The ranking of a method's layers; that of QAT is of the static scheme it trains for."""
        like = "static" if method == "qat" else method
        self.ranking = rank(
            self.source,
            lambda layers: self.made.make(like, backend, layers, self._name(like, backend)),
            self.made.layers(like, backend),
            self.reference.inputs(SAMPLES),
            self.emit,
        )
        return self.ranking

    def _add(self, attempt: Attempt) -> None:
        """Note an attempt; of two files the worse is removed, since models may be large."""
        best = min(self.attempts, key=order, default=None)
        self.attempts.append(attempt)
        if best is not None:
            shutil.rmtree(max((best, attempt), key=order).file.parent)

    def _name(self, method: str, backend: Backend) -> str:
        bits = self.settings.quantize.bits
        said = {"weight-only": f"int{bits}-weight", "fp16": "fp16", "bf16": "bf16"}
        tag = said.get(method, f"int8-{method}")
        return f"{self.source.path.stem}.{tag}{_SUFFIX[backend]}"

    def _target(self, method: str, backend: Backend, run: RunFolder | None) -> Path:
        """Where a result goes: beside its source, or into the run that trained it."""
        folder = self.source.path.parent if run is None else run.path
        target = self.output or folder / self._name(method, backend)
        check_target(self.source.path, target, FORMATS.get(_FORMAT[backend]))
        if target.exists():
            kinds: set[str] = set()
            with suppress(DlcliError):
                kinds = {record.kind for record in read_card(target).transforms}
            if not kinds & transforms.NOT_FLOAT:
                raise UsageError(
                    f"{target} exists and is no quantized model", hint="choose another name: --output"
                )
        return target

    def _notes(self, chosen: Attempt) -> Iterator[str]:
        wanted, here = self.made.target, this_machine()
        if chosen.method in ("static", "qat") and wanted != here:
            yield f"made for {wanted} and measured on {here}: its speed there is another"

    def _missed(self, chosen: Attempt) -> str | None:
        if self.bound is None or chosen.delta.within(self.bound):
            return None
        delta, asked = chosen.delta, self.settings.quantize.max_drop
        return (
            f"{delta.metric} got worse by {delta.drop:.4f}, where --max-drop {asked} allows "
            f"{self.bound.allowed(delta.before):.4f} (the best of {len(self.attempts)} candidates)"
        )


def plots_folder(path: Path) -> Path:
    """Where pictures of a model file go: into its run, else beside it."""
    run = run_of(path)
    return path.parent if run is None else run.plots


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"
