"""Settings of `dlcli prune`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from dlcli.config.bounds import NUMBERS_AS_TEXT
from dlcli.config.finetune import FinetuneConfig
from dlcli.config.measure import MeasureConfig
from dlcli.settings import RegisteredName, setting
from dlcli.task import Frozen

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
    amount: float | None = setting(
        None,
        "Share to prune: of channels or hidden units (channel, ln), else of weights.",
        "--amount",
        gt=0,
        lt=1,
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
    round_to: int = setting(
        8,
        "Round the number of remaining channels to a multiple of this.",
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
    max_drop: str | None = setting(
        None,
        "Largest drop of the metric, absolute (0.01) or relative (1%). Without --amount: search for the "
        "largest amount within this bound.",
        "--max-drop",
    )
    args: dict[str, Any] = setting({}, "Keyword arguments of the method or the importance.")


class PruneSettings(Frozen):
    """All settings of `prune`."""

    prune: PruneConfig = PruneConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    measure: MeasureConfig = MeasureConfig()
