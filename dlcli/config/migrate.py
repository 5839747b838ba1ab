"""Migration of settings that older versions of dlcli wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from dlcli.settings import merge

_RENAMED_GROUPS = {"tune": "finetune"}


def migrate(
    config: type[BaseModel], values: Mapping[str, Any], *, version: str | None = None
) -> dict[str, Any]:
    """Return the values with the names and meanings that ``config`` has now; migrating twice is safe.

    ``version`` is of the dlcli that wrote them; with None, only names are changed.
    Raises: packaging.version.InvalidVersion.
    """
    settings = dict(values)
    for old, new in _RENAMED_GROUPS.items():
        if old in settings and new in config.model_fields and old not in config.model_fields:
            renamed = {new: settings.pop(old)}
            settings = merge(renamed, settings)
    if version is None:
        return settings
    from packaging.version import Version

    return _from_0_1(settings) if Version(version) < Version("0.2") else settings


def _from_0_1(settings: dict[str, Any]) -> dict[str, Any]:
    """Migrate training settings of dlcli 0.1; idempotent."""
    optim = settings.get("optim", {})
    if not isinstance(optim, Mapping):
        return settings
    optim = dict(optim)
    if optim.get("optimizer") == "sgd":
        optim["optimizer"] = "nesterov" if optim.get("momentum", 0.9) else "sgd"
    if "label_smoothing" in optim:
        settings = merge({"loss": {"label_smoothing": optim.pop("label_smoothing")}}, settings)
    if not optim.get("warmup"):
        optim["warmup"] = None  # 0 meant the schedule's default
    return {**settings, "optim": optim}
