"""Models that are not trained by gradient: fitted once, then saved and measured as every run is.

Such a model has a `ModelEntry.fit`. It has no optimizer, no batches and no states; a run of it is one
fit, and one that was interrupted begins anew. What settings of gradient descent would do is refused.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from dlcli.config import TrainConfig
from dlcli.data.base import Reader
from dlcli.data.kinds import kind_of
from dlcli.errors import UsageError
from dlcli.evaluation.evaluate import evaluate
from dlcli.evaluation.metrics import EvalResult
from dlcli.events import CheckpointSaved, Emit, EpochDone, RunFinished, RunStarted
from dlcli.formats.checkpoint import save_model
from dlcli.machine.threads import usable_cores
from dlcli.runs.folder import RunFolder
from dlcli.settings import flat, option_name, validate
from dlcli.task import TaskSpec
from dlcli.training.distributed.world import World
from dlcli.training.loop.fit import FitResult
from dlcli.training.loop.state import Progress
from dlcli.training.model_card import make_card
from dlcli.training.plan import Plan
from dlcli.zoo.base import FittedModel, ModelEntry, Rows, build_model, find_model
from dlcli.zoo.device import describe_device
from dlcli.zoo.forward import load_tensors, predict
from dlcli.zoo.forward import place as to_device

FITTED = "fitted"  # the reason why such a run ends
# All other settings of these groups are those of gradient descent.
_GROUPS = ("model", "fit", "optim", "loss", "augment", "launch")
_TAKEN = {
    *("model.name", "model.args", "fit.device", "fit.seed", "fit.monitor", "fit.metrics"),
    *("fit.deterministic", "fit.sinks", "fit.tensorboard", "fit.log_every"),
}
_INSTEAD = {
    "fit.epochs": "max_iter",
    "fit.max_steps": "max_iter",
    "fit.patience": "n_iter_no_change",
    "optim.lr": "learning_rate",
    "optim.weight_decay": "l2_regularization",
}


@dataclass(frozen=True)
class Place:
    """Where a run takes place: its events, its processes, its device."""

    emit: Emit
    world: World
    device: torch.device


def is_fitted(plan: Plan) -> bool:
    """Whether a plan's model is fitted once instead of being trained by gradient."""
    return find_model(plan.model.name, plan.task.input.kind).fit is not None


def check_settings(entry: ModelEntry, config: TrainConfig) -> None:
    """Refuse settings of gradient descent for a model that is fitted. Raises: UsageError by name."""
    if entry.fit is None:
        return
    if "size" in config.model.args:
        raise UsageError(f"model.args.size follows from the fit of {entry.name}", hint="leave it out")
    # The settings of a run, read again, hold the recipe.
    unset = [flat(TrainConfig()), flat(validate(TrainConfig, entry.recipe))]
    for key, value in flat(config).items():
        group = key.partition(".")[0]
        taken = key in _TAKEN or key.startswith("model.args.")
        of_descent = (group in _GROUPS and not taken) or key == "data.balance"
        if not of_descent or any(value == values.get(key) for values in unset):
            continue
        name = option_name(TrainConfig, key)
        instead = _INSTEAD.get(key)
        raise UsageError(
            f"{name}: model {entry.name} is fitted whole, not trained by gradient",
            hint=f"leave it out; --set model.args.{instead}=N is the like of it"
            if instead
            else "leave it out, or use a model that is trained by gradient: --model tabm",
        )


def fit_model(
    plan: Plan, run: RunFolder, readers: dict[str, Reader], place: Place
) -> tuple[Plan, FitResult]:
    """Fit the model of a plan and save it as the run's best, in the main process.

    Returns the plan with the structure that the fit gave the model. Raises: DlcliError.
    """
    entry = find_model(plan.model.name, plan.task.input.kind)
    assert entry.fit is not None
    clock, emit, device = time.perf_counter, place.emit, place.device
    args = entry.arguments(plan.model.args)
    train, val = (_rows(readers[split]) for split in ("train", "val"))
    emit(_started(plan, run, device, len(train.targets)))
    begun = clock()
    fitted = entry.fit(plan.task, args, train, val, plan.config.fit.seed)
    model = plan.model.model_copy(update={"args": {**plan.model.args, **fitted.args}})
    plan = replace(plan, model=model)
    module = build_model(model, plan.task)
    load_tensors(module, fitted.state)
    module = to_device(module, device).eval()
    fit_s = clock() - begun
    results = {
        split: _evaluate(module, reader, split, plan, device) for split, reader in readers.items()
    }
    evaluation_s = clock() - begun - fit_s
    card = make_card(plan, module, metrics={"val": results["val"].metrics}, epoch=1)
    save_model(run.best, module, card)
    progress = _progress(plan, fitted, results["val"], len(train.targets))
    progress.phase_s = {
        "step": fit_s,
        "evaluation": evaluation_s,
        "saving": clock() - begun - fit_s - evaluation_s,
    }
    progress.elapsed_s = sum(progress.phase_s.values())
    emit(CheckpointSaved(what="best", path=str(run.best), step=progress.step))
    _report(plan, run, progress, results, len(train.targets), emit)
    return plan, FitResult(progress)


def _rows(reader: Reader) -> Rows:
    """All rows of a split, encoded; those of tables can all be read."""
    inputs, indices = reader.read(np.arange(len(reader), dtype=np.int64))
    return Rows(inputs[0], reader.targets(indices))


def _evaluate(
    module: nn.Module, reader: Reader, split: str, plan: Plan, device: torch.device
) -> EvalResult:
    task: TaskSpec = plan.task
    return evaluate(lambda inputs: predict(module, inputs, task, device), reader, task, split=split)


def _progress(plan: Plan, fitted: FittedModel, val: EvalResult, rows: int) -> Progress:
    best = val.metrics.get(plan.monitor, math.nan)
    return Progress(
        step=fitted.iterations,
        epoch=1,
        best=best,
        best_loss=val.metrics["loss"],
        best_epoch=1,
        trained=rows,
        finished=True,
        reason=FITTED,
    )


def _started(plan: Plan, run: RunFolder, device: torch.device, rows: int) -> RunStarted:
    """The plan of a fit as an event; it has no optimizer and no schedule."""
    return RunStarted(
        run=str(run.path),
        model=plan.model.name,
        params=0,
        trainable_params=0,
        data=plan.source.origin,
        samples={name: len(split) for name, split in plan.source.splits.items()},
        kind=plan.source.kind,
        task=plan.task.kind,
        num_classes=plan.task.num_classes,
        input_shape=plan.task.input.shape,
        notes=plan.notes,
        epochs=1,
        steps_per_epoch=1,
        total_steps=1,
        batch_size=rows,
        optimizer="",
        scheduler="",
        lr=0.0,
        device=describe_device(device),
        amp="none",
        monitor=plan.monitor,
        settings=flat(plan.config),
    )


def _report(
    plan: Plan,
    run: RunFolder,
    progress: Progress,
    results: dict[str, EvalResult],
    rows: int,
    emit: Emit,
) -> None:
    """Emit the one epoch and the end of a run."""
    train, val = results["train"].metrics, results["val"].metrics
    speed = rows / progress.phase_s["step"]
    emit(
        EpochDone(
            epoch=1,
            epochs=1,
            step=progress.step,
            loss=train["loss"],
            accuracy=train.get("accuracy") if plan.task.kind == "classification" else None,
            lr=0.0,
            val=val,
            monitor=plan.monitor,
            improved=True,
            samples_per_s=speed,
            epoch_s=progress.elapsed_s,
            elapsed_s=progress.elapsed_s,
        )
    )
    emit(
        RunFinished(
            run=str(run.path),
            step=progress.step,
            epochs_done=1,
            monitor=plan.monitor,
            best=val.get(plan.monitor, math.nan),
            best_epoch=1,
            elapsed_s=progress.elapsed_s,
            reason=FITTED,
            phase_s=progress.phase_s,
            samples_per_s=speed,
            unit=kind_of(plan.task).unit(plan.task),
            cores=usable_cores(),
        )
    )
