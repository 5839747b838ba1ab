"""Ship a model: try what pays in the planned order, choose on val, and tell the figure on test."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from dlcli.config import QuantizeSettings, ShipSettings
from dlcli.config.durations import parse_time
from dlcli.deploy.prune.pipeline import EPOCHS_SHARE as PRUNING_SHARE
from dlcli.deploy.quantize.methods import check_source, is_graph
from dlcli.deploy.quantize.qat import EPOCHS_SHARE as QAT_SHARE
from dlcli.deploy.quantize.variants import VariantBuilder
from dlcli.deploy.reference import MetricDelta, ReferenceEvaluator
from dlcli.deploy.ship.attempts import Attempt, AttemptRunner
from dlcli.deploy.ship.choice import Bounds, best_of, bounds_of, pareto_of
from dlcli.deploy.ship.plan import Facts, PlannedAttempt, ShipPlan, make_plan
from dlcli.deploy.ship.students import students_of
from dlcli.deploy.ship.targets import Target, target_of
from dlcli.errors import DlcliError, Interrupted, UsageError
from dlcli.events import Emit, Event, Noted, Warned, ignore
from dlcli.files import CannotWrite, read_json, sha256_file, temporary_folder, write_text
from dlcli.formats.base import Artifact, open_artifact
from dlcli.machine.load import queue_wait_s
from dlcli.runs.folder import run_of
from dlcli.runs.locks import RunBusy
from dlcli.runs.saved import read_run_of
from dlcli.training.finetune import Finetuner, epoch_seconds, some_epochs
from dlcli.zoo.base import is_fitted_whole

# What ends the command; any other error ends an attempt.
_ENDS_ALL = (Interrupted, RunBusy, CannotWrite, UsageError)


@dataclass(frozen=True)
class Shipped:
    """What was tried and chosen.

    ``attempts`` are all that were measured, in their order, ``failed`` the reasons of those that gave
    no file by label, ``passed_over`` the labels that the plan's conditions, the bounds or the time left
    out. ``test`` compares the chosen file with the original on the test split, None without one.
    """

    source: Path
    target: Target
    bounds: Bounds
    plan: ShipPlan
    attempts: tuple[Attempt, ...]
    failed: dict[str, str]
    passed_over: dict[str, str]
    chosen: Attempt
    file: Path
    test: MetricDelta | None
    test_samples: int
    done_before: int
    elapsed_s: float

    @property
    def missed(self) -> list[str]:
        """The bounds that the chosen attempt misses, a sentence each."""
        return list(self.bounds.excesses(self.chosen))

    @property
    def pareto(self) -> list[Attempt]:
        return pareto_of(self.attempts)


@dataclass
class ShipJob:
    """One model on its way to a target. `plan` is what will be tried, `run` tries it."""

    source: Artifact
    settings: ShipSettings
    finetuner: Callable[[Path], Finetuner]
    trust: bool
    emit: Emit
    target: Target = field(init=False)
    bounds: Bounds = field(init=False)
    reference: ReferenceEvaluator = field(init=False)

    def __post_init__(self) -> None:
        """Raises: DlcliError for a model that cannot be shipped or whose data is gone; UsageError."""
        self.emit = once(self.emit)
        self.target, self.bounds = target_of(self.settings), bounds_of(self.settings.ship)
        if self.settings.finetune.epochs == 0:
            raise UsageError(
                "--epochs 0: ship fine-tunes what it prunes", hint="--epochs 1, or leave it out"
            )
        card = self.source.card
        self._fitted = is_fitted_whole(card.model.name, card.task.input.kind)
        if not self._fitted:
            check_source(self.source)
        t0, self._queued_s = time.monotonic(), queue_wait_s(main_only=True)
        self.reference = ReferenceEvaluator(self.source, self.settings.measure, self.emit)
        self._evaluation_s = time.monotonic() - t0
        if self.reference.split == "random":
            raise DlcliError(
                f"its data is needed to measure what each attempt loses: {self.reference.note}",
                hint="say where the data is now: --data FOLDER",
            )

    @cached_property
    def folder(self) -> Path:
        """The folder of all attempts on this model with these settings; they serve every target."""
        measure = self.settings.measure
        key = {
            "model": sha256_file(self.source.path),
            "finetune": self.settings.finetune.model_dump(exclude={"epochs"}),
            "data": [measure.data, measure.samples, self.reference.samples],
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return ship_folder(self.source.path) / f"attempts-{digest[:8]}"

    @cached_property
    def plan(self) -> ShipPlan:
        """Raises: DlcliError where the model cannot be exported; UsageError where nothing fits."""
        limit_s = parse_time(self.settings.ship.max_time)
        runner = self._runner(lambda: None)
        plan = make_plan(
            self.facts, self.target, limit_s, lambda attempt: runner.finished(attempt) is not None
        )
        if not plan.attempts:
            cheapest = min(attempt.fixed_s for attempt in plan.left_out)
            raise UsageError(
                f"--max-time {self.settings.ship.max_time}: the first attempt alone takes about "
                f"{cheapest:.0f} s",
                hint="give it more time",
            )
        return plan

    @cached_property
    def facts(self) -> Facts:
        """Facts that were written when the first attempt began, so that a plan stays; else new ones."""
        path, epochs = self.folder / "facts.json", self._epochs()
        if path.is_file():
            with suppress(ValidationError, DlcliError):  # damaged: it is measured again
                return Facts.model_validate(read_json(path)).model_copy(update={"epochs": epochs})
        run = read_run_of(self.source.path)
        measure, trainable = self.settings.measure, not (self._fitted or is_graph(self.source))
        t0 = time.monotonic()
        with temporary_folder() as folder:
            settings = QuantizeSettings()
            builder = VariantBuilder(self.source, settings, folder, trust=self.trust, emit=ignore)
            family = None if self._fitted else builder.graph.family
        start_s = time.monotonic() - t0
        queued_s, measured_s = queue_wait_s(main_only=True), self._evaluation_s + start_s
        waited_s = (queued_s or 0.0) - (self._queued_s or 0.0)  # None where it is not known
        # An attempt exports once, and starts two files to time them.
        starts = 2 if measure.latency else 1
        timed_s = 2 * len(measure.sizes) * measure.seconds if measure.latency else 0.0
        return Facts(
            family=family,
            trainable=trainable,
            epochs=epochs,
            epoch_s=epoch_seconds(run),
            fixed_s=round(starts * start_s + 2 * self._evaluation_s + timed_s, 1),
            core_wait=round(min(waited_s / max(measured_s, 1e-3), 1.0), 3),
            students=tuple(students_of(self.source, run)) if trainable and run is not None else (),
        )

    def _epochs(self) -> tuple[int, int]:
        run, epochs = read_run_of(self.source.path), self.settings.finetune.epochs
        pruning, int8 = (some_epochs(run, share) for share in (PRUNING_SHARE, QAT_SHARE))
        return (pruning, int8) if epochs is None else (epochs, epochs)

    def done_before(self) -> dict[str, Attempt]:
        """The attempts of the plan that are finished, by label."""
        runner = self._runner(lambda: None)
        done = {one.label: runner.finished(one) for one in self.plan.attempts}
        return {label: attempt for label, attempt in done.items() if attempt is not None}

    def run(self) -> Shipped:
        """Try what is planned and choose.

        Raises: DlcliError where no attempt gave a file, Interrupted.
        """
        self._begin()
        t0, done = time.monotonic(), self.done_before()
        limit_s = parse_time(self.settings.ship.max_time)

        def left_s() -> float | None:
            return None if limit_s is None else limit_s - (time.monotonic() - t0)

        runner, attempts = self._runner(left_s), dict[str, Attempt]()
        failed: dict[str, str] = {}
        passed_over: dict[str, str] = {}
        enough = ""
        for number, planned in enumerate(self.plan.attempts, 1):
            label, left = planned.label, left_s()
            why_not = _why_not(planned, attempts, self.bounds)
            if not why_not and label not in done:
                is_over = left is not None and left <= 0 and bool(attempts)
                why_not = enough or ("--max-time is over" if is_over else "")
            if why_not:
                passed_over[label] = why_not
                continue
            if label in done:
                attempts[label] = done[label]
            else:
                total = len(self.plan.attempts)
                self.emit(Noted(f"attempt {number} of {total}, {label}: {planned.describe()}"))
                try:
                    attempts[label] = runner.run(planned)
                except _ENDS_ALL:
                    raise
                except DlcliError as exc:
                    failed[label] = exc.message
                    self.emit(Noted(f"{label} gives no file: {exc.message}"))
                    continue
            if self.bounds.end_the_search and not self.bounds.excesses(attempts[label]):
                enough = f"{label} keeps all bounds"
        if not attempts:
            reasons = "; ".join(f"{label}: {reason}" for label, reason in failed.items())
            raise DlcliError(f"no attempt gave a file: {reasons}")
        chosen = best_of(list(attempts.values()), self.bounds)
        file = self.folder / chosen.file
        test, samples = self._on_test(file)
        return Shipped(
            source=self.source.path,
            target=self.target,
            bounds=self.bounds,
            plan=self.plan,
            attempts=tuple(attempts.values()),
            failed=failed,
            passed_over=passed_over,
            chosen=chosen,
            file=file,
            test=test,
            test_samples=samples,
            done_before=sum(label in done for label in attempts),
            elapsed_s=sum(one.elapsed_s for one in done.values()) + time.monotonic() - t0,
        )

    def _begin(self) -> None:
        """Create the folder of the attempts, with what the plan was made of."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if is_graph(self.source):
            self.emit(Noted("no pruning and no training: an ONNX file holds no trainable weights"))
        facts = self.folder / "facts.json"
        if not facts.is_file():
            write_text(facts, self.facts.model_dump_json() + "\n")

    def _on_test(self, file: Path) -> tuple[MetricDelta | None, int]:
        """Compare a file with the original on the test split, which chose nothing; None without one."""
        measure = self.settings.measure.model_copy(update={"split": "test", "samples": None})
        try:
            reference = ReferenceEvaluator(self.source, measure, self.emit)
        except UsageError:  # there is no such split
            return None, 0
        chosen = open_artifact(file, device="cpu", trust=True)
        return reference.evaluate(chosen), reference.samples

    def _runner(self, left_s: Callable[[], float | None]) -> AttemptRunner:
        return AttemptRunner(
            self.source,
            self.reference,
            self.settings,
            self.target,
            self.bounds.drop,
            self.folder,
            self.finetuner(self.folder),
            left_s=left_s,
            trust=self.trust,
            emit=self.emit,
        )


def _why_not(planned: PlannedAttempt, attempts: Mapping[str, Attempt], bounds: Bounds) -> str:
    """Why the plan's condition passes an attempt over; "" where it does not."""
    condition = planned.condition
    if condition is None:
        return ""
    other = attempts.get(condition.label)
    if other is None:
        return f"{condition.label} was not tried or gave no file"
    holds = bounds.keeps_drop(other)
    return (
        "" if holds == condition.holds else f"{other.label} {'keeps' if holds else 'misses'} --max-drop"
    )


def once(emit: Emit) -> Emit:
    """A sink without the warnings that it has had: each attempt reads the same data."""
    seen = set[str]()

    def filtered(event: Event) -> None:
        if not isinstance(event, Warned):
            emit(event)
        elif event.message not in seen:
            seen.add(event.message)
            emit(event)

    return filtered


def ship_folder(source: Path) -> Path:
    """The folder of what is shipped of a model: in its run, else next to it."""
    run = run_of(source)
    return source.with_name(f"{source.stem}-ship") if run is None else run.ship
