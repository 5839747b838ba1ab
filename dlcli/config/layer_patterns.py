"""Names and patterns of layers, as text: ``layer1,conv*``, ``layer4@50%,layer3@75%``, ``fc=1e-3``."""

from __future__ import annotations

import math

from dlcli.errors import UsageError

NORMS = "norms"  # the layers with running statistics, of any model


def parse_freeze(text: str) -> list[str]:
    """Return the patterns in ``model.freeze``; none for "none". Raises: UsageError for an empty name."""
    return [] if text.strip() == "none" else _items(text, "model.freeze")


def parse_unfreeze(text: str) -> list[tuple[str, float]]:
    """Return the patterns in ``model.unfreeze``, each with the share of the run. Raises: UsageError."""
    return [_with_share(item) for item in _items(text, "model.unfreeze")]


def parse_lora_targets(text: str) -> list[str]:
    """Return the patterns in ``model.lora_targets``. Raises: UsageError for an empty name."""
    return _items(text, "model.lora_targets")


def parse_lr_of(text: str) -> list[tuple[str, float]]:
    """Return the patterns in ``optim.lr_of``, each with its peak learning rate. Raises: UsageError."""
    return [_with_lr(item) for item in _items(text, "optim.lr_of")]


def _with_lr(item: str) -> tuple[str, float]:
    """Parse ``fc=1e-3`` into the pattern and the rate."""
    pattern, _, text = (part.strip() for part in item.partition("="))
    try:
        lr = float(text)
    except ValueError:
        lr = math.nan
    if not pattern or not 0 < lr < math.inf:
        raise UsageError(
            f"optim.lr_of = {item!r} is not NAME=LR with LR above 0",
            hint="--lr-of 'fc=1e-3,layer4=1e-4'",
        )
    return pattern, lr


def _items(text: str, setting: str) -> list[str]:
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise UsageError(
            f"{setting} = {text!r} has an empty name",
            hint="separate names with commas: layer1,layer2",
        )
    return items


def _with_share(item: str) -> tuple[str, float]:
    """Parse ``layer4@50%`` into the pattern and the share."""
    pattern, _, text = (part.strip() for part in item.partition("@"))
    number, unit = text.removesuffix("%"), 100.0 if text.endswith("%") else 1.0
    try:
        share = float(number) / unit
    except ValueError:
        share = math.nan
    if not pattern or not 0 <= share < 1:
        raise UsageError(
            f"model.unfreeze = {item!r} is not NAME@SHARE with 0 % <= SHARE < 100 %",
            hint="--unfreeze 'layer4@50%,layer3@75%'",
        )
    return pattern, share
