"""What ``auto`` means for the batch size and the learning rate: only trials can answer."""

from __future__ import annotations

from dataclasses import replace

from dlcli.events import Emit
from dlcli.training.autotune.batch_size import find_batch_size
from dlcli.training.autotune.lr_finder import find_lr
from dlcli.training.autotune.trial import changed
from dlcli.training.plan import Plan
from dlcli.training.run import check_settings


def resolve_auto(plan: Plan, emit: Emit) -> Plan:
    """The plan with numbers for ``optim.lr`` and ``fit.batch_size``, where they are "auto".

    The batch size comes first, as the right rate depends on it. No other setting changes, and the run
    that follows is as if the numbers had been typed. What was found is among its notes.
    Raises: UsageError for settings that do not fit; DlcliError when there is no such number.
    """
    size, lr = plan.config.fit.batch_size, plan.config.optim.lr
    if "auto" not in (size, lr):
        return plan
    check_settings(plan)  # before minutes are spent
    if size == "auto":
        found, said = find_batch_size(plan)
        plan = replace(changed(plan, fit={"batch_size": found}), notes=(*plan.notes, said))
    if lr == "auto":
        sweep = find_lr(plan, emit)
        plan = changed(plan, optim={"lr": sweep.suggestion})
        plan = replace(plan, notes=(*plan.notes, sweep.sentence), lr_sweep=sweep)
    return plan
