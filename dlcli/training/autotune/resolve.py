"""Resolve ``auto`` for the batch size and the learning rate by trials."""

from __future__ import annotations

from dataclasses import replace

from dlcli.events import Emit
from dlcli.training.autotune.batch_size import find_batch_size
from dlcli.training.autotune.lr_finder import find_lr
from dlcli.training.autotune.trial import with_settings
from dlcli.training.checks import check_plan
from dlcli.training.plan import Plan


def resolve_auto(plan: Plan, emit: Emit) -> Plan:
    """The plan with numbers for ``optim.lr`` and ``fit.batch_size``, where they are "auto".

    The batch size comes first, since the learning rate depends on it. No other setting changes: the run
    is the same as with these numbers given. Notes of the plan give the reasons.
    Raises: UsageError for settings that do not fit; DlcliError when there is no such number.
    """
    size, lr = plan.config.fit.batch_size, plan.config.optim.lr
    if "auto" not in (size, lr):
        return plan
    check_plan(plan)  # before minutes of trials
    if size == "auto":
        batch_size, sentence = find_batch_size(plan)
        plan = replace(
            with_settings(plan, fit={"batch_size": batch_size}), notes=(*plan.notes, sentence)
        )
    if lr == "auto":
        sweep = find_lr(plan, emit)
        plan = with_settings(plan, optim={"lr": sweep.suggestion})
        plan = replace(plan, notes=(*plan.notes, sweep.sentence), lr_sweep=sweep)
    return plan
