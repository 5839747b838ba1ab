"""One training step of a trial, where it runs the user's own code: before there is a run."""

from __future__ import annotations

from dlcli.config import TrainConfig
from dlcli.training.autotune.trial import training_batches, trial_job
from dlcli.training.loop.model import set_train_mode
from dlcli.training.loop.step import optimizer_step
from dlcli.training.losses.user_loss import is_user_loss
from dlcli.training.plan import Plan


def uses_code(config: TrainConfig) -> bool:
    """Whether a training step runs code of the user's own, other than the model's."""
    return is_user_loss(config.loss)


def try_first_step(plan: Plan) -> None:
    """Train one step and discard it: mistakes in the code are errors that leave no run behind.

    Raises: UsageError, DlcliError.
    """
    with trial_job(plan, share=True) as trial:
        job, batches = trial.job, training_batches(trial.job)
        set_train_mode(job.model.module)
        batch = next(batches)
        optimizer_step(job, batch, batch.count * job.world.size)
        batches.close()
