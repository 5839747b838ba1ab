"""Resolve what the settings leave open: ``auto``, mostly by trials, and the epochs of small data."""

from __future__ import annotations

from dataclasses import replace

from dlcli.events import Emit
from dlcli.training.autotune.batch_size import find_batch_size
from dlcli.training.autotune.fastest import choose_fastest
from dlcli.training.autotune.features import choose_features
from dlcli.training.autotune.first_step import try_first_step, uses_code
from dlcli.training.autotune.lr_finder import find_lr
from dlcli.training.autotune.trial import steps_per_epoch, with_settings
from dlcli.training.checks import check_plan
from dlcli.training.estimators import is_fitted
from dlcli.training.plan import Plan
from dlcli.wording import count, plural


def resolve_auto(plan: Plan, emit: Emit) -> Plan:
    """The plan with values for all that is "auto", and the epochs of small data.

    The batch size comes first, since the steps of an epoch and the learning rate depend on it. The run
    is the same as with these values given. Notes of the plan give the reasons.
    Raises: UsageError for settings that do not fit; DlcliError when there is no such number.
    """
    check_plan(plan)  # before trials, which build its job
    if is_fitted(plan):
        return plan
    size, lr = plan.config.fit.batch_size, plan.config.optim.lr
    if size == "auto":
        batch_size, sentence = find_batch_size(plan)
        plan = replace(
            with_settings(plan, fit={"batch_size": batch_size}), notes=(*plan.notes, sentence)
        )
    plan = raise_epochs(plan)
    if uses_code(plan.config):
        try_first_step(plan)
    for choose in (choose_features, choose_fastest):
        plan, reason = choose(plan)
        plan = replace(plan, notes=(*plan.notes, reason)) if reason else plan
    if lr == "auto":
        sweep = find_lr(plan, emit)
        plan = with_settings(plan, optim={"lr": sweep.suggestion})
        plan = replace(plan, notes=(*plan.notes, sweep.sentence), lr_sweep=sweep)
    return plan


def raise_epochs(plan: Plan) -> Plan:
    """The plan with enough epochs for ``fit.min_steps`` optimizer steps, unless the user gave epochs.

    A recipe's epochs suit data of some thousand samples; of less, they are too few steps to fit it. A
    new run's settings hold the raised number, which repeats and resumes it.
    """
    fit, user = plan.config.fit, plan.user_config
    if user is None or "epochs" in user.fit.model_fields_set or fit.overfit_batches is not None:
        return plan
    steps = steps_per_epoch(plan)
    least = min(fit.min_steps, fit.max_steps or fit.min_steps)
    epochs = max(-(-least // steps), fit.epochs)
    if epochs > fit.epochs:
        note = (
            f"{count(epochs)} epochs instead of {fit.epochs}: an epoch has {plural(steps, 'step')}, and "
            f"a run at least {count(least)} (fit.min_steps); --epochs sets another number"
        )
        plan = replace(plan, notes=(*plan.notes, note))
    # Those of the head alone come before: they cost next to nothing.
    total = epochs + fit.head_epochs
    return plan if total == fit.epochs else with_settings(plan, fit={"epochs": total})
