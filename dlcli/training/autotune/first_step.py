"""Training steps of a trial, where they run the user's own code: before there is a run."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dlcli.config import TrainConfig
from dlcli.errors import DlcliError
from dlcli.evaluation.evaluate import count
from dlcli.evaluation.metrics.registered import WithRegistered
from dlcli.evaluation.metrics.user_metrics import try_metrics
from dlcli.training.augmentation.user_augmentation import is_user_augmentation
from dlcli.training.autotune.trial import training_batches, trial_job
from dlcli.training.loop.determinism import capture_rng, preserved_rng
from dlcli.training.loop.job import FitJob
from dlcli.training.loop.model import set_train_mode
from dlcli.training.loop.state import Progress, load_state, save_state
from dlcli.training.loop.step import optimizer_step
from dlcli.training.losses.user_loss import is_user_loss
from dlcli.training.optim.make import make_optimizer, set_lr
from dlcli.training.optim.user_optimizer import is_user_optimizer, load_optimizer
from dlcli.training.optim.user_schedule import is_user_schedule
from dlcli.training.plan import Plan
from dlcli.training.readers import make_reader
from dlcli.zoo.base import find_model
from dlcli.zoo.forward import predict

_METRIC_SAMPLES = 512  # of val, on which a user's metric is tried
_STEPS = 3  # enough for what an optimizer remembers to differ from its beginning
_HINT = (
    "keep what it remembers in self.state[p]: tensors in the parameter's dtype, or numbers; nothing in "
    "other attributes or in the groups"
)


def uses_code(config: TrainConfig) -> bool:
    """Whether a training step runs code of the user's own, other than the model's."""
    return (
        is_user_loss(config.loss)
        or is_user_optimizer(config.optim)
        or is_user_schedule(config.optim)
        or is_user_augmentation(config.augment)
        or bool(config.fit.metrics)
    )


def try_first_step(plan: Plan) -> None:
    """Train some steps and discard them: mistakes in the code are errors that leave no run behind.

    A user's own optimizer is also saved and restored, a metric computed on samples of val. Raises:
    UsageError, DlcliError.
    """
    with trial_job(plan, share=True) as trial:
        job, batches = trial.job, training_batches(trial.job)
        set_train_mode(job.model.module)
        own_optimizer = is_user_optimizer(plan.config.optim)
        for step in range(_STEPS if own_optimizer else 1):
            batch = next(batches)
            set_lr(job.optimizer, job.optim.peak_lr * job.lr_factor(step))
            optimizer_step(job, batch, batch.count * job.world.size)
        batches.close()
        if own_optimizer:
            _check_resume(plan, job)
        if plan.task.metrics:
            _try_metrics(trial.plan, job)


def _try_metrics(plan: Plan, job: FitJob) -> None:
    """Compute the user's metrics on some validation samples, and on all of them where that fails.

    Raises: DlcliError where it fails on all: after the first epoch it would, too.
    """
    samples = plan.source.splits["val"]
    job.model.module.eval()
    # Some of every class: many metrics need two.
    order = np.argsort(samples.targets, kind="stable") if np.ndim(samples.targets) == 1 else None
    rows = np.linspace(0, len(samples) - 1, min(len(samples), _METRIC_SAMPLES)).round().astype(np.int64)
    few = samples.take(rows if order is None else np.sort(order[rows]))
    for part in (few, samples):
        source = replace(plan.source, splits={**plan.source.splits, "val": part})
        reader = make_reader(replace(plan, source=source), "val", 0.0)
        counts = count(
            lambda inputs: predict(job.model.module, inputs, plan.task, job.device),
            reader,
            plan.task,
            split="val",
        )
        held = counts.held() if isinstance(counts, WithRegistered) else None
        try:
            if held is not None:
                try_metrics(plan.task, *held)
            return
        except DlcliError as exc:
            if len(part) == len(samples):
                raise DlcliError(
                    f"--metric, tried on {len(samples):,} samples of val: {exc.message}",
                    hint="where samples do not define it, return float('nan'): it is undefined then",
                ) from exc


def _check_resume(plan: Plan, job: FitJob) -> None:
    """Save the optimizer, restore it in another, and compare their next steps, bit for bit.

    Raises: DlcliError where they differ: a resumed run would not be the same.
    """
    code, _ = load_optimizer(plan.config.optim)
    module = job.model.module
    twin = copy.deepcopy(module)
    head = find_model(plan.model.name, plan.task.input.kind).head(twin)
    never = job.model.freezing.never
    other = make_optimizer(twin, plan.config.optim, head=head, never=never)
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = save_state(
                Path(folder),
                module=module,
                optimizer=job.optimizer,
                scaler=job.scaler,
                averages={},
                progress=Progress(),
                generators=[capture_rng()],
                keep=1,
            )
        except (TypeError, ValueError, AttributeError) as exc:
            raise DlcliError(
                f"the state of the optimizer {code.label} cannot be saved: {exc}", hint=_HINT
            ) from exc
        load_state(path).restore(twin, other, job.scaler, {})
    for parameter, copied in zip(module.parameters(), twin.parameters(), strict=True):
        copied.grad = None if parameter.grad is None else parameter.grad.clone()
    for optimizer in (job.optimizer, other):
        with preserved_rng(job.device):
            torch.manual_seed(0)
            set_lr(optimizer, job.optim.peak_lr)
            optimizer.step()
    for (name, parameter), copied in zip(module.named_parameters(), twin.parameters(), strict=True):
        if not torch.equal(parameter, copied):
            raise DlcliError(
                f"the optimizer {code.label} does not go on as before when it is saved and restored: "
                f"its next step gives another {name}, so no run could be resumed",
                hint=_HINT,
            )
