"""What ``auto`` means for the batch size and the learning rate: only trials can answer."""

from __future__ import annotations

from dataclasses import replace

from dlcli.engine.batch_size import find_batch_size
from dlcli.engine.lr_finder import find_lr
from dlcli.engine.plan import Plan
from dlcli.engine.rehearsal import changed
from dlcli.engine.training import check_settings
from dlcli.events import Emit


def resolve_auto(plan: Plan, emit: Emit) -> Plan:
    """The plan with numbers for ``optim.lr`` and ``fit.batch_size``, where they are "auto".

    The batch size comes first, as the right rate depends on it. No other setting changes, and the run
    that follows is as if the numbers had been typed. Raises: UsageError for settings that do not fit;
    DlcliError when there is no such number.
    """
    wanted = (plan.config.fit.batch_size, plan.config.optim.lr)
    if "auto" not in wanted:
        return plan
    check_settings(plan)  # before minutes are spent
    if wanted[0] == "auto":
        plan = changed(plan, fit={"batch_size": find_batch_size(plan, emit)})
    if wanted[1] == "auto":
        sweep = find_lr(plan, emit)
        plan = replace(changed(plan, optim={"lr": sweep.suggestion}), lr_sweep=sweep)
    return plan
