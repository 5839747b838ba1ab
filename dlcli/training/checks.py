"""Cheap checks of a plan's settings: no model is built, no sample is read."""

from __future__ import annotations

from dlcli.config import LossConfig, ModelConfig, OptimConfig
from dlcli.config.layer_patterns import parse_freeze
from dlcli.errors import UsageError, nearest
from dlcli.evaluation.metrics import metric_entries, metric_names
from dlcli.evaluation.metrics.registered import too_many
from dlcli.evaluation.metrics.user_metrics import check_metrics
from dlcli.training.augmentation.augment import make_augment
from dlcli.training.class_balance import balance_plan
from dlcli.training.losses.make import check_loss
from dlcli.training.optim.make import check_optim
from dlcli.training.plan import Plan
from dlcli.zoo.device import resolve_device
from dlcli.zoo.precision import resolve_precision


def check_plan(plan: Plan) -> None:
    """Check settings that do not fit together or would fail late. Raises: UsageError, DlcliError."""
    config = plan.config
    _check_monitor(plan)
    _check_head_epochs(plan)
    if plan.user_config is not None:  # an existing run was checked when it began
        check_optim(config.optim, plan.user_config.optim)
        check_loss(plan.task, plan.user_config.loss, focal=config.data.balance == "focal")
    balance_plan(config.data.balance, plan.task, plan.source.splits["train"].targets)
    if plan.task.kind != "embedding" and config.model.embedding_size != ModelConfig().embedding_size:
        raise UsageError(
            f"--embedding-size is for --task embedding, and this is {plan.task.kind}",
            hint="leave it out",
        )
    device = resolve_device(config.fit.device)
    resolve_precision(config.fit.amp, device)
    make_augment(config.augment, plan.task, samples=1, seed=0, device=device)
    if config.fit.compile != "none" and config.fit.grad_checkpointing != "none":
        raise UsageError(
            "--compile and --grad-checkpointing do not work together", hint="use one of them"
        )
    if config.fit.histograms and not config.fit.tensorboard:
        raise UsageError("fit.histograms needs TensorBoard", hint="add --tensorboard")
    if config.loss.teacher is None:
        for name, flag in (("distill_alpha", "--distill-alpha"), ("temperature", "--temperature")):
            if getattr(config.loss, name) != getattr(LossConfig(), name):
                raise UsageError(f"{flag} is for distillation", hint="add --teacher RUN")


def _check_head_epochs(plan: Plan) -> None:
    """Raises: UsageError where the head cannot train alone first, or by options that exclude it."""
    config, user = plan.config, plan.user_config
    if not config.fit.head_epochs:
        if user is not None and user.optim.head_lr != OptimConfig().head_lr:
            raise UsageError(
                "--head-lr is for --head-epochs", hint="leave it out, or add --head-epochs 20"
            )
        return
    model = config.model
    others = {
        "--freeze backbone": "backbone" in parse_freeze(model.freeze),
        "--unfreeze": model.unfreeze is not None,
        "--lora": model.lora is not None,
        "--lr auto": config.optim.lr == "auto",
        "--overfit-batches": config.fit.overfit_batches is not None,
    }
    for flag, is_set in others.items():
        if is_set:
            raise UsageError(
                f"--head-epochs and {flag} exclude each other", hint="leave one of them out"
            )
    if plan.weights_from == "scratch":
        raise UsageError(
            "--head-epochs trains the head on pretrained layers, and this model starts from scratch",
            hint="leave it out, or give --weights or --pretrained",
        )
    epochs = config.fit.epochs
    typed = user is not None and "epochs" in user.fit.model_fields_set
    if typed and config.fit.head_epochs >= epochs:
        raise UsageError(
            f"--head-epochs {config.fit.head_epochs} of --epochs {epochs} leave none for all layers",
            hint="--epochs counts both; without it they come before the model's own number; "
            "--freeze backbone trains the head alone",
        )


def _check_monitor(plan: Plan) -> None:
    """Raises: UsageError when the monitored metric is not computed for this task."""
    check_metrics(plan.task)
    known = metric_names(plan.task)
    if plan.monitor not in known:
        short = plan.monitor.removeprefix("val_")  # as in the progress display: val_acc, val_f1
        suggestion = next((name for name in known if name.startswith(short)), None)
        raise UsageError(
            f"--monitor {plan.monitor!r} is not a metric of {plan.task.kind}",
            hint=f"did you mean {suggestion!r}?"
            if suggestion and short
            else nearest(plan.monitor, known),
        )
    samples = len(plan.source.splits["val"])
    reason = too_many(samples, plan.task)
    if reason and plan.monitor in {entry.name for entry in metric_entries(plan.task)}:
        raise UsageError(
            f"--monitor {plan.monitor}: {reason}", hint="choose another metric, such as loss"
        )
