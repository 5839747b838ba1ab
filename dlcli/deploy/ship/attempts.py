"""One attempt of `ship`: write a file by `export`, `prune` and `quantize`, measure it, and record that.

Each attempt is a file and a JSON record next to it. One that is recorded is not done again; the run of
one that was stopped goes on from its last state.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dlcli.benchmark.statistics import Ratio
from dlcli.compress.quantize.base import method_of
from dlcli.config import Bound, ExportSettings, PruneSettings, QuantizeSettings, ShipSettings
from dlcli.deploy.compare import compare_files
from dlcli.deploy.export import export, staging_folder
from dlcli.deploy.prune.prune import prune
from dlcli.deploy.quantize.quantize import quantize
from dlcli.deploy.reference import MetricDelta, ReferenceEvaluator
from dlcli.deploy.ship.plan import FLOAT, INT8, PlannedAttempt
from dlcli.deploy.ship.students import check_same_inputs, student_plan
from dlcli.deploy.ship.targets import Target
from dlcli.errors import BoundMissed, DlcliError
from dlcli.events import Emit
from dlcli.files import read_json, write_text
from dlcli.formats.base import FORMATS, Artifact, ModelFile, recognize
from dlcli.formats.publish import publish
from dlcli.runs.folder import RunFolder
from dlcli.runs.saved import read_run_of
from dlcli.settings import validate
from dlcli.training.finetune import Finetuner
from dlcli.training.plan import Plan


class Attempt(BaseModel):
    """A file that was written and measured, as its record has it.

    ``file`` is its name next to the record, ``recipe`` what it depends on besides its name. ``delta`` is
    against the original on val, ``speedup`` too, by batch size. ``tried`` is how many files quantization
    compared, with more and more layers in float, and ``own_drop`` the drop of the float model before it.
    ``latency_ms`` is empty where it was not timed, and ``untimed`` says why.
    """

    # An interval may have no ends; as null it could not be read back.
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    label: str
    how: str
    file: str
    format: str
    tried: int
    own_drop: float
    recipe: dict[str, Any]
    size_bytes: int
    params: int
    delta: MetricDelta
    latency_ms: dict[str, float]
    speedup: dict[str, Ratio]
    split: str
    samples: int
    device: str
    clock: str
    busy_cores: float
    untimed: str
    elapsed_s: float

    @property
    def call_ms(self) -> float | None:
        """Milliseconds of a call with the smallest batch that was timed; None where none was."""
        return self.latency_ms[min(self.latency_ms, key=int)] if self.latency_ms else None

    @property
    def faster(self) -> Ratio | None:
        """How many times faster than the original it is with the smallest batch."""
        return self.speedup[min(self.speedup, key=int)] if self.speedup else None


class AttemptRunner:
    """Does attempts on one model, in ``folder``; ``left_s`` is the time left, None without end."""

    def __init__(
        self,
        source: Artifact,
        reference: ReferenceEvaluator,
        settings: ShipSettings,
        target: Target,
        bound: Bound,
        folder: Path,
        finetuner: Finetuner,
        *,
        left_s: Callable[[], float | None],
        trust: bool,
        emit: Emit,
    ) -> None:
        self.source, self.reference, self.settings = source, reference, settings
        self.target, self.bound, self.folder = target, bound, folder
        self._finetuner, self._left_s, self._trust, self._emit = finetuner, left_s, trust, emit
        self._measure = settings.measure
        self._untimed = settings.measure.model_copy(update={"latency": False})

    def finished(self, planned: PlannedAttempt) -> Attempt | None:
        """Return an attempt that was done before with the same settings; None where there is none."""
        for attempt in self._recorded(planned).values():
            if attempt is not None and self._serves(attempt, planned):
                return attempt
        return None

    def _recorded(self, planned: PlannedAttempt) -> dict[str, Attempt | None]:
        """Attempts that were done, by their names: ``original-static``, with other settings ``-2`` too.

        The last name is free. None also where a record is damaged or its file is gone: it is done again.
        """
        recorded: dict[str, Attempt | None] = {}
        for number in count(1):
            name = f"{planned.name}-{number}" if number > 1 else planned.name
            path, recorded[name] = self.folder / f"{name}.json", None
            if not path.is_file():
                return recorded
            with suppress(ValidationError, DlcliError):
                attempt = Attempt.model_validate(read_json(path))
                recorded[name] = attempt if (self.folder / attempt.file).exists() else None
        raise AssertionError

    def _serves(self, attempt: Attempt, planned: PlannedAttempt) -> bool:
        """Whether an attempt is what the settings would give now.

        Under another --max-drop it is, where quantization would again keep its first file: that keeps
        the bound, or no bound is left after the drop of the model itself.
        """
        own = self._recipe(planned)
        if attempt.recipe == own:
            return True
        if attempt.tried > 1 or {**attempt.recipe, "max_drop": own["max_drop"]} != own:
            return False
        return attempt.delta.within(self.bound) or self._allowed(attempt.own_drop) <= 0

    def _allowed(self, own_drop: float) -> float:
        """The drop that is left to quantization."""
        return self.bound.allowed(self.reference.metrics[self.reference.metric]) - own_drop

    def run(self, planned: PlannedAttempt) -> Attempt:
        """Do an attempt, measure its file and record it. Raises: DlcliError, Interrupted."""
        t0 = time.monotonic()
        name = next(name for name, attempt in self._recorded(planned).items() if attempt is None)
        model, own_drop = self._model(planned)
        file, tried = self._write(planned, model, own_drop, name)
        comparison = compare_files(
            self.source.file,
            file,
            self.reference,
            self._measure,
            untimed="" if self.target.device else self.target.note,
            device=self.target.device or "cpu",
            trust=True,
            emit=self._emit,
        )
        attempt = Attempt(
            label=planned.label,
            how=planned.describe(),
            file=file.path.name,
            format=file.format.name,
            tried=tried,
            own_drop=own_drop,
            recipe=self._recipe(planned),
            size_bytes=file.size,
            params=file.card.params,
            delta=comparison.delta,
            latency_ms=comparison.after.latency_ms,
            speedup=comparison.speedup,
            split=comparison.split,
            samples=comparison.samples,
            device=comparison.device,
            clock=comparison.clock,
            busy_cores=comparison.busy_cores,
            untimed=comparison.untimed,
            elapsed_s=round(time.monotonic() - t0, 3),
        )
        write_text(self.folder / f"{name}.json", attempt.model_dump_json(indent=2) + "\n")
        return attempt

    def _recipe(self, planned: PlannedAttempt) -> dict[str, Any]:
        """What an attempt depends on besides its name and its folder."""
        measure = self.settings.measure
        names = ("latency", "batch_sizes", "rounds", "seconds", "threads")
        timing = {name: getattr(measure, name) for name in names}
        bound = self.settings.ship.max_drop if _has_bound(planned) else None
        return {"device": self.target.device, "max_drop": bound, **timing}

    def _model(self, planned: PlannedAttempt) -> tuple[ModelFile, float]:
        """Return the float model of an attempt, trained where that is needed, and its drop so far."""
        if planned.kind == "original":
            return self.source.file, 0.0
        if planned.kind == "distilled":
            return self._distilled(planned), 0.0
        settings = {
            "prune": {"method": "channel", "amount": str(planned.amount)},
            "finetune": self._finetune(planned),
            "measure": self._untimed.model_dump(),
        }
        result = prune(
            self.source.path,
            validate(PruneSettings, settings),
            name=planned.run_name,
            runs_dir=self.folder,
            finetuner=self._within_time,
            trust=self._trust,
            emit=self._emit,
        )
        return result.chosen.file, result.chosen.delta.drop

    def _distilled(self, planned: PlannedAttempt) -> ModelFile:
        """Return a student of the original. Raises: DlcliError where it reads other inputs."""
        run = read_run_of(self.source.path)
        assert run is not None  # else none is planned
        plan = student_plan(
            self.source,
            run,
            planned.student,
            planned.epochs,
            self.settings.finetune,
            self.settings.measure,
        )
        check_same_inputs(plan.task, self.source.card.task)
        return recognize(self._within_time(plan, planned.run_name).best)

    def _write(
        self, planned: PlannedAttempt, model: ModelFile, own_drop: float, name: str
    ) -> tuple[ModelFile, int]:
        """Write the file of an attempt from its float model; returns it, and how many were compared."""
        entry = FORMATS.get(planned.format)
        path = self.folder / f"{name}{entry.suffix}"
        if planned.method == FLOAT:
            if model.format.name == entry.name:  # an ONNX file, as it is
                with staging_folder(path) as folder:
                    shutil.copyfile(model.path, folder / path.name)
                    return publish(recognize(folder / path.name), path), 1
            exporting = ExportSettings(measure=self._untimed)
            result = export(
                model, path, entry, exporting, verify=True, trust=self._trust, emit=self._emit
            )
            if result.parity is not None and not result.parity.ok:
                raise BoundMissed(f"the exported file differs: {result.parity.missed[0]}")
            return recognize(result.output), 1
        allowed = self._allowed(own_drop)
        options: dict[str, Any] = {"method": planned.method, "backend": "onnxruntime"}
        if planned.method in ("static", "qat", INT8):
            options["target"] = self.target.processor
        if planned.method in ("static", INT8):
            options["reduce_range"] = self.target.reduce_range
        if allowed > 0 and _has_bound(planned):
            options["max_drop"] = str(allowed)
        settings = {
            "quantize": options,
            "finetune": self._finetune(planned) if planned.method == "qat" else {},
            "measure": self._untimed.model_dump(),
        }
        quantized = quantize(
            model.path,
            validate(QuantizeSettings, settings),
            output=path,
            finetuner=lambda plan, name: self._within_time(plan, planned.run_name),
            trust=self._trust,
            emit=self._emit,
        )
        return recognize(quantized.output), len(quantized.candidates)

    def _finetune(self, planned: PlannedAttempt) -> dict[str, Any]:
        """The user's settings of fine-tuning, with the epochs of the plan."""
        return {**self.settings.finetune.model_dump(exclude_unset=True), "epochs": planned.epochs}

    def _within_time(self, plan: Plan, name: str) -> RunFolder:
        """Train a plan, for as long as there is time."""
        left_s = self._left_s()
        if left_s is not None:
            fit = plan.config.fit.model_copy(update={"max_time": f"{max(left_s, 1.0):.0f}s"})
            plan = replace(plan, config=plan.config.model_copy(update={"fit": fit}))
        return self._finetuner(plan, name)


def _has_bound(planned: PlannedAttempt) -> bool:
    """Whether quantization keeps layers in float for --max-drop."""
    if planned.method in (FLOAT, INT8):
        return False
    return method_of(planned.method, "onnxruntime").sensitive_in_float
