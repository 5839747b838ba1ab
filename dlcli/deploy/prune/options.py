"""Options of `prune`: which go together, and the targets they ask for."""

from __future__ import annotations

from dlcli.config import PruneSettings
from dlcli.deploy.prune.transform import PruneTarget
from dlcli.errors import UsageError
from dlcli.settings import check_applies

# Amounts that a search for the bound may try; by bisection it tries three of them at most.
CHANNEL_AMOUNTS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
MASK_AMOUNTS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)


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
    if settings.finetune.epochs == 0:
        for flag, value_given in (
            ("--lr", settings.finetune.lr),
            ("--optimizer", settings.finetune.optimizer),
            ("--scheduler", settings.finetune.scheduler),
            ("--max-steps", settings.finetune.max_steps),
            ("--amp", None if settings.finetune.amp == "auto" else settings.finetune.amp),
            ("--no-distill", None if settings.finetune.distill else True),
        ):
            if value_given is not None:
                raise UsageError(f"{flag} is for fine-tuning, which --epochs 0 turns off")
    if config.method == "semi-structured":
        if config.amount not in (None, 0.5) or config.schedule != "one-shot":
            raise UsageError(
                "semi-structured prunes two weights of four in one step",
                hint="leave --amount and --schedule out",
            )
        return (PruneTarget("amount", 0.5),)
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
    amounts = CHANNEL_AMOUNTS if config.method in ("channel", "ln") else MASK_AMOUNTS
    return tuple(PruneTarget("amount", amount) for amount in amounts)
