"""``--cache-features auto``: whether a run computes the outputs of its frozen layers once."""

from __future__ import annotations

from typing import Any

from dlcli.config import AugmentConfig, TrainConfig
from dlcli.data.base import DataSource
from dlcli.errors import UsageError
from dlcli.training.autotune.trial import process_count, with_settings
from dlcli.training.plan import Plan

# A head alone takes larger steps than a network, and many of them cost next to nothing.
HEAD_RECIPE: dict[str, Any] = {"optim": {"lr": 3e-3}, "fit": {"min_steps": 3000}}


def head_recipe(config: TrainConfig, source: DataSource) -> dict[str, Any]:
    """The settings of a run that trains a head on cached features from its start to its end, else {}.

    ``config`` has the user's settings over the defaults.
    """
    whole = config.model.freeze == "backbone" and config.model.unfreeze is None
    cached = config.fit.cache_features != "off" and not _reason(config, source)
    plain = config.fit.cache_features == "on" or not _augments(config)
    return HEAD_RECIPE if whole and cached and plain else {}


def choose_features(plan: Plan) -> tuple[Plan, str]:
    """The plan with "on" or "off" for ``fit.cache_features``; why it is off for frozen layers, or "".

    "auto" is on for images and texts whose layers are frozen, unless augmentation was asked for:
    features are of samples without any, or of ``feature_copies`` versions. Raises: UsageError for "on",
    or for copies, where it cannot be.
    """
    fit = plan.config.fit
    reason = _reason(plan.config, plan.source)
    if fit.feature_copies > 1 and plan.source.kind == "text":
        reason = reason or "texts are not augmented"
    if reason and (fit.cache_features == "on" or fit.feature_copies > 1):
        flag = "--cache-features on" if fit.cache_features == "on" else "--feature-copies"
        raise UsageError(f"{flag}: {reason}", hint="leave it out")
    if fit.cache_features == "off" and fit.feature_copies > 1:
        raise UsageError(
            "--feature-copies needs --cache-features", hint="leave --cache-features off out"
        )
    if fit.cache_features != "auto":
        return plan, ""
    if not reason and plan.user_config is not None and _augments(plan.user_config):
        reason = "augmentation was asked for; --feature-copies 4 caches four augmented versions"
    frozen = plan.config.model.freeze != "none" or plan.config.fit.head_epochs > 0
    sentence = f"features are computed in every epoch: {reason}" if reason and frozen else ""
    return with_settings(plan, fit={"cache_features": "off" if reason else "on"}), sentence


def _reason(config: TrainConfig, source: DataSource) -> str:
    """Why the features of frozen layers cannot be cached, or ""."""
    if config.model.freeze == "none" and not config.fit.head_epochs:
        return "no layers are frozen"
    if source.kind not in ("image", "text"):
        return f"features are cached for images and texts, and this is {source.kind} data"
    reasons = {
        "the data set draws its samples anew": source.splits["train"].live is not None,
        "distillation needs the samples": config.loss.teacher is not None,
        "--swa needs the samples": config.fit.swa is not None,
        "--grad-checkpointing is for layers that train": config.fit.grad_checkpointing != "none",
        "they are not shared among several processes": process_count(config) > 1,
    }
    return next((text for text, holds in reasons.items() if holds), "")


def _augments(config: TrainConfig) -> bool:
    """Whether the user's settings ask for augmentation that no feature copies stand for."""
    plain = (AugmentConfig(), AugmentConfig(level="none"))
    return config.fit.feature_copies == 1 and config.augment not in plain
