"""``--cache-features auto``: whether a run computes the outputs of its frozen layers once."""

from __future__ import annotations

from dlcli.config import AugmentConfig
from dlcli.errors import UsageError
from dlcli.task import ImageInput
from dlcli.training.autotune.trial import process_count, with_settings
from dlcli.training.plan import Plan


def choose_features(plan: Plan) -> tuple[Plan, str]:
    """The plan with "on" or "off" for ``fit.cache_features``; why it is off for frozen layers, or "".

    "auto" is on for images whose layers are frozen, unless augmentation was asked for: features are of
    samples without any, or of ``feature_copies`` versions. Raises: UsageError for "on", or copies, where
    it cannot be.
    """
    fit = plan.config.fit
    reason = _reason(plan)
    if reason and (fit.cache_features == "on" or fit.feature_copies > 1):
        flag = "--cache-features on" if fit.cache_features == "on" else "--feature-copies"
        raise UsageError(f"{flag}: {reason}", hint="leave it out")
    if fit.cache_features == "off" and fit.feature_copies > 1:
        raise UsageError(
            "--feature-copies needs --cache-features", hint="leave --cache-features off out"
        )
    if fit.cache_features != "auto":
        return plan, ""
    if not reason and fit.feature_copies == 1 and _user_augments(plan):
        reason = "augmentation was asked for; --feature-copies 4 caches four augmented versions"
    frozen = plan.config.model.freeze != "none"
    sentence = f"features are computed in every epoch: {reason}" if reason and frozen else ""
    return with_settings(plan, fit={"cache_features": "off" if reason else "on"}), sentence


def _reason(plan: Plan) -> str:
    """Why the features of frozen layers cannot be cached, or ""."""
    config = plan.config
    if config.model.freeze == "none":
        return "no layers are frozen"
    if not isinstance(plan.task.input, ImageInput):
        return f"features are cached for images, and this is {plan.task.input.kind} data"
    reasons = {
        "the data set draws its samples anew": plan.source.splits["train"].live is not None,
        "distillation needs the samples": config.loss.teacher is not None,
        "--swa needs the samples": config.fit.swa is not None,
        "--grad-checkpointing is for layers that train": config.fit.grad_checkpointing != "none",
        "they are not shared among several processes": process_count(config) > 1,
    }
    return next((text for text, holds in reasons.items() if holds), "")


def _user_augments(plan: Plan) -> bool:
    return plan.user_config is not None and plan.user_config.augment not in (
        AugmentConfig(),
        AugmentConfig(level="none"),
    )
