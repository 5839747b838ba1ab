"""Options of `prune`: compatibility checks and pruning targets."""

from __future__ import annotations

from collections.abc import Callable

from dlcli.compress.channels.importance.base import IMPORTANCES
from dlcli.compress.masks.base import MASK_METHODS, SLICE_AMOUNTS, MaskMethod
from dlcli.config import PruneConfig, PruneSettings, parse_amount
from dlcli.config.prune import check_pruning, nothing_to_prune
from dlcli.deploy.prune.transform import PruneTarget
from dlcli.errors import UsageError
from dlcli.keyword_settings import check_args


def targets_of(settings: PruneSettings) -> tuple[PruneTarget, ...]:
    """Return the requested target, or those that a search may try, mildest first.

    Raises: UsageError for settings that do not go together.
    """
    config = settings.prune
    check_pruning(settings)
    check_args("prune.args", config, functions_of(config))
    method = MASK_METHODS.find(config.method)
    fixed_amount = None if method is None else method.fixed_amount
    amount = None if config.amount is None else parse_amount(config.amount)
    if fixed_amount is not None:
        if amount not in (None, fixed_amount) or config.schedule != "one-shot":
            raise UsageError(
                f"{config.method} prunes two weights of four in one step",
                hint="leave --amount and --schedule out",
            )
        return (PruneTarget("amount", fixed_amount),)
    if amount is not None:
        return (PruneTarget("amount", amount, _counted(method)),)
    if config.target_params is not None:
        return (PruneTarget("params", config.target_params),)
    if config.target_macs is not None:
        return (PruneTarget("macs", config.target_macs),)
    if config.max_drop is None:
        raise nothing_to_prune()
    amounts = SLICE_AMOUNTS if method is None else method.search_amounts
    return tuple(PruneTarget("amount", amount) for amount in amounts)


def _counted(method: MaskMethod | None) -> str:
    """Return what a number of --amount counts."""
    if method is None:
        return " of each layer"
    return " weights" if method.ranking == "global" else " of each weight tensor"


def functions_of(config: PruneConfig) -> tuple[Callable[..., object], ...]:
    """Return the registered functions that the settings name; ``prune.args`` are their arguments."""
    method = MASK_METHODS.find(config.method)
    return (IMPORTANCES.get(config.importance).function,) if method is None else method.functions
