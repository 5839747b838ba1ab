"""What `ship` will try, in its order and within its time: known before anything is trained.

The order is that of the costs: what needs no training first. An attempt may depend on another one's
drop: more is pruned where less kept the bound, and less where it did not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from dlcli.compress.quantize.base import in_auto_order
from dlcli.compress.quantize.onnx_graph import Family
from dlcli.deploy.ship.targets import Target
from dlcli.wording import plural

# Shares of the channels that are removed: the first, then more and more, or less.
_FIRST, _MORE, _LESS = 0.5, (0.7, 0.85), 0.3
FLOAT = "float"  # no method of quantization: the file of an export

INT8 = "auto"  # the first method of quantization that suits a model

ModelKind = Literal["original", "pruned", "distilled"]
_WORDS = {
    FLOAT: "float32",
    INT8: "int8",
    "static": "static int8",
    "dynamic": "dynamic int8",
    "qat": "int8 by training",
}


@dataclass(frozen=True)
class Condition:
    """Only where the bound on the drop holds for the attempt of this label, or where it does not."""

    label: str
    holds: bool


@dataclass(frozen=True)
class PlannedAttempt:
    """One file that will be written and measured.

    ``method`` is one of `quantize`, or `FLOAT`. ``amount`` is the share of the channels that is pruned,
    ``student`` the model of the zoo that is trained with the original as its teacher. ``epochs`` are
    those of the model's training before it. ``fixed_s`` is about what it takes without them, ``epoch_s``
    what each of them takes: 0 where an earlier attempt trains this model, None where it is not known.
    """

    kind: ModelKind
    method: str
    format: str = "onnx"
    variant: str = ""  # of the target's processor
    amount: float = 0.0
    student: str = ""
    epochs: int = 0
    fixed_s: float = 0.0
    epoch_s: float | None = 0.0
    condition: Condition | None = None

    @property
    def label(self) -> str:
        """Its short name: ``pruned50-static``."""
        parts = [self._model_name, "int8" if self.method == INT8 else self.method]
        return "-".join([*parts, *([] if self.format == "onnx" else [self.format])])

    @property
    def name(self) -> str:
        """The label, and what else its file depends on: the processor, the epochs of training."""
        parts = [self.label, *([self.variant] if self.variant else [])]
        return "-".join([*parts, *([f"{self.epochs}ep"] if self.epochs else [])])

    @property
    def run_name(self) -> str:
        """The name of the run that trains its model: one for all its files, but where it is for int8."""
        return self.name if self.kind == "original" else f"{self._model_name}-{self.epochs}ep"

    @property
    def _model_name(self) -> str:
        amount = f"{100 * self.amount:g}" if self.amount else ""
        return f"{self.kind}{amount}" + (f"-{self.student}" if self.student else "")

    @property
    def model(self) -> tuple[ModelKind, float, str]:
        """What its model is, whatever its file."""
        return self.kind, self.amount, self.student

    @property
    def estimate_s(self) -> float | None:
        """About how long it takes; None where the time of an epoch is not known."""
        if not self.epochs:
            return self.fixed_s
        return None if self.epoch_s is None else self.fixed_s + self.epochs * self.epoch_s

    def describe(self) -> str:
        """What is done, in words."""
        parts = [f"pruned by {self.amount:.0%}"] if self.kind == "pruned" else []
        parts += [f"{self.student} with it as teacher"] if self.student else []
        parts += [plural(self.epochs, "epoch")] if self.epochs else []
        parts.append(_WORDS.get(self.method, self.method))
        return ", ".join(parts) + ("" if self.format == "onnx" else f" ({self.format})")


class Student(BaseModel):
    """A smaller model of the zoo; ``epoch_s`` is about what an epoch of it takes with its teacher."""

    model_config = ConfigDict(frozen=True)

    name: str
    epochs: int
    epoch_s: float | None


class Facts(BaseModel):
    """What a plan is made of.

    ``family`` is None where there is nothing to quantize; ``trainable`` is whether there are weights
    that torch can use; ``epochs`` those of fine-tuning after pruning, and for int8; ``fixed_s`` what an
    attempt takes without training. ``core_wait`` is the share of the time of these measurements in which
    this process was ready to run and other programs had the cores.
    """

    model_config = ConfigDict(frozen=True)

    family: Family | None
    trainable: bool
    epochs: tuple[int, int]
    epoch_s: float | None
    fixed_s: float
    core_wait: float = 0.0
    students: tuple[Student, ...] = ()


@dataclass(frozen=True)
class ShipPlan:
    """The attempts that fit into the time, and those that do not."""

    attempts: tuple[PlannedAttempt, ...]
    left_out: tuple[PlannedAttempt, ...] = ()

    @property
    def seconds(self) -> float | None:
        """About how long all of it takes at most; None where that is not known."""
        known = all(attempt.estimate_s is not None for attempt in self.attempts)
        return planned_seconds(self.attempts) if known else None


def make_plan(
    facts: Facts,
    target: Target,
    max_time_s: float | None,
    finished: Callable[[PlannedAttempt], bool] = lambda attempt: False,
) -> ShipPlan:
    """Return what is tried for a target within the time; a model may get fewer epochs to fit.

    What is ``finished`` is always part of it and takes no time. The time that this saves gives no model
    more epochs than it had at first: training that has begun goes on.
    """
    candidates = _candidates(facts, target)
    first = _fill(candidates, max_time_s, {}, lambda attempt: False)
    return _fill(candidates, max_time_s, {one.label: one.epochs for one in first.attempts}, finished)


def _fill(
    candidates: Sequence[PlannedAttempt],
    max_time_s: float | None,
    most: Mapping[str, int],
    finished: Callable[[PlannedAttempt], bool],
) -> ShipPlan:
    """The plan of what fits, where no attempt gets more epochs than ``most`` says by its label."""
    planned: list[PlannedAttempt] = []
    left_out: list[PlannedAttempt] = []
    for candidate in candidates:
        epochs = most.get(candidate.label, candidate.epochs)
        whole, attempt = candidate, replace(candidate, epochs=epochs)
        if trained := next((one for one in planned if one.epochs and one.model == attempt.model), None):
            whole = attempt = replace(attempt, epochs=trained.epochs, epoch_s=0.0)
        done = _done(whole, most.get(candidate.label, min(1, candidate.epochs)), finished)
        fitted = done or _fitted(attempt, planned, max_time_s)
        labels = {one.label for one in planned}
        if fitted is None or (attempt.condition is not None and attempt.condition.label not in labels):
            left_out.append(attempt)
        else:
            planned.append(fitted)
    return ShipPlan(tuple(planned), tuple(left_out))


def planned_seconds(attempts: Sequence[PlannedAttempt]) -> float:
    """About how long attempts take at most: of those that exclude each other, the longer.

    An epoch whose time is not known counts as none: it is limited while it is spent.
    """
    total = 0.0
    branches: dict[str, dict[bool, float]] = {}
    for attempt in attempts:
        seconds = attempt.fixed_s + attempt.epochs * (attempt.epoch_s or 0.0)
        if attempt.condition is None:
            total += seconds
        else:
            both = branches.setdefault(attempt.condition.label, {True: 0.0, False: 0.0})
            both[attempt.condition.holds] += seconds
    return total + sum(max(both.values()) for both in branches.values())


def _done(
    attempt: PlannedAttempt, least: int, finished: Callable[[PlannedAttempt], bool]
) -> PlannedAttempt | None:
    """The attempt with the most epochs that is finished, at ``least`` so many; it takes no time."""
    for epochs in range(attempt.epochs, least - 1, -1):
        done = replace(attempt, epochs=epochs, fixed_s=0.0, epoch_s=0.0)
        if finished(done):
            return done
    return None


def _fitted(
    attempt: PlannedAttempt, before: Sequence[PlannedAttempt], max_time_s: float | None
) -> PlannedAttempt | None:
    """The attempt, or the same with fewer epochs; None where it does not fit."""
    total = planned_seconds([*before, attempt])
    if max_time_s is None or total <= max_time_s:
        return attempt
    if not attempt.epochs or not attempt.epoch_s:
        return None
    epochs = attempt.epochs - math.ceil((total - max_time_s) / attempt.epoch_s)
    return replace(attempt, epochs=epochs) if epochs >= 1 else None


def _candidates(facts: Facts, target: Target) -> list[PlannedAttempt]:
    """All attempts, the cheapest first."""
    attempts = [_cheap(facts, target, FLOAT, format=name) for name in target.formats]
    if facts.family is None:
        return attempts
    methods = ["fp16"] if target.half else _methods(facts.family)
    attempts += [_cheap(facts, target, method) for method in methods]
    if not facts.trainable:
        return attempts
    smallest = attempts[len(target.formats)].label
    pruned = partial(_pruned, facts, target, methods[0])
    half = last = pruned(_FIRST)
    attempts += half
    for amount in _MORE:
        last = pruned(amount, Condition(last[0].label, holds=True))
        attempts += last
    attempts += pruned(_LESS, Condition(half[0].label, holds=False))
    if "static" in methods:
        epochs = {"epochs": facts.epochs[1], "epoch_s": facts.epoch_s}
        qat = _cheap(facts, target, "qat", condition=Condition(smallest, holds=False), **epochs)
        attempts.append(qat)
    for student in facts.students:
        method, values = methods[0] if target.half else INT8, student.model_dump(exclude={"name"})
        small = _cheap(facts, target, method, kind="distilled", student=student.name, **values)
        attempts.append(small)
    return attempts


def _pruned(
    facts: Facts, target: Target, method: str, amount: float, condition: Condition | None = None
) -> list[PlannedAttempt]:
    """A pruned model, quantized; and in the formats of the target that hold no int8."""
    common = {"kind": "pruned", "amount": amount, "condition": condition}
    common |= {"epochs": facts.epochs[0], "epoch_s": facts.epoch_s}
    others = [name for name in target.formats if name != "onnx"]
    return [
        _cheap(facts, target, method, **common),
        *(_cheap(facts, target, FLOAT, format=name, **common) for name in others),
    ]


def _cheap(facts: Facts, target: Target, method: str, **values: Any) -> PlannedAttempt:
    """An attempt that takes no training unless ``values`` say so."""
    differs = target.half or method in ("static", "qat", INT8)
    variant = target.variant if differs else ""
    values = {"kind": "original", "variant": variant, "fixed_s": facts.fixed_s, **values}
    return PlannedAttempt(method=method, **values)


def _methods(family: Family) -> list[str]:
    """The methods of `quantize` without training that suit a family, the cheapest first."""
    return [
        method.name
        for method in in_auto_order()
        if method.backend == "onnxruntime" and family not in method.auto_except and not method.trains
    ]
