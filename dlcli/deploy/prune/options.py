"""Options of `prune`: compatibility checks and pruning targets."""

from __future__ import annotations

from collections.abc import Callable

from dlcli.compress.channels.importance.base import IMPORTANCES
from dlcli.compress.masks.base import MASK_METHODS, SLICE_AMOUNTS
from dlcli.config import PruneConfig, PruneSettings
from dlcli.deploy.prune.transform import PruneTarget
from dlcli.errors import UsageError
from dlcli.keyword_settings import check_args
from dlcli.settings import check_applies, typed_flag

# Settings of fine-tuning that also apply with --epochs 0; the seed is of random masks.
_USED_WITHOUT_TRAINING = ("epochs", "device", "seed")


def targets_of(settings: PruneSettings) -> tuple[PruneTarget, ...]:
    """Return the requested target, or those that a search may try, mildest first.

    Raises: UsageError for settings that do not go together.
    """
    config = settings.prune
    requested = {
        "--amount": config.amount,
        "--target-params": config.target_params,
        "--target-macs": config.target_macs,
    }
    given = [flag for flag, value in requested.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other", hint="give one of them")
    check_applies(settings)
    check_args("prune.args", config, functions_of(config))
    if settings.finetune.epochs == 0:
        for name, value in settings.finetune.model_dump(exclude_defaults=True).items():
            if name not in _USED_WITHOUT_TRAINING:
                flag = typed_flag(PruneSettings, f"finetune.{name}", value)
                raise UsageError(f"{flag} is for fine-tuning, which --epochs 0 turns off")
    method = MASK_METHODS.find(config.method)
    fixed_amount = None if method is None else method.fixed_amount
    if fixed_amount is not None:
        if config.amount not in (None, fixed_amount) or config.schedule != "one-shot":
            raise UsageError(
                f"{config.method} prunes two weights of four in one step",
                hint="leave --amount and --schedule out",
            )
        return (PruneTarget("amount", fixed_amount),)
    if config.amount is not None:
        return (PruneTarget("amount", config.amount),)
    if config.target_params is not None:
        return (PruneTarget("params", config.target_params),)
    if config.target_macs is not None:
        return (PruneTarget("macs", config.target_macs),)
    if config.max_drop is None:
        raise UsageError(
            "nothing says how much to prune",
            hint="--amount 0.5, --target-params 0.25 (or --target-macs), or --max-drop 0.01: then the "
            "largest amount within that bound is searched",
        )
    amounts = SLICE_AMOUNTS if method is None else method.search_amounts
    return tuple(PruneTarget("amount", amount) for amount in amounts)


def functions_of(config: PruneConfig) -> tuple[Callable[..., object], ...]:
    """Return the registered functions that the settings name; ``prune.args`` are their arguments."""
    method = MASK_METHODS.find(config.method)
    return (IMPORTANCES.get(config.importance).function,) if method is None else method.functions
