"""Prune and fine-tune in turn, and measure what came of it against the model before.

Every fine-tuning is a run of its own. Those of earlier steps, and the attempts of a search that did not
win, are removed when the result is there; what a signal or an error stops half-way keeps them all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from dlcli import transforms
from dlcli.compress.channels.prune import LayerChange, NothingToPrune
from dlcli.config import Bound, PruneConfig, PruneSettings, parse_bound
from dlcli.deploy.compare import Comparison, compare_files
from dlcli.deploy.prune.pipeline import Made, PruneJob, drop_run
from dlcli.deploy.prune.transform import Goal, is_mask, layer_macs, masked_layers
from dlcli.deploy.reference import MetricDelta, ReferenceEvaluator
from dlcli.deploy.verdicts import verdict
from dlcli.errors import Diverged, DlcliError, UsageError
from dlcli.events import Emit, Noted, ignore
from dlcli.formats.base import Artifact, open_artifact
from dlcli.runs.folder import run_of
from dlcli.training.finetune import Tuner

# What a search tries, in the middle first, then in the half that is left: three attempts at most.
CHANNEL_AMOUNTS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
MASK_AMOUNTS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
# Kinds of records after which a model is no float model any more, or one about to be none.


@dataclass(frozen=True)
class Attempt:
    """One amount that was tried: its run (None when it was removed), and how it did."""

    amount: float
    run: str | None
    kept_bound: bool
    metrics: dict[str, float]
    drop: float
    agreement: float | None
    params: int
    size_bytes: int
    elapsed_s: float


@dataclass(frozen=True)
class PruneResult:
    """A pruned model beside the one before. ``goal`` is what was asked for or found.

    ``zeros``: of how many masked weights how many are zero in the written file, as (zeros, all).
    ``macs`` are multiply-adds on one sample, before and after. ``missed`` says which bound was.
    """

    run: Path
    method: str
    goal: Goal
    schedule: tuple[float, ...]
    epochs: int
    max_steps: int | None
    comparison: Comparison
    layers: tuple[LayerChange, ...]
    zeros: tuple[int, int]
    macs: tuple[int, int]
    attempts: tuple[Attempt, ...]
    missed: str | None

    def said(self) -> list[str]:
        """The verdict in words, one sentence a fact."""
        if not is_mask(self.method):
            return verdict(self.comparison)
        said = verdict(replace(self.comparison, speedup={}))
        speedup = self.comparison.speedup
        measured = ", ".join(
            f"{r.median:.2f} x at batch {size} ({r.low:.2f} to {r.high:.2f})"
            for size, r in speedup.items()
        )
        if not speedup:
            said.append("masks do not change speed: every multiplication is still done (not timed here)")
        elif all(ratio.low <= 1 <= ratio.high for ratio in speedup.values()):
            said.append(f"masks do not change speed on this device: {measured}")
        else:
            said.append(
                f"masks do not change speed, every multiplication is still done; timed: {measured}"
            )
        if self.method == "semi-structured":
            said.append("2:4 makes sparse kernels of CUDA faster; dlcli runs none of them")
        return said

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        found = self.comparison
        return {
            "artifact": found.before.artifact,
            "output": found.after.artifact,
            "run": str(self.run),
            "method": self.method,
            "amount": self.goal.value if self.goal.kind == "amount" else None,
            "target": None if self.goal.kind == "amount" else asdict(self.goal),
            "schedule": list(self.schedule),
            "epochs": self.epochs,
            "max_steps": self.max_steps,
            **found.to_dict(),
            "sparsity": self.zeros[0] / self.zeros[1] if self.zeros[1] else 0.0,
            "zeros": self.zeros[0],
            "of": self.zeros[1],
            "macs": {"before": self.macs[0], "after": self.macs[1]},
            "layers": [layer.to_dict() for layer in self.layers],
            "attempts": [asdict(attempt) for attempt in self.attempts],
            "verdict": self.said(),
            "missed": self.missed,
        }


def prune(
    path: Path,
    settings: PruneSettings,
    *,
    name: str | None,
    runs_dir: Path,
    tuner: Tuner,
    trust: bool = False,
    emit: Emit = ignore,
) -> PruneResult:
    """Prune the model at ``path`` as ``settings`` say, in new runs below ``runs_dir``.

    A result that misses ``--max-drop`` is there all the same, and ``missed`` says so. Raises: UsageError
    for settings that do not go together; DlcliError for a model that cannot be pruned, or whose data
    is needed and gone; Interrupted.
    """
    config = settings.prune
    goals, bound = check(settings), parse_bound(config.max_drop)
    source = open_artifact(path, device="cpu", trust=trust)
    before = float_module(source)
    reference = ReferenceEvaluator(source, settings.measure, emit)
    job = PruneJob(source, settings, reference, runs_dir=runs_dir, tuner=tuner, trust=trust, emit=emit)
    job.check_data()
    run = run_of(path)
    base = name or f"{path.stem if run is None else run.name}-{config.method}"
    if len(goals) > 1:
        assert bound is not None  # `check` has seen to it
        made, attempts = _search(job, goals, bound, base)
    else:
        made = job.make(goals[0], name or _titled(base, goals[0]))
        attempts = (_attempt(made, bound),)
    comparison = compare_files(
        source.file,
        made.artifact.file,
        reference,
        settings.measure,
        delta=made.delta,
        trust=trust,
        emit=emit,
    )
    task, after = source.card.task, made.artifact.module()
    return PruneResult(
        run=made.run.path,
        method=config.method,
        goal=made.goal,
        schedule=tuple(made.goal.at(fraction).value for fraction in job.fractions),
        epochs=job.epochs,
        max_steps=settings.tune.max_steps,
        comparison=comparison,
        layers=masked_layers(after, task) if is_mask(config.method) else made.layers,
        zeros=made.zeros,
        macs=(sum(layer_macs(before, task).values()), sum(layer_macs(after, task).values())),
        attempts=attempts,
        missed=None
        if bound is None or made.delta.within(bound)
        else _missed(made.delta, config.max_drop),
    )


def check(settings: PruneSettings) -> tuple[Goal, ...]:
    """The goal that was asked for, or those that a search may try, smallest first.

    Raises: UsageError for settings that do not go together.
    """
    config, usual = settings.prune, PruneConfig()
    asked = {
        "--amount": config.amount,
        "--target-params": config.target_params,
        "--target-macs": config.target_macs,
    }
    given = [flag for flag, value in asked.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other", hint="give one of them")
    for flag, value, default, methods in (
        ("--target-params", config.target_params, None, ("channel",)),
        ("--target-macs", config.target_macs, None, ("channel",)),
        ("--importance", config.importance, usual.importance, ("channel",)),
        ("--round-to", config.round_to, usual.round_to, ("channel",)),
        ("--norm", config.norm, usual.norm, ("ln",)),
        ("--dim", config.dim, usual.dim, ("ln",)),
    ):
        if value != default and config.method not in methods:
            raise UsageError(f"{flag} is for --method {methods[0]}, not {config.method}")
    if config.schedule == "one-shot" and config.steps != usual.steps:
        raise UsageError("--steps is for --schedule iterative and agp", hint="add --schedule iterative")
    if settings.tune.epochs == 0:
        for flag, tuned in (
            ("--lr", settings.tune.lr),
            ("--optimizer", settings.tune.optimizer),
            ("--scheduler", settings.tune.scheduler),
            ("--max-steps", settings.tune.max_steps),
            ("--amp", None if settings.tune.amp == "auto" else settings.tune.amp),
            ("--no-distill", None if settings.tune.distill else True),
        ):
            if tuned is not None:
                raise UsageError(f"{flag} is for fine-tuning, and --epochs 0 leaves it out")
    if config.method == "semi-structured":
        if config.amount not in (None, 0.5) or config.schedule != "one-shot":
            raise UsageError(
                "semi-structured takes out two weights of four, at once",
                hint="leave --amount and --schedule out",
            )
        return (Goal("amount", 0.5),)
    if config.amount is not None:
        return (Goal("amount", config.amount),)
    if config.target_params is not None:
        return (Goal("params", config.target_params),)
    if config.target_macs is not None:
        return (Goal("macs", config.target_macs),)
    if config.max_drop is None:
        raise UsageError(
            "how much is to be taken out is not said",
            hint="--amount 0.5, --target-params 0.25 (or --target-macs), or --max-drop 0.01: then the "
            "largest amount that keeps it is searched",
        )
    amounts = CHANNEL_AMOUNTS if config.method in ("channel", "ln") else MASK_AMOUNTS
    return tuple(Goal("amount", amount) for amount in amounts)


def float_module(source: Artifact) -> nn.Module:
    """The module of an artifact that is still a float model. Raises: DlcliError for any other."""
    record = transforms.not_float(source.card)
    if record is not None:
        run = run_of(source.path)
        beside = run is not None and run.best.is_file() and run.best != source.path
        parent = str(run.best) if run is not None and beside else source.card.parent
        raise DlcliError(
            f"{source.path} is already quantized ({record.kind}), and only a float model can be pruned",
            hint="prune first and quantize the result" + (f": start from {parent}" if parent else ""),
        )
    return source.module()


def _search(
    job: PruneJob, goals: Sequence[Goal], bound: Bound, base: str
) -> tuple[Made, tuple[Attempt, ...]]:
    """The largest goal that keeps the bound, by bisection; where none does, the one that lost least.

    Raises: NothingToPrune where no amount takes anything out, Diverged where the training of all that
    were tried did.
    """
    most = math.floor(math.log2(len(goals))) + 1
    among = ", ".join(goal.title() for goal in goals)
    job.emit(Noted(f"searching among {among} %: {most} attempts, {job.cost()} each"))
    low, high = 0, len(goals) - 1
    best: Made | None = None
    failed: DlcliError | None = None
    attempts: list[Attempt] = []
    while low <= high:
        middle = (low + high) // 2
        try:
            made = job.make(goals[middle], _titled(base, goals[middle]))
        except NothingToPrune as exc:  # by so little it stays as it is, which keeps every bound
            job.emit(Noted(f"amount {goals[middle].value:g} takes nothing out of this model"))
            failed, low = exc, middle + 1
            continue
        except Diverged as exc:  # what cannot be trained keeps no bound
            job.emit(Noted(f"amount {goals[middle].value:g}: {exc.message}"))
            failed, high = exc, middle - 1
            continue
        keeps = made.delta.within(bound)
        better = best is None or keeps or _loses_less(made.delta, best.delta, bound)
        loser = best if better else made
        attempts.append(_attempt(made, bound))
        job.emit(Noted(f"{_told(attempts[-1], made.delta)}"))
        if loser is not None:
            drop_run(loser.run)
            attempts = [replace(a, run=None) if a.run == str(loser.run.path) else a for a in attempts]
        best = made if better else best
        low, high = (middle + 1, high) if keeps else (low, middle - 1)
    if best is None:
        assert failed is not None  # a search tries one amount at least
        raise failed
    return best, tuple(attempts)


def _loses_less(one: MetricDelta, other: MetricDelta, bound: Bound) -> bool:
    """Whether ``one``, which misses the bound, is to be kept rather; nothing loses more than NaN."""
    if other.within(bound):
        return False
    return one.drop < other.drop or math.isnan(other.drop) > math.isnan(one.drop)


def _attempt(made: Made, bound: Bound | None) -> Attempt:
    delta = made.delta
    return Attempt(
        amount=made.goal.value,
        run=str(made.run.path),
        kept_bound=delta.within(bound),
        metrics=delta.metrics,
        drop=delta.drop,
        agreement=delta.agreement,
        params=made.artifact.card.params,
        size_bytes=made.artifact.size,
        elapsed_s=made.elapsed_s,
    )


def _told(attempt: Attempt, delta: MetricDelta) -> str:
    word = "keeps the bound" if attempt.kept_bound else "misses the bound"
    return f"amount {attempt.amount:g}: {delta.metric} {delta.difference:+.4f}, which {word}"


def _titled(base: str, goal: Goal) -> str:
    """The name of a run: resnet18-channel50, cnn-l1-90, resnet18-channel-params25."""
    if base.endswith("semi-structured"):
        return base
    return f"{base}{'-' if goal.kind != 'amount' or base[-1].isdigit() else ''}{goal.title()}"


def _missed(delta: MetricDelta, bound: str | None) -> str:
    return (
        f"{delta.metric} got worse by {delta.drop:.4f} (from {delta.before:.4f}), "
        f"where --max-drop {bound} was allowed"
    )
