"""One pruned model from goal to file: the steps of its schedule, each fine-tuned in a run of its own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from dlcli import transforms
from dlcli.card import Card
from dlcli.compress.channels.importance import Batches, Loss
from dlcli.compress.channels.prune import LayerChange
from dlcli.compress.masks import count_zeros
from dlcli.config import PruneSettings
from dlcli.deploy.prune.transform import Cut, Goal, cut
from dlcli.deploy.reference import MetricDelta, ReferenceEvaluator
from dlcli.errors import DlcliError, Interrupted
from dlcli.events import Emit, Noted, ignore
from dlcli.files import write_bytes
from dlcli.formats.base import FORMATS, Artifact, ModelFile, open_artifact
from dlcli.formats.checkpoint import Checkpoint, save_model
from dlcli.runs.folder import RunFolder, create_run, read_events, run_of, started_now, versions
from dlcli.training.class_balance import balance_plan
from dlcli.training.finetune import TuneDefaults, Tuner, some_epochs, tuning_plan
from dlcli.training.loop.loader import TrainBatches
from dlcli.training.losses import make_loss
from dlcli.training.model_card import make_card
from dlcli.training.plan import Plan, current_settings
from dlcli.training.readers import make_reader
from dlcli.training.run import new_run
from dlcli.zoo.forward import model_inputs

_TAYLOR_BATCHES = 8
_EPOCHS = 0.5  # of fine-tuning, as a share of those of the model's own run


def fractions(schedule: str, steps: int) -> tuple[float, ...]:
    """The share of the way that is gone after each step, rising to 1.

    "agp" takes out much at first and little at last: 1 - (1 - t/n)^3 (Zhu and Gupta, arXiv:1710.01878,
    whose training goes on between its steps as here).
    """
    if schedule == "one-shot":
        return (1.0,)
    if schedule == "iterative":
        return tuple(t / steps for t in range(1, steps + 1))
    return tuple(1 - (1 - t / steps) ** 3 for t in range(1, steps + 1))


def divided(epochs: int, steps: int) -> tuple[int, ...]:
    """So many epochs shared out over the steps; what is left over goes to the last ones."""
    each, more = divmod(epochs, steps)
    return tuple(each + (number >= steps - more) for number in range(steps))


@dataclass(frozen=True)
class Made:
    """A pruned model as read back from its file, held against the one before.

    ``layers`` are of channels; ``zeros`` are counted in the file: of how many masked weights how many.
    """

    goal: Goal
    run: RunFolder
    artifact: Artifact
    delta: MetricDelta
    layers: tuple[LayerChange, ...]
    zeros: tuple[int, int]
    elapsed_s: float


class PruneJob:
    """What all attempts at a model share. ``fractions`` of the way by step; ``epochs`` in all."""

    def __init__(
        self,
        source: Artifact,
        settings: PruneSettings,
        reference: ReferenceEvaluator,
        *,
        runs_dir: Path,
        tuner: Tuner,
        trust: bool,
        emit: Emit,
    ) -> None:
        self.source, self.settings, self.reference = source, settings, reference
        self.runs_dir, self.tuner, self.trust, self.emit = runs_dir, tuner, trust, emit
        self.fractions = fractions(settings.prune.schedule, settings.prune.steps)
        self._run = run_of(source.path)
        own = {} if self._run is None else current_settings(self._run).get("fit", {})
        self._seed = settings.tune.seed if settings.tune.seed is not None else int(own.get("seed", 0))
        # A net that has lost much learns as one that is new: with its own rate, and not for a moment.
        self._defaults = TuneDefaults(epochs=some_epochs(self._run, _EPOCHS), lr_share=1.0)
        asked = settings.tune.epochs
        self.epochs = self._defaults.epochs if asked is None else asked

    def check_data(self) -> None:
        """Raises: DlcliError where what was asked for needs data that cannot be reached."""
        if self.reference.split != "random":
            return
        if self.epochs:
            what = "fine-tune the pruned model"
        elif self.settings.prune.max_drop is not None:
            what = "measure --max-drop"
        elif self.settings.prune.importance == "taylor":
            what = "know Taylor's importance"
        else:
            return
        raise DlcliError(
            f"its data is needed to {what}: {self.reference.note}",
            hint="say where the data is now (--data), or prune without any: --epochs 0",
        )

    def cost(self) -> str:
        """What one attempt costs, in words; the time is by the epochs of the model's own run."""
        if not self.epochs:
            return "no fine-tuning"
        said = f"{_epochs(self.epochs)} of fine-tuning"
        events = read_events(self._run.metrics) if self._run and self._run.metrics.is_file() else []
        spent = [e["epoch_s"] for e in events if e.get("event") == "EpochDone"]
        if not spent:
            return said
        minutes = self.epochs * sum(spent) / len(spent) / 60
        return f"{said} (about {max(minutes, 0.1):.1f} minutes by the run's own epochs)"

    def make(self, goal: Goal, name: str) -> Made:
        """Prune to ``goal``, step by step, in runs that begin with ``name``.

        Raises: DlcliError; Interrupted with the way to go on.
        """
        t0, steps = time.monotonic(), len(self.fractions)
        done = Cut(self.source.module(), transforms.of_the_model(self.source.card))
        if steps > 1:  # what the last step cannot do is refused before the first one is trained
            self._cut(done, goal, last=True, emit=ignore)
        earlier: list[RunFolder] = []
        for number, epochs in enumerate(divided(self.epochs, steps), 1):
            wanted = goal.at(self.fractions[number - 1])
            if steps > 1:
                self.emit(Noted(f"step {number} of {steps}: {wanted.text()}, then {_epochs(epochs)}"))
            done = self._cut(done, wanted, last=number == steps, emit=self.emit)
            if number < steps and epochs:
                run = self._tune(done, f"{name}-step{number}", epochs, (number, steps))
                earlier.append(run)
                tuned = open_artifact(run.best, device="cpu", trust=self.trust)
                done = replace(done, module=tuned.module())
        run = self._tune(done, name, epochs, (steps, steps)) if epochs else self._untuned(done, name)
        artifact = open_artifact(run.best, device="cpu", trust=self.trust)
        made = Made(
            goal=goal,
            run=run,
            artifact=artifact,
            delta=self.reference.evaluate(artifact),
            layers=done.layers,
            zeros=_zeros(artifact),
            elapsed_s=time.monotonic() - t0,
        )
        for step in earlier:
            drop_run(step)
        return made

    def _cut(self, at: Cut, goal: Goal, *, last: bool, emit: Emit) -> Cut:
        config = self.settings.prune
        batches, loss = None, None
        if config.method == "channel" and config.importance == "taylor":
            batches, loss = taylor_data(self._plan(at, 1))
        card = self.source.card
        return cut(
            at,
            card,
            config,
            goal,
            last=last,
            seed=self._seed,
            batches=batches,
            loss=loss,
            emit=emit,
        )

    def _plan(self, done: Cut, epochs: int) -> Plan:
        tune = self.settings.tune.model_copy(update={"epochs": epochs})
        measure = self.settings.measure
        return tuning_plan(self.source, done.module, done.transforms, tune, measure, self._defaults)

    def _tune(self, done: Cut, name: str, epochs: int, step: tuple[int, int]) -> RunFolder:
        try:
            return self.tuner(self._plan(done, epochs), name).run
        except Interrupted as exc:
            if step[0] == step[1]:
                raise
            raise Interrupted(
                f"{exc.message}; it is step {step[0]} of {step[1]}",
                signum=exc.exit_code - 128,
                hint=f"{exc.hint}; then prune that run on, or begin anew with the same command",
            ) from exc

    def _untuned(self, done: Cut, name: str) -> RunFolder:
        """A run of a model that was pruned and not trained on, whose card says how it does."""
        try:
            plan = self._plan(done, 0)
        except DlcliError as exc:  # its data is gone: a run all the same, which cannot be trained on
            self.emit(Noted(f"the pruned run cannot be trained on: {exc.message}"))
            run, card = self._bare_run(done, name, exc.message)
        else:
            run = new_run(plan, self.runs_dir, name)
            card = make_card(plan, done.module)
        file = ModelFile(run.best, FORMATS.get("safetensors"))
        unsaved = Checkpoint(file, card, done.module, torch.device("cpu"))
        measured = self.reference.evaluate(unsaved)
        metrics = {"val": measured.metrics} if self.reference.split == "val" else {}
        save_model(run.best, done.module, card.model_copy(update={"metrics": metrics}))
        run.write_record({**run.read_record(), "status": "finished", "epochs_done": 0})
        return run

    def _bare_run(self, done: Cut, name: str, why: str) -> tuple[RunFolder, Card]:
        """A folder with the settings and splits of the model's own run, as far as there is one."""
        source = self.source
        run = create_run(self.runs_dir, name)
        for old, new in (
            ((self._run.config, run.config), (self._run.splits, run.splits)) if self._run else ()
        ):
            if old.is_file():
                write_bytes(new, old.read_bytes())
        card = source.card.model_copy(
            update={
                "transforms": done.transforms,
                "metrics": {},
                "weights_from": str(source.path),
                "parent": str(source.path),
                "params": sum(p.numel() for p in done.module.parameters()),
                "epoch": None,
                "versions": versions(),
            }
        )
        run.write_record(
            {
                **started_now(),
                "status": "running",
                "seed": self._seed,
                "versions": versions(),
                "fingerprint": "" if card.data is None else card.data.fingerprint,
                "plan": {
                    "model": card.model.model_dump(mode="json"),
                    "task": card.task.model_dump(mode="json"),
                    "weights_from": card.weights_from,
                    "transforms": [record.model_dump(mode="json") for record in done.transforms],
                    "parent": card.parent,
                },
                "warnings": [why],
                "notes": [],
            }
        )
        return run, card


def taylor_data(plan: Plan) -> tuple[Batches, Loss]:
    """The first training batches of a plan's run, without augmentation, and its loss."""
    reader, device = make_reader(plan, "train", 0.0), torch.device("cpu")
    config = plan.config
    balance = balance_plan(config.data.balance, plan.task, reader.samples.targets)
    focal = balance.kind == "focal"
    counted = make_loss(plan.task, config.loss, class_weights=balance.weights, focal=focal)
    loader = TrainBatches(
        reader, batch_size=config.fit.step_samples, seed=config.fit.seed, device=device
    )

    def batches() -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
        for batch in islice(loader.epoch(0), _TAYLOR_BATCHES):
            yield model_inputs(batch.inputs, plan.task), batch.targets

    def loss(answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        total, count = counted(answers, targets)
        return total / count

    return batches, loss


def drop_run(run: RunFolder) -> None:
    """Remove a run that this command made itself, and that a better one has taken the place of."""
    shutil.rmtree(run.path, ignore_errors=True)


def _zeros(artifact: Artifact) -> tuple[int, int]:
    """Zeros of the masked weights, and all of these. Raises: DlcliError for fewer than were noted."""
    record = transforms.find_record(artifact.card.transforms, transforms.MASK)
    if record is None:
        return 0, 0
    rows = count_zeros(artifact.module(), record.args["weights"])
    zeros, total = sum(row.of - row.kept for row in rows), sum(row.of for row in rows)
    if zeros < record.args["zeros"]:
        raise DlcliError(
            f"{artifact.path}: only {zeros:,} of {record.args['zeros']:,} pruned weights are zero",
            hint="this is a defect of dlcli; report it",
        )
    return zeros, total


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"
