"""Settings of `dlcli prune`."""

from typing import Annotated, Any, Literal

from pydantic import Field

from dlcli.config.bounds import NUMBERS_AS_TEXT, parse_amount, parse_bound
from dlcli.config.finetune import FinetuneConfig, refuse_finetuning
from dlcli.config.measure import MeasureConfig
from dlcli.errors import UsageError
from dlcli.schema import Frozen
from dlcli.settings import RegisteredName, check_applies, parsed_by, setting

# Removing channels is a pipeline of its own; the registered methods set weights to zero.
PruneMethod = Annotated[
    str,
    RegisteredName(
        "pruning method", "dlcli.compress.masks", "register_mask_method", others=("channel",)
    ),
]
Importance = Annotated[
    str, RegisteredName("importance", "dlcli.compress.channels.importance", "register_importance")
]


class PruneConfig(Frozen):
    """Pruning"""

    model_config = NUMBERS_AS_TEXT

    method: PruneMethod = setting(
        "channel",
        "channel removes channels or hidden units; the others set weights to zero.",
        "--method",
        "-m",
    )
    amount: Annotated[str | None, parsed_by(parse_amount)] = setting(
        None,
        "Share (0.5) or number (200) to prune: of a layer's channels (channel), slices (ln) or weights.",
        "--amount",
    )
    target_params: float | None = setting(
        None,
        "Share of the parameters to keep (channel).",
        "--target-params",
        gt=0,
        lt=1,
        applies_to={"method": ("channel",)},
    )
    target_macs: float | None = setting(
        None,
        "Share of the multiply-adds (MACs) to keep (channel).",
        "--target-macs",
        gt=0,
        lt=1,
        applies_to={"method": ("channel",)},
    )
    importance: Importance = setting(
        "magnitude",
        "Importance criterion of channels.",
        "--importance",
        applies_to={"method": ("channel",)},
    )
    norm: Literal["1", "2", "inf"] = setting(
        "2", "Norm of the slices (ln).", "--norm", advanced=True, applies_to={"method": ("ln",)}
    )
    dim: int = setting(
        0,
        "Dimension of the weight to prune slices along (ln).",
        "--dim",
        ge=0,
        le=3,
        advanced=True,
        applies_to={"method": ("ln",)},
    )
    round_to: int | None = setting(
        None,
        "Round the number of remaining channels to a multiple of this (default: 8; 1 if --amount is a "
        "number).",
        "--round-to",
        ge=1,
        advanced=True,
        applies_to={"method": ("channel",)},
    )
    skip: str | None = setting(
        None, "Layers not to prune: names or patterns, comma-separated: conv1,layer4*.", "--skip"
    )
    schedule: Literal["one-shot", "iterative", "agp"] = setting(
        "one-shot",
        "In one step, in equal steps, or automated gradual pruning (agp: large steps first).",
        "--schedule",
    )
    steps: int = setting(
        3,
        "Steps of iterative and agp; --epochs is divided among them.",
        "--steps",
        ge=1,
        applies_to={"schedule": ("iterative", "agp")},
    )
    store: Literal["auto", "dense", "sparse"] = setting(
        "auto", "Storage of zeros; auto: sparse where that is smaller.", "--store", advanced=True
    )
    max_drop: Annotated[str | None, parsed_by(parse_bound)] = setting(
        None,
        "Largest drop of the metric, absolute (0.01) or relative (1%). Without --amount: search for the "
        "largest amount within this bound.",
        "--max-drop",
    )
    args: dict[str, Any] = setting({}, "Keyword arguments of the method or the importance.")


class PruneSettings(Frozen):
    """All settings of `prune`."""

    prune: PruneConfig = Field(default_factory=PruneConfig)
    finetune: FinetuneConfig = Field(default_factory=FinetuneConfig)
    measure: MeasureConfig = Field(default_factory=MeasureConfig)


# Settings of fine-tuning that also apply with --epochs 0; the seed is of random masks.
_USED_WITHOUT_TRAINING = ("epochs", "device", "seed")


def check_pruning(settings: PruneSettings) -> None:
    """Refuse settings that do not go together, as far as they tell it alone. Raises: UsageError."""
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
        refuse_finetuning(
            PruneSettings,
            settings.finetune.model_dump(exclude_defaults=True),
            "is for fine-tuning, which --epochs 0 turns off",
            used=_USED_WITHOUT_TRAINING,
        )
    # Another method may have an amount of its own, as 2:4 sparsity has.
    if config.method == "channel" and not given and config.max_drop is None:
        raise nothing_to_prune()


def nothing_to_prune() -> UsageError:
    """Return the error where no amount and no bound is given."""
    return UsageError(
        "nothing says how much to prune",
        hint="--amount 0.5, --target-params 0.25 (or --target-macs), or --max-drop 0.01: then the "
        "largest amount within that bound is searched",
    )
