"""Prune and fine-tune a model, and measure what that costs.

Every fine-tuning is a run of its own. The runs of earlier steps, and of candidates that a search
discards, are removed once there is a result; a signal or an error in between leaves them all.
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
from dlcli.compress.masks.base import MASK_METHODS
from dlcli.config import PruneSettings, parse_bound
from dlcli.deploy.compare import Comparison, compare_files
from dlcli.deploy.prune.options import targets_of
from dlcli.deploy.prune.pipeline import PruneCandidate, PruneJob, drop_run
from dlcli.deploy.prune.transform import PruneTarget, layer_macs
from dlcli.deploy.reference import MetricDelta, ReferenceEvaluator
from dlcli.deploy.search import BoundSearch, bisect_largest
from dlcli.deploy.verdicts import verdict
from dlcli.errors import Diverged, DlcliError
from dlcli.events import Emit, Noted, ignore
from dlcli.formats.base import Artifact, open_artifact
from dlcli.runs.folder import run_of
from dlcli.training.finetune import Finetuner
from dlcli.zoo.base import check_trained_by_gradient


@dataclass(frozen=True)
class PruneResult:
    """A pruned model compared with the one before. ``candidates`` are all that were built.

    ``macs_before`` are multiply-adds of the original for one sample. ``missed`` is a sentence when the
    bound was missed.
    """

    method: str
    chosen: PruneCandidate
    candidates: tuple[PruneCandidate, ...]
    schedule: tuple[float, ...]
    epochs: int
    max_steps: int | None
    comparison: Comparison
    macs_before: int
    missed: str | None

    @property
    def run(self) -> Path:
        """The folder of the new run."""
        return self.chosen.run.path

    @property
    def target(self) -> PruneTarget:
        """The target that was requested, or found by the search."""
        return self.chosen.target

    @property
    def layers(self) -> tuple[LayerChange, ...]:
        """What is left of each layer."""
        return self.chosen.layers

    @property
    def zeros(self) -> tuple[int, int]:
        """Zeros among the masked weights, and all of these."""
        return self.chosen.zeros

    @property
    def macs(self) -> tuple[int, int]:
        """Multiply-adds for one sample, before and after."""
        return self.macs_before, self.chosen.macs

    def verdict(self) -> list[str]:
        """Return the verdict in words, one sentence a fact."""
        method = MASK_METHODS.find(self.method)
        if method is None:
            return verdict(self.comparison)
        sentences = [*verdict(replace(self.comparison, speedup={})), self._speed_of_masks()]
        if method.ranking == "2:4":
            sentences.append("2:4 makes sparse CUDA kernels faster; dlcli runs none of them")
        return sentences

    def _speed_of_masks(self) -> str:
        speedup = self.comparison.speedup
        measured = ", ".join(
            f"{r.median:.2f} x at batch {size} ({r.low:.2f} to {r.high:.2f})"
            if r.known
            else f"not known at batch {size} ({r.doubt})"
            for size, r in speedup.items()
        )
        if not speedup:
            return "masks do not change speed: every multiplication is still done (not timed here)"
        if all(r.known and r.low <= 1 <= r.high for r in speedup.values()):
            return f"masks do not change speed on this device: {measured}"
        return f"masks do not change speed, every multiplication is still done; timed: {measured}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        comparison, target = self.comparison, self.target
        zeros, masked = self.zeros
        return {
            "artifact": comparison.before.artifact,
            "output": comparison.after.artifact,
            "run": str(self.run),
            "method": self.method,
            "amount": target.value if target.kind == "amount" else None,
            "target": None if target.kind == "amount" else asdict(target),
            "schedule": list(self.schedule),
            "epochs": self.epochs,
            "max_steps": self.max_steps,
            **comparison.to_dict(),
            "sparsity": zeros / masked if masked else 0.0,
            "zeros": zeros,
            "of": masked,
            "macs": {"before": self.macs[0], "after": self.macs[1]},
            "layers": [layer.to_dict() for layer in self.layers],
            "attempts": [c.to_dict(removed=c is not self.chosen) for c in self.candidates],
            "verdict": self.verdict(),
            "missed": self.missed,
        }


def prune(
    path: Path,
    settings: PruneSettings,
    *,
    name: str | None,
    runs_dir: Path,
    finetuner: Finetuner,
    trust: bool = False,
    emit: Emit = ignore,
) -> PruneResult:
    """Prune the model at ``path`` as ``settings`` say, in new runs below ``runs_dir``.

    A result that misses ``--max-drop`` is kept as well, and ``missed`` says so. Raises: UsageError for
    settings that do not go together; DlcliError for a model that cannot be pruned, or whose data is
    needed and gone; Interrupted.
    """
    config = settings.prune
    targets, bound = targets_of(settings), parse_bound(config.max_drop)
    source = open_artifact(path, device="cpu", trust=trust)
    module = float_module(source)
    reference = ReferenceEvaluator(source, settings.measure, emit)
    job = PruneJob(
        source,
        settings,
        reference,
        bound=bound,
        runs_dir=runs_dir,
        finetuner=finetuner,
        trust=trust,
        emit=emit,
    )
    job.check_data()
    run = run_of(path)
    base = name or f"{path.stem if run is None else run.name}-{config.method}"
    if len(targets) > 1:
        chosen, candidates = search(job, targets, base)
    else:
        method = MASK_METHODS.find(config.method)
        has_amount = method is None or method.fixed_amount is None
        default_name = _run_name(base, targets[0]) if has_amount else base
        chosen = job.build(targets[0], name or default_name)
        candidates = [chosen]
    comparison = compare_files(
        source.file,
        chosen.file,
        reference,
        settings.measure,
        delta=chosen.delta,
        trust=trust,
        emit=emit,
    )
    return PruneResult(
        method=config.method,
        chosen=chosen,
        candidates=tuple(candidates),
        schedule=tuple(chosen.target.at(fraction).value for fraction in job.fractions),
        epochs=job.epochs,
        max_steps=settings.finetune.max_steps,
        comparison=comparison,
        macs_before=sum(layer_macs(module, source.card.task).values()),
        missed=None if chosen.within_bound else _missed(chosen.delta, config.max_drop),
    )


def float_module(source: Artifact) -> nn.Module:
    """Return the module of a float model. Raises: DlcliError for any other artifact."""
    transforms.check_single(source.card, source.path, "pruning")
    check_trained_by_gradient(source.card.model.name, source.card.task.input.kind, "prune")
    record = transforms.not_float(source.card)
    if record is not None:
        run = run_of(source.path)
        is_export = run is not None and run.best.is_file() and run.best != source.path
        parent = str(run.best) if run is not None and is_export else source.card.parent
        raise DlcliError(
            f"{source.path} is already quantized ({record.kind}), and only a float model can be pruned",
            hint="prune first and quantize the result" + (f": start from {parent}" if parent else ""),
        )
    return source.module()


def search(
    job: PruneJob, targets: Sequence[PruneTarget], base: str
) -> tuple[PruneCandidate, list[PruneCandidate]]:
    """Search the largest of ``targets`` within the job's bound; return the best candidate, and all.

    Where none is within it, the best is the one with the smallest drop. Raises: NothingToPrune when no
    target removes anything, Diverged when the training of all candidates did.
    """
    at_most = math.floor(math.log2(len(targets))) + 1
    amounts = ", ".join(target.tag() for target in targets)
    job.emit(Noted(f"searching among {amounts} %: {at_most} attempts at most, {job.cost()} each"))
    results = BoundSearch[PruneCandidate](rank=_rank, discard=lambda worse: drop_run(worse.run))
    failures: list[DlcliError] = []

    def keeps_bound(target: PruneTarget) -> bool:
        try:
            candidate = job.build(target, _run_name(base, target))
        except NothingToPrune as exc:  # the model stays as it is, which keeps every bound
            job.emit(Noted(f"amount {target.value:g} removes nothing from this model"))
            failures.append(exc)
            return True
        except Diverged as exc:
            job.emit(Noted(f"amount {target.value:g}: {exc.message}"))
            failures.append(exc)
            return False
        delta, outcome = candidate.delta, "keeps" if candidate.within_bound else "misses"
        change = f"{delta.metric} {delta.difference:+.4f}"
        job.emit(Noted(f"amount {target.value:g}: {change}, which {outcome} the bound"))
        results.add(candidate)
        return candidate.within_bound

    bisect_largest(targets, keeps_bound)
    if results.best is None:
        raise failures[-1]
    return results.best, results.candidates


def _rank(candidate: PruneCandidate) -> tuple[float, ...]:
    """Within the bound the largest amount is best, outside of it the smallest drop."""
    if candidate.within_bound:
        return (0, -candidate.target.value)
    return (1, candidate.loss)


def _run_name(base: str, target: PruneTarget) -> str:
    """Return the name of a run: resnet18-channel50, cnn-l1-90, resnet18-channel-params25."""
    tag = target.tag()
    return f"{base}{'' if tag[0].isdigit() and not base[-1].isdigit() else '-'}{tag}"


def _missed(delta: MetricDelta, bound: str | None) -> str:
    return (
        f"{delta.metric} got worse by {delta.drop:.4f} (from {delta.before:.4f}), "
        f"where --max-drop {bound} was allowed"
    )
