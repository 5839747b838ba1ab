"""One pruned model from target to file: every step of the schedule is fine-tuned in a run of its own."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dlcli import transforms
from dlcli.card import Card
from dlcli.compress.channels.importance.base import IMPORTANCES
from dlcli.compress.channels.prune import LayerChange
from dlcli.compress.masks.apply import count_zeros
from dlcli.compress.masks.base import is_mask
from dlcli.config import Bound, PruneSettings, TrainConfig
from dlcli.deploy.prune.gradient_data import gradient_data
from dlcli.deploy.prune.schedule import epochs_by_step, fractions
from dlcli.deploy.prune.transform import (
    PrunedModel,
    PruneTarget,
    layer_macs,
    masked_layers,
    prune_model,
)
from dlcli.deploy.reference import ReferenceEvaluator
from dlcli.deploy.search import Candidate
from dlcli.errors import DlcliError, Interrupted
from dlcli.events import Emit, Noted, ignore
from dlcli.files import write_bytes, write_text
from dlcli.formats.base import FORMATS, Artifact, ModelFile, open_artifact
from dlcli.formats.checkpoint import Checkpoint, save_model
from dlcli.runs.folder import RunFolder, create_run, started_now, versions
from dlcli.runs.saved import read_run_of, settings_entry
from dlcli.settings import dump_yaml
from dlcli.training.finetune import (
    FinetuneDefaults,
    Finetuner,
    epoch_seconds,
    finetune_plan,
    some_epochs,
)
from dlcli.training.model_card import make_card
from dlcli.training.plan import Plan
from dlcli.training.prepare import prepare_run
from dlcli.training.run import new_run
from dlcli.wording import plural
from dlcli.zoo.precision import Precision

EPOCHS_SHARE = 0.5  # of fine-tuning, relative to the epochs of the model's own run


@dataclass(frozen=True, kw_only=True)
class PruneCandidate(Candidate):
    """A pruned model as read back from the file of its run.

    ``zeros`` are counted in the file: of its masked weights, how many are zero, and all of them.
    ``macs`` are of one sample.
    """

    target: PruneTarget
    run: RunFolder
    file: ModelFile
    params: int
    macs: int
    layers: tuple[LayerChange, ...]
    zeros: tuple[int, int]
    elapsed_s: float

    def to_dict(self, *, removed: bool) -> dict[str, Any]:
        """JSON-ready; ``removed`` is whether its run no longer exists."""
        return {
            "amount": self.target.value,
            "run": None if removed else str(self.run.path),
            "kept_bound": self.within_bound,
            "metrics": self.delta.metrics,
            "drop": self.delta.drop,
            "agreement": self.delta.agreement,
            "params": self.params,
            "size_bytes": self.size_bytes,
            "elapsed_s": self.elapsed_s,
        }


class PruneJob:
    """Builds candidates of one model. ``fractions`` are those of its schedule, ``epochs`` the total."""

    def __init__(
        self,
        source: Artifact,
        settings: PruneSettings,
        reference: ReferenceEvaluator,
        *,
        bound: Bound | None,
        runs_dir: Path,
        finetuner: Finetuner,
        trust: bool,
        emit: Emit,
    ) -> None:
        self.source, self.settings, self.reference, self.bound = source, settings, reference, bound
        self.runs_dir, self.finetuner, self.trust, self.emit = runs_dir, finetuner, trust, emit
        self.fractions = fractions(settings.prune.schedule, settings.prune.steps)
        self._run = read_run_of(source.path)
        own = TrainConfig() if self._run is None else self._run.config
        seed = settings.finetune.seed
        self._seed = own.fit.seed if seed is None else seed
        # A model that has lost much learns like a new one: at its full learning rate, and for long.
        self._defaults = FinetuneDefaults(epochs=some_epochs(self._run, EPOCHS_SHARE), lr_share=1.0)
        epochs = settings.finetune.epochs
        self.epochs = self._defaults.epochs if epochs is None else epochs

    def check_data(self) -> None:
        """Raises: DlcliError where the settings need data that cannot be reached."""
        if self.reference.split != "random":
            return
        if self.epochs:
            purpose = "fine-tune the pruned model"
        elif self.settings.prune.max_drop is not None:
            purpose = "measure --max-drop"
        elif self._needs_gradients:
            purpose = f"compute --importance {self.settings.prune.importance}"
        else:
            return
        raise DlcliError(
            f"its data is needed to {purpose}: {self.reference.note}",
            hint="say where the data is now (--data), or prune without it: --epochs 0",
        )

    @property
    def _needs_gradients(self) -> bool:
        config = self.settings.prune
        return not is_mask(config.method) and IMPORTANCES.get(config.importance).needs_gradients

    def cost(self) -> str:
        """Return what one candidate costs, in words; the time is that of the model's own epochs."""
        if not self.epochs:
            return "no fine-tuning"
        text = f"{plural(self.epochs, 'epoch')} of fine-tuning"
        seconds = epoch_seconds(self._run)
        if seconds is None:
            return text
        minutes = self.epochs * seconds / 60
        return f"{text} (about {max(minutes, 0.1):.1f} minutes at the speed of the model's own run)"

    def build(self, target: PruneTarget, name: str) -> PruneCandidate:
        """Prune to ``target``, step by step, in runs whose names begin with ``name``.

        Raises: DlcliError; Interrupted, which says how to continue.
        """
        t0, steps = time.monotonic(), len(self.fractions)
        model = PrunedModel(self.source.module(), transforms.of_the_model(self.source.card))
        if steps > 1:  # what the last step cannot do is refused before the first one is trained
            self._prune(model, target, last=True, emit=ignore)
        earlier: list[RunFolder] = []
        for step, epochs in enumerate(epochs_by_step(self.epochs, steps), 1):
            step_target = target.at(self.fractions[step - 1])
            if steps > 1:
                finetuning = plural(epochs, "epoch")
                self.emit(Noted(f"step {step} of {steps}: {step_target.describe()}, then {finetuning}"))
            model = self._prune(model, step_target, last=step == steps, emit=self.emit)
            if step < steps and epochs:
                run = self._finetune(model, f"{name}-step{step}", epochs, (step, steps))
                earlier.append(run)
                finetuned = open_artifact(run.best, device="cpu", trust=self.trust)
                model = replace(model, module=finetuned.module())
        if epochs:
            run = self._finetune(model, name, epochs, (steps, steps))
        else:
            run = self._run_without_training(model, name)
        candidate = self._evaluated(target, run, model, t0)
        for step_run in earlier:
            drop_run(step_run)
        return candidate

    def _evaluated(
        self, target: PruneTarget, run: RunFolder, model: PrunedModel, t0: float
    ) -> PruneCandidate:
        artifact = open_artifact(run.best, device="cpu", trust=self.trust)
        delta, zeros = self.reference.evaluate(artifact), _count_zeros(artifact)
        module, task = artifact.module(), artifact.card.task
        masked = is_mask(self.settings.prune.method)
        return PruneCandidate(
            delta=delta,
            size_bytes=artifact.size,
            within_bound=delta.within(self.bound),
            target=target,
            run=run,
            file=artifact.file,
            params=artifact.card.params,
            macs=sum(layer_macs(module, task).values()),
            layers=masked_layers(module, task) if masked else model.layers,
            zeros=zeros,
            elapsed_s=time.monotonic() - t0,
        )

    def _prune(self, model: PrunedModel, target: PruneTarget, *, last: bool, emit: Emit) -> PrunedModel:
        config = self.settings.prune
        batches, loss = None, None
        if self._needs_gradients:
            batches, loss = gradient_data(self._plan(model, 1))
        return prune_model(
            model,
            self.source.card,
            config,
            target,
            last=last,
            seed=self._seed,
            batches=batches,
            loss=loss,
            emit=emit,
        )

    def _plan(self, model: PrunedModel, epochs: int) -> Plan:
        finetune = self.settings.finetune.model_copy(update={"epochs": epochs})
        measure = self.settings.measure
        return finetune_plan(
            self.source, self._run, model.module, model.transforms, finetune, measure, self._defaults
        )

    def _finetune(self, model: PrunedModel, name: str, epochs: int, step: tuple[int, int]) -> RunFolder:
        try:
            return self.finetuner(self._plan(model, epochs), name)
        except Interrupted as exc:
            if step[0] == step[1]:
                raise
            raise Interrupted(
                f"{exc.message}; it is step {step[0]} of {step[1]}",
                signum=exc.exit_code - 128,
                hint=f"{exc.hint}; then prune that run further, or start again with the same command",
            ) from exc

    def _run_without_training(self, model: PrunedModel, name: str) -> RunFolder:
        """Write a run of a model that was pruned but not fine-tuned; its card has its metrics."""
        try:
            plan = self._plan(model, 0)
        except DlcliError as exc:  # its data is gone: a run all the same, which cannot be trained
            self.emit(Noted(f"the pruned run cannot be fine-tuned: {exc.message}"))
            run, card = self._run_without_plan(model, name, exc.message)
        else:
            run = new_run(prepare_run(plan), self.runs_dir, name)
            card = make_card(plan, model.module)
        file = ModelFile(run.best, FORMATS.get("safetensors"))
        unsaved = Checkpoint(file, card, model.module, Precision("none", torch.device("cpu")))
        measured = self.reference.evaluate(unsaved)
        metrics = {"val": measured.metrics} if self.reference.split == "val" else {}
        save_model(run.best, model.module, card.model_copy(update={"metrics": metrics}))
        run.update_record(status="finished", epochs_done=0)
        return run

    def _run_without_plan(self, model: PrunedModel, name: str, reason: str) -> tuple[RunFolder, Card]:
        """Create a run with the settings and splits of the model's own run, where there is one."""
        source = self.source
        run = create_run(self.runs_dir, name)
        if self._run is not None:
            write_text(run.config, dump_yaml(self._run.config))
            if self._run.folder.splits.is_file():
                write_bytes(run.splits, self._run.folder.splits.read_bytes())
        card = source.card.model_copy(
            update={
                "transforms": model.transforms,
                "metrics": {},
                "weights_from": str(source.path),
                "parent": str(source.path),
                "params": sum(p.numel() for p in model.module.parameters()),
                "epoch": None,
                "versions": versions(),
            }
        )
        run.write_record(
            {
                **started_now(self.runs_dir),
                **({} if self._run is None else settings_entry(self._run.config)),
                "status": "running",
                "seed": self._seed,
                "versions": versions(),
                "fingerprint": "" if card.data is None else card.data.fingerprint,
                "plan": {
                    "model": card.model.model_dump(mode="json"),
                    "task": card.task.model_dump(mode="json"),
                    "weights_from": card.weights_from,
                    "transforms": [record.model_dump(mode="json") for record in model.transforms],
                    "parent": card.parent,
                },
                "warnings": [reason],
                "notes": [],
            }
        )
        return run, card


def drop_run(run: RunFolder) -> None:
    """Remove a run that this command created and that a better one replaces."""
    shutil.rmtree(run.path, ignore_errors=True)


def _count_zeros(artifact: Artifact) -> tuple[int, int]:
    """Return the zeros among the masked weights, and all of these.

    Raises: DlcliError for fewer zeros than the card says.
    """
    record = transforms.find_record(artifact.card.transforms, transforms.MASK)
    if record is None:
        return 0, 0
    rows = count_zeros(artifact.module(), record.args["weights"])
    zeros, total = sum(row.of - row.kept for row in rows), sum(row.of for row in rows)
    if zeros < record.args["zeros"]:
        raise DlcliError(
            f"{artifact.path}: only {zeros:,} of {record.args['zeros']:,} pruned weights are zero",
            hint="this is a bug in dlcli; report it",
        )
    return zeros, total
